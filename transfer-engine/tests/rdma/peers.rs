//! Peers that are stopped or killed under a transfer: real processes.

use crate::{LONG, at, pattern, settings};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use perilune_protocol::{Capability, Endpoint, NodeId, Protocol, SegmentDesc, SegmentId};
use perilune_transfer_engine::{Engine, Job, LocalSlice, Memory, Op, Request, Segment, TransferErrorKind, rdma_counts, rdma_objects};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

const CHILD: &str = "PERILUNE_TEST_LENDER";
/// So much that a process dies before all of it is read: here that takes 160 ms, and 16 MiB no longer.
const LEN: u64 = 64 << 20;
/// What the child lends is full of them.
const LENT: u8 = 3;
const CAPABILITY: Capability = Capability(9);
const SEGMENTS: [SegmentId; 2] = [SegmentId(uuid::Uuid::from_u128(7)), SegmentId(uuid::Uuid::from_u128(8))];

/// Not a test of its own: the body of the child processes below.
#[test]
fn child() {
    let Ok(port) = std::env::var(CHILD) else { return };
    let engine = Engine::builder().rdma(settings(&["vb"])).listen_rdma(format!("127.0.0.1:{port}").parse().unwrap()).build().unwrap();
    for id in SEGMENTS {
        let memory = Memory::anonymous(LEN).unwrap();
        assert!(memory.write_at(0, &vec![LENT; LEN as usize]));
        engine.export(id, memory, CAPABILITY).unwrap();
        engine.export_rdma(id).unwrap();
    }
    let at = engine.endpoints().into_iter().find_map(|e| if let Endpoint::Rdma(at) = e { Some(at) } else { None }).unwrap();
    println!("\nlending {at}");
    // Until the parent closes our input or kills us.
    let _ = std::io::stdin().read(&mut [0]);
}

/// A process that lends; killed when dropped.
struct Peer {
    child: Child,
    at: String,
}

