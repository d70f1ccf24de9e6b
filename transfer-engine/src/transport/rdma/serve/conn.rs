//! One peer's connection: what was asked, what is answered, and the queue pairs that live as long as it does.

use crate::fault::{Failure, TransferErrorKind};
use crate::segment::Exports;
use crate::transport::rdma::manager::Request;
use crate::transport::rdma::notify::WISH_MAX;
use crate::transport::rdma::queue::Queue;
use crate::transport::rdma::serve::lent::Lent;
use crate::transport::rdma::serve::notices::Purse;
use crate::transport::rdma::wire::{Ask, ENDS_MAX, End, Grant, Inbox, Offer, Refusal, Scratch, Tell, VERSION, encode};
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{setsockopt, sockopt};
use perilune_protocol::{Capability, SegmentId};
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

/// As many frames are answered before others have their turn.
const FRAMES_MAX: usize = 16;
/// No further frame is read while so many bytes wait to be sent.
const UNSENT_PAUSE: usize = 64 << 10;
/// A peer that lets so many bytes wait does not listen. Only what nobody asked for comes so far: withdrawals.
const UNSENT_MAX: usize = 8 << 20;
/// A host that vanished is noticed after 10 s of silence and 4 unanswered probes, 5 s apart; its queue pairs go with it.
const KEEPALIVE: (u32, u32, u32) = (10, 5, 4);
/// And after as many milliseconds when it was told something last: nothing is probed while that is not acknowledged.
const UNACKNOWLEDGED: u32 = 30_000;

/// A connection, and what it is polled for.
pub(super) struct Served {
    pub(super) conn: Conn,
    pub(super) interest: EpollFlags,
}

/// How far the exchange came.
enum Phase {
    /// Nothing said yet.
    New { since: Instant },
    /// Knows our devices.
    Greeted { since: Instant },
    /// The queue pairs are being made, on this device.
    Connecting { device: usize },
    /// Kept for their life only: the peer moves the bytes.
    Connected { device: usize, queues: Vec<Queue>, since: Instant },
    /// Was refused, and is closed once it was told so.
    Refused,
}

pub(super) struct Conn {
    stream: TcpStream,
    pub(super) peer: IpAddr,
    inbox: Inbox<Ask>,
    unsent: Vec<u8>,
    phase: Phase,
    wish: Option<(usize, Vec<End>)>,
    /// What it may send of notices.
    pub(super) purse: Purse,
    /// It got keys, or another connection from its address did: a peer may ask for them over one of its rails only.
    pub(super) known: bool,
    /// Requests of the connection manager for its queue pairs carry this.
    token: Option<u128>,
}

