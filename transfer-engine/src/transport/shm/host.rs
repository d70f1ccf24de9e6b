//! The processes of this host whose segments are mapped here, and when each of them ended.

use crate::fault::{Failure, TransferErrorKind};
use crate::lane::Wake;
use crate::memory::{Mapping, PAGE, is_intact, is_sealed, object_length, transfer};
use crate::transport::shm::frame::{ANSWER_BYTES, Answer, Question};
use crate::transport::shm::sys::{CONTROL_BYTES, Control, receive_with_files};
use crate::transport::{Address, Peer, Work};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, recv};
use nix::sys::stat::fstat;
use perilune_protocol::SegmentId;
use std::collections::HashMap;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a process may take to hand a descriptor out before another path is tried.
const HANDSHAKE: Duration = Duration::from_millis(250);
/// How long a process that refused at once is left alone.
const PAUSE: Duration = Duration::from_millis(100);
/// How long one that kept a lane waiting in vain is left alone: this long at first, doubled up to the maximum while it stays silent.
const SILENT: Duration = Duration::from_secs(1);
const SILENT_MAX: Duration = Duration::from_secs(10);
const STOP: u64 = u64::MAX;

/// A segment of another process in our address space.
pub(super) struct Mapped {
    mapping: Mapping,
    file: OwnedFd,
    /// Where the segment ends in its object.
    end: u64,
    sealed: bool,
    control: Control,
    /// Cleared by the watcher when the owner's connection ends; a copy that has begun is finished.
    alive: AtomicBool,
}

impl Mapped {
    pub(super) fn alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    pub(super) fn len(&self) -> u64 {
        self.mapping.len()
    }

    pub(super) fn transfer(&self, work: &Work) -> Result<(), Failure> {
        let withdrawn = || Err(Failure::new(TransferErrorKind::UnknownSegment, "the peer withdrew the segment"));
        if !self.control.enter() {
            return withdrawn();
        }
        let moved = if is_intact(self.file.as_fd(), self.sealed, self.end) {
            transfer(work, &self.mapping, || if self.control.open() { work.in_time() } else { withdrawn() })
        } else {
            Err(Failure::new(TransferErrorKind::Failed, "the object behind the segment was cut short"))
        };
        self.control.leave();
        moved
    }
}

#[derive(Default)]
struct Host {
    socket: Option<UnixStream>,
    mapped: HashMap<(SegmentId, u128), Arc<Mapped>>,
    /// Connected before, and lost since.
    gone: bool,
    failed: Option<Failed>,
}

/// A connection that could not be made, and how long none is tried since.
struct Failed {
    at: Instant,
    pause: Duration,
    cause: String,
}

/// All of them; shared by the lanes and the watcher.
#[derive(Default)]
pub(super) struct Hosts {
    numbers: Mutex<HashMap<Address, Peer>>,
    hosts: Mutex<Vec<(Address, Arc<Mutex<Host>>)>>,
    watcher: Mutex<Option<Watcher>>,
}

struct Watcher {
    epoll: Arc<Epoll>,
    stop: Arc<Wake>,
    thread: JoinHandle<()>,
}

impl Hosts {
    pub(super) fn number(&self, address: &Address) -> Peer {
        let mut numbers = lock(&self.numbers);
        if let Some(peer) = numbers.get(address) {
            return *peer;
        }
        let mut hosts = lock(&self.hosts);
        let peer = Peer(hosts.len() as u32);
        hosts.push((address.clone(), Arc::default()));
        numbers.insert(address.clone(), peer);
        peer
    }

    /// The socket of a peer.
    pub(super) fn path(&self, peer: Peer) -> String {
        lock(&self.hosts).get(peer.0 as usize).map(|(address, _)| address.display().into_owned()).unwrap_or_default()
    }

