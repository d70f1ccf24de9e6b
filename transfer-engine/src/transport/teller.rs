//! Notices over a stream socket, TCP or unix: one connection for each lane and peer, and who serves it answers a notice once it has room.
//!
//! Few are on their way at one time; the others wait here, where they can still be taken back. A connection that breaks is opened again at
//! once and what was not answered is sent again, once: the peer may have taken it already.

use crate::fault::{Failure, TransferErrorKind};
use crate::transport::tcp::frame::{ANSWER_BYTES, Answer, Question};
use crate::transport::{Completion, Work};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr, sockopt};
use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

/// Notices on their way at one time: the credit of a connection, given back by each answer.
const ON_THEIR_WAY: usize = 64;

/// Where a teller connects.
enum Target {
    Tcp(SocketAddr),
    Unix(String),
}

/// A notice, and whether a connection broke under it.
struct Flight {
    work: Box<Work>,
    broken: bool,
}

enum Socket {
    Down,
    Connecting(OwnedFd),
    Up(OwnedFd),
}

pub(super) struct Teller {
    /// What it is polled under.
    number: u64,
    targets: Vec<Target>,
    /// Which target is being tried.
    target: usize,
    socket: Socket,
    queue: VecDeque<Flight>,
    awaiting: HashMap<u64, Flight>,
    unsent: Vec<u8>,
    heard: Vec<u8>,
    wants_room: bool,
}

impl Teller {
    pub(super) fn tcp(number: u64, at: &str) -> Self {
        // What cannot be resolved is said by whoever tries to connect.
        Self::new(number, at.to_socket_addrs().map(|all| all.map(Target::Tcp).collect()).unwrap_or_default())
    }

    pub(super) fn unix(number: u64, path: String) -> Self {
        Self::new(number, vec![Target::Unix(path)])
    }

    fn new(number: u64, targets: Vec<Target>) -> Self {
        let (queue, awaiting, unsent, heard) = (VecDeque::new(), HashMap::new(), Vec::new(), Vec::new());
        Self { number, targets, target: 0, socket: Socket::Down, queue, awaiting, unsent, heard, wants_room: false }
    }

    /// Queues a notice; [`Teller::flush`] sends it.
    pub(super) fn push(&mut self, work: Box<Work>) {
        self.queue.push_back(Flight { work, broken: false });
    }

    /// Sends what may be sent, and connects first when there is no connection.
    pub(super) fn flush(&mut self, epoll: &Epoll, done: &mut Vec<Completion>) {
        if matches!(self.socket, Socket::Down) && !self.queue.is_empty() {
            self.target = 0;
            self.open(Errno::EADDRNOTAVAIL, epoll, done);
        }
        let Socket::Up(socket) = &self.socket else { return };
        let now = Instant::now();
        while self.awaiting.len() < ON_THEIR_WAY
            && let Some(flight) = self.queue.pop_front()
        {
            let work = &flight.work;
            // At least as long as the sender waits, so that nobody is told early that there was no room.
            let patience = work.deadline.saturating_duration_since(now).as_millis() as u64 + 1;
            let (segment, capability) = (work.segment_id(), work.capability());
            let question = Question { op: work.op, id: work.id, segment, capability, bytes: patience, extents: Vec::new() };
            self.unsent.extend_from_slice(&question.encode());
            self.awaiting.insert(work.id, flight);
        }
        match drain(socket, &mut self.unsent) {
            Ok(()) => self.want_room(epoll),
            Err(e) => self.broken(&format!("sending failed: {e}"), epoll, done),
        }
    }

    pub(super) fn on_event(&mut self, flags: EpollFlags, epoll: &Epoll, done: &mut Vec<Completion>) {
        if let Socket::Connecting(socket) = &self.socket {
            match socket::getsockopt(socket, sockopt::SocketError) {
                Ok(0) if flags.contains(EpollFlags::EPOLLOUT) => {}
                Ok(0) => return,
                Ok(code) => return self.next_target(Errno::from_raw(code), epoll, done),
                Err(e) => return self.next_target(e, epoll, done),
            }
            if let Socket::Connecting(socket) = std::mem::replace(&mut self.socket, Socket::Down) {
                self.socket = Socket::Up(socket);
            }
        }
        if let Err(cause) = self.hear(done) {
            return self.broken(&cause, epoll, done);
        }
        self.flush(epoll, done);
    }

    /// Gives notices back, each with a phrase on how far it came.
    pub(super) fn cancel(&mut self, chosen: &mut dyn FnMut(&Work) -> bool, back: &mut Vec<(Box<Work>, String)>) {
        const FULL: &str = "the peer has no room for notices: nobody takes them there";
        let up = matches!(self.socket, Socket::Up(_));
        let (stopped, queue) = std::mem::take(&mut self.queue).into_iter().partition::<VecDeque<_>, _>(|flight| chosen(&flight.work));
        self.queue = queue;
        let progress = if up { FULL } else { "no connection was made" };
        back.extend(stopped.into_iter().map(|flight| (flight.work, progress.to_owned())));
        // Their answers will find nobody.
        let stopped = self.awaiting.extract_if(|_, flight| chosen(&flight.work));
        back.extend(stopped.map(|(_, flight)| (flight.work, FULL.to_owned())));
    }

