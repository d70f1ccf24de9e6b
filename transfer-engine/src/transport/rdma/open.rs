//! Connects a rail: the exchange over TCP, the choice of a device of the peer, and the queue pairs.

use super::cut::PARTS;
use super::device::Device;
use super::manager;
use super::queue::{Queue, Role};
use super::rail::STALL;
use super::sending::{DEPTH, Unproven};
use super::sys::{Capacity, CompletionQueue, Events};
use super::wire::{self, Ask, Offer, Scratch, Tell};
use crate::fault::{Failure, TransferErrorKind};
use crate::rdma::{RdmaConnection, RdmaSettings};
use nix::sys::socket::{setsockopt, sockopt};
use std::cmp::Reverse;
use std::fmt::Display;
use std::io::{self, ErrorKind, Read};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a peer may take to accept: one that is there does so within a round trip.
const ACCEPT: Duration = Duration::from_secs(1);
/// And for all its answers together: it looks for our address before the last.
const ANSWER: Duration = Duration::from_secs(5);
/// Asked for; a device that gives less says so.
const INLINE: u32 = 220;

/// What connecting gives.
pub(super) struct Opened {
    pub(super) control: TcpStream,
    pub(super) queues: Vec<Queue>,
    pub(super) remote: usize,
    pub(super) offers: usize,
    pub(super) notices: bool,
    pub(super) credits: u32,
    pub(super) events: Option<Arc<Events>>,
    pub(super) unproven: Unproven,
    /// Where probes go, and how many bytes they need to fill a packet.
    pub(super) scratch: (Scratch, u32),
}

impl Opened {
    /// How many queue pairs it has.
    pub(super) fn count(&self) -> usize {
        self.queues.len()
    }
}

/// Why there is no rail.
pub(super) struct NotOpened {
    pub(super) cause: Failure,
    /// A device of the peer had been chosen, so another one may do better.
    pub(super) chosen: bool,
}

impl From<Failure> for NotOpened {
    fn from(cause: Failure) -> Self {
        Self { cause, chosen: false }
    }
}

/// Connects a rail; blocks for as long as the peer takes, on a thread of its own. Of equally near devices each slot begins with another, and
/// after each failure the next one is tried.
pub(super) fn open(
    address: &str,
    device: &Arc<Device>,
    completions: &Arc<CompletionQueue>,
    settings: &RdmaSettings,
    (slot, failures): (usize, usize),
) -> Result<Opened, NotOpened> {
    let talk = Talk::begin(address)?;
    let offers = match talk.ask(&Ask::Hello { version: wire::VERSION })? {
        Tell::Devices { version: wire::VERSION, devices } => devices,
        Tell::Devices { version, .. } => {
            return Err(talk.failure(&format!("it speaks version {version} of the exchange, we {}", wire::VERSION)).into());
        }
        other => return Err(talk.not_that(other).into()),
    };
    let sges = device.limits.max_sge.clamp(1, PARTS as u32);
    // One request more for the proof; and soft-iWARP makes no queue pair without receives.
    let capacity = Capacity { sends: DEPTH as u32 + 1, receives: u32::from(device.iwarp), sges, inline: INLINE };
    let queue = |_| Queue::new(device, Role::Asks, completions, completions, capacity);
    let queues = (0..settings.queue_pairs).map(queue).collect::<Result<Vec<_>, _>>()?;
    let own = queues.first().map_or([0; 16], |queue| queue.end().gid);
    let by = if device.iwarp { RdmaConnection::Cm } else { settings.connection };
    if offers.iter().all(|offer| !offer.is_active()) {
        return Err(talk.failure(&"no port of its devices is active").into());
    }
    let fits =
        |offer: &Offer| offer.is_active() && offer.iwarp == device.iwarp && (by == RdmaConnection::Exchange || offer.manager.is_some());
    let order = in_order(own, &offers, fits, slot);
    let Some(&remote) = order.get(failures % order.len().max(1)) else { return Err(talk.failure(&no_offer(device.iwarp, by)).into()) };
    connect(talk, device, queues, &offers, remote, by).map_err(|cause| NotOpened { cause, chosen: true })
}

