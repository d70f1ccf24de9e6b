//! RDMA where it breaks: links that go down under a transfer, peers that die, objects left behind. In a guest: `scripts/rxe-vm --net pairs`.
#![cfg(feature = "rdma")]

mod ends;
mod limits;
mod peers;
mod reads;
mod traffic;

use ends::kind;
use perilune_protocol::{Capability, Extent, NodeId, Protocol, SegmentDesc, SegmentId};
use perilune_transfer_engine::{Counted, Engine, Job, LocalSlice, Memory, Op, RdmaSettings, Request, Segment, rdma_counts, rdma_objects};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SIZE: u64 = 32 << 20;
const LONG: Duration = Duration::from_secs(30);

struct World {
    client: Engine,
    server: Engine,
    memory: Arc<Memory>,
    segment: Segment,
}

fn settings(ends: &[&str]) -> RdmaSettings {
    let connection = std::env::var("PERILUNE_RDMA_CONNECTION").map(|word| word.parse().unwrap()).unwrap_or_default();
    RdmaSettings { devices: ends::devices(ends), connection, ..RdmaSettings::default() }
}

fn at(offset: u64, len: usize) -> Vec<Extent> {
    vec![Extent { offset, len: len as u64 }]
}

/// A server and a client, over the devices named, and over TCP too where asked.
fn world(ours: &[&str], theirs: &[&str], tcp: bool) -> World {
    world_of(settings(ours), settings(theirs), tcp)
}

fn world_of(ours: RdmaSettings, theirs: RdmaSettings, tcp: bool) -> World {
    let server = Engine::builder().rdma(theirs).listen_rdma("127.0.0.1:0".parse().unwrap());
    let server = if tcp { server.listen_tcp("127.0.0.1:0".parse().unwrap()) } else { server };
    let server = server.build().unwrap();
    let client = Engine::builder().rdma(ours).lanes(1).deadline(LONG).build().unwrap();
    let (id, capability, memory) = (SegmentId::random(), Capability::random(), Memory::anonymous(SIZE).unwrap());
    server.export(id, Arc::clone(&memory), capability).unwrap();
    server.export_rdma(id).unwrap();
    let (name, node, location) = ("test".to_owned(), NodeId::random(), String::new());
    let endpoints = server.endpoints();
    let desc = SegmentDesc { id, name, node, base: 0, size: SIZE, protocol: Protocol::Rdma, location, endpoints, capability };
    let segment = client.connect(&desc);
    World { client, server, memory, segment }
}

fn link(words: &[&str]) {
    let status = Command::new("rxe-link").args(words).status().expect("rxe-link is a command of the guest: scripts/rxe-vm");
    assert!(status.success(), "rxe-link {words:?}");
}

fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3] ^ seed).collect()
}

fn write_and_check(world: &World, seed: u8, len: usize) {
    let sent = pattern(seed, len);
    assert_eq!(world.client.run(&mut [Job::write(&world.segment, at(0, len), &sent)], LONG), [Ok(())]);
    let mut there = vec![0; len];
    assert!(world.memory.read_at(0, &mut there));
    assert!(there == sent, "what was written is there");
    let mut back = vec![0; len];
    assert_eq!(world.client.run(&mut [Job::read(&world.segment, at(0, len), &mut back)], LONG), [Ok(())]);
    assert!(back == sent, "what was written comes back");
}

/// All in one test: each changes the links of the guest.
#[test]
#[ignore = "needs RDMA devices on two cables: scripts/rxe-vm --net pairs"]
fn links_go_down_and_come_back() {
    let world = world(&["va", "vc"], &["vb", "vd"], false);
    write_and_check(&world, 1, 4 << 20);
    // While bytes travel, one of two cables is cut: the caller hears nothing of it.
    let before = rdma_counts();
    std::thread::scope(|scope| {
        let mover = scope.spawn(|| (0..8).for_each(|seed| write_and_check(&world, seed, 8 << 20)));
        while rdma_counts().doorbells < before.doorbells + 4 {
            std::thread::yield_now();
        }
        link(&["down", "va"]);
        mover.join().unwrap();
    });
    let after = rdma_counts();
    assert!(after.rails_lost > before.rails_lost, "the cable was cut under the transfer");
    // Back again, it is used again by itself.
    link(&["up", "va"]);
    let (up, tried) = (Instant::now(), rdma_counts().rails_tried);
    while rdma_counts().rails_connected == after.rails_connected {
        write_and_check(&world, 3, 64 << 10);
        assert!(up.elapsed() < LONG, "the rail did not come back");
    }
    let tries = rdma_counts().rails_tried - tried;
    println!("the rail came back after {} ms and {tries} tries", up.elapsed().as_millis());
    // Tried five times a second once its link is up, so back within one; by the clock only the machine would be measured.
    assert!(tries <= 5, "{tries} tries");
    // Loss is the device's to mend.
    link(&["loss", "va", "2%"]);
    write_and_check(&world, 4, 2 << 20);
    link(&["clear", "va"]);
}

