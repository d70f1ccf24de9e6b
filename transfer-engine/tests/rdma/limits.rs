//! What devices, links and the system do not give: each is said, and works as soon as it is there.

use crate::{LONG, World, at, link, pattern, settings, world, write_and_check};
use perilune_protocol::{Capability, Endpoint, NodeId, Protocol, SegmentDesc, SegmentId};
use perilune_transfer_engine::{Engine, EngineError, Job, Memory, RdmaSettings, TransferErrorKind, rdma_counts, rdma_objects, rdma_status};
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Has the kernel allow this process so many verbs objects on a device (`max` for any number): a cgroup, as containers have them.
struct Group;

impl Group {
    const ROOT: &str = "/sys/fs/cgroup";
    const OWN: &str = "/sys/fs/cgroup/perilune-test";

    fn new() -> Self {
        if !fs::exists(format!("{}/cgroup.procs", Self::ROOT)).unwrap() {
            assert!(Command::new("mount").args(["-t", "cgroup2", "none", Self::ROOT]).status().unwrap().success());
        }
        fs::write(format!("{}/cgroup.subtree_control", Self::ROOT), "+rdma").expect("this kernel limits verbs objects by cgroup");
        fs::create_dir_all(Self::OWN).unwrap();
        fs::write(format!("{}/cgroup.procs", Self::OWN), "0").unwrap();
        Self
    }

    fn allow(&self, device: &str, objects: &str) {
        fs::write(format!("{}/rdma.max", Self::OWN), format!("{device} hca_object={objects}")).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for device in ["rxe_va", "rxe_vb"] {
            self.allow(device, "max");
        }
        fs::write(format!("{}/cgroup.procs", Self::ROOT), "0").unwrap();
    }
}

fn write_once(world: &World) -> Result<(), (TransferErrorKind, String)> {
    let outcome = world.client.run(&mut [Job::write(&world.segment, at(0, 3), b"one")], LONG).remove(0);
    outcome.map_err(|error| (error.kind, error.to_string()))
}

/// Raises what the kernel allows one by one until bytes get through, and says what was told before.
fn until_enough(world: &World, group: &Group, device: &str) -> Vec<String> {
    let mut told = Vec::new();
    for objects in 0..30 {
        group.allow(device, &objects.to_string());
        let begun = Instant::now();
        loop {
            match write_once(world) {
                Ok(()) => return told,
                // That no device could be opened is remembered for a moment.
                Err((_, text)) if text.contains("no protection domain") && told.last() == Some(&text) => {
                    assert!(begun.elapsed() < LONG, "{told:?}");
                }
                Err((kind, text)) => {
                    assert_eq!(kind, TransferErrorKind::PeerUnreachable, "{text}");
                    told.push(text);
                    break;
                }
            }
        }
    }
    panic!("never enough: {told:?}");
}

#[test]
#[ignore = "needs RDMA devices on a cable: scripts/rxe-vm --net pairs"]
fn out_of_queue_pairs_is_said_on_either_side_and_passes() {
    let group = Group::new();
    // Ours: what counts is each object from the protection domain on, the queue pairs last.
    let ours = world(&["va"], &["vb"], false);
    let before = rdma_objects();
    let told = until_enough(&ours, &group, "rxe_va");
    assert!(told.first().is_some_and(|text| text.contains("rxe_va")), "{told:?}");
    let of_pairs = told.iter().filter(|text| text.contains("rxe_va gives no further queue pair") && text.contains("rdma.max")).count();
    assert_eq!(of_pairs, 2, "one for each of two queue pairs: {told:?}");
    let (objects, rails) = (rdma_objects(), rdma_counts().rails_lost);
    assert!(objects > before);
    write_and_check(&ours, 1, 1 << 20);
    assert_eq!((rdma_objects(), rdma_counts().rails_lost), (objects, rails), "nothing is left of those that failed");
    drop(ours);

    // Theirs: the peer says it, and where TCP is served the bytes go that way.
    let theirs = world(&["va"], &["vb"], false);
    group.allow("rxe_va", "max");
    let told = until_enough(&theirs, &group, "rxe_vb");
    let of_pairs =
        told.iter().filter(|text| text.contains("rxe_vb gives no further queue pair") && text.contains("exchange at 127.0.0.1")).count();
    assert!(of_pairs >= 2, "{told:?}");
    println!("told: {}", told.last().unwrap());
    write_and_check(&theirs, 2, 1 << 20);
    group.allow("rxe_vb", "max");
    let both = world(&["va"], &["vb"], true);
    group.allow("rxe_vb", "0");
    write_and_check(&both, 3, 1 << 20);
}

