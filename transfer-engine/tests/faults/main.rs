//! What callers see of a network that loses, delays, reorders and breaks. Each test prints its seed; PERILUNE_SEED repeats one.

use perilune_protocol::{Capability, Endpoint, Extent, NodeId, Protocol, SegmentDesc, SegmentId};
use perilune_transfer_engine::transport::fake::{FakeNetwork, Faults};
use perilune_transfer_engine::transport::{Address, Capabilities, Completion, Failure, Family, Peer, Region, Transport, Wake, Work};
use perilune_transfer_engine::{Engine, Job, LocalSlice, Memory, Op, Request, Segment, TransferErrorKind};
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SIZE: u64 = 1 << 20;
const LONG: Duration = Duration::from_secs(20);

struct World {
    client: Engine,
    network: Arc<FakeNetwork>,
    _server: Engine,
    memory: Arc<Memory>,
    segment: Segment,
}

fn seed() -> u64 {
    let seed = std::env::var("PERILUNE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| u64::from(std::process::id()));
    println!("PERILUNE_SEED={seed}");
    seed
}

fn world(seed: u64, faults: Faults, lanes: usize) -> World {
    let network = FakeNetwork::new(seed, faults);
    let server = Engine::builder().lanes(1).build().unwrap();
    let client = Engine::builder().lanes(lanes).deadline(LONG).transport(network.family()).build().unwrap();
    let (id, capability, memory) = (SegmentId::random(), Capability::random(), Memory::anonymous(SIZE).unwrap());
    server.export(id, Arc::clone(&memory), capability).unwrap();
    let endpoints = vec![network.attach("peer", &server)];
    let (name, node, location) = ("test".to_owned(), NodeId::random(), String::new());
    let desc = SegmentDesc { id, name, node, base: 0, size: SIZE, protocol: Protocol::Tcp, location, endpoints, capability };
    let segment = client.connect(&desc);
    World { client, network, _server: server, memory, segment }
}

fn at(i: usize) -> Vec<Extent> {
    vec![Extent { offset: i as u64 * 8, len: 8 }]
}

#[test]
fn answers_in_any_order_go_to_their_own_requests() {
    let seed = seed();
    let world = world(seed, Faults { delay_max: Duration::from_millis(3), depth: 17, ..Faults::default() }, 1);
    for i in 0..500u64 {
        assert!(world.memory.write_at(i * 8, &i.to_le_bytes()));
    }
    let mut back = [[0; 8]; 500];
    let mut jobs: Vec<Job<'_>> = back.iter_mut().enumerate().map(|(i, into)| Job::read(&world.segment, at(i), into)).collect();
    assert!(world.client.run(&mut jobs, LONG).iter().all(Result::is_ok));
    for (i, bytes) in back.iter().enumerate() {
        assert_eq!(u64::from_le_bytes(*bytes), i as u64);
    }
}

#[test]
fn what_is_lost_ends_at_the_deadline_and_nothing_else_does() {
    let seed = seed();
    let world = world(seed, Faults { lose_one_in: 4, delay_max: Duration::from_millis(1), ..Faults::default() }, 1);
    let deadline = Duration::from_millis(200);
    let begun = Instant::now();
    let mut back = [[0; 8]; 200];
    let mut jobs: Vec<Job<'_>> = back.iter_mut().enumerate().map(|(i, into)| Job::read(&world.segment, at(i), into)).collect();
    let outcomes = world.client.run(&mut jobs, deadline);
    assert!(begun.elapsed() >= deadline && begun.elapsed() < LONG);
    let lost = outcomes.iter().filter(|outcome| outcome.is_err()).count();
    assert!((10..150).contains(&lost), "{lost} of 200 lost");
    for error in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
        assert_eq!(error.kind, TransferErrorKind::Timeout, "{error}");
    }
}

#[test]
fn no_lane_knows_a_buffer_once_it_was_unregistered() {
    let world = world(1, Faults { lose_one_in: 1, ..Faults::default() }, 2);
    let mut back = [0; 8];
    let request = Request { op: Op::Read, segment: world.segment.clone(), extents: at(0), local: vec![LocalSlice::from_mut(&mut back)] };
    // SAFETY: the ticket is dropped before the buffer, and nobody else uses that.
    let ticket = unsafe { world.client.submit(vec![request], LONG) };
    let mut buffer = vec![0; 4096];
    // The thread that drives the lane of the ticket sleeps meanwhile, or is about to.
    for _ in 0..200 {
        // SAFETY: the buffer stays valid until it is unregistered.
        unsafe { world.client.register(buffer.as_mut_ptr(), buffer.len()).unwrap() };
        assert_eq!(world.network.registered(), 2);
        world.client.unregister(buffer.as_mut_ptr()).unwrap();
        assert_eq!(world.network.registered(), 0);
        assert!(world.client.unregister(buffer.as_mut_ptr()).is_err());
    }
    drop(ticket);
}