    /// The segment of `work`, mapped; asks its owner for it when it is not.
    pub(super) fn map(self: &Arc<Self>, work: &Work) -> Result<Arc<Mapped>, Failure> {
        let unreachable = |cause: &str| Failure::new(TransferErrorKind::PeerUnreachable, cause);
        let (address, host) = lock(&self.hosts).get(work.peer.0 as usize).cloned().ok_or_else(|| unreachable("unknown peer"))?;
        let mut host = lock(&host);
        let key = (work.segment_id(), work.capability().0);
        if let Some(mapped) = host.mapped.get(&key).filter(|mapped| mapped.alive()) {
            return Ok(Arc::clone(mapped));
        }
        if let Some(Failed { at, pause, cause }) = &host.failed
            && at.elapsed() < *pause
        {
            return Err(unreachable(cause));
        }
        work.in_time()?;
        let question = Question { segment: work.segment_id(), capability: work.capability() };
        match self.ask(&mut host, work.peer, &address, question) {
            Ok(Ok(mapped)) => {
                host.mapped.insert(key, Arc::clone(&mapped));
                Ok(mapped)
            }
            Ok(Err(refused)) => Err(refused),
            Err(e) => {
                // Both a receive that timed out and a connect to a full backlog.
                let silent = matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                let why = if silent { format!("no answer within {} ms", HANDSHAKE.as_millis()) } else { e.to_string() };
                let cause = format!("its socket {}: {why}", address.display());
                let before = host.failed.take().map_or(Duration::ZERO, |failed| failed.pause);
                let pause = if silent { (before * 2).clamp(SILENT, SILENT_MAX) } else { PAUSE };
                let kind = if host.gone { TransferErrorKind::PeerGone } else { TransferErrorKind::PeerUnreachable };
                host.close();
                host.gone = false;
                host.failed = Some(Failed { at: Instant::now(), pause, cause: cause.clone() });
                Err(Failure::new(kind, cause))
            }
        }
    }

    /// Drops a mapping that its owner withdrew.
    pub(super) fn forget(&self, work: &Work) {
        let host = lock(&self.hosts).get(work.peer.0 as usize).map(|(_, host)| Arc::clone(host));
        if let Some(host) = host {
            lock(&host).mapped.remove(&(work.segment_id(), work.capability().0));
        }
    }

    /// Ends the watcher.
    pub(super) fn stop(&self) {
        if let Some(Watcher { stop, thread, .. }) = lock(&self.watcher).take() {
            stop.fire();
            let _ = thread.join();
        }
    }

    /// The outer error is the connection's, the inner one the owner's answer.
    fn ask(
        self: &Arc<Self>,
        host: &mut Host,
        peer: Peer,
        address: &Address,
        question: Question,
    ) -> std::io::Result<Result<Arc<Mapped>, Failure>> {
        // A connection that ended since it was last used is replaced once.
        if host.socket.as_ref().is_some_and(ended) {
            host.close();
            host.gone = true;
        }
        if host.socket.is_none() {
            let socket = connect_now(&address.display())?;
            socket.set_read_timeout(Some(HANDSHAKE))?;
            socket.set_write_timeout(Some(HANDSHAKE))?;
            self.watch(&socket, peer)?;
            host.socket = Some(socket);
        }
        let Some(socket) = &mut host.socket else { return Err(ErrorKind::NotConnected.into()) };
        socket.write_all(&question.encode())?;
        let mut bytes = [0; ANSWER_BYTES];
        let (count, files) = receive_with_files(socket.as_fd(), &mut bytes)?;
        let garbled = || std::io::Error::new(ErrorKind::InvalidData, "the answer is not one of this version");
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if count < ANSWER_BYTES {
            return Err(garbled());
        }
        let refused = |kind, cause: &str| Ok(Err(Failure::new(kind, cause)));
        host.gone = false;
        host.failed = None;
        match Answer::decode(&bytes).ok_or_else(garbled)? {
            Answer::Granted { offset, size } => {
                let [file, control]: [OwnedFd; 2] = files.try_into().map_err(|_| garbled())?;
                Ok(map(file, &control, offset, size).map(Arc::new))
            }
            Answer::Denied => refused(TransferErrorKind::Denied, "the capability is not that of the segment"),
            Answer::UnknownSegment => refused(TransferErrorKind::UnknownSegment, "the peer does not lend this segment"),
        }
    }

