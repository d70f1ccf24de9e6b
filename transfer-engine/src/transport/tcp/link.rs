//! One connection to a peer: what waits to be sent, what waits for its answer, and its end.
//!
//! A connection that breaks is opened again at once and its work asked again, once: reads and writes may be repeated.
//! So a peer that restarted is found again without the caller's doing, and one that died is refused by its host at the second try.

use crate::fault::{Failure, TransferErrorKind};
use crate::request::Op;
use crate::transport::tcp::flight::{Flight, Inbound};
use crate::transport::tcp::frame::{ANSWER_BYTES, Answer, Question};
use crate::transport::tcp::staging::Staging;
use crate::transport::tcp::sys::{Gather, Scatter, copy_to_work};
use crate::transport::{Completion, Work};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, sockopt};
use std::collections::{HashMap, VecDeque};
use std::io::ErrorKind;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Instant;

/// Enough for many short answers; small, because what is read ahead of a payload has to be copied.
const STAGING: usize = 512;
/// Calls of one turn, so that one peer's flood does not starve the others.
const CALLS: usize = 16;

enum Socket {
    Down,
    Connecting(OwnedFd),
    Up(OwnedFd),
}

pub(super) struct Link {
    number: u64,
    targets: Vec<SocketAddr>,
    /// Which target is being tried.
    target: usize,
    socket: Socket,
    /// Whether the socket is also polled for room to write.
    wants_room: bool,
    queue: VecDeque<Flight>,
    awaiting: HashMap<u64, Flight>,
    /// Cancelled, but the peer will still answer.
    abandoned: HashMap<u64, u64>,
    inbound: Inbound,
    staging: Staging,
    /// Why the last connection ended, for the message when it cannot be replaced.
    broke: String,
}

impl Link {
    pub(super) fn new(number: u64, at: &str) -> Result<Self, Failure> {
        let unknown = |cause: String| Failure::new(TransferErrorKind::PeerUnreachable, format!("cannot resolve `{at}`: {cause}"));
        let targets: Vec<SocketAddr> = at.to_socket_addrs().map_err(|e| unknown(e.to_string()))?.collect();
        if targets.is_empty() {
            return Err(unknown("it has no address".to_owned()));
        }
        Ok(Self {
            number,
            targets,
            target: 0,
            socket: Socket::Down,
            wants_room: false,
            queue: VecDeque::new(),
            awaiting: HashMap::new(),
            abandoned: HashMap::new(),
            inbound: Inbound::Answer,
            staging: Staging::new(STAGING),
            broke: String::new(),
        })
    }

    /// Queues work; [`Link::flush`] sends it.
    pub(super) fn push(&mut self, work: Box<Work>) {
        let question = Question {
            op: work.op,
            id: work.id,
            segment: work.segment_id(),
            capability: work.capability(),
            bytes: work.bytes,
            extents: work.extents.to_vec(),
        };
        self.queue.push_back(Flight { head: question.encode(), work, sent: 0, broken: false });
    }

    /// Sends what the socket takes, and connects first when there is no connection.
    pub(super) fn flush(&mut self, epoll: &Epoll, done: &mut Vec<Completion>) {
        loop {
            let now = Instant::now();
            self.drop_late(now, done);
            if matches!(self.socket, Socket::Down) && !self.queue.is_empty() {
                self.target = 0;
                self.open(epoll, done);
            }
            let Socket::Up(socket) = &self.socket else { break };
            if self.queue.is_empty() {
                break;
            }
            let mut gather = Gather::new();
            for flight in &self.queue {
                if gather.full() || flight.work.deadline <= now {
                    break;
                }
                let head = flight.head.len() as u64;
                gather.bytes(&flight.head[flight.sent.min(head) as usize..]);
                gather.work(&flight.work, flight.sent.saturating_sub(head));
            }
            match gather.send(socket.as_fd()) {
                Ok(sent) => self.sent(sent),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return self.broken(&format!("sending failed: {e}"), epoll, done),
            }
        }
        self.want_room(epoll);
    }

    /// Fails what is at the front of the queue and too late, so that none of its bytes are sent. What is late further back comes to the front.
    fn drop_late(&mut self, now: Instant, done: &mut Vec<Completion>) {
        while let Some(first) = self.queue.front()
            && first.work.deadline <= now
        {
            let progress = format!("{} of {} bytes were sent", first.sent, first.to_send());
            let half_sent = (first.sent > 0).then_some(first.work.id);
            // Half a frame cannot be taken back: its connection is replaced, and what that puts back may be late too.
            if half_sent.is_some() {
                self.restart();
            }
            let at = half_sent.and_then(|id| self.queue.iter().position(|flight| flight.work.id == id)).unwrap_or(0);
            if let Some(Flight { work, .. }) = self.queue.remove(at) {
                let failure = work.too_late(&progress);
                done.push(Completion { work, outcome: Err(failure) });
            }
        }
    }