#[test]
#[ignore = "needs RDMA devices on two cables: scripts/rxe-vm --net pairs"]
fn devices_whose_link_is_down_at_first_are_used_once_it_is_up() {
    link(&["down", "vc"]);
    // Both engines begin while neither end of the second cable is active.
    let world = world(&["va", "vc"], &["vb", "vd"], false);
    let before = rdma_counts();
    write_and_check(&world, 1, 4 << 20);
    let connected = || rdma_counts().rails_connected - before.rails_connected;
    assert_eq!(connected(), 1, "one cable, one rail");
    link(&["up", "vc"]);
    let up = Instant::now();
    while connected() < 2 {
        write_and_check(&world, 2, 64 << 10);
        assert!(up.elapsed() < LONG, "the second cable is not used");
    }
    println!("used after {} ms", up.elapsed().as_millis());
    // All goes by it when the first one is cut, and into a segment that was lent while it was down.
    link(&["down", "va"]);
    write_and_check(&world, 3, 4 << 20);
    link(&["up", "va"]);
}

#[test]
#[ignore = "needs RDMA devices on two cables: scripts/rxe-vm --net pairs"]
fn without_any_cable_tcp_carries_the_bytes_and_without_tcp_the_caller_is_told() {
    let both = world(&["vc"], &["vd"], true);
    write_and_check(&both, 1, 1 << 20);
    let alone = world(&["vc"], &["vd"], false);
    write_and_check(&alone, 2, 1 << 20);
    link(&["down", "vc"]);
    write_and_check(&both, 5, 4 << 20);
    let counters = both.client.counters();
    let tcp = counters.transports.iter().find(|c| c.transport == "tcp" && c.counted == Counted::Asked).unwrap();
    assert!(tcp.write.bytes >= 4 << 20, "{counters:?}");
    let outcome = alone.client.run(&mut [Job::write(&alone.segment, at(0, 3), b"one")], LONG);
    let error = outcome[0].as_ref().unwrap_err();
    println!("told: {error}");
    // Nobody who has TCP waits for the other path any more, with however little time.
    (0..4).for_each(|_| {
        assert_eq!(both.client.run(&mut [Job::write(&both.segment, at(0, 3), b"one")], Duration::from_millis(900)), [Ok(())])
    });
    link(&["up", "vc"]);
    let (up, before) = (Instant::now(), rdma_counts().rails_connected);
    while rdma_counts().rails_connected == before {
        write_and_check(&both, 6, 4096);
        assert!(up.elapsed() < LONG, "it goes by RDMA again");
    }
    let begun = Instant::now();
    while alone.client.run(&mut [Job::write(&alone.segment, at(0, 3), b"two")], LONG)[0].is_err() {
        assert!(begun.elapsed() < LONG, "it works again when the link is back");
    }
}

#[test]
#[ignore = "needs RDMA devices on two cables: scripts/rxe-vm --net pairs"]
fn without_any_cable_at_first_a_server_waits_for_one() {
    link(&["down", "vc"]);
    // Neither side has a link as it begins, nor when the segment is lent.
    let world = world(&["vc"], &["vd"], true);
    let by_rdma = || {
        let counters = world.client.counters();
        counters.transports.iter().find(|c| c.transport == "rdma" && c.counted == Counted::Asked).map_or(0, |c| c.write.bytes)
    };
    write_and_check(&world, 1, 1 << 20);
    assert_eq!(by_rdma(), 0, "TCP carries the bytes");
    link(&["up", "vc"]);
    let up = Instant::now();
    while by_rdma() == 0 {
        write_and_check(&world, 2, 64 << 10);
        assert!(up.elapsed() < LONG, "the cable is not used");
    }
    println!("used after {} ms", up.elapsed().as_millis());
}

#[test]
#[ignore = "needs RDMA devices on two cables: scripts/rxe-vm --net pairs"]
fn notices_arrive_when_links_are_cut_under_them() {
    const BEFORE: u32 = 100;
    const ALL: u32 = 600;
    let world = world(&["va", "vc"], &["vb", "vd"], true);
    let notices = world.server.notices();
    write_and_check(&world, 1, 1 << 20);
    let before = rdma_counts();
    let came = std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..ALL {
                if number == BEFORE {
                    link(&["down", "va"]);
                }
                // Both cables: TCP carries the rest.
                if number == 3 * BEFORE {
                    link(&["down", "vc"]);
                }
                world.client.notify(&world.segment, number, LONG).unwrap();
            }
        });
        let mut came = vec![0; ALL as usize];
        while came.contains(&0) {
            let notice = notices.next(LONG).expect("each notice arrives");
            came[notice.number as usize] += 1;
        }
        came
    });
    ["va", "vc"].iter().for_each(|end| link(&["up", end]));
    println!("{} of {ALL} came twice", came.iter().filter(|&&times| times > 1).count());
    let counters = world.client.counters();
    let by = |name| counters.transports.iter().find(|c| c.transport == name && c.counted == Counted::Asked).unwrap().notify.ops;
    assert!(by("rdma") >= u64::from(BEFORE) && by("tcp") > 0 && by("rdma") + by("tcp") == u64::from(ALL), "{counters:?}");
    assert!(rdma_counts().rails_lost > before.rails_lost, "a link was cut under them");
}

