//! To one member: a queue, a thread that empties it, and a connection that is made again whenever it breaks.

use super::hello::{HELLO_BYTES, Hello};
use super::proof::{self, Said};
use super::transfer::{Outgoing, STRETCH};
use super::{Card, Post, frame, invalid};
use crate::log::disk::Disk;
use crate::log::members::Member;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt::TcpUserTimeout};
use raft::eraftpb::Message;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// Most messages that wait, and most bytes of entries in them.
const QUEUE: usize = 4096;
const QUEUE_BYTES: usize = 64 << 20;
/// Messages are gathered into one write up to about this.
const WRITE_BYTES: usize = 256 << 10;
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));
/// How long a connection, a greeting, a write, or the acknowledgement of what was written may take.
const PATIENCE: Duration = Duration::from_secs(2);

enum Item {
    Message(Message),
    Snapshot(Message, PathBuf),
}

/// The way to one member. Dropped, it ends; the thread is joined, after at most [`PATIENCE`].
pub(super) struct Link {
    pub(super) address: String,
    queue: Option<Sender<Item>>,
    /// Bytes of entries in the queue. Both sides count; a moment's difference does no harm.
    queued: Arc<AtomicUsize>,
    stop: Option<Sender<()>>,
    /// The present connection, to be broken from outside.
    stream: Arc<Mutex<Option<TcpStream>>>,
    thread: Option<JoinHandle<()>>,
}

impl Link {
    pub(super) fn start(card: Card, disk: Arc<dyn Disk>, member: &Member, post: Sender<Post>) -> io::Result<Self> {
        let (queue, items) = bounded(QUEUE);
        let (stop, stopped) = bounded(0);
        let (queued, stream) = (Arc::<AtomicUsize>::default(), Arc::default());
        let writer = Writer {
            card,
            disk,
            to: member.id,
            address: member.address.clone(),
            items,
            queued: Arc::clone(&queued),
            stopped,
            stream: Arc::clone(&stream),
            post,
            out: Vec::new(),
            snapshot: None,
        };
        let thread = Builder::new().name(format!("log-to-{}", member.id)).spawn(move || writer.run())?;
        let address = member.address.clone();
        Ok(Self { address, queue: Some(queue), queued, stop: Some(stop), stream, thread: Some(thread) })
    }

    pub(super) fn send(&self, message: Message) -> bool {
        let bytes = weight(&message);
        if self.queued.load(Relaxed) > QUEUE_BYTES {
            return false;
        }
        self.queued.fetch_add(bytes, Relaxed);
        let taken = self.put(Item::Message(message));
        if !taken {
            self.queued.fetch_sub(bytes, Relaxed);
        }
        taken
    }

    pub(super) fn send_snapshot(&self, message: Message, path: PathBuf) -> bool {
        self.put(Item::Snapshot(message, path))
    }

    fn put(&self, item: Item) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.try_send(item).is_ok())
    }
}

impl Link {
    /// It ends, soon: several are told so before the first is waited for.
    pub(super) fn stop(&mut self) {
        drop((self.queue.take(), self.stop.take()));
        if let Some(stream) = self.stream.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // Broken already is as good.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop();
        if self.thread.take().is_some_and(|t| t.join().is_err()) {
            tracing::error!("a thread that writes to another member panicked");
        }
    }
}

fn weight(message: &Message) -> usize {
    message.entries.iter().map(|e| e.data.len()).sum()
}

struct Writer {
    card: Card,
    disk: Arc<dyn Disk>,
    to: u64,
    address: String,
    items: Receiver<Item>,
    queued: Arc<AtomicUsize>,
    stopped: Receiver<()>,
    stream: Arc<Mutex<Option<TcpStream>>>,
    post: Sender<Post>,
    /// Gathered and not yet written.
    out: Vec<u8>,
    snapshot: Option<Outgoing>,
}