impl Peer {
    fn start(port: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["peers::child", "--exact", "--nocapture"])
            .env(CHILD, port)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let at = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("lending ").map(str::to_owned)).unwrap();
        Self { child, at }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Stops it, and returns once it is.
    fn stop(&self) {
        self.signal(Signal::SIGSTOP);
        let stopped = Instant::now();
        while self.state() != "T" {
            assert!(stopped.elapsed() < LONG, "it does not stop");
        }
    }

    /// The letter of its state.
    fn state(&self) -> String {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        stat.rsplit(')').next().unwrap().split_whitespace().next().unwrap().to_owned()
    }

    fn segments(&self, client: &Engine) -> [Segment; 2] {
        SEGMENTS.map(|id| {
            let (name, node, location) = ("test".to_owned(), NodeId::random(), String::new());
            let endpoints = vec![Endpoint::Rdma(self.at.clone())];
            let protocol = Protocol::Rdma;
            client.connect(&SegmentDesc { id, name, node, base: 0, size: LEN, protocol, location, endpoints, capability: CAPABILITY })
        })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn client() -> Engine {
    Engine::builder().rdma(settings(&["va"])).lanes(1).deadline(LONG).build().unwrap()
}

fn there_and_back(client: &Engine, segment: &Segment, seed: u8, len: usize) {
    let (sent, mut back) = (pattern(seed, len), vec![0; len]);
    assert_eq!(client.run(&mut [Job::write(segment, at(0, len), &sent)], LONG), [Ok(())]);
    assert_eq!(client.run(&mut [Job::read(segment, at(0, len), &mut back)], LONG), [Ok(())]);
    assert!(back == sent, "what was written comes back");
}

#[test]
#[ignore = "needs an RDMA device: scripts/rxe-vm"]
fn a_stopped_peer_still_serves_by_its_device_but_answers_no_question() {
    let (peer, client) = (Peer::start("0"), client());
    let [known, other] = peer.segments(&client);
    let (rounds, stopped, stop_rounds) = (AtomicU64::new(0), AtomicBool::new(false), 3);
    std::thread::scope(|scope| {
        let mover = scope.spawn(|| {
            let mut left = stop_rounds;
            while left > 0 {
                left -= u64::from(stopped.load(SeqCst));
                there_and_back(&client, &known, left as u8, 512 << 10);
                rounds.fetch_add(1, SeqCst);
            }
        });
        while rounds.load(SeqCst) == 0 && !mover.is_finished() {
            std::thread::yield_now();
        }
        peer.stop();
        stopped.store(true, SeqCst);
        mover.join().unwrap();
        assert_eq!(peer.state(), "T", "its device alone moved the bytes");
    });
    let patience = Duration::from_millis(500);
    let ask = |client: &Engine, segment: &Segment| {
        let begun = Instant::now();
        let error = client.run(&mut [Job::read(segment, at(0, 8), &mut [0; 8])], patience)[0].clone().unwrap_err();
        println!("told: {error}");
        assert!(begun.elapsed() >= patience && begun.elapsed() < LONG / 2, "{:?}", begun.elapsed());
        assert_eq!(error.kind, TransferErrorKind::Timeout, "{error}");
        error.to_string()
    };
    let told = ask(&client, &other);
    assert!(told.contains("waiting for the keys of the segment") && told.contains(&peer.at), "{told}");
    // A connection that is there already is not disturbed by that, and a new one is not made.
    there_and_back(&client, &known, 77, 64 << 10);
    let late = self::client();
    let told = ask(&late, &peer.segments(&late)[0]);
    assert!(told.contains("waiting for a connection to") && told.contains(&peer.at), "{told}");

    peer.signal(Signal::SIGCONT);
    there_and_back(&client, &other, 78, 64 << 10);
    there_and_back(&late, &peer.segments(&late)[0], 79, 64 << 10);
}

/// Loses all that goes over the loopback, where the exchange is; ends with the value.
struct Cut;

impl Cut {
    fn new() -> Self {
        assert!(Command::new("tc").args("qdisc add dev lo root netem loss 100%".split(' ')).status().unwrap().success());
        Self
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        let _ = Command::new("tc").args("qdisc del dev lo root".split(' ')).status();
    }
}

#[test]
#[ignore = "needs RDMA devices on a cable: scripts/rxe-vm --net pairs"]
fn a_host_that_vanished_is_noticed_by_who_asks_it_something() {
    let (peer, client) = (Peer::start("0"), client());
    let [known, other] = peer.segments(&client);
    there_and_back(&client, &known, 1, 4 << 10);
    let cut = Cut::new();
    let (begun, lost) = (Instant::now(), rdma_counts().rails_lost);
    let error = client.run(&mut [Job::read(&other, at(0, 8), &mut [0; 8])], LONG).remove(0).unwrap_err();
    println!("told after {} ms: {error}", begun.elapsed().as_millis());
    assert_eq!((error.kind, rdma_counts().rails_lost), (TransferErrorKind::PeerGone, lost + 1), "{error}");
    assert!(begun.elapsed() < LONG / 2, "{:?}", begun.elapsed());
    drop(cut);
    there_and_back(&client, &other, 2, 4 << 10);
}

#[test]
#[ignore = "needs RDMA devices on a cable: scripts/rxe-vm --net pairs"]
fn a_killed_peer_is_told_at_once_leaves_the_buffers_alone_and_is_found_again() {
    let (peer, client) = (Peer::start("0"), client());
    let [segment, _] = peer.segments(&client);
    let mut buffer = vec![0x55_u8; LEN as usize];
    // Registered, so that the device itself writes into it.
    // SAFETY: the buffer outlives its registration.
    unsafe { client.register(buffer.as_mut_ptr(), buffer.len()).unwrap() };
    there_and_back(&client, &segment, 1, 1 << 10);
    let (objects, queue_pairs) = (rdma_objects(), u64::from(settings(&[]).queue_pairs));

    let local = vec![LocalSlice::from_mut(&mut buffer)];
    let request = Request { op: Op::Read, segment: segment.clone(), extents: at(0, LEN as usize), local };
    let first: *const u8 = &raw const buffer[4096];
    // SAFETY: `buffer` outlives the ticket, and while it lives only one byte of it is looked at, through a pointer.
    let mut ticket = unsafe { client.submit(vec![request], LONG) };
    let begun = Instant::now();
    // SAFETY: in the buffer; the device may write it meanwhile, hence volatile.
    while unsafe { first.read_volatile() } == 0x55 {
        assert!(begun.elapsed() < LONG, "no byte came");
    }
    assert!(ticket.poll().is_none(), "killed in the middle");
    peer.signal(Signal::SIGKILL);
    let killed = Instant::now();
    let outcome = ticket.wait()[0].clone();
    assert!(outcome.is_err() || buffer == vec![LENT; LEN as usize], "said to be there, and is not");
    let error = outcome.expect_err("the peer died before all was there: LEN is too small for this machine");
    println!("told after {} ms: {error}", killed.elapsed().as_millis());
    assert_eq!(error.kind, TransferErrorKind::PeerGone, "{error}");
    assert!(killed.elapsed() < LONG / 2, "{:?}", killed.elapsed());
    assert_eq!(rdma_objects(), objects - queue_pairs, "its queue pairs are destroyed, everything else stays");
    // What the device had not delivered by then never comes.
    buffer.fill(0xaa);
    let still = buffer.clone();
    let until = Instant::now() + Duration::from_millis(300);
    while Instant::now() < until {
        assert!(*std::hint::black_box(&buffer) == still, "a byte came after the end");
    }

    // The same address, another life: its keys are others, and the old ones are not even tried, as that would break the new rail.
    let port = peer.at.rsplit(':').next().unwrap().to_owned();
    drop(peer);
    let lost = rdma_counts().rails_lost;
    let _peer = Peer::start(&port);
    let again = client.run(&mut [Job::read(&segment, at(0, LEN as usize), &mut buffer)], LONG);
    assert_eq!(again, [Ok(())]);
    assert!(buffer == vec![LENT; LEN as usize], "what it lends now");
    assert_eq!((rdma_counts().rails_lost, rdma_objects()), (lost, objects));
    client.unregister(buffer.as_mut_ptr()).unwrap();
}