    /// Has the end of a connection noticed.
    fn watch(self: &Arc<Self>, socket: &UnixStream, peer: Peer) -> std::io::Result<()> {
        let mut watcher = lock(&self.watcher);
        if watcher.is_none() {
            let epoll = Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
            let stop = Arc::new(Wake::new()?);
            epoll.add(stop.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
            let (own, polled) = (Arc::downgrade(self), Arc::clone(&epoll));
            let thread = thread::Builder::new().name("pl-shm-watch".to_owned()).stack_size(128 << 10).spawn(move || {
                let mut events = [EpollEvent::empty(); 16];
                loop {
                    let count = polled.wait(&mut events, EpollTimeout::NONE).unwrap_or(0);
                    for event in &events[..count] {
                        match (event.data(), own.upgrade()) {
                            (STOP, _) | (_, None) => return,
                            (number, Some(hosts)) => hosts.ended(number),
                        }
                    }
                }
            })?;
            *watcher = Some(Watcher { epoll, stop, thread });
        }
        if let Some(Watcher { epoll, .. }) = &*watcher {
            // Edge-triggered: an end is told once, even while a handshake holds the host.
            epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET, u64::from(peer.0)))?;
        }
        Ok(())
    }

    fn ended(&self, number: u64) {
        let host = lock(&self.hosts).get(number as usize).map(|(_, host)| Arc::clone(host));
        if let Some(host) = host {
            let mut host = lock(&host);
            if host.socket.as_ref().is_some_and(ended) {
                host.close();
                host.gone = true;
            }
        }
    }
}

impl Host {
    fn close(&mut self) {
        self.socket = None;
        for (_, mapped) in self.mapped.drain() {
            mapped.alive.store(false, Ordering::Release);
        }
    }
}

/// Connects without waiting for a process that does not accept.
fn connect_now(path: &str) -> std::io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    let socket = UnixStream::from(socket);
    socket.set_nonblocking(false)?;
    Ok(socket)
}

/// Whether the other side closed. Nothing is ever sent unasked, so a readable socket is one that ended.
fn ended(socket: &UnixStream) -> bool {
    let mut byte = [0];
    !matches!(recv(socket.as_raw_fd(), &mut byte, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT), Err(nix::errno::Errno::EAGAIN))
}

/// Maps what was granted, after checking that it is really there.
fn map(file: OwnedFd, control: &OwnedFd, offset: u64, size: u64) -> Result<Mapped, Failure> {
    let failed = |cause: String| Failure::new(TransferErrorKind::Failed, cause);
    let length = |fd: &OwnedFd| fstat(fd).ok().and_then(|stat| object_length(&stat)).unwrap_or(0);
    let end = offset.checked_add(size).filter(|end| *end <= length(&file) && size > 0 && offset.is_multiple_of(PAGE));
    let Some(end) = end else {
        return Err(failed(format!("the object behind the segment has no {size} bytes at offset {offset}")));
    };
    if length(control) < CONTROL_BYTES || !is_sealed(control.as_fd()) {
        return Err(failed("the control page handed out is not one".to_owned()));
    }
    let mapping = Mapping::new(file.as_fd(), offset, size).map_err(|e| failed(format!("cannot map {size} bytes: {}", e.desc())))?;
    let control = Control::map(control.as_fd()).map_err(|e| failed(format!("cannot map the control page: {e}")))?;
    let sealed = is_sealed(file.as_fd());
    Ok(Mapped { mapping, file, end, sealed, control, alive: AtomicBool::new(true) })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
