//! The serving side with real devices and real peers: keys that work until they are withdrawn, queue pairs that go with their connection.

use super::*;
use crate::memory::Memory;
use crate::notice::Notices;
use crate::transport::rdma::queue::{Queue, Role};
use crate::transport::rdma::sys::{Access, Capacity, Chain, CompletionQueue, Live, Local, MemoryRegion, Status, Verb, WorkRequest, live};
use crate::transport::rdma::wire::{self, Ask, End, Grant, Refusal, Tell, VERSION};
use perilune_protocol::Capability;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(30);
const PIECE: u64 = 1 << 20;
const SIZE: u64 = 2 * PIECE + 4096;

struct Rig {
    devices: Devices,
    exports: Arc<Exports>,
    server: RdmaServer,
    id: SegmentId,
    capability: Capability,
    memory: Arc<Memory>,
}

impl Rig {
    fn new() -> Self {
        Self::with(LONG)
    }

    fn with(patience: Duration) -> Self {
        let settings = RdmaSettings { region: PIECE, ..RdmaSettings::default() };
        let devices = Devices::new(settings.clone()).unwrap();
        let (exports, at) = (Arc::new(Exports::default()), "127.0.0.1:0".parse().unwrap());
        let server = start(at, Arc::clone(&exports), devices.get().unwrap().to_vec(), &settings, patience).unwrap();
        let (id, capability, memory) = (SegmentId::random(), Capability::random(), Memory::anonymous(SIZE).unwrap());
        exports.insert(id, Arc::clone(&memory), capability).unwrap();
        server.lend(id, &exports.find(id).unwrap()).unwrap();
        Self { devices, exports, server, id, capability, memory }
    }

    fn withdraw(&self) {
        assert!(self.exports.withdraw(self.id));
        self.server.withdraw(self.id);
    }
}

/// A peer with queue pairs between a device and itself.
struct Peer {
    stream: TcpStream,
    credits: u32,
    completions: Arc<CompletionQueue>,
    queues: Vec<Queue>,
    source: Arc<Memory>,
    region: MemoryRegion,
}

const CAPACITY: Capacity = Capacity { sends: 16, receives: 1, sges: 1, inline: 0 };

impl Peer {
    /// Greets, and asks for queue pairs; what the server says to that.
    fn ask(server: &RdmaServer, device: usize, ends: Vec<End>) -> (TcpStream, Tell) {
        let stream = TcpStream::connect(server.at).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        wire::send(&stream, &Ask::Hello { version: VERSION }).unwrap();
        let Tell::Devices { .. } = wire::receive(&stream).unwrap() else { panic!("the devices come first") };
        wire::send(&stream, &Ask::Connect { device: device as u16, ends, token: None }).unwrap();
        let answer = wire::receive(&stream).unwrap();
        (stream, answer)
    }

    fn new(rig: &Rig, number: usize, count: usize) -> Self {
        let device = &rig.devices.get().unwrap()[number];
        let completions = CompletionQueue::new(&device.context, 64, None).unwrap();
        let queue = |_| Queue::new(device, Role::Asks, &completions, &completions, CAPACITY).unwrap();
        let mut queues: Vec<Queue> = (0..count).map(queue).collect();
        let (stream, answer) = Self::ask(&rig.server, number, queues.iter().map(Queue::end).collect());
        let Tell::Connected { ends, credits, .. } = answer else { panic!("{answer:?}") };
        assert_eq!(ends.len(), count);
        queues.iter_mut().zip(&ends).for_each(|(queue, end)| queue.connect(end).unwrap());
        let source = Memory::anonymous(PIECE).unwrap();
        let region = MemoryRegion::of_memory(&device.domain, &source, 0, PIECE, Access::Local).unwrap();
        Self { stream, credits, completions, queues, source, region }
    }

    fn key(&self, rig: &Rig, capability: Capability) -> Result<Grant, Refusal> {
        wire::send(&self.stream, &Ask::Key { id: 5, segment: rig.id, capability }).unwrap();
        let Tell::Key { id: 5, grant } = wire::receive(&self.stream).unwrap() else { panic!("a key or a refusal") };
        grant
    }