fn connect(
    talk: Talk<'_>,
    device: &Device,
    mut queues: Vec<Queue>,
    offers: &[Offer],
    remote: usize,
    by: RdmaConnection,
) -> Result<Opened, Failure> {
    let Offer { gid, notices, places, manager, .. } = offers[remote];
    let managed = (by == RdmaConnection::Cm).then(|| {
        let at = SocketAddr::new(manager::ip_of(gid), manager.unwrap_or(0));
        (at, uuid::Uuid::new_v4().as_u128())
    });
    let ends = queues.iter().map(Queue::end).collect();
    let (theirs, credits, scratch) =
        match talk.ask(&Ask::Connect { device: remote as u16, ends, token: managed.map(|(_, token)| token) })? {
            Tell::Connected { ends, credits, scratch } if ends.len() == queues.len() => (ends, credits, scratch),
            other => return Err(talk.not_that(other)),
        };
    let events = match managed {
        Some((at, token)) => Some(manager::connect(device, &mut queues, at, token)?),
        None => {
            queues.iter_mut().zip(&theirs).try_for_each(|(queue, end)| queue.connect(end))?;
            None
        }
    };
    talk.control.set_nonblocking(true).map_err(|e| talk.failure(&e))?;
    let packet = queues.iter().zip(&theirs).map(|(queue, end)| queue.end().mtu.min(end.mtu)).min().unwrap_or(1);
    let unproven = Unproven { reads: device.iwarp || device.soft_roce, writes: !places, marks: device.soft_roce };
    let (control, offers, scratch) = (talk.control, offers.len(), (scratch, packet));
    Ok(Opened { control, queues, remote, offers, notices, credits, events, unproven, scratch })
}

/// The exchange, while it blocks.
struct Talk<'a> {
    address: &'a str,
    control: TcpStream,
    until: Instant,
}

impl<'a> Talk<'a> {
    fn begin(address: &'a str) -> Result<Self, Failure> {
        let connect = || -> io::Result<TcpStream> {
            let at = address.to_socket_addrs()?.next().ok_or_else(|| io::Error::other("no such host"))?;
            let control = TcpStream::connect_timeout(&at, ACCEPT)?;
            control.set_nodelay(true)?;
            control.set_write_timeout(Some(ACCEPT))?;
            // A host that vanished acknowledges no question: its rails are replaced as if they stalled. One that was only stopped does.
            setsockopt(&control, sockopt::TcpUserTimeout, &(STALL.as_millis() as u32))?;
            Ok(control)
        };
        let control = connect().map_err(|e| unreachable(address, &e))?;
        Ok(Self { address, control, until: Instant::now() + ANSWER })
    }

    fn ask(&self, ask: &Ask) -> Result<Tell, Failure> {
        let answer = || wire::receive(Until { stream: &self.control, until: self.until });
        wire::send(&self.control, ask).and_then(|()| answer()).map_err(|e| match e.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => self.failure(&format!("no answer within {ANSWER:?}")),
            _ => self.failure(&e),
        })
    }

    fn not_that(&self, answer: Tell) -> Failure {
        match answer {
            Tell::Refused { cause } => self.failure(&cause),
            _ => self.failure(&"it answered something else than was asked"),
        }
    }

    fn failure(&self, cause: &dyn Display) -> Failure {
        unreachable(self.address, cause)
    }
}

fn unreachable(address: &str, cause: &dyn Display) -> Failure {
    Failure::new(TransferErrorKind::PeerUnreachable, format!("RDMA exchange at {address}: {cause}"))
}

/// Reads until a moment, in however small pieces the bytes come.
struct Until<'a> {
    stream: &'a TcpStream,
    until: Instant,
}

impl Read for Until<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(into)
    }
}

