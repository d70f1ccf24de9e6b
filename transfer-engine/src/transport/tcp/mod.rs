//! Bytes over TCP: one connection per lane and peer, many pieces of work in flight on it, answered in any order.
//! Notices have a connection of their own ([`Teller`]), so that one that waits for room holds up no bytes.

mod conn;
mod flight;
pub(super) mod frame;
mod link;
mod server;
mod staging;
mod sys;

pub(super) use conn::Waiting;
pub(crate) use server::serve;

use crate::fault::{Failure, TransferErrorKind};
use crate::lane::{Wake, milliseconds};
use crate::memory::Region;
use crate::request::Op;
use crate::transport::teller::Teller;
use crate::transport::{Address, Capabilities, Completion, Family, Peer, Transport, Work};
use link::Link;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use perilune_protocol::Endpoint;
use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The number under which the wake descriptor is polled.
const WAKE: u64 = u64::MAX;
/// Tellers are polled under the number of their peer from here on.
const TELLERS: u64 = 1 << 32;
/// As many pieces as one lane keeps in flight over TCP.
const DEPTH: usize = 64 << 10;
/// Events taken from the kernel at once.
const EVENTS: usize = 64;

/// The family.
pub(crate) struct Tcp;

impl Family for Tcp {
    fn name(&self) -> &'static str {
        "tcp"
    }

    fn address(&self, endpoint: &Endpoint) -> Option<Address> {
        if let Endpoint::Tcp(at) = endpoint { Some(Address::from_text(at)) } else { None }
    }

    fn open(&self, wake: &Arc<Wake>) -> std::io::Result<Box<dyn Transport>> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(wake.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        let transport = TcpTransport {
            epoll,
            wake: Arc::clone(wake),
            links: Vec::new(),
            tellers: HashMap::new(),
            numbers: HashMap::new(),
            held: 0,
            late: Vec::new(),
        };
        Ok(Box::new(transport))
    }
}

struct TcpTransport {
    epoll: Epoll,
    wake: Arc<Wake>,
    links: Vec<Link>,
    /// Of the peers that got notices.
    tellers: HashMap<u32, Teller>,
    numbers: HashMap<Address, Peer>,
    /// Pieces on all links.
    held: usize,
    /// Completed while other work was taken back; reported by the next poll.
    late: Vec<Completion>,
}

impl Transport for TcpTransport {
    fn capabilities(&self) -> Capabilities {
        Capabilities { depth: DEPTH, registers: false }
    }

    fn register(&mut self, _region: Region) -> Result<(), Failure> {
        Ok(())
    }

    fn unregister(&mut self, _region: Region) {}

    fn connect(&mut self, address: &Address) -> Result<Peer, Failure> {
        if let Some(peer) = self.numbers.get(address) {
            return Ok(*peer);
        }
        let number = u32::try_from(self.links.len()).map_err(|_| Failure::new(TransferErrorKind::PeerUnreachable, "too many peers"))?;
        let link = Link::new(u64::from(number), &address.display())?;
        self.links.push(link);
        self.numbers.insert(address.clone(), Peer(number));
        Ok(Peer(number))
    }

    fn submit(&mut self, queue: &mut VecDeque<Box<Work>>, _now: Instant, done: &mut Vec<Completion>) -> usize {
        let take = queue.len().min(DEPTH - self.held);
        let before = done.len();
        let mut last = None;
        for work in queue.drain(..take) {
            let number = work.peer.0 as usize;
            if let Op::Notify(_) = work.op {
                tell(&mut self.tellers, &self.numbers, work, &self.epoll, done);
                continue;
            }
            // Consecutive work for one peer goes out together.
            if last.is_some_and(|last| last != number) {
                flush(&mut self.links, last, &self.epoll, done);
            }
            last = Some(number);
            if let Some(link) = self.links.get_mut(number) {
                link.push(work);
            }
        }
        flush(&mut self.links, last, &self.epoll, done);
        self.held = (self.held + take).saturating_sub(done.len() - before);
        take
    }

    fn poll(&mut self, done: &mut Vec<Completion>, wait: Duration) {
        let wait = if self.late.is_empty() { wait } else { Duration::ZERO };
        let mut events = [EpollEvent::empty(); EVENTS];
        // An interrupted sleep is one that returned early.
        let count = self.epoll.wait(&mut events, EpollTimeout::from(milliseconds(wait))).unwrap_or(0);
        let before = done.len();
        done.append(&mut self.late);
        for event in &events[..count] {
            if event.data() == WAKE {
                self.wake.clear();
            } else if let Some(teller) = event.data().checked_sub(TELLERS).and_then(|peer| self.tellers.get_mut(&(peer as u32))) {
                teller.on_event(event.events(), &self.epoll, done);
            } else if let Some(link) = self.links.get_mut(event.data() as usize) {
                link.on_event(event.events(), &self.epoll, done);
            }
        }
        self.held = self.held.saturating_sub(done.len() - before);
    }

    fn cancel(&mut self, chosen: &mut dyn FnMut(&Work) -> bool, back: &mut Vec<(Box<Work>, String)>) {
        let before = back.len();
        self.tellers.values_mut().for_each(|teller| teller.cancel(chosen, back));
        self.links.iter_mut().for_each(|link| link.cancel(chosen, back, &self.epoll, &mut self.late));
        // Last, as connections that were replaced for this may have failed what was on them.
        let failing = self.late.extract_if(.., |completion| chosen(&completion.work));
        back.extend(failing.map(|completion| (completion.work, "it was failing".to_owned())));
        self.held = self.held.saturating_sub(back.len() - before);
    }