#[test]
#[ignore = "needs an RDMA device: scripts/rxe-vm"]
fn a_notice_goes_by_tcp_where_the_devices_carry_none_and_without_tcp_the_caller_is_told() {
    let (alone, both) = (world(&["va"], &["vb"], false), world(&["va"], &["vb"], true));
    match alone.client.notify(&alone.segment, 7, LONG) {
        Ok(()) => assert_eq!((kind().as_str(), alone.server.notices().next(LONG).map(|notice| notice.number)), ("rxe", Some(7))),
        Err(error) => assert!(kind() == "siw" && error.to_string().contains("iWARP carries no notices"), "{error}"),
    }
    both.client.notify(&both.segment, 8, LONG).unwrap();
    assert_eq!(both.server.notices().next(LONG).map(|notice| notice.number), Some(8));
    let counters = both.client.counters();
    let by = |name| counters.transports.iter().find(|c| c.transport == name && c.counted == Counted::Asked).map_or(0, |c| c.notify.ops);
    assert_eq!((by("rdma"), by("tcp")), if kind() == "siw" { (0, 1) } else { (1, 0) });
}

#[test]
#[ignore = "needs an RDMA device: scripts/rxe-vm"]
fn work_that_is_taken_back_does_not_hold_up_what_was_under_way_with_it() {
    let world = world(&["va"], &["vb"], false);
    write_and_check(&world, 1, 1 << 20);
    let notices = world.server.notices();
    let bytes = [pattern(2, 16 << 20), pattern(3, 16 << 20)];
    let request = |bytes: &[u8], offset| Request {
        op: Op::Write,
        segment: world.segment.clone(),
        extents: at(offset, bytes.len()),
        local: vec![LocalSlice::from_ref(bytes)],
    };
    let notice = Request { op: Op::Notify(7), segment: world.segment.clone(), extents: Vec::new(), local: Vec::new() };
    // SAFETY: the buffers outlive the tickets, and nobody writes to them.
    let (first, second) = unsafe {
        (world.client.submit(vec![request(&bytes[0], 0)], LONG), world.client.submit(vec![request(&bytes[1], 16 << 20), notice], LONG))
    };
    let begun = Instant::now();
    drop(first);
    assert_eq!(second.wait(), [Ok(()), Ok(())]);
    assert!(begun.elapsed() < LONG / 2, "{:?}", begun.elapsed());
    assert_eq!(notices.next(LONG).map(|notice| notice.number), Some(7));
    let mut there = vec![0; 16 << 20];
    assert!(world.memory.read_at(16 << 20, &mut there));
    assert!(there == bytes[1]);
}

#[test]
#[ignore = "needs an RDMA device: scripts/rxe-vm"]
fn nothing_is_left_and_few_doorbells_are_rung() {
    let devices: (&[&str], &[&str]) = (&["va"], &["vb"]);
    let world = world(devices.0, devices.1, false);
    write_and_check(&world, 1, 1 << 20);
    let buffer = pattern(7, SIZE as usize);
    // SAFETY: the buffer outlives its registration.
    unsafe { world.client.register(buffer.as_ptr().cast_mut(), buffer.len()).unwrap() };
    let before = rdma_counts();
    let pieces: Vec<_> = buffer.chunks(64 << 10).collect();
    let mut jobs: Vec<Job<'_>> =
        pieces.iter().enumerate().map(|(i, bytes)| Job::write(&world.segment, at((i as u64) << 16, 64 << 10), bytes)).collect();
    assert!(world.client.run(&mut jobs, LONG).iter().all(Result::is_ok));
    let after = rdma_counts();
    drop(jobs);
    assert_eq!(after.staged_bytes, before.staged_bytes, "registered memory needs no copy");
    // A sixteenth of one completion and one doorbell for each 64 KiB.
    let sixteenth = (SIZE >> 16) / 16;
    let (completions, doorbells) = (after.completions - before.completions, after.doorbells - before.doorbells);
    println!("{} MiB: {completions} completions, {doorbells} doorbells", SIZE >> 20);
    assert!(completions <= sixteenth && doorbells <= sixteenth, "{completions} completions, {doorbells} doorbells");
    world.client.unregister(buffer.as_ptr().cast_mut()).unwrap();
    assert!(rdma_objects() > 0);
    drop(world);
    let begun = Instant::now();
    while rdma_objects() > 0 {
        assert!(begun.elapsed() < LONG, "{} verbs objects are left", rdma_objects());
        std::thread::yield_now();
    }
}
