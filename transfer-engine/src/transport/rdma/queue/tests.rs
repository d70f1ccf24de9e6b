//! The life of queue pairs, and what verbs do on real devices: those tests take the first device there is.

use super::{Capacity, Chain, CompletionQueue, End, Path, Queue, Role, SharedReceiveQueue, State};
use crate::memory::{Memory, Region};
use crate::rdma::RdmaSettings;
use crate::request::Held;
use crate::transport::rdma::device::{Device, Devices};
use crate::transport::rdma::sys::{Access, Channel, Class, Completed, Live, Local, MemoryRegion, Status, Verb, WorkRequest, counts, live};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const STATES: [State; 6] = [State::Reset, State::Init, State::ReadyToReceive, State::ReadyToSend, State::Error, State::Drained];

#[test]
fn a_life_has_no_way_back() {
    for (place, from) in STATES.into_iter().enumerate() {
        for (other, to) in STATES.into_iter().enumerate() {
            let next = other == place + 1 && to != State::Error;
            let fails = place < 4 && to == State::Error;
            assert_eq!(from.leads_to(to), next || fails, "{from:?} to {to:?}");
        }
    }
}

#[test]
fn inline_bytes_are_copied_from_where_they_lie() {
    let (memory, bytes) = (Memory::anonymous(4096).unwrap(), *b"1111122222");
    assert!(memory.write_at(0, &bytes));
    let mut chain = Chain::new();
    for parts in [&[(0, 5), (5, 4)][..], &[(8, 2)], &[(0, 0), (5, 5), (4, 1)]] {
        let local = parts.iter().map(|&(from, len)| Held::of_memory(&memory, from, len).unwrap());
        chain.push_inline(request(1, Verb::Write, 0, 0, false), local);
        let want: Vec<u8> = parts.iter().flat_map(|&(from, len)| &bytes[from as usize..][..len as usize]).copied().collect();
        assert_eq!((&chain.inline, chain.len()), (&want, 1));
        chain.clear();
    }
}

fn request(id: u64, op: Verb, remote: u64, key: u32, signaled: bool) -> WorkRequest {
    WorkRequest { id, op, remote, key, signaled }
}

const SIZE: u64 = 4 << 20;
const CAPACITY: Capacity = Capacity { sends: 64, receives: 0, sges: 4, inline: 64 };

/// One device, alone with it: the counts of objects are those of the whole process.
struct Alone {
    device: Arc<Device>,
    /// Another device on the same network, or the same one where there is none.
    there: Arc<Device>,
    before: Live,
    _turn: MutexGuard<'static, ()>,
}

fn alone() -> Alone {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let before = live();
    let devices = Devices::new(RdmaSettings::default()).unwrap();
    let all = devices.get().unwrap();
    let network = |device: &Arc<Device>| device.current_gid().unwrap().bytes[..15].to_owned();
    let near = |device: &&Arc<Device>| network(device) == network(&all[0]);
    let (device, there) = (Arc::clone(&all[0]), Arc::clone(all.iter().rfind(near).unwrap()));
    Alone { device, there, before, _turn: turn }
}

impl Alone {
    /// Nothing that was made is left.
    fn ends(self) {
        let Self { device, there, before, _turn } = self;
        drop((device, there));
        assert_eq!(live(), before);
    }
}

/// A completion queue, a queue pair and memory.
struct Side {
    queue: Queue,
    completions: Arc<CompletionQueue>,
    region: MemoryRegion,
    memory: Arc<Memory>,
}

impl Side {
    fn new(device: &Arc<Device>, role: Role<'_>, channel: Option<&Arc<Channel>>) -> Self {
        let completions = CompletionQueue::new(&device.context, 128, channel).unwrap();
        assert!(completions.depth() >= 128);
        let queue = Queue::new(device, role, &completions, &completions, CAPACITY).unwrap();
        let memory = Memory::anonymous(SIZE).unwrap();
        let region = MemoryRegion::of_memory(&device.domain, &memory, 0, SIZE, Access::Remote).unwrap();
        Self { queue, completions, region, memory }
    }