    fn readiness(&mut self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll.0.as_fd())
    }
}

fn tell(tellers: &mut HashMap<u32, Teller>, numbers: &HashMap<Address, Peer>, work: Box<Work>, epoll: &Epoll, done: &mut Vec<Completion>) {
    let number = work.peer.0;
    let teller = tellers.entry(number).or_insert_with(|| {
        let address = numbers.iter().find(|(_, peer)| peer.0 == number).map(|(address, _)| address.display().into_owned());
        Teller::tcp(TELLERS + u64::from(number), &address.unwrap_or_default())
    });
    teller.push(work);
    teller.flush(epoll, done);
}

fn flush(links: &mut [Link], number: Option<usize>, epoll: &Epoll, done: &mut Vec<Completion>) {
    if let Some(link) = number.and_then(|number| links.get_mut(number)) {
        link.flush(epoll, done);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::completion::Tally;
    use crate::request::{LocalSlice, Op, plan::pieces_of};
    use crate::segment::Segment;
    use perilune_protocol::{Capability, Extent, NodeId, Protocol, SegmentDesc, SegmentId};
    use std::io::Read;
    use std::net::TcpListener;

    fn write_of(bytes: &mut [u8], id: u64, left: Duration) -> Box<Work> {
        let (name, location, endpoints) = (String::new(), String::new(), Vec::new());
        let (id_of_segment, node, size) = (SegmentId::random(), NodeId::random(), bytes.len() as u64);
        let capability = Capability::random();
        let desc = SegmentDesc { id: id_of_segment, name, node, base: 0, size, protocol: Protocol::Tcp, location, endpoints, capability };
        let piece = pieces_of(&[Extent { offset: 0, len: size }], &[LocalSlice::from_mut(bytes)]).unwrap().remove(0);
        let tally = Arc::new(Tally::new(1, 1));
        let now = Instant::now();
        let mut work = Work::new(Op::Write, Segment::new(desc, &[]), piece, tally, 0, now, now + left);
        work.id = id;
        work
    }

    #[test]
    fn what_is_late_is_never_sent_and_what_is_behind_it_is() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut transport = Tcp.open(&Arc::new(Wake::new().unwrap())).unwrap();
        let peer = transport.connect(&Address::from_text(&listener.local_addr().unwrap().to_string())).unwrap();
        assert_eq!(peer, Peer(0));
        let (mut late, mut early) = ([0xbb; 64], [0xaa; 64]);
        let long = Duration::from_secs(20);
        let mut queue =
            VecDeque::from([write_of(&mut late, 1, Duration::ZERO), write_of(&mut early, 2, long), write_of(&mut late, 3, Duration::ZERO)]);
        let mut done = Vec::new();
        assert_eq!(transport.submit(&mut queue, Instant::now(), &mut done), 3);
        let (mut socket, _) = listener.accept().unwrap();
        socket.set_nonblocking(true).unwrap();
        let (mut got, begun) = (Vec::new(), Instant::now());
        while (done.len() < 2 || !got.ends_with(&[0xaa; 64])) && begun.elapsed() < long {
            transport.poll(&mut done, Duration::from_millis(1));
            let _ = socket.read_to_end(&mut got);
        }
        let outcomes: Vec<_> = done.iter().map(|done| (done.work.id, done.outcome.as_ref().unwrap_err().kind)).collect();
        assert_eq!(outcomes, [(1, TransferErrorKind::Timeout), (3, TransferErrorKind::Timeout)]);
        assert!(got.ends_with(&[0xaa; 64]) && !got.windows(64).any(|bytes| bytes == [0xbb; 64]), "{got:x?}");
    }

    #[test]
    fn what_a_peer_asked_for_and_does_not_take_is_under_way() {
        use crate::transport::tcp::frame::Question;
        use crate::{Engine, Memory};
        use std::io::Write;
        const LEN: u64 = 64 << 20;
        let engine = Engine::builder().listen_tcp("127.0.0.1:0".parse().unwrap()).build().unwrap();
        let (segment, capability) = (SegmentId::random(), Capability::random());
        engine.export(segment, Memory::anonymous(LEN).unwrap(), capability).unwrap();
        let Some(perilune_protocol::Endpoint::Tcp(at)) = engine.endpoints().into_iter().next() else { panic!("it listens") };
        let settles = |count| {
            let begun = Instant::now();
            while engine.serves_now() != count {
                assert!(begun.elapsed() < Duration::from_secs(20), "{} and not {count}", engine.serves_now());
                std::thread::yield_now();
            }
        };
        let ask = |op| {
            let mut socket = std::net::TcpStream::connect(&at).unwrap();
            let extents = vec![Extent { offset: 0, len: LEN }];
            socket.write_all(&Question { op, id: 1, segment, capability, bytes: LEN, extents }.encode()).unwrap();
            socket
        };
        settles(0);
        let reader = ask(Op::Read);
        settles(1);
        let writer = ask(Op::Write);
        settles(2);
        drop(reader);
        settles(1);
        drop(writer);
        settles(0);
    }
}