fn mtu(end: &str, bytes: u32) {
    let status = Command::new("ip").args(["link", "set", end, "mtu", &bytes.to_string()]).status().unwrap();
    assert!(status.success(), "MTU {bytes} of {end}");
}

#[test]
#[ignore = "needs RDMA devices on a cable: scripts/rxe-vm --net pairs"]
fn ends_of_different_mtu_use_the_smaller_one() {
    let mtus = || rdma_status().devices.iter().filter(|d| d.name == "rxe_va" || d.name == "rxe_vb").map(|d| d.mtu).collect::<Vec<_>>();
    assert_eq!(mtus(), [4096, 4096]);
    let early = world(&["va"], &["vb"], false);
    write_and_check(&early, 1, 1 << 20);
    for (small, seed) in [("va", 2), ("vb", 3)] {
        mtu(small, 1500);
        assert_eq!(mtus().iter().min(), Some(&1024));
        let late = world(&["va"], &["vb"], false);
        let lost = rdma_counts().rails_lost;
        write_and_check(&late, seed, 1 << 20);
        assert_eq!(rdma_counts().rails_lost, lost, "packets fit from the start");
        // Rails that were connected before break, and come back with packets that fit.
        write_and_check(&early, seed, 1 << 20);
        println!("{} rails broke that were connected before {small} became smaller", rdma_counts().rails_lost - lost);
        mtu(small, 9000);
    }
}

/// As where a switch has a smaller MTU than the ports.
#[test]
#[ignore = "needs RDMA devices on a cable: scripts/rxe-vm --net pairs"]
fn a_path_that_loses_large_packets_only_is_not_used() {
    for end in ["va", "vb"] {
        link(&["largest", end, "2000"]);
        let (world, before) = (world(&["va"], &["vb"], true), rdma_counts());
        (1..4).for_each(|seed| write_and_check(&world, seed, 64 << 10));
        let after = rdma_counts();
        assert!(after.rails_lost > before.rails_lost && after.rails_connected == before.rails_connected, "{end}: a packet shows it");
        link(&["clear", end]);
        let cleared = Instant::now();
        while rdma_counts().rails_connected == before.rails_connected {
            write_and_check(&world, 4, 64 << 10);
            assert!(cleared.elapsed() < LONG, "the path is used once it is whole");
        }
    }
}