    fn pair(alone: &Alone) -> (Self, Self) {
        let (mut one, mut other) = (Self::new(&alone.device, Role::Asks, None), Self::new(&alone.there, Role::Serves(None), None));
        one.queue.connect(&other.queue.end()).unwrap();
        other.queue.connect(&one.queue.end()).unwrap();
        assert_eq!((one.queue.state, other.queue.state), (State::ReadyToSend, State::ReadyToSend));
        (one, other)
    }

    fn local(&self, offset: u64, len: u32) -> Local {
        Local { base: self.memory.base() + offset, len, key: self.region.lkey() }
    }

    /// The next `count` completions.
    fn wait(&self, count: usize) -> Vec<Completed> {
        let mut all = Vec::new();
        let until = Instant::now() + Duration::from_secs(20);
        while all.len() < count {
            assert!(Instant::now() < until, "{count} completions did not come: {all:?}");
            self.completions.poll(&mut all);
            std::thread::yield_now();
        }
        assert_eq!(all.len(), count, "{all:?}");
        all
    }

    fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        assert!(self.memory.read_at(offset, &mut bytes));
        bytes
    }
}

#[test]
#[ignore = "needs an RDMA device: scripts/rxe-vm"]
fn bytes_move_by_write_read_inline_and_chains() {
    let alone = alone();
    let (mut one, other) = Side::pair(&alone);
    let (base, key) = (other.memory.base(), other.region.rkey());
    let pattern: Vec<u8> = (0..1 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    assert!(one.memory.write_at(0, &pattern));
    let mut chain = Chain::new();

    // 1 MiB from two stretches, the second before the first.
    chain.push(request(1, Verb::Write, base, key, true), &[one.local(1 << 19, 1 << 19), one.local(0, 1 << 19)]);
    one.queue.post(&mut chain).unwrap();
    assert_eq!(chain.len(), 0);
    let done = one.wait(1)[0];
    assert_eq!((done.id, done.status, done.immediate, done.queue_pair), (1, Status::Success, None, one.queue.end().number));
    assert_eq!(other.bytes(0, 1 << 19), pattern[1 << 19..]);
    assert_eq!(other.bytes(1 << 19, 1 << 19), pattern[..1 << 19]);

    // Back, elsewhere.
    chain.push(request(2, Verb::Read, base, key, true), &[one.local(2 << 20, 1 << 20)]);
    one.queue.post(&mut chain).unwrap();
    assert_eq!((one.wait(1)[0].id, one.bytes(2 << 20, 1 << 19)), (2, pattern[1 << 19..].to_vec()));

    // Inline bytes need no registration and may change as soon as they are pushed.
    let few = Memory::anonymous(4096).unwrap();
    assert!(few.write_at(0, b"a few bytes of the submitter"));
    chain.push_inline(request(3, Verb::Write, base + 100, key, true), std::iter::once(Held::of_memory(&few, 2, 3).unwrap()));
    assert!(few.write_at(0, &[b'-'; 28]));
    one.queue.post(&mut chain).unwrap();
    assert_eq!((one.wait(1)[0].status, other.bytes(100, 3)), (Status::Success, b"few".to_vec()));

    // Forty writes: one doorbell, one completion.
    let before = counts();
    for i in 0..40 {
        chain.push(request(100 + i, Verb::Write, base + i * 64, key, false), &[one.local(i * 64, 64)]);
    }
    chain.signal_last();
    one.queue.post(&mut chain).unwrap();
    let done = one.wait(1)[0];
    let after = counts();
    assert_eq!((done.id, done.status), (139, Status::Success));
    assert_eq!(other.bytes(0, 40 * 64), pattern[..40 * 64]);
    assert_eq!((after.doorbells - before.doorbells, after.work_requests - before.work_requests), (1, 40));
    assert_eq!(after.completions - before.completions, 1);
    drop((one, other));
    alone.ends();
}

#[test]
#[ignore = "needs an RDMA device: scripts/rxe-vm"]
fn every_object_is_destroyed_and_counted() {
    let alone = alone();
    assert_eq!((alone.before, live().contexts >= 1, live().domains >= 1), (Live::default(), true, true));
    let channel = Channel::new(&alone.device.context).unwrap();
    let shared = SharedReceiveQueue::new(&alone.device.domain, 16).unwrap();
    let side = Side::new(&alone.device, Role::Serves(Some(&shared)), Some(&channel));
    assert_eq!((side.queue.state, side.queue.capacity().sges >= 4), (State::Init, true));
    let Live { regions, channels, completion_queues, shared_queues, queue_pairs, .. } = live();
    assert_eq!((regions, channels, completion_queues, shared_queues, queue_pairs), (1, 1, 1, 1, 1));
    // Whatever order they are let go in, parents stay until their children are gone.
    let Side { queue, completions, region, memory } = side;
    drop((channel, shared, completions, memory));
    assert_eq!((live().channels, live().completion_queues, live().shared_queues), (1, 1, 1));
    drop(queue);
    assert_eq!((live().channels, live().completion_queues, live().shared_queues, live().queue_pairs), (0, 0, 0, 0));
    region.deregister().map_err(|(_, cause)| cause).unwrap();
    assert_eq!(live().regions, 0);
    alone.ends();
    assert!(live().is_zero());
}

#[test]
#[ignore = "needs an RDMA device: scripts/rxe-vm"]
fn what_the_peer_does_not_lend_is_refused_and_the_queue_pair_flushes() {
    let alone = alone();
    let (mut one, other) = Side::pair(&alone);
    let mut chain = Chain::new();
    let outside = other.memory.base() + SIZE - 32;
    chain.push(request(1, Verb::Write, outside, other.region.rkey(), true), &[one.local(0, 64)]);
    chain.push(request(2, Verb::Write, other.memory.base(), other.region.rkey(), true), &[one.local(0, 64)]);
    chain.push(request(3, Verb::Write, other.memory.base(), other.region.rkey(), false), &[one.local(0, 64)]);
    one.queue.post(&mut chain).unwrap();
    // Once it failed, what follows comes back too, reported or not.
    let done: Vec<_> = one.wait(3).iter().map(|done| (done.id, done.status)).collect();
    assert_eq!(done, [(1, Status::RemoteAccess), (2, Status::Flushed), (3, Status::Flushed)]);
    drop((one, other));

    for op in [Verb::Read, Verb::Write] {
        let (mut one, other) = Side::pair(&alone);
        let wrong = other.region.rkey() ^ 0x0012_3400;
        chain.push(request(4, op, other.memory.base(), wrong, true), &[one.local(0, 64)]);
        one.queue.post(&mut chain).unwrap();
        assert_eq!(one.wait(1)[0].status, Status::RemoteAccess, "{op:?} with a wrong key");
    }

    // Local memory under a key that does not hold it.
    let (mut one, other) = Side::pair(&alone);
    let beyond = Local { base: one.memory.base() + SIZE - 32, len: 64, key: one.region.lkey() };
    chain.push(request(5, Verb::Write, other.memory.base(), other.region.rkey(), true), &[beyond]);
    match one.queue.post(&mut chain) {
        Ok(()) => assert_eq!(one.wait(1)[0].status, Status::LocalProtection),
        Err(refused) => assert_eq!(refused.posted, 0),
    }
    drop((one, other));
    alone.ends();
}

#[test]
#[ignore = "needs an RDMA device: scripts/rxe-vm"]
fn the_peer_of_a_queue_pair_that_asks_can_do_nothing_to_its_side() {
    let alone = alone();
    for op in [Verb::Write, Verb::Read, Verb::WriteImmediate(7)] {
        let (asks, mut serves) = Side::pair(&alone);
        assert!(asks.memory.write_at(0, &[1; 64]) && serves.memory.write_at(0, &[2; 64]));
        // Memory that anyone with its key may touch, and the right key.
        let mut chain = Chain::new();
        chain.push(request(1, op, asks.memory.base(), asks.region.rkey(), true), &[serves.local(0, 64)]);
        serves.queue.post(&mut chain).unwrap();
        let status = serves.wait(1)[0].status;
        // iWARP cannot tell a write from the answer to a read.
        if alone.device.iwarp && op != Verb::Read {
            continue;
        }
        assert!(!matches!(status, Status::Success | Status::Flushed), "{op:?}: {status}");
        assert_eq!((asks.bytes(0, 64), serves.bytes(0, 64)), (vec![1; 64], vec![2; 64]), "{op:?}");
    }
    alone.ends();
}

#[test]
#[ignore = "needs an RDMA device: scripts/rxe-vm"]
fn a_queue_pair_that_is_given_up_takes_nothing_more_and_lets_go_when_drained() {
    let alone = alone();
    let (mut one, mut other) = Side::pair(&alone);
    let (base, key) = (other.memory.base(), other.region.rkey());
    // The peer answers nothing, so all that is posted stays under way.
    other.queue.fail();
    let mut chain = Chain::new();
    for i in 0..32 {
        chain.push(request(i, Verb::Read, base, key, true), &[one.local(0, 1 << 20)]);
    }
    one.queue.post(&mut chain).unwrap();
    one.queue.fail();
    assert_eq!(one.queue.state, State::Error);
    chain.push(request(99, Verb::Read, base, key, true), &[one.local(0, 64)]);
    let refused = one.queue.post(&mut chain).unwrap_err();
    assert_eq!((refused.posted, chain.len()), (0, 0));
    assert!(refused.cause.to_string().contains("Error"), "{}", refused.cause);
    let done: Vec<_> = one.wait(32).iter().map(|done| (done.id, done.status)).collect();
    assert_eq!(done, (0..32).map(|id| (id, Status::Flushed)).collect::<Vec<_>>());

    drop((one, other));

    // Without waiting for anything (between two devices all of it is still under way): after the drain no byte arrives any more.
    let (mut one, other) = Side::pair(&alone);
    assert!(other.memory.write_at(0, &vec![0xaa; SIZE as usize]));
    for i in 0..32 {
        let from = other.memory.base();
        chain.push(request(i, Verb::Read, from, other.region.rkey(), true), &[one.local(0, 1 << 20)]);
    }
    one.queue.post(&mut chain).unwrap();
    one.queue.drain();
    assert_eq!(one.queue.state, State::Drained);
    assert!(one.memory.write_at(0, &vec![0x55; 1 << 20]));
    let until = Instant::now() + Duration::from_millis(200);
    while Instant::now() < until {
        assert!(one.bytes(0, 1 << 20).iter().all(|&byte| byte == 0x55), "a drained queue pair wrote");
    }
    assert!(one.queue.connect(&other.queue.end()).is_err());
    drop((one, other));
    alone.ends();
}

#[test]
#[ignore = "needs an RDMA device: scripts/rxe-vm"]
fn an_immediate_number_wakes_who_sleeps_on_the_channel() {
    let alone = alone();
    let channel = Channel::new(&alone.device.context).unwrap();
    let shared = SharedReceiveQueue::new(&alone.device.domain, 16).unwrap();
    let mut one = Side::new(&alone.device, Role::Asks, None);
    let mut other = Side::new(&alone.device, Role::Serves(Some(&shared)), Some(&channel));
    one.queue.connect(&other.queue.end()).unwrap();
    other.queue.connect(&one.queue.end()).unwrap();
    shared.post(8).unwrap();
    other.completions.arm().unwrap();
    assert_eq!(channel.take(), 0);
    let mut chain = Chain::new();
    chain.push(request(1, Verb::WriteImmediate(0xdead_beef), other.memory.base(), other.region.rkey(), true), &[one.local(0, 64)]);
    one.queue.post(&mut chain).unwrap();
    let mut ready = [nix::poll::PollFd::new(channel.as_fd(), nix::poll::PollFlags::POLLIN)];
    assert_eq!(nix::poll::poll(&mut ready, 20_000_u16), Ok(1));
    assert_eq!(channel.take(), 1);
    let done = other.wait(1)[0];
    assert_eq!((done.status, done.immediate, done.queue_pair), (Status::Success, Some(0xdead_beef), other.queue.end().number));
    assert_eq!(one.wait(1)[0].immediate, None);
    // soft-RoCE reports each completion; devices that can wait for some say yes.
    let _ = one.completions.moderate(16, 10);
    drop((one, other, shared, channel));
    alone.ends();
}

#[test]
#[ignore = "needs an RDMA device: scripts/rxe-vm"]
fn a_receiver_that_is_not_ready_is_told_and_a_queue_pair_made_anew_gets_through() {
    let alone = alone();
    let shared = SharedReceiveQueue::new(&alone.there.domain, 16).unwrap();
    let mut chain = Chain::new();
    for receives in [0, 1] {
        shared.post(receives).unwrap();
        let (mut one, mut other) = (Side::new(&alone.device, Role::Asks, None), Side::new(&alone.there, Role::Serves(Some(&shared)), None));
        one.queue.connect(&other.queue.end()).unwrap();
        other.queue.connect(&one.queue.end()).unwrap();
        chain.push(request(1, Verb::WriteImmediate(7), 0, 0, true), &[]);
        one.queue.post(&mut chain).unwrap();
        let status = one.wait(1)[0].status;
        if receives == 0 {
            assert_eq!(status, Status::ReceiverNotReady);
            chain.push(request(2, Verb::Write, other.memory.base(), other.region.rkey(), true), &[one.local(0, 64)]);
            let after = one.queue.post(&mut chain).map(|()| one.wait(1)[0].status);
            assert!(!matches!(after, Ok(Status::Success)), "it must be replaced: {after:?}");
        } else {
            assert_eq!((status, other.wait(1)[0].immediate), (Status::Success, Some(7)));
        }
    }
    drop(shared);
    alone.ends();
}

#[test]
#[ignore = "needs an RDMA device: scripts/rxe-vm"]
fn what_the_device_does_not_have_is_said() {
    let alone = alone();
    let name = &alone.device.name;
    let refused = |settings: RdmaSettings| Devices::new(settings).unwrap().get().map(|_| ()).unwrap_err().cause;
    let only = RdmaSettings { devices: vec![name.clone()], ..Default::default() };
    let error = refused(RdmaSettings { gid_index: Some(250), ..only.clone() });
    assert!(error.contains("no GID of index 250; it has 0: ") || error.contains("no GID of index 250; it has 1: "), "{error}");
    assert!(error.starts_with(&format!("{name}: port 1: ")), "{error}");
    let error = refused(RdmaSettings { port: 9, ..only.clone() });
    assert!(error.starts_with(&format!("{name}: port 9 cannot be looked at")), "{error}");
    let error = refused(RdmaSettings { devices: vec!["mlx5_77".to_owned()], ..Default::default() });
    assert!(error.contains("no RDMA device `mlx5_77`") && error.contains(name), "{error}");

    let limits = alone.device.limits;
    let error = CompletionQueue::new(&alone.device.context, limits.max_cqe + 1, None).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains(&format!("at most {} entries", limits.max_cqe)) && error.contains(name), "{error}");
    let completions = CompletionQueue::new(&alone.device.context, 16, None).unwrap();
    let large = Capacity { sends: limits.max_qp_wr + 1, ..CAPACITY };
    let error = Queue::new(&alone.device, Role::Asks, &completions, &completions, large).map(|_| ()).unwrap_err().cause;
    assert!(error.contains(&format!("at most {} work requests", limits.max_qp_wr)), "{error}");
    // Inline bytes beyond the device are no reason to fail.
    let inline = Capacity { inline: 1 << 20, ..CAPACITY };
    let mut queue = Queue::new(&alone.device, Role::Asks, &completions, &completions, inline).unwrap();
    assert!((1..1 << 20).contains(&queue.capacity().inline), "{:?}", queue.capacity());

    let odd = End { mtu: 1000, ..queue.end() };
    let error = queue.connect(&odd).unwrap_err().cause;
    assert!(error.contains("not 1000"), "{error}");
    let nowhere = Path {
        port: 1,
        gid_index: 250,
        global: true,
        gid: [0; 16],
        lid: 0,
        number: 1,
        psn: 0,
        mtu: 1024,
        reads: 1,
        class: Class::default(),
    };
    assert!(queue.pair.as_ref().unwrap().to_ready_to_receive(&nowhere).is_err());
    drop((queue, completions));
    alone.ends();
}

#[test]
#[ignore = "needs an RDMA device: scripts/rxe-vm"]
fn memory_that_cannot_be_registered_is_said() {
    let alone = alone();
    let domain = &alone.device.domain;
    let memory = Memory::anonymous(1 << 20).unwrap();
    let error = MemoryRegion::of_memory(domain, &memory, 4096, 1 << 20, Access::Local).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("do not lie in memory of 1048576 bytes"), "{error}");
    let unmapped = Region { base: 4096, len: 4096 };
    let error = MemoryRegion::of_region(domain, unmapped, Access::Local).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains(&alone.device.name) && error.contains("4096 bytes at 0x1000"), "{error}");
    drop(memory);
    alone.ends();
}