    /// Writes our first `len` bytes to an address of the server, and says how that ended.
    fn write(&mut self, queue: usize, remote: u64, key: u32, len: u32) -> Status {
        let mut chain = Chain::new();
        let local = Local { base: self.source.base(), len, key: self.region.lkey() };
        chain.push(WorkRequest { id: 1, op: Verb::Write, remote, key, signaled: true }, &[local]);
        self.post(queue, chain)
    }

    /// Sends a notice, and says how that ended.
    fn notify(&mut self, number: u32) -> Status {
        let mut chain = Chain::new();
        chain.push(WorkRequest { id: 1, op: Verb::WriteImmediate(number), remote: 0, key: 0, signaled: true }, &[]);
        self.post(0, chain)
    }

    fn post(&mut self, queue: usize, mut chain: Chain) -> Status {
        self.queues[queue].post(&mut chain).unwrap();
        let (begun, mut done) = (Instant::now(), Vec::new());
        while self.completions.poll(&mut done) == 0 {
            assert!(begun.elapsed() < LONG, "no completion");
        }
        done[0].status
    }
}

#[test]
#[ignore = "needs an RDMA device: scripts/rxe-vm"]
fn keys_work_until_they_are_withdrawn() {
    let rig = Rig::new();
    let count = rig.devices.get().unwrap().len();
    for number in 0..count {
        let mut peer = Peer::new(&rig, number, 2);
        assert_eq!(peer.key(&rig, Capability::random()), Err(Refusal::Denied));
        let Grant { base, size, piece, keys } = peer.key(&rig, rig.capability).unwrap();
        assert_eq!((base, size, piece), (rig.memory.base(), SIZE, PIECE));
        assert_eq!(keys.iter().map(Vec::len).collect::<Vec<_>>(), vec![3; count]);
        for (at, key) in keys[number].iter().enumerate() {
            let (offset, text) = (at as u64 * PIECE + 7, format!("piece {at} by device {number}"));
            assert!(peer.source.write_at(0, text.as_bytes()));
            assert_eq!(peer.write(at % 2, base + offset, *key, text.len() as u32), Status::Success);
            let mut there = vec![0; text.len()];
            assert!(rig.memory.read_at(offset, &mut there));
            assert_eq!(String::from_utf8(there).unwrap(), text);
        }
        // Past the end of its piece a key is worthless, and the queue pair fails.
        assert_eq!(peer.write(0, base + PIECE - 1, keys[number][0], 2), Status::RemoteAccess);
    }
    let mut peers: Vec<(Peer, Grant)> = (0..count)
        .map(|number| {
            let peer = Peer::new(&rig, number, 1);
            let grant = peer.key(&rig, rig.capability).unwrap();
            (peer, grant)
        })
        .collect();
    rig.withdraw();
    assert!(rig.memory.write_at(0, &[0; 8]));
    for (number, (peer, grant)) in peers.iter_mut().enumerate() {
        assert_eq!(wire::receive::<Tell>(&peer.stream).unwrap(), Tell::Withdrawn { segment: rig.id });
        assert_eq!(peer.key(&rig, rig.capability), Err(Refusal::UnknownSegment));
        assert_eq!(peer.write(0, grant.base, grant.keys[number][0], 8), Status::RemoteAccess);
    }
    let mut there = [1; 8];
    assert!(rig.memory.read_at(0, &mut there));
    assert_eq!(there, [0; 8]);
    drop((peers, rig));
    // Other tests may have some of their own for a while.
    let begun = Instant::now();
    while live() != Live::default() {
        assert!(begun.elapsed() < LONG, "left: {:?}", live());
        thread::yield_now();
    }
}