#[test]
#[ignore = "needs RDMA devices on two cables: scripts/rxe-vm --net pairs"]
fn devices_addresses_and_ports_that_are_not_there_are_named() {
    let start = |settings: RdmaSettings| Engine::builder().rdma(settings).listen_rdma("127.0.0.1:0".parse().unwrap()).build().map(|_| ());
    let only = |name: &str| settings(&[name]);
    let error = start(RdmaSettings { gid_index: Some(77), ..only("va") }).unwrap_err();
    assert!(
        matches!(&error, EngineError::Setting(why) if why.starts_with("rxe_va: port 1: the port has no GID of index 77; it has ")),
        "{error}"
    );
    let error = start(RdmaSettings { gid_index: Some(77), ..RdmaSettings::default() }).unwrap_err();
    assert!(matches!(&error, EngineError::Setting(why) if why.contains("rxe_vd: port 1: the port has no GID of index 77")), "{error}");
    let error = start(RdmaSettings { devices: vec!["mlx5_77".to_owned()], ..RdmaSettings::default() }).unwrap_err();
    let there = "there is no RDMA device `mlx5_77`; there are: rxe_va, rxe_vb, rxe_vc, rxe_vd";
    assert!(matches!(&error, EngineError::Setting(why) if why == there), "{error}");

    // Without a link the device is there, but not now.
    link(&["down", "vc"]);
    let status = rdma_status();
    let down = status.devices.iter().find(|device| device.name == "rxe_vc").unwrap();
    assert_eq!((down.active, down.state.as_str()), (false, "down"), "{status}");
    assert!(status.usable() && status.to_string().contains("rxe_vc port 1: down"), "{status}");
    for settings in [only("vc"), RdmaSettings::default()] {
        start(settings).expect("a server waits for its link");
    }
    // Who asks tries again each time.
    link(&["up", "vc"]);
    let world = world(&["vc"], &["vd"], false);
    link(&["down", "vc"]);
    let (kind, text) = write_once(&world).unwrap_err();
    assert!(kind == TransferErrorKind::PeerUnreachable && text.contains("rxe_vc: port 1 is not active"), "{text}");
    link(&["up", "vc"]);
    let up = Instant::now();
    while write_once(&world).is_err() {
        assert!(up.elapsed() < LONG, "it works once the link is up");
    }
    write_and_check(&world, 4, 1 << 20);
}

#[test]
#[ignore = "needs RDMA devices on a cable: scripts/rxe-vm --net pairs"]
fn memory_in_many_regions_is_moved_across_their_borders() {
    const PIECE: u64 = 1 << 20;
    const LEN: u64 = 5 * PIECE + 12_345;
    let split = |name: &str| RdmaSettings { region: PIECE, slice: 8 << 20, ..settings(&[name]) };
    let server = Engine::builder().rdma(split("vb")).listen_rdma("127.0.0.1:0".parse().unwrap()).build().unwrap();
    let client = Engine::builder().rdma(split("va")).lanes(1).deadline(LONG).build().unwrap();
    let (id, capability, memory) = (SegmentId::random(), Capability::random(), Memory::anonymous(LEN).unwrap());
    server.export(id, Arc::clone(&memory), capability).unwrap();
    let before = rdma_objects();
    server.export_rdma(id).unwrap();
    assert_eq!(rdma_objects() - before, 6, "regions of the segment");
    let (name, node, location) = ("test".to_owned(), NodeId::random(), String::new());
    let endpoints: Vec<Endpoint> = server.endpoints();
    let desc = SegmentDesc { id, name, node, base: 0, size: LEN, protocol: Protocol::Rdma, location, endpoints, capability };
    let segment = client.connect(&desc);
    let sent = pattern(9, LEN as usize);
    let mut back = vec![0; LEN as usize + 1];
    // Under valgrind, on a busy machine, a peer may need longer to answer than it has.
    let asked = Instant::now();
    while client.run(&mut [Job::write(&segment, at(0, 3), b"one")], LONG) != [Ok(())] {
        assert!(asked.elapsed() < 3 * LONG, "it connects");
    }
    for registered in [false, true] {
        assert!(memory.write_at(0, &vec![0; LEN as usize]));
        back.fill(0);
        if registered {
            // Borders of the buffers' regions lie elsewhere than those of the segment.
            // SAFETY: both outlive their registration.
            unsafe {
                client.register(sent.as_ptr().cast_mut(), sent.len()).unwrap();
                client.register(back.as_mut_ptr(), back.len()).unwrap();
            }
        }
        let staged = rdma_counts().staged_bytes;
        assert_eq!(client.run(&mut [Job::write(&segment, at(0, sent.len()), &sent)], LONG), [Ok(())]);
        let mut there = vec![0; LEN as usize];
        assert!(memory.read_at(0, &mut there) && there == sent, "written, registered: {registered}");
        assert_eq!(client.run(&mut [Job::read(&segment, at(0, sent.len()), &mut back[1..])], LONG), [Ok(())]);
        assert!(back[1..] == sent[..], "read, registered: {registered}");
        assert_eq!(rdma_counts().staged_bytes == staged, registered);
    }
    // A few bytes over each border, and at the end.
    let (cuts, mut small): (Vec<u64>, _) = ((1..=5).map(|i| i * PIECE - 7).chain([LEN - 13]).collect(), vec![[0; 13]; 6]);
    let mut jobs: Vec<_> = cuts.iter().zip(&mut small).map(|(&from, into)| Job::read(&segment, at(from, 13), into)).collect();
    assert!(client.run(&mut jobs, LONG).iter().all(Result::is_ok));
    drop(jobs);
    assert!(cuts.iter().zip(&small).all(|(&from, got)| sent[from as usize..][..13] == got[..]));
    let mut jobs: Vec<_> = cuts.iter().map(|&from| Job::write(&segment, at(from, 13), b"over a border")).collect();
    assert!(client.run(&mut jobs, LONG).iter().all(Result::is_ok));
    for from in cuts {
        let mut there = [0; 13];
        assert!(memory.read_at(from, &mut there) && &there == b"over a border");
    }
    client.unregister(sent.as_ptr().cast_mut()).unwrap();
    client.unregister(back.as_mut_ptr()).unwrap();
}

