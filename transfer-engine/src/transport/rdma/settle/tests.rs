//! What a rail that breaks means for the others, on devices.

use super::*;
use crate::memory::Memory;
use crate::rdma::RdmaSettings;
use crate::transport::Transport;
use crate::transport::rdma::registry::Registered;
use crate::transport::rdma::sys::{Access, MemoryRegion, counts};
use crate::transport::rdma::world::{LONG, World, link, lost, settings};
use std::os::fd::AsFd;
use std::time::Duration;

/// One device refuses the local memory for good while the other one has slices of the same read.
#[test]
#[ignore = "needs RDMA devices on two cables: scripts/rxe-vm --net pairs"]
fn work_that_is_refused_for_good_leaves_the_other_rails_before_it_goes_back() {
    const SIZE: u64 = 32 << 20;
    let mut world = World::new(&["va", "vc"], &["vb", "vd"], SIZE);
    world.connect(2);
    // The second device knows it under the key of other memory.
    let other = Memory::anonymous(4096).unwrap();
    let devices = world.devices.get().unwrap();
    let region = |device: usize, memory| MemoryRegion::of_memory(&devices[device].domain, memory, 0, memory.len(), Access::Local).unwrap();
    let regions = vec![vec![region(0, &world.here)], vec![region(1, &other)]];
    world.lane.buffers.insert(Registered::as_it_is(world.here.base(), SIZE, regions));
    world.len = 24 << 20;
    world.fill(1, 2);
    // So that the slices of the first rail are still under way.
    link(&["delay", "va", "40ms"]);
    let before = lost();
    let failure = world.submit(Op::Read).unwrap_err();
    assert!(failure.kind == TransferErrorKind::Failed && failure.cause.contains("local protection error"), "{failure:?}");
    assert_eq!((lost() - before, world.lane.flights.len()), (2, 0), "both rails are ended, nothing is under way");
    // The memory is its owner's again: not a byte comes any more.
    world.fill(1, 3);
    link(&["clear", "va"]);
    let until = Instant::now() + Duration::from_millis(200);
    while Instant::now() < until {
        assert!(world.bytes()[1] == world.framed(3, 3), "a byte came after the end");
    }
    // Registered as it should be it is read, over both rails.
    world.lane.buffers.remove(crate::memory::Region { base: world.here.base(), len: SIZE });
    world.register();
    world.len = 4096;
    world.connect(2);
    world.len = 24 << 20;
    world.fill(4, 5);
    world.submit(Op::Read).unwrap();
    assert!(world.bytes() == [world.framed(4, 4), world.framed(5, 4)]);
}

/// As a device says that was reset by its driver; it does so without an end.
#[test]
#[ignore = "needs RDMA devices on two cables: scripts/rxe-vm --net pairs"]
fn what_a_device_had_that_is_gone_goes_over_another_one() {
    let mut world = World::new(&["va", "vc"], &["vb", "vd"], 32 << 20);
    world.register();
    world.connect(2);
    world.len = 24 << 20;
    world.fill(1, 2);
    link(&["delay", "va", "40ms"]);
    let mut done = world.begin(Op::Read);
    assert!(done.is_empty() && world.lane.links[0].ups().all(|rail| rail.backlog() > 0), "both have some of it");
    let before = lost();
    world.lane.part_with(0, &mut done);
    assert_eq!(lost(), before + 1);
    world.finish(done).unwrap();
    link(&["clear", "va"]);
    assert!(world.bytes() == [world.framed(1, 1), world.framed(2, 1)]);
    assert!(world.lane.epoll.delete(world.lane.ports[0].channel.as_fd()).is_err(), "it is listened to no more");
}

/// As on a machine so busy that its software devices break the connection over every few MiB.
#[test]
#[ignore = "needs RDMA devices on a cable: scripts/rxe-vm --net pair"]
fn work_that_goes_on_in_between_outlasts_any_number_of_broken_rails() {
    // Eight slices are under way at one time, of 128.
    let few = RdmaSettings { completions: 16, slice: 64 << 10, ..settings(&["va"]) };
    let mut world = World::with(few, &["vb"], 16 << 20);
    world.register();
    world.connect(1);
    world.len = 8 << 20;
    world.fill(1, 2);
    let (mut broken, mut least, begun) = (0, u64::MAX, Instant::now());
    let mut done = world.begin(Op::Read);
    while done.is_empty() {
        assert!(begun.elapsed() < LONG, "{least} bytes are left after {broken} rails");
        let waiting: u64 = world.lane.flights.iter().filter_map(|(_, flight)| Some(flight.todo.as_ref()?.bytes(&flight.work))).sum();
        let up = world.lane.links[0].ups().next().map(|rail| (rail.generation, waiting + rail.backlog()));
        if let Some((generation, left)) = up.filter(|(_, left)| *left < least) {
            least = left;
            broken += 1;
            world.lane.lose(generation, Failure::new(TransferErrorKind::PeerGone, "of this test"), true, &mut done);
        }
        world.lane.poll(&mut done, Duration::from_millis(1));
    }
    world.finish(done).unwrap();
    assert!(broken > BROKEN_MAX, "{broken} rails broke");
    assert!(world.bytes() == [world.framed(1, 1), world.framed(2, 1)]);
}

/// A chain of many slices that moves slowly reports nothing for long, is taken for stalled, and would begin again and again.
#[test]
#[ignore = "needs an RDMA device: scripts/rxe-vm"]
fn each_slice_reports_its_success_once_a_rail_broke_under_its_work() {
    // Eight slices make a chain, of 64.
    let few = RdmaSettings { completions: 16, slice: 64 << 10, ..settings(&["va"]) };
    let mut world = World::with(few, &["vb"], 8 << 20);
    world.register();
    world.connect(1);
    world.len = 4 << 20;
    world.fill(1, 2);
    let mut done = world.begin(Op::Read);
    let rail = world.lane.links[0].ups().next().map(|rail| rail.generation).unwrap();
    let before = counts().completions;
    world.lane.lose(rail, Failure::new(TransferErrorKind::PeerGone, "of this test"), true, &mut done);
    world.finish(done).unwrap();
    let reports = counts().completions - before;
    assert!(reports >= 32, "{reports} reports");
    assert!(world.bytes() == [world.framed(1, 1), world.framed(2, 1)]);
}
