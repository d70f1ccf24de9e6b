//! The ends of a dash, on devices.

use super::*;
use crate::fault::TransferErrorKind;
use crate::transport::Transport;
use crate::transport::rdma::transport::QUIET;
use crate::transport::rdma::world::{LONG, World, link, lost};

const SIZE: u64 = 1 << 20;

/// A world of one cable, whose memory is registered.
fn world() -> World {
    let mut world = World::new(&["va"], &["vb"], SIZE);
    world.register();
    world
}

#[test]
#[ignore = "needs RDMA devices on a cable: scripts/rxe-vm --net pair"]
fn it_is_done_or_goes_on_or_leaves_nothing() {
    // The second length fits inside a work request.
    for len in [4096, 64] {
        let mut world = world();
        world.len = len;
        assert_eq!(world.dash(Op::Read), (Dash::Refused, 0), "no rail is up");
        world.submit(Op::Read).unwrap();
        world.fill(1, 2);
        assert_eq!(world.dash(Op::Read), (Dash::Done, 0));
        assert_eq!(world.bytes(), [world.framed(1, 1), world.framed(2, 1)]);
        world.fill(3, 4);
        assert_eq!(world.dash(Op::Write), (Dash::Done, 0));
        assert_eq!(world.bytes(), [world.framed(3, 4), world.framed(4, 4)]);

        // Longer than anybody stays awake for: it goes on as work.
        link(&["delay", "va", "40ms"]);
        for op in [Op::Read, Op::Write] {
            world.fill(5, 6);
            assert_eq!(world.dash(op), (Dash::UnderWay, 1));
            world.finish(Vec::new()).unwrap();
            let (there, here) = if op == Op::Read { (5, 5) } else { (6, 6) };
            assert_eq!(world.bytes(), [world.framed(5, there), world.framed(6, here)]);
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
        assert_eq!(world.bytes(), [world.framed(7, 7), world.framed(8, 8)]);
        world.lane.cancel(&mut |_| true, &mut back);
        assert_eq!(back.len(), 1, "nothing more to take back");
        while let Err(failure) = world.submit(Op::Write) {
            println!("not yet: {failure:?}");
        }
        assert_eq!(world.bytes(), [world.framed(7, 8), world.framed(8, 8)]);
    }
}

#[test]
#[ignore = "needs RDMA devices on two cables: scripts/rxe-vm --net pairs"]
fn what_was_inside_of_a_request_arrives_by_another_rail_when_its_own_is_lost() {
    let mut world = World::new(&["va", "vc"], &["vb", "vd"], SIZE);
    world.len = 64;
    world.connect(2);
    world.fill(1, 2);
    let ends = ["va", "vc"];
    ends.iter().for_each(|end| link(&["loss", end, "100%"]));
    assert_eq!(world.dash(Op::Write), (Dash::UnderWay, 1));
    let before = lost();
    let has_it = |slot: &mut Slot| slot.rail().is_some_and(|rail| rail.backlog() > 0);
    let lossy = world.lane.links[0].slots.iter_mut().position(has_it).unwrap();
    link(&["clear", ends[1 - lossy]]);
    world.finish(Vec::new()).unwrap();
    assert_eq!(world.bytes(), [world.framed(1, 2), world.framed(2, 2)]);
    assert_eq!(lost(), before + 1, "its device gave it up");
    link(&["clear", ends[lossy]]);
}

#[test]
#[ignore = "needs an RDMA device: scripts/rxe-vm"]
fn a_stale_key_moves_nothing_and_is_asked_for_anew() {
    let mut world = world();
    for (len, op) in [(4096, Op::Write), (64, Op::Write), (4096, Op::Read)] {
        world.len = len;
        world.connect(1);
        world.submit(op).unwrap();
        world.fill(1, 2);
        for known in world.lane.links[0].keys.values_mut() {
            let Known::Granted(grant) = known else { panic!("the key is known") };
            grant.keys.iter_mut().flatten().for_each(|key| *key ^= 0x0012_3400);
        }
        let before = lost();
        assert_eq!(world.dash(op), (Dash::Refused, 0), "{op} of {len}");
        assert_eq!(lost(), before + 1, "a device refused it");
        let [there, here] = world.bytes();
        assert_eq!(there, world.framed(1, 1), "{op} of {len}");
        assert!(op == Op::Read || here == world.framed(2, 2));
        world.submit(op).unwrap();
        let moved = if op == Op::Read { 1 } else { 2 };
        assert_eq!(world.bytes(), [world.framed(1, moved), world.framed(2, moved)], "{op} of {len}");
        assert_eq!(world.dash(op), (Dash::Done, 0));
    }
}

#[test]
#[ignore = "needs an RDMA device: scripts/rxe-vm"]
fn a_segment_that_was_withdrawn_is_not_asked_for_with_its_old_key() {
    let mut world = world();
    world.submit(Op::Write).unwrap();
    assert_eq!(world.dash(Op::Write), (Dash::Done, 0));
    world.fill(1, 2);
    let (before, begun) = (lost(), Instant::now());
    assert!(world.server.withdraw(world.segment.id()));
    // The news lies in the socket, where nobody has looked for a while.
    let told = |world: &mut World| world.lane.links[0].slots[0].rail().unwrap().control.peek(&mut [0]).is_ok();
    while !told(&mut world) || world.lane.looked.elapsed() < QUIET {
        assert!(begun.elapsed() < LONG, "the withdrawal is not told");
    }
    assert_eq!(world.dash(Op::Write), (Dash::Refused, 0));
    assert_eq!(world.submit(Op::Write).unwrap_err().kind, TransferErrorKind::UnknownSegment);
    assert_eq!(world.bytes()[0], world.framed(1, 1));
    world.lend();
    world.submit(Op::Write).unwrap();
    assert_eq!(world.dash(Op::Write), (Dash::Done, 0));
    assert_eq!((world.bytes()[0].clone(), lost()), (world.framed(1, 2), before), "and the rail is kept");
}
