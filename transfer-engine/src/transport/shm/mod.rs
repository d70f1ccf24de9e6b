//! Bytes between processes of one host: the segment is mapped once, then every transfer is a copy on the calling thread.
//! Notices go over the unix socket, on a connection of their own, in the frames of TCP.

mod frame;
mod host;
mod server;
mod sys;

pub(crate) use server::serve;

use crate::fault::{Failure, TransferErrorKind};
use crate::lane::{Wake, milliseconds};
use crate::memory::{Region, host_id};
use crate::request::Op;
use crate::segment::check_bounds;
use crate::transport::teller::Teller;
use crate::transport::{Address, Capabilities, Completion, Family, Peer, Transport, Work};
use host::{Hosts, Mapped};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use perilune_protocol::{Endpoint, SegmentId};
use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// As many bytes are copied before the lane looks after deadlines, cancellations and its other transports again.
const TURN: u64 = 4 << 20;
/// The number under which the wake descriptor is polled.
const WAKE: u64 = u64::MAX;
/// A piece counts for so many bytes at least.
const PIECE: u64 = 1 << 10;

/// The family. All lanes share its mappings, so that each page is faulted in once.
#[derive(Default)]
pub(crate) struct Shm {
    hosts: Arc<Hosts>,
}

impl Family for Shm {
    fn name(&self) -> &'static str {
        "shm"
    }

    fn address(&self, endpoint: &Endpoint) -> Option<Address> {
        match endpoint {
            Endpoint::Shm { host, path } if host == host_id() => Some(Address::from_text(path)),
            _ => None,
        }
    }

    fn open(&self, wake: &Arc<Wake>) -> std::io::Result<Box<dyn Transport>> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(wake.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        let (hosts, wake) = (Arc::clone(&self.hosts), Arc::clone(wake));
        Ok(Box::new(ShmTransport { hosts, mapped: HashMap::new(), epoll, wake, tellers: HashMap::new() }))
    }
}

impl Drop for Shm {
    fn drop(&mut self) {
        self.hosts.stop();
    }
}

struct ShmTransport {
    hosts: Arc<Hosts>,
    /// What this lane used before, to spare the shared table.
    mapped: HashMap<(Peer, SegmentId, u128), Arc<Mapped>>,
    epoll: Epoll,
    wake: Arc<Wake>,
    /// Of the peers that got notices, polled under the number of the peer.
    tellers: HashMap<u64, Teller>,
}

impl Transport for ShmTransport {
    fn capabilities(&self) -> Capabilities {
        Capabilities { depth: usize::MAX, registers: false }
    }

    fn register(&mut self, _region: Region) -> Result<(), Failure> {
        Ok(())
    }

    fn unregister(&mut self, _region: Region) {}

    fn connect(&mut self, address: &Address) -> Result<Peer, Failure> {
        Ok(self.hosts.number(address))
    }

    fn submit(&mut self, queue: &mut VecDeque<Box<Work>>, _now: Instant, done: &mut Vec<Completion>) -> usize {
        let (mut took, mut spent) = (0, 0);
        while spent < TURN
            && let Some(work) = queue.pop_front()
        {
            if let Op::Notify(_) = work.op {
                (took, spent) = (took + 1, spent + PIECE);
                self.tell(work, done);
                continue;
            }
            let outcome = self.transfer(&work);
            // A failure may have taken the time of a handshake.
            spent += if outcome.is_ok() { work.bytes.max(PIECE) } else { TURN };
            took += 1;
            done.push(Completion { work, outcome });
        }
        took
    }

    fn poll(&mut self, done: &mut Vec<Completion>, wait: Duration) {
        let mut events = [EpollEvent::empty(); 16];
        let count = self.epoll.wait(&mut events, EpollTimeout::from(milliseconds(wait))).unwrap_or(0);
        for event in &events[..count] {
            match self.tellers.get_mut(&event.data()) {
                Some(teller) => teller.on_event(event.events(), &self.epoll, done),
                None => self.wake.clear(),
            }
        }
    }

    fn cancel(&mut self, chosen: &mut dyn FnMut(&Work) -> bool, back: &mut Vec<(Box<Work>, String)>) {
        self.tellers.values_mut().for_each(|teller| teller.cancel(chosen, back));
    }

    fn readiness(&mut self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll.0.as_fd())
    }
}

impl ShmTransport {
    fn tell(&mut self, work: Box<Work>, done: &mut Vec<Completion>) {
        let (peer, number) = (work.peer, u64::from(work.peer.0));
        let teller = self.tellers.entry(number).or_insert_with(|| Teller::unix(number, self.hosts.path(peer)));
        teller.push(work);
        teller.flush(&self.epoll, done);
    }

    fn transfer(&mut self, work: &Work) -> Result<(), Failure> {
        let key = (work.peer, work.segment_id(), work.capability().0);
        let known = self.mapped.get(&key).filter(|mapped| mapped.alive());
        let mapped = match known {
            Some(mapped) => Arc::clone(mapped),
            None => {
                self.mapped.remove(&key);
                let mapped = self.hosts.map(work)?;
                self.mapped.insert(key, Arc::clone(&mapped));
                mapped
            }
        };
        check_bounds(&work.extents, mapped.len())?;
        let moved = mapped.transfer(work);
        if matches!(&moved, Err(failure) if failure.kind == TransferErrorKind::UnknownSegment) {
            self.mapped.remove(&key);
            self.hosts.forget(work);
        }
        moved
    }
}