#[test]
#[ignore = "needs RDMA devices on a cable: scripts/rxe-vm --net pairs"]
fn a_single_operation_ends_at_its_deadline_and_leaves_the_buffer_alone() {
    let world = world(&["va"], &["vb"], false);
    write_and_check(&world, 1, 1 << 20);
    link(&["delay", "va", "40ms"]);
    // The last length fits inside a work request.
    for (writes, len) in [(false, 4096), (true, 4096), (true, 64)] {
        let mut buffer = vec![7; len];
        let job = if writes { Job::write(&world.segment, at(0, len), &buffer) } else { Job::read(&world.segment, at(0, len), &mut buffer) };
        let error = world.client.run(&mut [job], Duration::from_millis(10)).remove(0).unwrap_err();
        println!("told: {error}");
        assert_eq!(error.kind, TransferErrorKind::Timeout, "{error}");
        buffer.fill(9);
        let until = Instant::now() + Duration::from_millis(100);
        while Instant::now() < until {
            assert!(*std::hint::black_box(&buffer) == vec![9; len], "a byte came after the end");
        }
    }
    link(&["clear", "va"]);
    write_and_check(&world, 2, 1 << 20);
}

/// Bytes of shared memory that this process has mapped in huge pages.
fn huge() -> u64 {
    let text = fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("ShmemPmdMapped:")).expect("this kernel tells");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
#[ignore = "changes how the system gives memory: scripts/rxe-vm"]
fn huge_pages_are_taken_where_the_system_gives_them() {
    const SETTING: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    let before = huge();
    let bytes = vec![7; 8 << 20];
    for (setting, want) in [("never", 0), ("advise", 8 << 20)] {
        fs::write(SETTING, setting).unwrap();
        let memory = Memory::anonymous(8 << 20).unwrap();
        assert!(memory.write_at(0, &bytes));
        assert_eq!(huge() - before, want, "{setting}");
    }
    fs::write(SETTING, "never").unwrap();
    // Named memory is taken from its file system when it is made, as that is mounted.
    let mount =
        |huge: &str| assert!(Command::new("mount").args(["-o", &format!("remount,huge={huge}"), "/dev/shm"]).status().unwrap().success());
    mount("within_size");
    let name = format!("perilune-test-{}-huge", std::process::id());
    let memory = Memory::create(&name, 8 << 20).unwrap();
    assert!(memory.write_at(0, &bytes));
    assert_eq!(huge() - before, 8 << 20);
    Memory::unlink(&name).unwrap();
    mount("never");
}
