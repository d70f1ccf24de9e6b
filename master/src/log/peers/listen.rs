//! From the others: a listener, and a thread for each member that calls.

use super::arrivals::Arrivals;
use super::frame;
use super::hello::{HELLO_BYTES, Hello};
use super::proof::{self, Said};
use super::{Card, Post};
use crate::log::disk::Disk;
use crate::log::status::Board;
use crossbeam::channel::Sender;
use std::collections::HashMap;
use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

/// Callers at a time: every member twice over, while an old connection is not yet known to be dead.
const CALLERS_MAX: usize = 64;
const GREETING_TIMEOUT: Duration = Duration::from_secs(2);
/// A caller that is silent for longer is let go; it calls again when it has something to say.
const SILENCE: Duration = Duration::from_secs(60);

/// Accepts the other members. Dropped, all its threads end and are joined.
pub(super) struct Listener {
    listener: Arc<TcpListener>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    card: Card,
    disk: Arc<dyn Disk>,
    board: Arc<Board>,
    snapshots: PathBuf,
    post: Sender<Post>,
    /// Set once, by the drop.
    stopped: AtomicBool,
    /// Why a caller was last let go: a stranger that calls again and again is told of once.
    said: Mutex<String>,
    callers: Mutex<HashMap<u64, Caller>>,
}

struct Caller {
    stream: TcpStream,
    thread: Option<JoinHandle<()>>,
}

/// A caller until it has greeted: all of that together may take until the deadline.
struct Within<'a> {
    stream: &'a TcpStream,
    deadline: Instant,
}

impl Read for Within<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(into)
    }
}

impl Write for Within<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl Listener {
    pub(super) fn start(
        listener: Arc<TcpListener>,
        card: Card,
        disk: Arc<dyn Disk>,
        board: Arc<Board>,
        snapshots: PathBuf,
        post: Sender<Post>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            card,
            disk,
            board,
            snapshots,
            post,
            stopped: AtomicBool::new(false),
            said: Mutex::default(),
            callers: Mutex::default(),
        });
        let (accepting, accepted) = (Arc::clone(&listener), Arc::clone(&shared));
        let thread = Builder::new().name("log-listen".into()).spawn(move || accepted.accept(&accepting))?;
        Ok(Self { listener, shared, thread: Some(thread) })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Relaxed);
        // A call of our own wakes the accepting thread; should that fail, it stays until the next caller, and does nothing.
        let woken = self.listener.local_addr().and_then(|address| TcpStream::connect_timeout(&address, GREETING_TIMEOUT));
        let accepting = self.thread.take().filter(|_| woken.is_ok());
        if accepting.is_some_and(|t| t.join().is_err()) {
            tracing::error!("the thread that listens to other members panicked");
        }
        let callers: Vec<Caller> = self.shared.callers().drain().map(|(_, caller)| caller).collect();
        for caller in callers {
            // Broken already is as good.
            let _ = caller.stream.shutdown(Shutdown::Both);
            if caller.thread.is_some_and(|t| t.join().is_err()) {
                tracing::error!("a thread that reads from another member panicked");
            }
        }
    }
}

impl Shared {
    fn callers(&self) -> MutexGuard<'_, HashMap<u64, Caller>> {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_news(&self, why: &str) -> bool {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let news = *said != why;
        why.clone_into(&mut said);
        news
    }

    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for number in 0u64.. {
            let accepted = listener.accept();
            if self.stopped.load(Relaxed) {
                return;
            }
            let begun = accepted.and_then(|(stream, _)| self.begin(number, stream));
            if let Err(e) = begun {
                tracing::warn!("a call of another member was not taken: {e}");
                // Out of descriptors, say: the next try would fail at once, again and again.
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    fn begin(self: &Arc<Self>, number: u64, stream: TcpStream) -> io::Result<()> {
        if self.callers().len() >= CALLERS_MAX {
            return Err(io::Error::other(format!("there are {CALLERS_MAX} already")));
        }
        // Entered before the thread begins, which takes itself out when it ends.
        self.callers().insert(number, Caller { stream: stream.try_clone()?, thread: None });
        let shared = Arc::clone(self);
        let thread = Builder::new().name("log-from".into()).spawn(move || {
            let from = stream.peer_addr();
            if let Err(e) = shared.read(number, stream)
                && e.kind() == io::ErrorKind::InvalidData
                && shared.is_news(&e.to_string())
            {
                tracing::warn!(from = ?from.ok(), "a caller was let go: {e}");
            }
            shared.callers().remove(&number);
        });
        match (thread, self.callers().get_mut(&number)) {
            (Ok(thread), Some(caller)) => caller.thread = Some(thread),
            // It has ended already.
            (Ok(_), None) => {}
            (Err(e), _) => return Err(e),
        }
        Ok(())
    }

    /// Until the caller goes, or says what makes no sense.
    fn read(&self, number: u64, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(GREETING_TIMEOUT))?;
        let mut greeting = Within { stream: &stream, deadline: Instant::now() + GREETING_TIMEOUT };
        let mut asked = [0; HELLO_BYTES];
        greeting.read_exact(&mut asked)?;
        let hello = Hello::decode(&asked)?;
        // Answered even when refused, so that the caller can say why.
        let Card { me, cluster, token } = &self.card;
        let answer = Hello { cluster: *cluster, from: *me, to: hello.from, proven: token.is_some() }.encode();
        greeting.write_all(&answer)?;
        hello.check(&self.card)?;
        if let Some(token) = token {
            proof::as_listener(&mut greeting, token, &Said(&asked, &answer))?;
        }
        stream.set_read_timeout(Some(SILENCE))?;

        let mut from = BufReader::with_capacity(256 << 10, stream);
        let (disk, board) = (Arc::clone(&self.disk), Arc::clone(&self.board));
        let mut arrivals = Arrivals::new(self.card.clone(), hello.from, number, disk, board, self.snapshots.clone());
        loop {
            if let Some(post) = arrivals.take(frame::read(&mut from)?)? {
                // Waits while the log thread has enough to read: the caller then waits as well. Refused when the log is closed.
                self.post.send(post).map_err(|_| io::ErrorKind::ConnectionAborted)?;
            }
        }
    }
}
