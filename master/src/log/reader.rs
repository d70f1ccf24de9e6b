//! A thread that reads entries back from raft-engine's files, for whoever asks. It is no other's: raft-engine remembers, for each thread, what was
//! read last, without telling one engine from another.

use super::engine::Engine;
use super::store::GROUP;
use super::stored::{Entries, Stored};
use crossbeam::channel::{Sender, bounded, unbounded};
use std::ops::Range;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

type Read = Result<Vec<Stored>, String>;

struct Question {
    entries: Range<u64>,
    most_bytes: usize,
    answer: Sender<Read>,
}

/// The thread. It ends, and lets go of the engine, when this is dropped.
pub(super) struct Reader {
    questions: Option<Sender<Question>>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    pub(super) fn start(engine: Arc<Engine>) -> std::io::Result<Self> {
        let (questions, asked) = unbounded::<Question>();
        let thread = Builder::new().name("log-read".into()).spawn(move || {
            for Question { entries: Range { start, end }, most_bytes, answer } in asked {
                let mut read: Vec<Stored> = Vec::new();
                let fetched = engine.fetch_entries_to::<Entries>(GROUP, start, end, Some(most_bytes), &mut read);
                let fetched = fetched.map(|_| read).map_err(|e| format!("the entries from {start} on cannot be read: {e}"));
                // Whoever does not wait any more needs no answer.
                let _ = answer.send(fetched);
            }
        })?;
        Ok(Self { questions: Some(questions), thread: Some(thread) })
    }

    /// Those entries, as many as have `most_bytes`, and one at least. Waits for them, and for whoever asked before.
    pub(super) fn read(&self, entries: Range<u64>, most_bytes: usize) -> Read {
        let (answer, read) = bounded(1);
        let gone = || "the thread that reads the log has ended".to_owned();
        let questions = self.questions.as_ref().ok_or_else(gone)?;
        questions.send(Question { entries, most_bytes, answer }).map_err(|_| gone())?;
        read.recv().map_err(|_| gone())?
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        drop(self.questions.take());
        if let Some(thread) = self.thread.take() {
            // A panic of raft-engine was answered with a channel that closed.
            let _ = thread.join();
        }
    }
}