#[test]
fn a_cancelled_transfer_comes_back_at_once_and_is_never_written_to() {
    let seed = seed();
    let world = world(seed, Faults { delay_max: Duration::from_millis(2), lose_one_in: 3, ..Faults::default() }, 2);
    assert!(world.memory.write_at(0, &[1; 4096]));
    for round in 0..200 {
        let mut buffer = vec![0; 4096];
        let local = vec![LocalSlice::from_mut(&mut buffer)];
        let request = Request { op: Op::Read, segment: world.segment.clone(), extents: vec![Extent { offset: 0, len: 4096 }], local };
        // SAFETY: `buffer` outlives the ticket and is not touched while it lives.
        let mut ticket = unsafe { world.client.submit(vec![request], LONG) };
        let begun = Instant::now();
        while round % 3 == 0 && ticket.poll().is_none() && begun.elapsed() < Duration::from_millis(1) {
            std::thread::yield_now();
        }
        drop(ticket);
        assert!(begun.elapsed() < LONG / 2, "a drop does not wait for the deadline");
        buffer.fill(9);
        std::thread::yield_now();
        assert!(buffer.iter().all(|&b| b == 9));
    }
}

#[test]
fn many_threads_on_few_lanes_all_finish() {
    let seed = seed();
    for (round, lanes) in [(0, 1), (1, 1), (2, 2), (3, 3)] {
        let faults = Faults { delay_max: Duration::from_micros(300), break_one_in: 9, depth: 3, ..Faults::default() };
        let world = world(seed.wrapping_add(round), faults, lanes);
        std::thread::scope(|scope| {
            for thread in 0..12usize {
                let world = &world;
                scope.spawn(move || {
                    for i in 0..60usize {
                        let mut into = [0; 8];
                        let mut job = [Job::read(&world.segment, at(thread), &mut into)];
                        let outcome = if i % 3 == 0 {
                            let mut other = [0; 8];
                            let local = vec![LocalSlice::from_mut(&mut other)];
                            let request = Request { op: Op::Read, segment: world.segment.clone(), extents: at(thread), local };
                            // SAFETY: `other` outlives the ticket, which is waited for here.
                            unsafe { world.client.submit(vec![request], LONG) }.wait()
                        } else {
                            world.client.run(&mut job, LONG)
                        };
                        if let Err(error) = &outcome[0] {
                            assert_eq!(error.kind, TransferErrorKind::PeerGone, "a lost wake-up would end as a timeout: {error}");
                        }
                    }
                });
            }
        });
    }
}

#[test]
fn a_closed_engine_cancels_what_is_under_way() {
    let world = world(seed(), Faults { lose_one_in: 1, ..Faults::default() }, 1);
    let mut buffer = [0; 8];
    let request = Request { op: Op::Read, segment: world.segment.clone(), extents: at(0), local: vec![LocalSlice::from_mut(&mut buffer)] };
    // SAFETY: `buffer` outlives the ticket and is not touched while it lives.
    let ticket = unsafe { world.client.submit(vec![request], LONG) };
    drop(world);
    assert_eq!(ticket.wait()[0].as_ref().unwrap_err().kind, TransferErrorKind::Cancelled);
}

const CHILD: &str = "PERILUNE_TEST_PANIC";

/// A family whose transports panic with work in hand.
struct Broken;

impl Family for Broken {
    fn name(&self) -> &'static str {
        "broken"
    }

    fn address(&self, _endpoint: &Endpoint) -> Option<Address> {
        Some(Address::from_text("anywhere"))
    }

    fn open(&self, _wake: &Arc<Wake>) -> std::io::Result<Box<dyn Transport>> {
        Ok(Box::new(Broken))
    }
}

impl Transport for Broken {
    fn capabilities(&self) -> Capabilities {
        Capabilities { depth: 1, registers: false }
    }

    fn register(&mut self, _region: Region) -> Result<(), Failure> {
        Ok(())
    }

    fn unregister(&mut self, _region: Region) {}

    fn connect(&mut self, _address: &Address) -> Result<Peer, Failure> {
        Ok(Peer(0))
    }

    fn submit(&mut self, _queue: &mut VecDeque<Box<Work>>, _now: Instant, _done: &mut Vec<Completion>) -> usize {
        panic!("broken on purpose")
    }

    fn poll(&mut self, _done: &mut Vec<Completion>, _wait: Duration) {}

    fn cancel(&mut self, _chosen: &mut dyn FnMut(&Work) -> bool, _back: &mut Vec<(Box<Work>, String)>) {}

    fn readiness(&mut self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Not a test of its own: the body of the child process below.
#[test]
fn child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let engine = Engine::builder().lanes(1).transport(Arc::new(Broken)).build().unwrap();
    let (name, location, endpoints) = (String::new(), String::new(), vec![Endpoint::Tcp(String::new())]);
    let (id, node, capability) = (SegmentId::random(), NodeId::random(), Capability::random());
    let desc = SegmentDesc { id, name, node, base: 0, size: SIZE, protocol: Protocol::Tcp, location, endpoints, capability };
    let mut buffer = [0; 8];
    let run = || engine.run(&mut [Job::read(&engine.connect(&desc), at(0), &mut buffer)], LONG);
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    println!("the buffer of a lost read is free again");
}

#[test]
fn a_panic_with_work_in_hand_ends_the_process() {
    let child = Command::new(std::env::current_exe().unwrap()).args(["child", "--exact", "--nocapture"]).env(CHILD, "1").output().unwrap();
    let said = String::from_utf8_lossy(&child.stderr);
    assert!(said.contains("broken on purpose"), "{said}");
    assert_eq!(child.status.signal(), Some(6), "it must be aborted: {:?}", child.status);
}
