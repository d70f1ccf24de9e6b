//! A rail: queue pairs between one of our devices and one of a peer's, and the TCP connection they live and die with.

use super::cut::Slice;
use super::device::Device;
use super::manager::{self, Events};
use super::queue::Queue;
use super::registry::{Staging, Stretch};
use super::sys::{Capacity, Chain, CompletionQueue, Local, Verb, WorkRequest};
use super::transport::MANAGERS;
use super::wire::{self, Ask, Inbox, Offer, Tell};
use crate::fault::{Failure, TransferErrorKind};
use crate::rdma::{RdmaConnection, RdmaSettings};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use std::collections::VecDeque;
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a peer may take to accept, and to answer: one that is there accepts within a round trip, but looks for our address before it
/// answers.
const ACCEPT: Duration = Duration::from_secs(1);
const ANSWER: Duration = Duration::from_secs(5);
/// Work requests in one send queue.
pub(super) const DEPTH: usize = 128;
/// Bytes under way in one send queue: enough for any wire, and little enough to be sent again elsewhere.
const WINDOW: u64 = 8 << 20;
/// At least every so many work requests, and so many bytes, one reports its success.
const SIGNAL_REQUESTS: u32 = 64;
const SIGNAL_BYTES: u64 = 4 << 20;
/// A device gives a request up after some two seconds without an acknowledgement. One that does not even that (soft-RoCE tries for ever to
/// send packets larger than the MTU has become) has its rail replaced after so long.
pub(super) const STALL: Duration = Duration::from_secs(5);
/// Asked for; a device that gives less says so.
const INLINE: u32 = 220;

/// One work request that the device has.
pub(super) struct Sent {
    sequence: u32,
    /// The work it belongs to; `None` for a probe.
    pub(super) work: Option<u64>,
    pub(super) slice: Option<Slice>,
    pub(super) stretch: Option<Stretch>,
}

/// The sending side of a queue pair. Requests complete in the order they were posted, so one reported success stands for all before it.
pub(super) struct Sending {
    pub(super) queue: Queue,
    pub(super) chain: Chain,
    sent: VecDeque<Sent>,
    next: u32,
    /// Bytes under way.
    pub(super) backlog: u64,
    silent_requests: u32,
    silent_bytes: u64,
    /// Success of a write says only that it was sent: see [`Sending::prove`].
    unproven: bool,
}

impl Sending {
    fn new(queue: Queue, unproven: bool) -> Self {
        Self { unproven, queue, chain: Chain::new(), sent: VecDeque::new(), next: 0, backlog: 0, silent_requests: 0, silent_bytes: 0 }
    }

    pub(super) fn has_room(&self) -> bool {
        self.sent.len() < DEPTH && self.backlog < WINDOW
    }

    pub(super) fn outstanding(&self) -> usize {
        self.sent.len()
    }

    /// The number of the first request under way.
    fn first(&self) -> Option<u32> {
        self.sent.front().map(|sent| sent.sequence)
    }

    pub(super) fn sent(&self) -> impl Iterator<Item = &Sent> {
        self.sent.iter()
    }

    /// Counts a request in, and answers its sequence number and whether it must report its success.
    /// `last`: nothing will be posted behind it for now, so nobody else would speak for it.
    pub(super) fn record(&mut self, work: Option<u64>, slice: Option<Slice>, stretch: Option<Stretch>, last: bool) -> (u32, bool) {
        let (sequence, len) = (self.next, slice.map_or(0, |slice| slice.len));
        self.next = self.next.wrapping_add(1);
        self.backlog += len;
        self.silent_requests += 1;
        self.silent_bytes += len;
        let signaled = last
            || !self.unproven
                && (self.silent_requests >= SIGNAL_REQUESTS || self.silent_bytes >= SIGNAL_BYTES || !self.has_room_for_one_more());
        if signaled {
            (self.silent_requests, self.silent_bytes) = (0, 0);
        }
        self.sent.push_back(Sent { sequence, work, slice, stretch });
        (sequence, signaled)
    }

    fn has_room_for_one_more(&self) -> bool {
        self.sent.len() + 1 < DEPTH && self.backlog < WINDOW
    }

