//! Queue pairs connected by the kernel's connection manager (`rdma_cm`) instead of by our exchange.
//!
//! ```text
//! asking side                                               serving side
//!   Connect { token } over TCP                           ->   queue pairs are made
//!   for each queue pair, by the manager:
//!   its address, from ours; the way there
//!   a request with our number, the token, its place      ->   the connection with that token has such a queue pair:
//!                                                             ready to receive, ready to send
//!                                                        <-   an answer with its number
//!   ready to receive, ready to send; establish           ->
//! ```
//! The queue pairs are our own: the manager is told their numbers and tells us how they must be set (`rdma_init_qp_attr`), but is not given
//! them to keep. So they come out as those of the exchange do, and everything after is the same. iWARP has no other way to connect: its
//! protocol begins with this request, and the device sets the queue pairs itself as it is sent and answered.
//!
//! The manager chooses the device by the address it is bound to. Where two devices have the same (soft-RoCE and soft-iWARP on one network
//! interface) it takes the first, which may be another than ours, whose queue pairs it does not know: that is said.

use crate::fault::{Failure, TransferErrorKind};
use crate::transport::rdma::device::Device;
use crate::transport::rdma::queue::{Queue, READS_MAX};
use crate::transport::rdma::sys::{Asked, Event, Events, Id, Terms};
use crate::transport::rdma::wire::End;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rdma_mummy_sys::rdma_cm_event_type as event;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the manager may look for the peer, and the peer take to answer.
const STEP: Duration = Duration::from_secs(2);
/// Requests that wait to be taken.
const BACKLOG: u16 = 128;

/// What a request says: which connection of the exchange it belongs to, and which of its queue pairs it is for.
fn words(token: u128, place: u8) -> [u8; 17] {
    let mut words = [place; 17];
    words[..16].copy_from_slice(&token.to_le_bytes());
    words
}

fn read_words(words: &[u8]) -> Option<(u128, u8)> {
    let (token, rest) = words.split_first_chunk()?;
    Some((u128::from_le_bytes(*token), *rest.first()?))
}

/// A GID that is an IP address, as one.
pub(crate) fn ip_of(gid: [u8; 16]) -> IpAddr {
    IpAddr::from(gid).to_canonical()
}

/// Connects our queue pairs to those the peer made for the token. What happens to them later comes by the events.
pub(crate) fn connect(device: &Device, queues: &mut [Queue], to: SocketAddr, token: u128) -> Result<Arc<Events>, Failure> {
    let failed = |e: &dyn std::fmt::Display| {
        let cause = format!("{}: the connection manager cannot connect to {to}: {e}", device.name);
        Failure::new(TransferErrorKind::PeerUnreachable, cause)
    };
    let events = Events::new().map_err(|e| failed(&e))?;
    for (place, queue) in queues.iter_mut().enumerate() {
        let from = SocketAddr::new(ip_of(queue.end().gid), 0);
        let id = Id::new(&events, place as u64).map_err(|e| failed(&e))?;
        let heard = |wanted: &[event::Type]| wait_for(&events, place as u64, wanted).map_err(|e| failed(&e));
        id.resolve_address(from, to, STEP).map_err(|e| failed(&e))?;
        heard(&[event::RDMA_CM_EVENT_ADDR_RESOLVED])?;
        same_device(device, &id, from).map_err(|e| failed(&e))?;
        id.resolve_route(STEP).map_err(|e| failed(&e))?;
        heard(&[event::RDMA_CM_EVENT_ROUTE_RESOLVED])?;
        let End { number, reads, answers, .. } = queue.end();
        let words = words(token, place as u8);
        id.connect(&Terms { queue_pair: number, answers, reads, words: &words }).map_err(|e| failed(&e))?;
        let answered = heard(&[event::RDMA_CM_EVENT_CONNECT_RESPONSE, event::RDMA_CM_EVENT_ESTABLISHED])?;
        queue.follow(&id)?;
        if answered == event::RDMA_CM_EVENT_CONNECT_RESPONSE {
            id.establish().map_err(|e| failed(&e))?;
        }
        queue.keep(id);
    }
    Ok(events)
}

