//! Connects a rail: the exchange over TCP, the choice of a device of the peer, and the queue pairs.

use super::device::Device;
use super::manager::{self, Events};
use super::queue::Queue;
use super::sending::DEPTH;
use super::sys::{Capacity, CompletionQueue};
use super::wire::{self, Ask, Offer, Tell};
use crate::fault::{Failure, TransferErrorKind};
use crate::rdma::{RdmaConnection, RdmaSettings};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

/// How long a peer may take to accept, and to answer: one that is there accepts within a round trip, but looks for our address before it
/// answers.
const ACCEPT: Duration = Duration::from_secs(1);
const ANSWER: Duration = Duration::from_secs(5);
/// Asked for; a device that gives less says so.
const INLINE: u32 = 220;

/// What connecting gives.
pub(super) struct Opened {
    pub(super) control: TcpStream,
    pub(super) queues: Vec<Queue>,
    pub(super) remote: usize,
    pub(super) credits: u32,
    pub(super) events: Option<Arc<Events>>,
    pub(super) unproven: bool,
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
        let offer = |gid: &[u8; 16]| Offer { name: String::new(), gid: *gid, iwarp: false, manager: None };
        let nearest = |own, gids: &[[u8; 16]]| nearest(own, &gids.iter().map(offer).collect::<Vec<_>>(), |_| true);
        assert_eq!(nearest(gid(1, 1), &[gid(2, 2), gid(1, 1), gid(1, 2)]), Some(2));
        assert_eq!(nearest(gid(1, 1), &[gid(1, 1)]), Some(0));
        assert_eq!(nearest(gid(1, 1), &[gid(9, 9), gid(9, 9)]), Some(0));
        assert_eq!(nearest(gid(1, 1), &[]), None);
        let offers = [Offer { iwarp: true, ..offer(&gid(1, 2)) }, offer(&gid(2, 2))];
        assert_eq!([true, false].map(|iwarp| super::nearest(gid(1, 1), &offers, |offer| offer.iwarp == iwarp)), [Some(0), Some(1)]);
    }
}