    /// On iWARP, adds a read of one byte that the last request wrote or read. Its success stands for all before it: the peer answers once
    /// what came before is in its memory. The success of a write would only say that the bytes were given to TCP, and may be reported before
    /// that of an earlier read. Only the probe reads no byte: soft-iWARP of Linux 6.1 may answer that with bytes of the read before it.
    pub(super) fn prove(&mut self, staging: Option<&Staging>, device: usize, id: impl FnOnce(u32) -> u64) -> bool {
        if self.unproven {
            let (remote, key) = self.chain.target().unwrap_or_default();
            let mut sink = staging.map_or(Local { base: 0, len: 0, key: 0 }, |staging| staging.spare(device));
            sink.len = u32::from(self.chain.target().is_some());
            let (sequence, signaled) = self.record(None, None, None, true);
            self.chain.push(WorkRequest { id: id(sequence), op: Verb::Read, remote, key, signaled }, &[sink]);
        }
        self.unproven
    }

    /// The work that the request of this number belongs to.
    pub(super) fn work_of(&self, sequence: u32) -> Option<u64> {
        self.sent.iter().find(|sent| sent.sequence == sequence)?.work
    }

    /// Makes the last request of the chain report its success, for all of them.
    pub(super) fn speak(&mut self) {
        self.chain.signal_last();
        (self.silent_requests, self.silent_bytes) = (0, 0);
    }

    /// What the device has; the queue pair must be destroyed before any of it is used again.
    pub(super) fn abandon(&mut self) -> VecDeque<Sent> {
        self.queue.fail();
        self.backlog = 0;
        std::mem::take(&mut self.sent)
    }

    /// The next request at or before `sequence` that the device is done with.
    pub(super) fn settle(&mut self, sequence: u32) -> Option<Sent> {
        let first = self.sent.front()?;
        if sequence.wrapping_sub(first.sequence) > u32::MAX / 2 {
            return None;
        }
        let sent = self.sent.pop_front()?;
        self.backlog -= sent.slice.map_or(0, |slice| slice.len);
        Some(sent)
    }
}

/// A rail that is connected.
pub(super) struct Rail {
    /// Names it in the numbers of its work requests, so that what is left of an earlier rail in a completion queue is told apart.
    pub(super) generation: u32,
    pub(super) control: TcpStream,
    pub(super) inbox: Inbox,
    /// Of a rail that the connection manager connected.
    pub(super) events: Option<Arc<Events>>,
    pub(super) sendings: Vec<Sending>,
    /// Ours, by its place among the devices.
    pub(super) device: usize,
    /// Theirs, by its place in the offer.
    pub(super) remote: usize,
    /// Which queue pair is being filled, and how many bytes of its turn are left.
    pub(super) turn: (usize, u64),
    /// Notices that may be sent, and how many of them may be kept for later.
    pub(super) credits: u32,
    pub(super) standing: u32,
    /// Credits that were asked for; 0 when the peer has answered.
    pub(super) asked: u32,
    /// Whether the peer saw a capability over this rail: only then it takes notices from it.
    pub(super) shown: Shown,
    /// The first request under way on each queue pair, and since when it has been the first.
    pace: Vec<(Option<u32>, Instant)>,
}

/// How far a capability was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    No,
    Asked,
    Yes,
}

impl Rail {
    pub(super) fn new(generation: u32, device: usize, opened: Opened) -> Self {
        let Opened { control, queues, remote, credits, events, unproven } = opened;
        let sendings = queues.into_iter().map(|queue| Sending::new(queue, unproven)).collect();
        let (inbox, turn, standing, pace) = (Inbox::default(), (0, 0), credits, Vec::new());
        Self { generation, control, inbox, events, sendings, device, remote, turn, credits, standing, asked: 0, shown: Shown::No, pace }
    }

    /// Whether some request has been under way for [`STALL`] without being acknowledged, as far as one who looks now and then can tell.
    pub(super) fn stalled(&mut self, now: Instant) -> bool {
        self.pace.resize(self.sendings.len(), (None, now));
        self.sendings.iter().zip(&mut self.pace).any(|(sending, (first, since))| {
            let here = sending.first();
            if here.is_none() || here != *first {
                (*first, *since) = (here, now);
            }
            now.duration_since(*since) >= STALL
        })
    }