impl Writer {
    fn run(mut self) {
        let (mut backoff, mut said) = (BACKOFF.0, String::new());
        loop {
            let ended = self.connect().and_then(|mut stream| {
                (backoff, said) = (BACKOFF.0, String::new());
                tracing::debug!(member = self.to, address = %self.address, "connected");
                self.talk(&mut stream)
            });
            *self.stream.lock().unwrap_or_else(PoisonError::into_inner) = None;
            let Err(why) = ended else { return };
            if why.kind() == io::ErrorKind::ConnectionReset && self.snapshot.is_none() && !self.out.is_empty() && said.is_empty() {
                // The connection had ended before anything was written to it: what was gathered is for the next. What went before is in doubt.
                said = why.to_string();
                self.tell(Post::Unreachable(self.to));
                continue;
            }
            if said != why.to_string() {
                said = why.to_string();
                tracing::warn!(member = self.to, address = %self.address, "the way to another member is broken, and tried again: {said}");
            }
            self.give_up();
            match self.stopped.recv_timeout(backoff) {
                Err(RecvTimeoutError::Timeout) => backoff = BACKOFF.1.min(backoff * 2),
                _ => return,
            }
        }
    }

    /// What waits is old by the time there is a connection, and raft sends it again.
    fn give_up(&mut self) {
        self.out.clear();
        let mut snapshot = self.snapshot.take().is_some();
        while let Ok(item) = self.items.try_recv() {
            match item {
                Item::Message(message) => drop(self.queued.fetch_sub(weight(&message), Relaxed)),
                Item::Snapshot(..) => snapshot = true,
            }
        }
        if snapshot {
            self.tell(Post::SnapshotSent(self.to, false));
        }
        self.tell(Post::Unreachable(self.to));
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let mut last = invalid("the name has no address");
        for address in self.address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, PATIENCE) {
                Ok(stream) => return self.greet(stream),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    fn greet(&self, mut stream: TcpStream) -> io::Result<TcpStream> {
        *self.stream.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream.try_clone()?);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        setsockopt(&stream, TcpUserTimeout, &(PATIENCE.as_millis() as u32))?;
        let Card { me, cluster, token } = &self.card;
        let hello = Hello { cluster: *cluster, from: *me, to: self.to, proven: token.is_some() }.encode();
        stream.write_all(&hello)?;
        let mut answered = [0; HELLO_BYTES];
        stream.read_exact(&mut answered)?;
        let answer = Hello::decode(&answered)?;
        answer.check(&self.card)?;
        if answer.from != self.to {
            return Err(invalid(format!("it is member {}, not member {}", answer.from, self.to)));
        }
        if let Some(token) = token {
            proof::as_caller(&mut stream, token, &Said(&hello, &answered))?;
        }
        Ok(stream)
    }

    /// Until the connection breaks, or, without an error, until the link is dropped.
    fn talk(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        loop {
            if self.out.is_empty() && self.snapshot.is_none() {
                match self.items.recv() {
                    Ok(item) => self.gather(item),
                    Err(_) => return Ok(()),
                }
            }
            while self.out.len() < WRITE_BYTES {
                match self.items.try_recv() {
                    Ok(item) => self.gather(item),
                    Err(_) => break,
                }
            }
            let ended = match &mut self.snapshot {
                Some(snapshot) => snapshot.go_on(&mut self.out)?,
                None => false,
            };
            if is_closed(stream) {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            stream.write_all(&self.out)?;
            self.out.clear();
            if ended {
                self.snapshot = None;
                self.tell(Post::SnapshotSent(self.to, true));
            }
        }
    }

    fn gather(&mut self, item: Item) {
        match item {
            Item::Message(message) => {
                self.queued.fetch_sub(weight(&message), Relaxed);
                frame::put_message(&mut self.out, &message);
            }
            Item::Snapshot(message, path) => match Outgoing::begin(&*self.disk, &message, &path, STRETCH, &mut self.out) {
                // A new one takes the place of one that is half sent; the receiver forgets that one.
                Ok(snapshot) => self.snapshot = Some(snapshot),
                Err(e) => {
                    tracing::warn!(member = self.to, snapshot = %path.display(), "a snapshot for another member cannot be opened: {e}");
                    self.tell(Post::SnapshotSent(self.to, false));
                }
            },
        }
    }

    fn tell(&self, post: Post) {
        // Waits while the log thread has enough to read. Refused when the log is closed.
        let _ = self.post.send(post);
    }
}

/// The other side never writes after its greeting, so whatever can be read now is the end.
fn is_closed(stream: &TcpStream) -> bool {
    recv(stream.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) != Err(nix::Error::EAGAIN)
}