#[test]
#[ignore = "needs an RDMA device: scripts/rxe-vm"]
fn no_byte_moves_once_a_withdrawal_returned() {
    let rig = Rig::new();
    let mut peer = Peer::new(&rig, 0, 1);
    let grant = peer.key(&rig, rig.capability).unwrap();
    assert!(peer.source.write_at(0, &vec![0xee; PIECE as usize]));
    thread::scope(|scope| {
        let (key, base) = (grant.keys[0][0], grant.base);
        let writer = scope.spawn(move || {
            let mut written = 0;
            loop {
                match peer.write(0, base, key, PIECE as u32) {
                    Status::Success => written += 1,
                    failed => return (written, failed),
                }
            }
        });
        let (begun, mut first) = (Instant::now(), [0]);
        while first != [0xee] {
            assert!(begun.elapsed() < LONG && rig.memory.read_at(0, &mut first));
        }
        rig.withdraw();
        assert!(rig.memory.write_at(0, &vec![0; PIECE as usize]));
        let (_, failed) = writer.join().unwrap();
        assert_eq!(failed, Status::RemoteAccess);
    });
    let mut there = vec![1; PIECE as usize];
    assert!(rig.memory.read_at(0, &mut there));
    assert!(there.iter().all(|&byte| byte == 0), "bytes moved after the withdrawal");
}

#[test]
#[ignore = "needs an RDMA device: scripts/rxe-vm"]
fn the_queue_pairs_go_with_their_connection() {
    let rig = Rig::new();
    let mut peer = Peer::new(&rig, 0, 1);
    let grant = peer.key(&rig, rig.capability).unwrap();
    peer.stream.shutdown(std::net::Shutdown::Both).unwrap();
    let begun = Instant::now();
    let failed = loop {
        match peer.write(0, grant.base, grant.keys[0][0], 8) {
            Status::Success => assert!(begun.elapsed() < LONG, "the queue pair still answers"),
            failed => break failed,
        }
    };
    assert_eq!(failed, Status::RetryExceeded);
}

#[test]
#[ignore = "needs an RDMA device: scripts/rxe-vm"]
fn who_cannot_be_reached_is_told_so_and_holds_up_nobody() {
    let rig = Rig::new();
    // A neighbour on the device's own network that is not there, and an address no route leads to.
    for last in [[203, 0, 113, 9], [0, 0, 0, 0]] {
        let mut gid = [0; 16];
        gid[10..12].copy_from_slice(&[0xff; 2]);
        gid[12..].copy_from_slice(&last);
        thread::scope(|scope| {
            let nowhere = vec![End { number: 77, psn: 1, gid, lid: 0, mtu: 1024, reads: 1, answers: 1 }];
            let lost = scope.spawn(|| Peer::ask(&rig.server, 0, nowhere).1);
            let mut others: Vec<Peer> = (0..6).map(|_| Peer::new(&rig, 0, 1)).collect();
            let grant = others[0].key(&rig, rig.capability).unwrap();
            for other in &mut others {
                assert_eq!(other.write(0, grant.base, grant.keys[0][0], 8), Status::Success);
            }
            // Some devices notice only when they send.
            match lost.join().unwrap() {
                Tell::Refused { cause } => assert!(cause.contains(&rig.devices.get().unwrap()[0].name), "{cause}"),
                Tell::Connected { .. } => {}
                other => panic!("{other:?}"),
            }
        });
    }
}

#[test]
#[ignore = "needs an RDMA device: scripts/rxe-vm"]
fn notices_come_from_who_has_the_right_and_a_credit() {
    let rig = Rig::new();
    let notices = Notices::new(Arc::clone(&rig.exports.mailbox));
    let closed = |peer: &Peer| loop {
        match wire::receive::<Tell>(&peer.stream) {
            Ok(Tell::Credits { .. }) => {}
            Ok(other) => panic!("{other:?}"),
            Err(_) => return,
        }
    };
    // The device takes it; the server does not, as nothing was shown before.
    let mut stranger = Peer::new(&rig, 0, 1);
    assert!(stranger.credits > 0);
    stranger.notify(1);
    closed(&stranger);
    assert_eq!(notices.next(Duration::ZERO), None);

    let mut greedy = Peer::new(&rig, 0, 1);
    assert!(greedy.key(&rig, rig.capability).is_ok());
    // No place is left but those that were promised.
    while rig.exports.mailbox.put(0) {}
    for number in 0..greedy.credits {
        assert_eq!(greedy.notify(100 + number), Status::Success);
    }
    greedy.notify(999);
    closed(&greedy);
    let honest: Vec<u32> = std::iter::from_fn(|| notices.next(Duration::ZERO)).map(|notice| notice.number).filter(|n| *n > 0).collect();
    assert_eq!(honest, (100..100 + greedy.credits).collect::<Vec<_>>());

    // Others are heard as before, and get used credits back.
    let mut peer = Peer::new(&rig, 0, 2);
    assert!(peer.key(&rig, rig.capability).is_ok());
    let mut credits = peer.credits;
    for number in 0..1500 {
        while credits == 0 {
            let Tell::Credits { count } = wire::receive(&peer.stream).unwrap() else { panic!("credits come") };
            credits += count;
        }
        credits -= 1;
        assert_eq!(peer.notify(number), Status::Success);
        assert_eq!(notices.next(LONG).map(|notice| notice.number), Some(number));
    }
}