    pub(super) fn on_event(&mut self, flags: EpollFlags, epoll: &Epoll, done: &mut Vec<Completion>) {
        if let Socket::Connecting(socket) = &self.socket {
            match socket::getsockopt(socket, sockopt::SocketError) {
                Ok(0) if flags.contains(EpollFlags::EPOLLOUT) => self.up(),
                Ok(0) => return,
                Ok(code) => return self.next_target(Errno::from_raw(code), epoll, done),
                Err(e) => return self.next_target(e, epoll, done),
            }
        }
        if flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            self.receive(epoll, done);
        }
        if flags.contains(EpollFlags::EPOLLOUT) || !self.queue.is_empty() {
            self.flush(epoll, done);
        }
    }

    /// Gives work back, each piece with a phrase on how far it came. What this makes fail is `done`.
    pub(super) fn cancel(
        &mut self,
        chosen: &mut dyn FnMut(&Work) -> bool,
        back: &mut Vec<(Box<Work>, String)>,
        epoll: &Epoll,
        done: &mut Vec<Completion>,
    ) {
        let coming = if let Inbound::Payload { flight, .. } = &self.inbound { Some(flight) } else { None };
        let flights = self.queue.iter().chain(self.awaiting.values()).chain(coming);
        let mut ids: Vec<u64> = flights.filter(|flight| chosen(&flight.work)).map(|flight| flight.work.id).collect();
        // In the order of the queue, where each is the first then.
        ids.sort_unstable();
        back.extend(ids.into_iter().filter_map(|id| self.take_back(id, epoll, done)));
    }

    /// A half-sent frame cannot be taken back, so its connection is replaced.
    fn take_back(&mut self, id: u64, epoll: &Epoll, done: &mut Vec<Completion>) -> Option<(Box<Work>, String)> {
        if let Some(flight) = self.awaiting.remove(&id) {
            self.abandoned.insert(id, flight.work.bytes);
            return Some((flight.work, "the peer did not answer".to_owned()));
        }
        if let Some(at) = self.queue.iter().position(|flight| flight.work.id == id) {
            let flight = self.queue.remove(at)?;
            let (sent, all) = (flight.sent, flight.to_send());
            let progress = match self.socket {
                Socket::Down | Socket::Connecting(_) if sent == 0 => "no connection was made".to_owned(),
                _ => format!("{sent} of {all} bytes were sent"),
            };
            if sent > 0 {
                self.restart();
                self.flush(epoll, done);
            }
            self.want_room(epoll);
            return Some((flight.work, progress));
        }
        let got = match &self.inbound {
            Inbound::Payload { flight, got } if flight.work.id == id => Some(*got),
            _ => None,
        };
        if let Some(got) = got
            && let Inbound::Payload { flight, .. } = std::mem::replace(&mut self.inbound, Inbound::Answer)
        {
            self.inbound = Inbound::Unwanted { left: flight.work.bytes - got };
            let progress = format!("{got} of {} bytes had come", flight.work.bytes);
            return Some((flight.work, progress));
        }
        None
    }

    fn sent(&mut self, mut sent: u64) {
        while let Some(first) = self.queue.front_mut() {
            let now = sent.min(first.to_send() - first.sent);
            first.sent += now;
            sent -= now;
            if first.sent < first.to_send() {
                return;
            }
            if let Some(flight) = self.queue.pop_front() {
                self.awaiting.insert(flight.work.id, flight);
            }
        }
    }

    fn receive(&mut self, epoll: &Epoll, done: &mut Vec<Completion>) {
        for _ in 0..CALLS {
            match self.receive_once(done) {
                Ok(true) => {}
                Ok(false) => return,
                Err(cause) => return self.broken(&cause, epoll, done),
            }
        }
    }

    /// One call into place, then whatever it brought. True when there may be more.
    fn receive_once(&mut self, done: &mut Vec<Completion>) -> Result<bool, String> {
        let Socket::Up(socket) = &self.socket else { return Ok(false) };
        let mut scatter = Scatter::new();
        let mut scratch: [u8; 16 << 10];
        // Bytes of this call that go into place before the staging buffer (`early`), or behind it (`late`).
        let (mut early, mut late) = (0, None);
        match &self.inbound {
            Inbound::Payload { flight, got } => {
                scatter.work(&flight.work, *got);
                early = scatter.len();
                if early == flight.work.bytes - got {
                    scatter.bytes(self.staging.room());
                }
            }
            Inbound::Unwanted { left } => {
                scratch = [0; 16 << 10];
                let len = scratch.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                scatter.bytes(&mut scratch[..len]);
                early = scatter.len();
            }
            Inbound::Answer => {
                let sole = only_read(&self.awaiting, &self.abandoned, &self.queue, &self.staging);
                if let Some(flight) = sole {
                    // The next answer can only be this one: let its payload fall into place together with its head.
                    scatter.bytes(&mut self.staging.room()[..ANSWER_BYTES]);
                    scatter.work(&flight.work, 0);
                    late = Some(flight.work.id);
                } else {
                    scatter.bytes(self.staging.room());
                }
            }
        }
        let wanted = scatter.len();
        let got = match scatter.receive(socket.as_fd()) {
            Ok(0) => return Err("the peer closed the connection".to_owned()),
            Ok(got) => got,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(e) if e.kind() == ErrorKind::Interrupted => return Ok(true),
            Err(e) => return Err(format!("receiving failed: {e}")),
        };
        let early = early.min(got);
        let head = if late.is_some() { (got - early).min(ANSWER_BYTES as u64) } else { got - early };
        self.staging.filled(head as usize);
        self.placed(early, done);
        self.digest(got - early - head, done)?;
        let busy = !self.awaiting.is_empty() || !matches!(self.inbound, Inbound::Answer);
        Ok(busy && got == wanted)
    }

    /// Counts payload bytes that are in place.
    fn placed(&mut self, n: u64, done: &mut Vec<Completion>) {
        match std::mem::replace(&mut self.inbound, Inbound::Answer) {
            Inbound::Answer => {}
            Inbound::Payload { flight, got } if got + n >= flight.work.bytes => {
                done.push(Completion { work: flight.work, outcome: Ok(()) })
            }
            Inbound::Payload { flight, got } => self.inbound = Inbound::Payload { flight, got: got + n },
            Inbound::Unwanted { left } if left <= n => {}
            Inbound::Unwanted { left } => self.inbound = Inbound::Unwanted { left: left - n },
        }
    }

    /// Reads the staged bytes: answers, and payload that was read ahead. `in_place` bytes of the payload of the first answer are where they belong.
    fn digest(&mut self, mut in_place: u64, done: &mut Vec<Completion>) -> Result<(), String> {
        loop {
            match &self.inbound {
                Inbound::Answer => {
                    let Some(head) = self.staging.data().first_chunk::<ANSWER_BYTES>() else { break };
                    let answer = Answer::decode(head)?;
                    self.staging.consume(ANSWER_BYTES);
                    self.answered(answer, done)?;
                    if in_place > 0 {
                        if !matches!(self.inbound, Inbound::Payload { .. }) {
                            return Err("the peer sent bytes behind an answer that has none".to_owned());
                        }
                        self.placed(std::mem::take(&mut in_place), done);
                    }
                }
                Inbound::Payload { flight, got } => {
                    let data = self.staging.data();
                    let n = data.len().min(usize::try_from(flight.work.bytes - got).unwrap_or(usize::MAX));
                    if n == 0 {
                        break;
                    }
                    copy_to_work(&data[..n], &flight.work, *got);
                    self.staging.consume(n);
                    self.placed(n as u64, done);
                }
                Inbound::Unwanted { left } => {
                    let n = self.staging.data().len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    if n == 0 {
                        break;
                    }
                    self.staging.consume(n);
                    self.placed(n as u64, done);
                }
            }
        }
        Ok(())
    }

    fn answered(&mut self, answer: Answer, done: &mut Vec<Completion>) -> Result<(), String> {
        if let Some(bytes) = self.abandoned.remove(&answer.id) {
            if answer.bytes > bytes {
                return Err("the peer answered with more bytes than were asked for".to_owned());
            }
            if answer.bytes > 0 {
                self.inbound = Inbound::Unwanted { left: answer.bytes };
            }
            return Ok(());
        }
        let flight = match self.awaiting.remove(&answer.id) {
            Some(flight) => flight,
            // A write can be refused before all of it was sent; the rest follows and is thrown away there.
            None => return self.refused_early(answer, done),
        };
        let outcome = answer.status.outcome();
        let due = if outcome.is_ok() && flight.work.op == Op::Read { flight.work.bytes } else { 0 };
        if answer.bytes != due {
            // Back where a broken connection finds it.
            self.awaiting.insert(answer.id, flight);
            return Err(format!("the peer answered with {} bytes where {due} were due", answer.bytes));
        }
        if due > 0 {
            self.inbound = Inbound::Payload { flight, got: 0 };
        } else {
            done.push(Completion { work: flight.work, outcome });
        }
        Ok(())
    }

    fn refused_early(&mut self, answer: Answer, done: &mut Vec<Completion>) -> Result<(), String> {
        let at = self.queue.iter().position(|flight| flight.work.id == answer.id && flight.sent > 0);
        let (Some(at), Err(failure), 0) = (at, answer.status.outcome(), answer.bytes) else {
            return Err("the peer answered a question that was not asked".to_owned());
        };
        // The rest of the frame would have to be sent from memory that is about to be given back: start over instead.
        if let Some(flight) = self.queue.remove(at) {
            done.push(Completion { work: flight.work, outcome: Err(failure) });
        }
        self.restart();
        Ok(())
    }

    /// The connection ended: asks again what it had, unless that was tried before.
    fn broken(&mut self, cause: &str, epoll: &Epoll, done: &mut Vec<Completion>) {
        self.broke = cause.to_owned();
        self.restart();
        let (again, failed): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.queue).into_iter().partition(|flight| !flight.broken);
        for flight in failed {
            let failure = Failure::new(TransferErrorKind::PeerGone, format!("{cause}, twice"));
            done.push(Completion { work: flight.work, outcome: Err(failure) });
        }
        self.queue = again;
        for flight in &mut self.queue {
            flight.broken = true;
        }
        self.flush(epoll, done);
    }

    /// Drops the connection and puts everything back into the queue, in the order it was asked.
    fn restart(&mut self) {
        self.socket = Socket::Down;
        self.wants_room = false;
        self.staging.clear();
        self.abandoned.clear();
        let mut flights: Vec<Flight> = self.awaiting.drain().map(|(_, flight)| flight).collect();
        if let Inbound::Payload { flight, .. } = std::mem::replace(&mut self.inbound, Inbound::Answer) {
            flights.push(flight);
        }
        flights.extend(self.queue.drain(..));
        flights.sort_by_key(|flight| flight.work.id);
        flights.iter_mut().for_each(|flight| flight.sent = 0);
        self.queue = flights.into();
    }

    fn open(&mut self, epoll: &Epoll, done: &mut Vec<Completion>) {
        loop {
            let Some(target) = self.targets.get(self.target) else { return };
            let family = if target.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
            let tried = socket::socket(family, SockType::Stream, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None).and_then(|fd| {
                socket::setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
                let connected = match socket::connect(fd.as_raw_fd(), &SockaddrStorage::from(*target)) {
                    Ok(()) => true,
                    Err(Errno::EINPROGRESS) => false,
                    Err(e) => return Err(e),
                };
                let flags = if connected { EpollFlags::EPOLLIN } else { EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT };
                epoll.add(&fd, EpollEvent::new(flags, self.number))?;
                Ok((fd, connected))
            });
            match tried {
                Ok((fd, true)) => {
                    self.socket = Socket::Up(fd);
                    self.wants_room = false;
                    return;
                }
                Ok((fd, false)) => {
                    self.socket = Socket::Connecting(fd);
                    self.wants_room = true;
                    return;
                }
                Err(_) if self.target + 1 < self.targets.len() => self.target += 1,
                Err(e) => return self.unreachable(e, done),
            }
        }
    }

    fn up(&mut self) {
        if let Socket::Connecting(fd) = std::mem::replace(&mut self.socket, Socket::Down) {
            self.socket = Socket::Up(fd);
        }
    }

    fn next_target(&mut self, error: Errno, epoll: &Epoll, done: &mut Vec<Completion>) {
        self.socket = Socket::Down;
        self.wants_room = false;
        if self.target + 1 < self.targets.len() {
            self.target += 1;
            self.open(epoll, done);
        } else {
            self.unreachable(error, done);
        }
    }

    /// No target answers: everything here fails, and the next work tries again.
    fn unreachable(&mut self, error: Errno, done: &mut Vec<Completion>) {
        for flight in self.queue.drain(..) {
            let failure = if flight.broken {
                Failure::new(TransferErrorKind::PeerGone, format!("{}, and a new connection failed: {}", self.broke, error.desc()))
            } else {
                Failure::new(TransferErrorKind::PeerUnreachable, format!("the connection failed: {}", error.desc()))
            };
            done.push(Completion { work: flight.work, outcome: Err(failure) });
        }
    }

    /// Polls for room to write exactly while something waits to be sent.
    fn want_room(&mut self, epoll: &Epoll) {
        let Socket::Up(socket) = &self.socket else { return };
        let wanted = !self.queue.is_empty();
        if wanted != self.wants_room {
            let flags = if wanted { EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
            // Fails only for a descriptor that was never added, and this one was.
            if epoll.modify(socket, &mut EpollEvent::new(flags, self.number)).is_ok() {
                self.wants_room = wanted;
            }
        }
    }
}

/// The one read in flight, when the next answer can only be its own and nothing of it was read yet.
fn only_read<'a>(
    awaiting: &'a HashMap<u64, Flight>,
    abandoned: &HashMap<u64, u64>,
    queue: &VecDeque<Flight>,
    staging: &Staging,
) -> Option<&'a Flight> {
    let alone =
        awaiting.len() == 1 && abandoned.is_empty() && staging.data().is_empty() && queue.front().is_none_or(|flight| flight.sent == 0);
    awaiting.values().next().filter(|flight| alone && flight.work.op == Op::Read)
}