/// Waits until one of these comes, and nothing worse.
fn wait_for(events: &Arc<Events>, number: u64, wanted: &[event::Type]) -> Result<event::Type, String> {
    let begun = Instant::now();
    loop {
        while let Some(happened) = events.next().map_err(|e| e.to_string())? {
            if happened.number == number && wanted.contains(&happened.kind) {
                return Ok(happened.kind);
            }
            if let Some(cause) = ended(&happened) {
                return Err(cause);
            }
        }
        // The manager gives up by itself earlier.
        let left = (2 * STEP).checked_sub(begun.elapsed()).ok_or("it does not answer")?;
        let mut polled = [PollFd::new(events.as_fd(), PollFlags::POLLIN)];
        let wait = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        poll(&mut polled, wait).map(|_| ()).or_else(|e| if e == nix::Error::EINTR { Ok(()) } else { Err(e.to_string()) })?;
    }
}

/// The error when the manager bound `id` to another device than ours.
fn same_device(device: &Device, id: &Id, at: SocketAddr) -> Result<(), String> {
    match id.device() {
        Some(name) if name == device.name => Ok(()),
        other => Err(format!("it uses {} for the address {}, not {}", other.as_deref().unwrap_or("no device"), at.ip(), device.name)),
    }
}

/// Why a connection is over, if the event says that.
fn ended(happened: &Event) -> Option<String> {
    let words = match happened.kind {
        event::RDMA_CM_EVENT_ADDR_ERROR => "the address is not found",
        event::RDMA_CM_EVENT_ROUTE_ERROR => "no route is found",
        event::RDMA_CM_EVENT_CONNECT_ERROR => "it failed while connecting",
        event::RDMA_CM_EVENT_UNREACHABLE => "the peer does not answer",
        event::RDMA_CM_EVENT_REJECTED => "the peer refused",
        event::RDMA_CM_EVENT_DISCONNECTED => "the peer disconnected",
        event::RDMA_CM_EVENT_DEVICE_REMOVAL => "the device goes away",
        _ => return None,
    };
    Some(match happened.status {
        0 => words.to_owned(),
        error @ ..0 => format!("{words}: {}", std::io::Error::from_raw_os_error(-error)),
        reason => format!("{words}, reason {reason}"),
    })
}

impl Events {
    /// Why a connection is over that was made here, if one is.
    pub(crate) fn ended(self: &Arc<Self>) -> Option<String> {
        loop {
            match self.next() {
                Ok(Some(happened)) => match ended(&happened) {
                    Some(cause) => return Some(format!("connection manager: {cause}")),
                    None => continue,
                },
                Ok(None) => return None,
                Err(e) => return Some(format!("connection manager: {e}")),
            }
        }
    }
}

/// Takes the requests of peers, at the address of one device.
pub(crate) struct Listener {
    events: Arc<Events>,
    id: Id,
    at: IpAddr,
}

/// What a listener heard.
pub(crate) enum Heard {
    Request(Request),
    /// The connection that was accepted under this number is over.
    Ended(u64, String),
}

/// A peer wants its queue pair connected. Dropped, it is refused.
pub(crate) struct Request {
    /// Which connection of the exchange it belongs to.
    pub(crate) token: u128,
    /// Which of its queue pairs it is for.
    pub(crate) place: usize,
    asked: Asked,
}

impl Listener {
    pub(crate) fn new(device: &Device) -> Result<Self, Failure> {
        let at = SocketAddr::new(ip_of(device.current_gid()?.bytes), 0);
        let failed = |e: &dyn std::fmt::Display| {
            let cause = format!("{}: the connection manager cannot listen at {}: {e}", device.name, at.ip());
            Failure::new(TransferErrorKind::Failed, cause)
        };
        let events = Events::new().map_err(|e| failed(&e))?;
        // Events of the listener itself belong to no connection.
        let id = Id::new(&events, u64::MAX).map_err(|e| failed(&e))?;
        id.bind(at).map_err(|e| failed(&e))?;
        same_device(device, &id, at).map_err(|e| failed(&e))?;
        id.listen(BACKLOG).map_err(|e| failed(&e))?;
        Ok(Self { events, id, at: at.ip() })
    }