#[test]
#[ignore = "needs an RDMA device: scripts/rxe-vm"]
fn queue_pairs_are_for_who_has_a_right() {
    let rig = Rig::with(Duration::from_secs(3));
    let stranger = Peer::new(&rig, 0, 1);
    assert!(wire::receive::<Tell>(&stranger.stream).is_err(), "it shows nothing, so its connection ends");
    // A peer asks for keys over one of its rails; the others from its address are left alone as well.
    let (known, other) = (Peer::new(&rig, 0, 1), Peer::new(&rig, 0, 1));
    assert!(known.key(&rig, rig.capability).is_ok());
    let mut silent = TcpStream::connect(rig.server.at).unwrap();
    assert_eq!(silent.read(&mut [0]).unwrap(), 0, "it came last, and is given up");
    assert!(other.key(&rig, rig.capability).is_ok() && known.key(&rig, rig.capability).is_ok());
}

#[test]
#[ignore = "needs an RDMA device: scripts/rxe-vm"]
fn a_burst_of_questions_is_answered_in_turn_and_one_for_nothing_is_not() {
    let rig = Rig::new();
    let mut peer = Peer::new(&rig, 0, 1);
    let question = |id| wire::encode(&Ask::Key { id, segment: rig.id, capability: rig.capability });
    let burst: Vec<u8> = (0..500).flat_map(question).collect();
    peer.stream.write_all(&burst).unwrap();
    for number in 0..500 {
        assert!(matches!(wire::receive::<Tell>(&peer.stream).unwrap(), Tell::Key { id, grant: Ok(_) } if id == number));
    }
    wire::send(&peer.stream, &Ask::Return { count: 0 }).unwrap();
    assert!(wire::receive::<Tell>(&peer.stream).is_err(), "its connection ends");
}

#[test]
#[ignore = "needs an RDMA device: scripts/rxe-vm"]
fn credits_that_are_kept_from_others_are_taken_with_the_connection() {
    let rig = Rig::new();
    let notices = Notices::new(Arc::clone(&rig.exports.mailbox));
    let (keeper, other) = (Peer::new(&rig, 0, 1), Peer::new(&rig, 0, 1));
    let wish = |peer: &Peer| {
        assert!(peer.key(&rig, rig.capability).is_ok());
        wire::send(&peer.stream, &Ask::Credits { count: 5 }).unwrap();
    };
    wish(&keeper);
    assert_eq!(wire::receive::<Tell>(&keeper.stream).unwrap(), Tell::Credits { count: 5 });
    while rig.exports.mailbox.put(0) {}
    wish(&other);
    assert!(wire::receive::<Tell>(&keeper.stream).is_err(), "its connection ends");
    assert_eq!(wire::receive::<Tell>(&other.stream).unwrap(), Tell::Credits { count: 5 });
    // Who returns them is left alone, and what waits for them gets them.
    wire::send(&other.stream, &Ask::Return { count: 5 }).unwrap();
    let third = Peer::new(&rig, 0, 1);
    wish(&third);
    let mut got = third.credits;
    while got < 5 {
        let Tell::Credits { count } = wire::receive(&third.stream).unwrap() else { panic!("credits come") };
        got += count;
    }
    assert_eq!(notices.next(Duration::ZERO).map(|notice| notice.number), Some(0));
    assert!(other.key(&rig, rig.capability).is_ok(), "it is still served");
}