    /// Has the lane woken when the peer says something, or the connection manager does.
    pub(super) fn watch(&self, epoll: &Epoll) -> nix::Result<()> {
        let event = |of: u64| EpollEvent::new(EpollFlags::EPOLLIN, of + u64::from(self.generation));
        epoll.add(&self.control, event(0))?;
        self.events.iter().try_for_each(|events| epoll.add(&**events, event(MANAGERS)))
    }

    pub(super) fn unwatch(&self, epoll: &Epoll) {
        let _ = epoll.delete(&self.control);
        let _ = self.events.iter().try_for_each(|events| epoll.delete(&**events));
    }

    /// Sends a frame. They are so small that a socket without room for one has a peer that stopped reading.
    pub(super) fn ask(&mut self, ask: &Ask) -> Result<(), Failure> {
        self.control.write_all(&wire::encode(ask)).map_err(|e| gone(&e))
    }

    /// Frames that came.
    pub(super) fn hear(&mut self) -> Result<Vec<Tell>, Failure> {
        self.inbox.fill(&self.control).map_err(|e| gone(&e))?;
        let mut heard = Vec::new();
        while let Some(tell) = self.inbox.next().map_err(|e| gone(&e))? {
            heard.push(tell);
        }
        Ok(heard)
    }

    /// Which queue pair takes the next `len` bytes: the one whose turn it is, else the one with the least under way.
    pub(super) fn take_turn(&mut self, len: u64, turn: u64) -> usize {
        let (place, left) = self.turn;
        let place = if left > 0 && self.sendings[place].has_room() {
            place
        } else {
            self.turn.1 = turn;
            (0..self.sendings.len()).filter(|&i| self.sendings[i].has_room()).min_by_key(|&i| self.sendings[i].backlog).unwrap_or(place)
        };
        self.turn = (place, self.turn.1.saturating_sub(len.max(1)));
        place
    }

    pub(super) fn backlog(&self) -> u64 {
        self.sendings.iter().map(|sending| sending.backlog).sum()
    }
}

fn gone(cause: &std::io::Error) -> Failure {
    let cause = if cause.kind() == ErrorKind::UnexpectedEof { "the peer closed the connection".to_owned() } else { cause.to_string() };
    Failure::new(TransferErrorKind::PeerGone, cause)
}

/// What connecting gives.
pub(super) struct Opened {
    control: TcpStream,
    queues: Vec<Queue>,
    remote: usize,
    credits: u32,
    events: Option<Arc<Events>>,
    unproven: bool,
}

impl Opened {
    /// How many queue pairs it has.
    pub(super) fn count(&self) -> usize {
        self.queues.len()
    }
}