impl Conn {
    pub(super) fn new(stream: TcpStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let (idle, interval, count) = KEEPALIVE;
        setsockopt(&stream, sockopt::KeepAlive, &true)?;
        setsockopt(&stream, sockopt::TcpKeepIdle, &idle)?;
        setsockopt(&stream, sockopt::TcpKeepInterval, &interval)?;
        setsockopt(&stream, sockopt::TcpKeepCount, &count)?;
        setsockopt(&stream, sockopt::TcpUserTimeout, &UNACKNOWLEDGED)?;
        let (peer, phase) = (stream.peer_addr()?.ip(), Phase::New { since: Instant::now() });
        let (inbox, unsent, purse) = Default::default();
        Ok(Self { stream, peer, inbox, unsent, phase, wish: None, purse, known: false, token: None })
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    pub(super) fn interest(&self) -> EpollFlags {
        let mut interest = EpollFlags::empty();
        // Of frames that were read ahead no event tells, so it is asked for the one that comes when there is room for their answers.
        let ahead = self.wants_more() && self.inbox.ready();
        interest.set(EpollFlags::EPOLLIN, self.wants_more() && !ahead);
        interest.set(EpollFlags::EPOLLOUT, ahead || !self.unsent.is_empty());
        interest
    }

    /// Since when a peer has not said which device it wants, or, with queue pairs, has not shown that it has a right to anything.
    pub(super) fn silent_since(&self) -> Option<Instant> {
        match self.phase {
            Phase::New { since } | Phase::Greeted { since } => Some(since),
            Phase::Connected { since, .. } if !self.known => Some(since),
            _ => None,
        }
    }

    /// The device its queue pairs are on, once it has some; only then it may hold keys.
    pub(super) fn device(&self) -> Option<usize> {
        if let Phase::Connected { device, .. } = self.phase { Some(device) } else { None }
    }

    /// The device its queue pairs are being made on.
    pub(super) fn connecting(&self) -> Option<usize> {
        if let Phase::Connecting { device } = self.phase { Some(device) } else { None }
    }

    /// The device and the ends the peer asked for since the last turn.
    pub(super) fn wish(&mut self) -> Option<(usize, Vec<End>)> {
        self.wish.take()
    }

    /// Whether the connection manager connects its queue pairs, and which requests are for it.
    pub(super) fn token(&self) -> Option<u128> {
        self.token
    }

    /// Connects the queue pair that a request of the connection manager is for. `number` is ours.
    pub(super) fn accept(&mut self, request: Request, number: u64) -> Result<(), String> {
        let place = request.place;
        match &mut self.phase {
            Phase::Connected { queues, .. } if place < queues.len() => request.accept(&mut queues[place], number).map_err(|e| e.cause),
            _ => Err(format!("the connection manager was asked for its queue pair {place}, which is not there")),
        }
    }

    /// Receives, answers and sends what can be now.
    pub(super) fn turn(&mut self, offers: &[Offer], exports: &Exports, lent: &Lent) -> Result<(), String> {
        self.send()?;
        if self.wants_more() && !self.inbox.ready() {
            self.inbox.fill(&self.stream).map_err(|e| match e.kind() {
                ErrorKind::UnexpectedEof => "the peer closed it".to_owned(),
                _ => e.to_string(),
            })?;
        }
        for _ in 0..FRAMES_MAX {
            if !self.wants_more() {
                break;
            }
            let Some(ask) = self.inbox.next().map_err(|e| e.to_string())? else { break };
            self.asked(ask, offers, exports, lent)?;
            self.send()?;
        }
        Ok(())
    }

    /// The queue pairs it asked for, or why there are none.
    pub(super) fn connected(&mut self, outcome: Result<(Vec<Queue>, Vec<End>), Failure>, scratch: Scratch) -> Result<(), String> {
        match (outcome, &self.phase) {
            (Ok((queues, ends)), &Phase::Connecting { device }) => {
                self.phase = Phase::Connected { device, queues, since: Instant::now() };
                self.tell(&Tell::Connected { ends, credits: self.purse.standing, scratch });
            }
            (Ok(_), _) => {}
            (Err(failure), _) => self.refuse(failure.cause),
        }
        self.send()
    }

    /// Gives its queue pairs up: nothing arrives by them any more.
    pub(super) fn fail(&mut self) {
        if let Phase::Connected { queues, .. } = &mut self.phase {
            queues.iter_mut().for_each(Queue::fail);
        }
    }

    /// Sends a frame that answers nothing.
    pub(super) fn tell_unasked(&mut self, frame: &[u8]) -> Result<(), String> {
        self.unsent.extend_from_slice(frame);
        self.send()
    }

    fn wants_more(&self) -> bool {
        self.unsent.len() < UNSENT_PAUSE && !matches!(self.phase, Phase::Refused)
    }

    fn asked(&mut self, ask: Ask, offers: &[Offer], exports: &Exports, lent: &Lent) -> Result<(), String> {
        match (ask, &self.phase) {
            (Ask::Hello { version }, Phase::New { .. }) if version != VERSION => {
                self.refuse(format!("this node speaks version {VERSION} of the exchange, the peer version {version}"));
            }
            (Ask::Hello { .. }, &Phase::New { since }) => {
                self.tell(&Tell::Devices { version: VERSION, devices: offers.to_vec() });
                self.phase = Phase::Greeted { since };
            }
            (Ask::Connect { device, ends, token }, Phase::Greeted { .. }) => {
                let device = usize::from(device);
                let Some(offer) = offers.get(device).filter(|_| (1..=ENDS_MAX).contains(&ends.len())) else {
                    return Err(format!("it asked for {} queue pairs on device {device} of {}", ends.len(), offers.len()));
                };
                if token.is_none() && offer.iwarp || token.is_some() && offer.manager.is_none() {
                    let way = if offer.iwarp { "only" } else { "not" };
                    self.refuse(format!("{} connects {way} by the connection manager", offer.name));
                    return Ok(());
                }
                self.token = token;
                self.wish = Some((device, ends));
                self.phase = Phase::Connecting { device };
            }
            (Ask::Key { id, segment, capability }, Phase::Connected { .. }) => {
                let grant = grant(segment, capability, exports, lent);
                self.purse.trusted |= grant.is_ok();
                self.known |= grant.is_ok();
                self.tell(&Tell::Key { id, grant });
            }
            (Ask::Credits { count }, Phase::Connected { device, .. }) if self.purse.trusted => {
                // There never are any where no notices arrive, and the offer said so.
                self.purse.wanted = if offers[*device].notices { count.min(WISH_MAX) } else { 0 };
            }
            (Ask::Return { count }, Phase::Connected { .. }) if count > 0 && self.purse.holds(count) => self.purse.returned += count,
            (ask, _) => return Err(format!("out of turn: {ask:?}")),
        }
        Ok(())
    }

    fn refuse(&mut self, cause: String) {
        self.phase = Phase::Refused;
        self.tell(&Tell::Refused { cause });
    }

    fn tell(&mut self, what: &Tell) {
        self.unsent.extend_from_slice(&encode(what));
    }

    fn send(&mut self) -> Result<(), String> {
        let mut sent = 0;
        while sent < self.unsent.len() {
            match self.stream.write(&self.unsent[sent..]) {
                Ok(0) => return Err("the peer closed it".to_owned()),
                Ok(count) => sent += count,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e.to_string()),
            }
        }
        self.unsent.drain(..sent);
        match self.phase {
            Phase::Refused if self.unsent.is_empty() => Err("it was refused".to_owned()),
            _ if self.unsent.len() > UNSENT_MAX => Err(format!("it does not take what it is told: {} bytes wait", self.unsent.len())),
            _ => Ok(()),
        }
    }
}

/// The keys of a segment, for who shows its capability.
pub(super) fn grant(segment: SegmentId, capability: Capability, exports: &Exports, lent: &Lent) -> Result<Grant, Refusal> {
    let export = exports.find(segment).map_err(|_| Refusal::UnknownSegment)?;
    match export.check(capability, &[]) {
        Ok(()) => lent.grant(segment, &export).ok_or(Refusal::UnknownSegment),
        Err(failure) if failure.kind == TransferErrorKind::UnknownSegment => Err(Refusal::UnknownSegment),
        Err(_) => Err(Refusal::Denied),
    }
}