    /// Whether it is where peers look for it that are told this address of the port.
    pub(crate) fn is_at(&self, gid: [u8; 16]) -> bool {
        self.at == ip_of(gid)
    }

    pub(crate) fn port(&self) -> u16 {
        self.id.port()
    }

    pub(crate) fn events(&self) -> &Arc<Events> {
        &self.events
    }

    /// What came; never waits. What makes no sense is refused.
    pub(crate) fn next(&self) -> Option<Heard> {
        loop {
            let happened = match self.events.next() {
                Ok(happened) => happened?,
                // Of one request only: the device or its memory is short of something.
                Err(e) => {
                    tracing::warn!("connection manager: a request is lost: {e}");
                    return None;
                }
            };
            if let Some(cause) = ended(&happened) {
                return Some(Heard::Ended(happened.number, cause));
            }
            let Some(asked) = happened.request else { continue };
            match read_words(&asked.words) {
                Some((token, place)) => return Some(Heard::Request(Request { token, place: place.into(), asked })),
                None => tracing::debug!("connection manager: a request without a token is refused"),
            }
        }
    }
}

impl Request {
    /// Connects `queue` to who asks. The end of that is told under `number`.
    ///
    /// Takes no time: to let the request in, the kernel had to find the way back to who sent it.
    pub(crate) fn accept(self, queue: &mut Queue, number: u64) -> Result<(), Failure> {
        let Asked { id, answers, .. } = self.asked;
        id.count_as(number);
        queue.follow(&id)?;
        // This side asks for nothing.
        let terms = Terms { queue_pair: queue.end().number, answers: answers.min(READS_MAX), reads: 0, words: &[] };
        id.accept(&terms).map_err(|e| {
            Failure::new(TransferErrorKind::PeerUnreachable, format!("the connection manager cannot accept a queue pair: {e}"))
        })?;
        queue.keep(id);
        Ok(())
    }
}

#[cfg(test)]
mod device_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_whose_it_is() {
        for (token, place) in [(0, 0), (u128::MAX, 255), (0x0123_4567_89ab_cdef_0011_2233_4455_6677, 3)] {
            let mut said = words(token, place).to_vec();
            assert_eq!(read_words(&said), Some((token, place)));
            said.resize(56, 0);
            assert_eq!(read_words(&said), Some((token, place)), "as it is filled up on the way");
        }
        assert_eq!(read_words(&[1; 16]), None);
        assert_eq!(read_words(&[]), None);
    }

    #[test]
    fn addresses_of_ports_are_ip_addresses() {
        let mapped: std::net::Ipv6Addr = "::ffff:10.78.0.1".parse().unwrap();
        assert_eq!(ip_of(mapped.octets()), "10.78.0.1".parse::<IpAddr>().unwrap());
        let six: std::net::Ipv6Addr = "2001:db8::1".parse().unwrap();
        assert_eq!(ip_of(six.octets()), IpAddr::from(six));
    }

    #[test]
    fn the_end_of_a_connection_is_told_with_its_reason() {
        let of = |kind, status| ended(&Event { number: 1, kind, status, request: None });
        assert_eq!(of(event::RDMA_CM_EVENT_ESTABLISHED, 0), None);
        assert_eq!(of(event::RDMA_CM_EVENT_TIMEWAIT_EXIT, 0), None);
        assert_eq!(of(event::RDMA_CM_EVENT_DISCONNECTED, 0).unwrap(), "the peer disconnected");
        assert_eq!(of(event::RDMA_CM_EVENT_REJECTED, 8).unwrap(), "the peer refused, reason 8");
        let unreachable = of(event::RDMA_CM_EVENT_UNREACHABLE, -libc::ETIMEDOUT).unwrap();
        assert!(unreachable.starts_with("the peer does not answer: ") && unreachable.contains("timed out"), "{unreachable}");
    }
}