/// Connects a rail; blocks for as long as the peer takes, on a thread of its own.
pub(super) fn open(
    address: &str,
    device: &Arc<Device>,
    completions: &Arc<CompletionQueue>,
    settings: &RdmaSettings,
) -> Result<Opened, Failure> {
    let unreachable =
        |e: &dyn std::fmt::Display| Failure::new(TransferErrorKind::PeerUnreachable, format!("RDMA exchange at {address}: {e}"));
    let at = address.to_socket_addrs().map_err(|e| unreachable(&e))?.next().ok_or_else(|| unreachable(&"no such host"))?;
    let control = TcpStream::connect_timeout(&at, ACCEPT).map_err(|e| unreachable(&e))?;
    let prepared = control
        .set_nodelay(true)
        .and_then(|()| control.set_read_timeout(Some(ANSWER)))
        .and_then(|()| control.set_write_timeout(Some(ACCEPT)));
    prepared.map_err(|e| unreachable(&e))?;
    let talk = |ask: &Ask| -> Result<Tell, Failure> {
        wire::send(&control, ask).and_then(|()| wire::receive(&control)).map_err(|e| match e.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => unreachable(&format!("no answer within {ANSWER:?}")),
            _ => unreachable(&e),
        })
    };
    let offers = match talk(&Ask::Hello { version: wire::VERSION })? {
        Tell::Devices { version: wire::VERSION, devices } => devices,
        Tell::Devices { version, .. } => {
            return Err(unreachable(&format!("it speaks version {version} of the exchange, we {}", wire::VERSION)));
        }
        Tell::Refused { cause } => return Err(unreachable(&cause)),
        _ => return Err(unreachable(&"it answered something else than was asked")),
    };
    let capacity = Capacity { sends: DEPTH as u32, receives: 0, sges: super::cut::PARTS as u32, inline: INLINE };
    // One request more for the proof; and soft-iWARP makes no queue pair without receives.
    let capacity = if device.iwarp { Capacity { sends: DEPTH as u32 + 1, receives: 1, ..capacity } } else { capacity };
    let queue = |_| Queue::new(device, completions, completions, None, capacity);
    let mut queues = (0..settings.queue_pairs).map(queue).collect::<Result<Vec<_>, _>>()?;
    let ends: Vec<_> = queues.iter().map(Queue::end).collect();
    let own = ends.first().map_or([0; 16], |end| end.gid);
    let by = if device.iwarp { RdmaConnection::Cm } else { settings.connection };
    let fits = |offer: &Offer| offer.iwarp == device.iwarp && (by == RdmaConnection::Exchange || offer.manager.is_some());
    let remote = nearest(own, &offers, fits).ok_or_else(|| unreachable(&no_offer(device.iwarp, by)))?;
    let Offer { gid, manager, .. } = offers[remote];
    let managed = (by == RdmaConnection::Cm).then(|| {
        let at = SocketAddr::new(manager::ip_of(gid), manager.unwrap_or(0));
        (at, uuid::Uuid::new_v4().as_u128())
    });
    let (theirs, credits) = match talk(&Ask::Connect { device: remote as u16, ends, token: managed.map(|(_, token)| token) })? {
        Tell::Connected { ends, credits } if ends.len() == queues.len() => (ends, credits),
        Tell::Refused { cause } => return Err(unreachable(&cause)),
        _ => return Err(unreachable(&"it answered something else than was asked")),
    };
    let events = match managed {
        Some((at, token)) => Some(manager::connect(device, &mut queues, at, token)?),
        None => {
            queues.iter_mut().zip(&theirs).try_for_each(|(queue, end)| queue.connect(end))?;
            None
        }
    };
    control.set_nonblocking(true).map_err(|e| unreachable(&e))?;
    Ok(Opened { control, queues, remote, credits, events, unproven: device.iwarp })
}

fn no_offer(iwarp: bool, by: RdmaConnection) -> &'static str {
    match (iwarp, by) {
        (true, _) => "it offers no iWARP device whose connection manager listens",
        (false, RdmaConnection::Cm) => "it offers no RoCE device whose connection manager listens: it must be set to connect by `cm` too",
        (false, RdmaConnection::Exchange) => "it offers no device that does not speak iWARP",
    }
}

/// Of the devices that fit, the port that shares the longest prefix of its address with ours: the same subnet before any other. Our own only
/// when there is no other.
fn nearest(own: [u8; 16], offers: &[Offer], fits: impl Fn(&Offer) -> bool) -> Option<usize> {
    let prefix = |other: &[u8; 16]| (u128::from_be_bytes(own) ^ u128::from_be_bytes(*other)).leading_zeros();
    // Of equals the first: `max_by_key` would take the last.
    let fitting = (0..offers.len()).rev().filter(|&i| fits(&offers[i]));
    fitting.max_by_key(|&i| if offers[i].gid == own { 0 } else { 1 + prefix(&offers[i].gid) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_of_our_subnet_is_taken() {
        let gid = |a: u8, b: u8| {
            let mut gid = [0; 16];
            gid[10..].copy_from_slice(&[0xff, 0xff, 10, 78, a, b]);
            gid
        };
        let offer = |gid: &[u8; 16]| Offer { name: String::new(), gid: *gid, iwarp: false, notices: true, manager: None };
        let nearest = |own, gids: &[[u8; 16]]| nearest(own, &gids.iter().map(offer).collect::<Vec<_>>(), |_| true);
        assert_eq!(nearest(gid(1, 1), &[gid(2, 2), gid(1, 1), gid(1, 2)]), Some(2));
        assert_eq!(nearest(gid(1, 1), &[gid(1, 1)]), Some(0));
        assert_eq!(nearest(gid(1, 1), &[gid(9, 9), gid(9, 9)]), Some(0));
        assert_eq!(nearest(gid(1, 1), &[]), None);
        let offers = [Offer { iwarp: true, ..offer(&gid(1, 2)) }, offer(&gid(2, 2))];
        assert_eq!([true, false].map(|iwarp| super::nearest(gid(1, 1), &offers, |offer| offer.iwarp == iwarp)), [Some(0), Some(1)]);
    }
}
