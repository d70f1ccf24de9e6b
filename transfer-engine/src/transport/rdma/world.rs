//! A lane's transport and a peer that lends memory, on real devices: for the tests of the rooms.

#[path = "../../../tests/rdma/ends.rs"]
mod ends;

use super::Rdma;
use super::device::Devices;
use super::transport::RdmaTransport;
use crate::completion::Tally;
use crate::fault::Failure;
use crate::lane::Wake;
use crate::memory::{Memory, Region};
use crate::rdma::RdmaSettings;
use crate::request::{LocalSlice, Op};
use crate::segment::Segment;
use crate::transport::{Completion, Dash, Family, Peer, Single, Transport};
use crate::{Engine, rdma_counts};
use perilune_protocol::{Capability, Extent, NodeId, Protocol, SegmentDesc, SegmentId};
use std::collections::VecDeque;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Far longer than anything here takes.
pub(super) const LONG: Duration = Duration::from_secs(30);
/// Where operations begin, over there and here.
const THERE: u64 = 4096;
const HERE: u64 = 8192;

pub(super) fn settings(ends: &[&str]) -> RdmaSettings {
    RdmaSettings { devices: ends::devices(ends), ..RdmaSettings::default() }
}

/// Disturbs a cable of the guest.
pub(super) fn link(words: &[&str]) {
    let status = Command::new("rxe-link").args(words).status().expect("rxe-link is a command of the guest: scripts/rxe-vm");
    assert!(status.success(), "rxe-link {words:?}");
}

/// Rails that this process has lost.
pub(super) fn lost() -> u64 {
    rdma_counts().rails_lost
}

/// A lane's transport, memory of its own, and a peer that lends some.
pub(super) struct World {
    pub(super) server: Engine,
    pub(super) there: Arc<Memory>,
    pub(super) here: Arc<Memory>,
    pub(super) segment: Segment,
    pub(super) devices: Arc<Devices>,
    pub(super) lane: RdmaTransport,
    pub(super) peer: Peer,
    /// Bytes of each operation.
    pub(super) len: u64,
}

impl World {
    /// Over the devices at these ends of cables, with so much memory on each side.
    pub(super) fn new(ours: &[&str], theirs: &[&str], size: u64) -> Self {
        Self::with(settings(ours), theirs, size)
    }

    /// The same with settings of our side.
    pub(super) fn with(ours: RdmaSettings, theirs: &[&str], size: u64) -> Self {
        let server = Engine::builder().rdma(settings(theirs)).listen_rdma("127.0.0.1:0".parse().unwrap()).build().unwrap();
        let (id, capability) = (SegmentId::random(), Capability::random());
        let (there, here) = (Memory::anonymous(size).unwrap(), Memory::anonymous(size).unwrap());
        let (name, node, location, endpoints) = ("test".to_owned(), NodeId::random(), String::new(), server.endpoints());
        let desc = SegmentDesc { id, name, node, base: 0, size, protocol: Protocol::Rdma, location, endpoints, capability };
        let devices = Arc::new(Devices::new(ours).unwrap());
        let family: Arc<dyn Family> = Arc::new(Rdma::new(Arc::clone(&devices)));
        let segment = Segment::new(desc, &[family]);
        let mut lane = RdmaTransport::new(Arc::clone(&devices), Arc::default(), Arc::new(Wake::new().unwrap())).unwrap();
        let peer = lane.connect(&segment.inner.paths[0].1).unwrap();
        let world = Self { server, there, here, segment, devices, lane, peer, len: 4096 };
        world.lend();
        world
    }

    /// Lends the memory over there, after a withdrawal too.
    pub(super) fn lend(&self) {
        let (id, capability) = (self.segment.id(), self.segment.desc().capability);
        self.server.export(id, Arc::clone(&self.there), capability).unwrap();
        self.server.export_rdma(id).unwrap();
    }

    /// Registers the memory here.
    pub(super) fn register(&mut self) {
        self.lane.register(Region { base: self.here.base(), len: self.here.len() }).unwrap();
    }

    fn single(&self, op: Op) -> Single<'_> {
        let extent = Extent { offset: THERE, len: self.len };
        let local = LocalSlice { base: self.here.base() + HERE, len: self.len };
        Single { op, segment: &self.segment, extent, local, limit: LONG }
    }

    /// The long way, which connects and asks for keys.
    pub(super) fn submit(&mut self, op: Op) -> Result<(), Failure> {
        let done = self.begin(op);
        self.finish(done)
    }

    /// The same without waiting for its end; what is done at once.
    pub(super) fn begin(&mut self, op: Op) -> Vec<Completion> {
        let mut work = self.single(op).work(Arc::new(Tally::new(1, 1)), Instant::now());
        work.peer = self.peer;
        let (mut queue, mut done) = (VecDeque::from([work]), Vec::new());
        assert_eq!(self.lane.submit(&mut queue, Instant::now(), &mut done), 1);
        done
    }

    /// Until what is under way has come to its end.
    pub(super) fn finish(&mut self, mut done: Vec<Completion>) -> Result<(), Failure> {
        let begun = Instant::now();
        while done.is_empty() && begun.elapsed() < LONG {
            self.lane.poll(&mut done, LONG);
        }
        done.pop().expect("it ends").outcome
    }

    /// Has so many rails carry bytes.
    pub(super) fn connect(&mut self, rails: usize) {
        let begun = Instant::now();
        while self.lane.links[0].ups().count() < rails {
            assert!(begun.elapsed() < LONG, "{rails} rails do not come up");
            self.submit(Op::Write).unwrap();
        }
    }

    /// What became of a dash, and how often its work was asked for.
    pub(super) fn dash(&mut self, op: Op) -> (Dash, u32) {
        let (mut asked, segment) = (0, self.segment.clone());
        let single = Single { segment: &segment, ..self.single(op) };
        let dash = self.lane.dash(&segment.inner.paths[0].1, &single, &mut |begun| {
            asked += 1;
            single.work(Arc::new(Tally::new(1, 1)), begun)
        });
        (dash, asked)
    }

    /// Other bytes over there and here.
    pub(super) fn fill(&self, there: u8, here: u8) {
        let all = |byte| vec![byte; self.here.len() as usize];
        assert!(self.there.write_at(0, &all(there)) && self.here.write_at(0, &all(here)));
    }

    /// What lies where an operation reads and writes, over there and here, with a byte of either side.
    pub(super) fn bytes(&self) -> [Vec<u8>; 2] {
        [(&self.there, THERE - 1), (&self.here, HERE - 1)].map(|(memory, at)| {
            let mut bytes = vec![0; self.len as usize + 2];
            assert!(memory.read_at(at, &mut bytes));
            bytes
        })
    }

    /// Such bytes: `inside` where the operation is, `frame` around it.
    pub(super) fn framed(&self, frame: u8, inside: u8) -> Vec<u8> {
        [vec![frame], vec![inside; self.len as usize], vec![frame]].concat()
    }
}