fn no_offer(iwarp: bool, by: RdmaConnection) -> &'static str {
    match (iwarp, by) {
        (true, _) => "it offers no iWARP device whose connection manager listens",
        (false, RdmaConnection::Cm) => "it offers no RoCE device whose connection manager listens: it must be set to connect by `cm` too",
        (false, RdmaConnection::Exchange) => "it offers no device that does not speak iWARP",
    }
}

/// The devices that fit, nearest first: the ports that share the longest prefix of their address with ours, so those of our subnet before
/// others, and our own last. Equally near ones are shared out among our slots.
fn in_order(own: [u8; 16], offers: &[Offer], fits: impl Fn(&Offer) -> bool, slot: usize) -> Vec<usize> {
    // Beyond the subnet an address that is not made of one of IPv4 is the number of a card.
    let longest = if manager::ip_of(own).is_ipv4() { 128 } else { 64 };
    let prefix = |other: &[u8; 16]| (u128::from_be_bytes(own) ^ u128::from_be_bytes(*other)).leading_zeros().min(longest);
    let near = |&i: &usize| if offers[i].gid == own { 0 } else { 1 + prefix(&offers[i].gid) };
    let mut order: Vec<usize> = (0..offers.len()).filter(|&i| fits(&offers[i])).collect();
    order.sort_by_key(|i| Reverse(near(i)));
    for equal in order.chunk_by_mut(|one, other| near(one) == near(other)) {
        equal.rotate_left(slot % equal.len());
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::TcpListener;

    fn gid(a: u8, b: u8) -> [u8; 16] {
        let mut gid = [0; 16];
        gid[10..].copy_from_slice(&[0xff, 0xff, 10, 78, a, b]);
        gid
    }

    fn offer(gid: &[u8; 16]) -> Offer {
        Offer { name: String::new(), gid: *gid, iwarp: false, notices: true, places: true, manager: None }
    }

    fn order(own: [u8; 16], gids: &[[u8; 16]], slot: usize) -> Vec<usize> {
        in_order(own, &gids.iter().map(offer).collect::<Vec<_>>(), |_| true, slot)
    }

    #[test]
    fn devices_of_our_subnet_come_first_and_our_own_last() {
        assert_eq!(order(gid(1, 1), &[gid(2, 2), gid(1, 1), gid(1, 2)], 0), [2, 0, 1]);
        assert_eq!(order(gid(1, 1), &[gid(1, 1)], 3), [0]);
        assert_eq!(order(gid(1, 1), &[], 3), []);
        let offers = [Offer { iwarp: true, ..offer(&gid(1, 2)) }, offer(&gid(2, 2))];
        assert_eq!([true, false].map(|iwarp| in_order(gid(1, 1), &offers, |offer| offer.iwarp == iwarp, 0)), [[0], [1]]);
    }

    #[test]
    fn rails_do_not_all_end_at_one_of_several_devices_that_are_equally_near() {
        let gids = [gid(1, 8), gid(2, 9), gid(1, 9), gid(1, 10)];
        assert_eq!([0, 1, 2, 3].map(|slot| order(gid(1, 1), &gids, slot)[0]), [0, 2, 3, 0]);
        assert!((0..4).all(|slot| order(gid(1, 1), &gids, slot)[3] == 1), "a farther one is not among them");
        let card = |number: u8| [0xfe, 0x80, 0, 0, 0, 0, 0, 0, number, 0, 0, 0, 0, 0, 0, 1];
        assert_eq!([0, 1].map(|slot| order(card(1), &[card(3), card(200)], slot)), [[0, 1], [1, 0]], "one subnet");
    }

    #[test]
    fn a_peer_that_drips_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut peer = listener.accept().unwrap().0;
        let dripping = std::thread::spawn(move || {
            // A frame of so many bytes would be there after two minutes.
            let _ = peer.write_all(&[0xff, 0xff, 0, 0]);
            while peer.write_all(&[0]).is_ok() {
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let until = Until { stream: &stream, until: Instant::now() + Duration::from_millis(100) };
        let kind = wire::receive::<Tell>(until).unwrap_err().kind();
        assert!(matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{kind:?}");
        drop(stream);
        dripping.join().unwrap();
    }
}