    /// Answers that came.
    fn hear(&mut self, done: &mut Vec<Completion>) -> Result<(), String> {
        let Socket::Up(socket) = &self.socket else { return Ok(()) };
        let mut some = [0; 64 * ANSWER_BYTES];
        loop {
            match socket::recv(socket.as_raw_fd(), &mut some, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return Err("the peer closed the connection".to_owned()),
                Ok(count) => self.heard.extend_from_slice(&some[..count]),
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => continue,
                Err(e) => return Err(format!("receiving failed: {}", e.desc())),
            }
            while let Some((head, _)) = self.heard.split_first_chunk::<ANSWER_BYTES>() {
                let answer = Answer::decode(head)?;
                self.heard.drain(..ANSWER_BYTES);
                // None for one that was taken back.
                if let Some(Flight { work, .. }) = self.awaiting.remove(&answer.id) {
                    done.push(Completion { work, outcome: answer.status.outcome() });
                }
            }
        }
    }

    /// The connection ended: what was not answered is sent again, unless that was tried before.
    fn broken(&mut self, cause: &str, epoll: &Epoll, done: &mut Vec<Completion>) {
        self.down();
        let mut again: Vec<Flight> = self.awaiting.drain().map(|(_, flight)| flight).collect();
        again.sort_by_key(|flight| flight.work.id);
        for Flight { work, broken } in again.into_iter().rev() {
            if broken {
                let failure = Failure::new(TransferErrorKind::PeerGone, format!("{cause}, twice"));
                done.push(Completion { work, outcome: Err(failure) });
            } else {
                self.queue.push_front(Flight { work, broken: true });
            }
        }
        self.flush(epoll, done);
    }

    fn down(&mut self) {
        self.socket = Socket::Down;
        self.wants_room = false;
        self.unsent.clear();
        self.heard.clear();
    }

    /// Tries the targets that are left; `refused` is what is said when none is.
    fn open(&mut self, mut refused: Errno, epoll: &Epoll, done: &mut Vec<Completion>) {
        while let Some(target) = self.targets.get(self.target) {
            match connect(target) {
                Ok((socket, connected)) => {
                    let flags = if connected { EpollFlags::EPOLLIN } else { EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT };
                    self.wants_room = !connected;
                    match epoll.add(&socket, EpollEvent::new(flags, self.number)) {
                        Ok(()) => return self.socket = if connected { Socket::Up(socket) } else { Socket::Connecting(socket) },
                        Err(e) => refused = e,
                    }
                }
                Err(e) => refused = e,
            }
            self.target += 1;
        }
        for Flight { work, broken } in self.queue.drain(..) {
            let kind = if broken { TransferErrorKind::PeerGone } else { TransferErrorKind::PeerUnreachable };
            let failure = Failure::new(kind, format!("the connection for notices failed: {}", refused.desc()));
            done.push(Completion { work, outcome: Err(failure) });
        }
    }

    fn next_target(&mut self, error: Errno, epoll: &Epoll, done: &mut Vec<Completion>) {
        self.down();
        self.target += 1;
        self.open(error, epoll, done);
        if matches!(self.socket, Socket::Up(_)) {
            self.flush(epoll, done);
        }
    }

    /// Polls for room to write exactly while something waits to be sent.
    fn want_room(&mut self, epoll: &Epoll) {
        let Socket::Up(socket) = &self.socket else { return };
        let wanted = !self.unsent.is_empty();
        if wanted != self.wants_room {
            let flags = if wanted { EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
            // Fails only for a descriptor that was never added, and this one was.
            if epoll.modify(socket, &mut EpollEvent::new(flags, self.number)).is_ok() {
                self.wants_room = wanted;
            }
        }
    }
}

/// Sends what the socket takes.
fn drain(socket: &OwnedFd, unsent: &mut Vec<u8>) -> io::Result<()> {
    while !unsent.is_empty() {
        match socket::send(socket.as_raw_fd(), unsent, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT).map_err(io::Error::from) {
            Ok(count) => drop(unsent.drain(..count)),
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// A socket on its way to the target, and whether it is there.
fn connect(target: &Target) -> Result<(OwnedFd, bool), Errno> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let begun = |family, address: &dyn SockaddrLike| {
        let socket = socket::socket(family, SockType::Stream, flags, None)?;
        match socket::connect(socket.as_raw_fd(), address) {
            Ok(()) => Ok((socket, true)),
            Err(Errno::EINPROGRESS) => Ok((socket, false)),
            Err(e) => Err(e),
        }
    };
    match target {
        Target::Unix(path) => begun(AddressFamily::Unix, &UnixAddr::new(path.as_str())?),
        Target::Tcp(at) => {
            let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
            let (socket, connected) = begun(family, &SockaddrStorage::from(*at))?;
            socket::setsockopt(&socket, sockopt::TcpNoDelay, &true)?;
            Ok((socket, connected))
        }
    }
}
