//! Two threads beside the log thread: one writes snapshots and deletes old files, one syncs every now and then. Both sleep when idle.

use super::engine::Engine;
use super::files::Files;
use super::machine::SnapshotWriter;
use super::snapshot::{self, SnapshotId};
use crossbeam::channel::{Receiver, RecvTimeoutError, Select, Sender, bounded, unbounded};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;
use uuid::Uuid;

enum Job {
    Snapshot(SnapshotId, SnapshotWriter),
    Purge,
}

/// How a snapshot ended.
pub(super) type Finished = (SnapshotId, io::Result<()>);

/// Writes snapshots and deletes files behind the cut. Joined when dropped, after the job at hand.
pub(super) struct Keeper {
    jobs: Option<Sender<Job>>,
    finished: Receiver<Finished>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// `wake` is called after each finished snapshot and must not block.
    pub(super) fn start(
        dir: PathBuf,
        cluster: Uuid,
        engine: Arc<Engine>,
        files: Arc<Files>,
        wake: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        let (jobs, inbox) = unbounded();
        let (tell, finished) = unbounded();
        let thread = Builder::new().name("log-keep".into()).spawn(move || {
            for job in inbox {
                match job {
                    Job::Snapshot(id, body) => {
                        // A snapshot must never be ahead of the log on disk.
                        files.sync();
                        let written = catch_unwind(AssertUnwindSafe(|| snapshot::write(&dir, id, cluster, body)));
                        let written = written.unwrap_or_else(|_| Err(io::Error::other("the machine panicked while writing it")));
                        if tell.send((id, written)).is_ok() {
                            wake();
                        }
                    }
                    Job::Purge => match catch_unwind(AssertUnwindSafe(|| engine.purge_expired_files())) {
                        Ok(Ok(_)) => {}
                        Ok(Err(e)) => tracing::warn!("old log files could not be deleted, the next snapshot tries again: {e}"),
                        Err(_) => tracing::error!("old log files could not be deleted: raft-engine panicked"),
                    },
                }
            }
        })?;
        Ok(Self { jobs: Some(jobs), finished, thread: Some(thread) })
    }

    pub(super) fn snapshot(&self, id: SnapshotId, body: SnapshotWriter) {
        self.give(Job::Snapshot(id, body));
    }

    pub(super) fn purge(&self) {
        self.give(Job::Purge);
    }

    pub(super) fn finished(&self) -> Option<Finished> {
        self.finished.try_recv().ok()
    }

    /// Until a snapshot has ended, which must have been begun.
    pub(super) fn wait(&self) {
        let mut select = Select::new();
        select.recv(&self.finished);
        select.ready();
    }

    fn give(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // The thread lives until `jobs` is dropped.
            let _ = jobs.send(job);
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.jobs.take());
        join(self.thread.take());
    }
}

/// Syncs the log a while after something was appended, so that many appends share a sync. Joined when dropped.
pub(super) struct Syncer {
    dirty: Option<Sender<()>>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Syncer {
    pub(super) fn start(files: Arc<Files>, every: Duration) -> io::Result<Self> {
        let (dirty, appended) = bounded::<()>(1);
        let (stop, stopped) = bounded::<()>(0);
        let thread = Builder::new().name("log-sync".into()).spawn(move || {
            for () in appended {
                if stopped.recv_timeout(every) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
                if files.is_dirty() && files.failure().is_none() {
                    files.sync();
                }
            }
        })?;
        Ok(Self { dirty: Some(dirty), stop: Some(stop), thread: Some(thread) })
    }

    /// Something was appended.
    pub(super) fn appended(&self) {
        if let Some(dirty) = &self.dirty {
            // Full means that the thread knows already.
            let _ = dirty.try_send(());
        }
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        drop((self.stop.take(), self.dirty.take()));
        join(self.thread.take());
    }
}

fn join(thread: Option<JoinHandle<()>>) {
    if thread.is_some_and(|t| t.join().is_err()) {
        tracing::error!("a background thread of the log panicked");
    }
}
