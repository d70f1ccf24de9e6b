//! The three ends of a dash, on devices.

use super::*;
use crate::Engine;
use crate::completion::Tally;
use crate::lane::Wake;
use crate::memory::{Memory, Region};
use crate::rdma::RdmaSettings;
use crate::request::LocalSlice;
use crate::segment::Segment;
use crate::transport::rdma::Rdma;
use crate::transport::rdma::device::Devices;
use crate::transport::{Family, Transport};
use perilune_protocol::{Capability, Extent, NodeId, Protocol, SegmentDesc, SegmentId};
use std::collections::VecDeque;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

const SIZE: u64 = 1 << 20;
const LONG: Duration = Duration::from_secs(30);

fn settings(device: &str) -> RdmaSettings {
    RdmaSettings { devices: vec![device.to_owned()], ..RdmaSettings::default() }
}

fn link(words: &[&str]) {
    let status = Command::new("rxe-link").args(words).status().expect("rxe-link is a command of the guest: scripts/rxe-vm");
    assert!(status.success(), "rxe-link {words:?}");
}

/// A lane's transport, memory of its own that is registered, and a peer that lends some.
struct World {
    _server: Engine,
    there: Arc<Memory>,
    here: Arc<Memory>,
    segment: Segment,
    lane: Box<dyn Transport>,
    peer: Peer,
}

impl World {
    fn new() -> Self {
        let server = Engine::builder().rdma(settings("rxe_vb")).listen_rdma("127.0.0.1:0".parse().unwrap()).build().unwrap();
        let (id, capability) = (SegmentId::random(), Capability::random());
        let (there, here) = (Memory::anonymous(SIZE).unwrap(), Memory::anonymous(SIZE).unwrap());
        server.export(id, Arc::clone(&there), capability).unwrap();
        server.export_rdma(id).unwrap();
        let (name, node, location, endpoints) = ("test".to_owned(), NodeId::random(), String::new(), server.endpoints());
        let desc = SegmentDesc { id, name, node, base: 0, size: SIZE, protocol: Protocol::Rdma, location, endpoints, capability };
        let family: Arc<dyn Family> = Arc::new(Rdma::new(Arc::new(Devices::new(settings("rxe_va")).unwrap())));
        let segment = Segment::new(desc, &[Arc::clone(&family)]);
        let mut lane = family.open(&Arc::new(Wake::new().unwrap())).unwrap();
        let peer = lane.connect(&segment.inner.paths[0].1).unwrap();
        lane.register(Region { base: here.base(), len: SIZE }).unwrap();
        Self { _server: server, there, here, segment, lane, peer }
    }

    fn single(&self, op: Op) -> Single<'_> {
        let (extent, local) = (Extent { offset: 4096, len: 4096 }, LocalSlice { base: self.here.base() + 8192, len: 4096 });
        Single { op, segment: &self.segment, extent, local, limit: LONG }
    }

    /// The long way, which connects and asks for keys.
    fn submit(&mut self, op: Op) -> Result<(), crate::fault::Failure> {
        let mut work = self.single(op).work(Arc::new(Tally::new(1, 1)), Instant::now());
        work.peer = self.peer;
        let (mut queue, mut done) = (VecDeque::from([work]), Vec::new());
        assert_eq!(self.lane.submit(&mut queue, Instant::now(), &mut done), 1);
        self.finish(done)
    }

    fn finish(&mut self, mut done: Vec<Completion>) -> Result<(), crate::fault::Failure> {
        let begun = Instant::now();
        while done.is_empty() && begun.elapsed() < LONG {
            self.lane.poll(&mut done, LONG);
        }
        done.pop().expect("it ends").outcome
    }

    /// What became of a dash, and how often its work was asked for.
    fn dash(&mut self, op: Op) -> (Dash, u32) {
        let (mut asked, segment) = (0, self.segment.clone());
        let single = Single { segment: &segment, ..self.single(op) };
        let dash = self.lane.dash(&segment.inner.paths[0].1, &single, &mut |begun| {
            asked += 1;
            single.work(Arc::new(Tally::new(1, 1)), begun)
        });
        (dash, asked)
    }

    /// Other bytes over there and here.
    fn fill(&self, there: u8, here: u8) {
        assert!(self.there.write_at(0, &vec![there; SIZE as usize]) && self.here.write_at(0, &vec![here; SIZE as usize]));
    }

    /// What lies where an operation reads and writes, over there and here, with a byte of either side.
    fn bytes(&self) -> [Vec<u8>; 2] {
        [(&self.there, 4095), (&self.here, 8191)].map(|(memory, at)| {
            let mut bytes = vec![0; 4098];
            assert!(memory.read_at(at, &mut bytes));
            bytes
        })
    }
}

fn framed(frame: u8, inside: u8) -> Vec<u8> {
    [vec![frame], vec![inside; 4096], vec![frame]].concat()
}

#[test]
#[ignore = "needs RDMA devices on a cable: scripts/rxe-vm --net pair"]
fn it_is_done_or_goes_on_or_leaves_nothing() {
    let mut world = World::new();
    assert_eq!(world.dash(Op::Read), (Dash::Refused, 0), "no rail is up");
    world.submit(Op::Read).unwrap();
    world.fill(1, 2);
    assert_eq!(world.dash(Op::Read), (Dash::Done, 0));
    assert_eq!(world.bytes(), [framed(1, 1), framed(2, 1)]);
    world.fill(3, 4);
    assert_eq!(world.dash(Op::Write), (Dash::Done, 0));
    assert_eq!(world.bytes(), [framed(3, 4), framed(4, 4)]);

    // Longer than anybody stays awake for: it goes on as work.
    link(&["delay", "va", "40ms"]);
    for op in [Op::Read, Op::Write] {
        world.fill(5, 6);
        assert_eq!(world.dash(op), (Dash::UnderWay, 1));
        world.finish(Vec::new()).unwrap();
        assert_eq!(world.bytes(), if op == Op::Read { [framed(5, 5), framed(6, 5)] } else { [framed(5, 6), framed(6, 6)] });
    }
    assert_eq!(world.dash(Op::Read), (Dash::UnderWay, 1));
    let mut back = Vec::new();
    world.lane.cancel(&mut |_| true, &mut back);
    assert!(back.len() == 1 && back[0].1.contains("1 slices not acknowledged"), "{back:?}");
    link(&["clear", "va"]);

    // Taking it back ended the rail, so the long way connects anew. A rail that breaks under a dash leaves nothing.
    world.submit(Op::Write).unwrap();
    assert_eq!(world.dash(Op::Write), (Dash::Done, 0));
    world.fill(7, 8);
    link(&["down", "va"]);
    assert_eq!(world.dash(Op::Write), (Dash::Refused, 0));
    link(&["up", "va"]);
    assert_eq!(world.bytes(), [framed(7, 7), framed(8, 8)]);
    world.lane.cancel(&mut |_| true, &mut back);
    assert_eq!(back.len(), 1, "nothing more to take back");
    while let Err(failure) = world.submit(Op::Write) {
        println!("not yet: {failure:?}");
    }
    assert_eq!(world.bytes(), [framed(7, 8), framed(8, 8)]);
}
