//! What goes wrong, each kind drawn from the seed and to be switched off by name.

use super::disk::Moods;
use super::feeds;
use super::master::{Master, start};
use super::node::Node;
use super::operator;
use super::steward;
use super::vaults::{self, Mood};
use super::world::{Ways, World};
use crate::log::Durability;
use perilune_protocol::{Extent, ReplicaPlace};
use std::rc::Rc;
use std::time::Duration;

/// A kind of fault, and its name.
pub const FAULTS: [(&str, &str); 35] = [
    ("crash", "a master's process ends and begins again"),
    ("power", "a master loses power: what was not synced is gone or torn; with fsync before every answer only"),
    ("pause", "a master's process is stopped for a while"),
    ("partition", "members are cut off from each other, both ways"),
    ("one-way", "a member hears the others and is not heard, or the other way"),
    ("lossy", "messages are dropped, doubled, delayed and overtaken"),
    ("strand", "a master is cut off from callers, or some callers from all masters but one"),
    ("hand-over", "a master gives the lead away"),
    ("clock", "a master's wall clock jumps"),
    ("slow-disk", "syncs take long, and the log waits for them"),
    ("failing-disk", "a sync fails"),
    ("full-disk", "not a byte more can be written for a while"),
    ("lying-disk", "syncs do nothing, until the power goes; only what does not depend on it is checked afterwards"),
    ("node-restart", "a store node restarts and finds its memory"),
    ("node-loss", "a store node comes back with empty memory"),
    ("drain", "a segment drains, for a shorter or longer time"),
    ("unmount", "a segment is unmounted at once"),
    ("rot", "a byte of one copy changes by itself"),
    ("switch", "a job is switched on or off, or all are told another pace"),
    ("join", "a master is added, and votes when it keeps up"),
    ("remove", "a master is removed; one that leads hands the lead over first"),
    ("transfer", "the lead is handed to a certain master"),
    ("tenant", "a tenant is limited, or is over its budget for a while"),
    ("drop", "a tenant is dropped, and another takes its place"),
    ("pool", "a pool falls asleep and is woken"),
    ("table", "a table is declared or dropped"),
    ("abort", "a put of somebody is ended by somebody else"),
    ("offload", "all of a tenant is to be brought to its vault"),
    ("checkpoint", "a checkpoint is asked for"),
    ("vault", "a vault is slow, away, refuses everything, or answers some requests only"),
    ("vault-cut", "a store node reaches no vault"),
    ("vault-loss", "a vault loses one of its uploads"),
    ("feed", "a changefeed is made, paused, resumed from where it was or from an earlier stamp, or dropped"),
    ("sink", "the sink of a changefeed is away, refuses everything, or answers some requests only"),
    ("all-down", "every master's process ends at once"),
];

/// Until the time is over; each fault is put right by itself after a while.
pub(super) async fn run(world: &Rc<World>, nodes: &[Rc<Node>]) {
    let mut kinds: Vec<&str> = FAULTS.iter().map(|(name, _)| *name).filter(|name| world.options.allows(name)).collect();
    if world.options.cold {
        // What has most to leave behind, and what has to be done more than twice in a run.
        let more = [["drop"; 4], ["checkpoint"; 4]];
        kinds.extend(more.as_flattened().iter().filter(|name| world.options.allows(name)));
    }
    while world.now() < world.options.length_ms && !world.is_over() {
        tokio::time::sleep(Duration::from_millis(world.range(50, 3000))).await;
        if kinds.is_empty() || world.per_mille(100) {
            continue;
        }
        let kind = world.draw.borrow_mut().pick(&kinds);
        one(world, nodes, kind);
    }
}

fn one(world: &Rc<World>, nodes: &[Rc<Node>], kind: &'static str) {
    let longest = if world.per_mille(150) { 15_000 } else { 4000 };
    let (masters, lasts) = (world.members(), world.range(200, longest));
    let id = masters[world.below(masters.len() as u64) as usize];
    let others = || masters.iter().copied().filter(move |other| *other != id);
    world.note("fault", || format!("{kind}, master {id}, {lasts} ms"));
    match kind {
        "crash" => crash(world, id, false, lasts),
        "power" => {
            if world.options.durability == Durability::QuorumFsync {
                crash(world, id, true, lasts);
            }
        }
        "all-down" => {
            let power = world.options.durability == Durability::QuorumFsync && world.per_mille(500);
            masters.iter().for_each(|id| crash(world, *id, power, world.range(10, 1000)));
        }
        "pause" => with(world, id, |master| master.paused_until = world.now() + lasts),
        "partition" => cut(world, others().flat_map(|other| [(id, other), (other, id)]).collect(), lasts),
        "one-way" => {
            let hears = world.per_mille(500);
            cut(world, others().map(|other| if hears { (id, other) } else { (other, id) }).collect(), lasts);
        }
        "strand" => {
            let callers: Vec<u64> = world.options.callers().filter(|_| world.per_mille(600)).collect();
            let away: Vec<u64> = if world.per_mille(500) { vec![id] } else { others().collect() };
            cut(world, callers.iter().flat_map(|c| away.iter().flat_map(|m| [(*c, *m), (*m, *c)])).collect(), lasts);
        }
        "lossy" => {
            let draw = |most| if world.per_mille(500) { world.below(most) } else { 0 };
            world.ways.set(Ways { dropped: draw(100), doubled: draw(100), overtaken: draw(200), delayed: draw(100) });
            world.after(lasts * 2, |world| world.ways.set(Ways::default()));
        }
        "hand-over" => masters.iter().for_each(|id| with(world, *id, |master| master.hand_over())),
        "clock" => {
            let by = world.range(0, 40_000) as i64 - 20_000;
            with(world, id, |master| {
                let ahead_ms = &mut world.oracle.borrow_mut().counts.ahead_ms;
                *ahead_ms = (*ahead_ms).max(master.jump(by));
            });
        }
        "slow-disk" => mood(world, id, lasts, |moods| moods.slow_ms = 120),
        "failing-disk" => mood(world, id, lasts, |moods| moods.failing = 1),
        "full-disk" => mood(world, id, lasts, |moods| moods.full = true),
        "lying-disk" => {
            // Seldom, since little can be checked afterwards.
            if world.per_mille(60) && world.options.durability == Durability::QuorumFsync {
                world.oracle.borrow_mut().lenient = true;
                with(world, id, |master| master.disk.moods(|moods| moods.lying = true));
                world.after(lasts, move |world| {
                    with(world, id, |master| master.disk.moods(|moods| moods.lying = false));
                    crash(world, id, true, 500);
                });
            }
        }
        "rot" => {
            let copy = world.oracle.borrow_mut().some_copy(world.number());
            if let Some(ReplicaPlace { segment, extents }) = copy {
                let Extent { offset, len } = extents[world.below(extents.len() as u64) as usize];
                world.memory.borrow_mut().rot(segment, offset + world.below(len));
            }
        }
        "tenant" | "drop" | "pool" | "table" | "abort" | "offload" | "checkpoint" => steward::acts(world, kind, lasts),
        "feed" => feeds::acts(world, lasts),
        "sink" => feeds::ails(world, lasts),
        "vault" => {
            let mood = world.draw.borrow_mut().pick(&[Mood::Slow, Mood::Away, Mood::Refusing, Mood::Failing]);
            let place = world.below(world.options.tenants) as usize;
            if let Some(bucket) = world.name_at(place) {
                vaults::lock(&world.buckets).set(&bucket, mood);
                world.after(lasts, move |world| vaults::lock(&world.buckets).set(&bucket, Mood::Well));
            }
        }
        "vault-cut" => {
            let node = nodes[world.below(nodes.len() as u64) as usize].id;
            world.cut_off.borrow_mut().insert(node);
            world.after(lasts, move |world| {
                world.cut_off.borrow_mut().remove(&node);
            });
        }
        "vault-loss" => drop(vaults::lock(&world.buckets).lose_one(world.number())),
        "drain" | "unmount" | "switch" | "join" | "remove" | "transfer" => operator::acts(world, kind, id),
        _ => {
            let node = &nodes[world.below(nodes.len() as u64) as usize];
            if node.is_up(world) {
                node.stop(world, kind == "node-restart");
                let node = Rc::clone(node);
                world.after(lasts, move |world| node.start(world));
            }
        }
    }
}

fn with(world: &World, id: u64, act: impl FnOnce(&mut Master)) {
    if let Some(master) = world.masters.borrow_mut().get_mut(&id) {
        act(master);
    }
}

/// Whoever leads ends, and begins again.
pub(super) fn behead(world: &Rc<World>, for_ms: u64) {
    let leads = |(id, master): (&u64, &Master)| master.up.as_ref().is_some_and(|up| up.throne.served().0.leads()).then_some(*id);
    let leader = world.masters.borrow().iter().find_map(leads);
    leader.into_iter().for_each(|id| crash(world, id, false, for_ms));
}

fn crash(world: &Rc<World>, id: u64, power: bool, for_ms: u64) {
    with(world, id, |master| master.end(world, power));
    world.after(for_ms, move |world| start(world, id));
}

fn cut(world: &Rc<World>, ways: Vec<(u64, u64)>, for_ms: u64) {
    world.cut.borrow_mut().extend(ways.iter().copied());
    world.after(for_ms, move |world| world.cut.borrow_mut().retain(|way| !ways.contains(way)));
}

fn mood(world: &Rc<World>, id: u64, for_ms: u64, set: impl FnOnce(&mut Moods)) {
    with(world, id, |master| master.disk.moods(set));
    world.after(for_ms, move |world| {
        with(world, id, |master| master.disk.moods(|moods| *moods = Moods { lying: moods.lying, ..Moods::default() }))
    });
}

/// Everything is put right at once.
pub(super) fn heal(world: &Rc<World>, nodes: &[Rc<Node>]) {
    world.note("healed", String::new);
    world.cut.borrow_mut().clear();
    world.cut_off.borrow_mut().clear();
    vaults::lock(&world.buckets).heal();
    world.ways.set(Ways::default());
    for id in world.members() {
        with(world, id, |master| {
            master.disk.moods(|moods| *moods = Moods::default());
            master.paused_until = 0;
        });
        start(world, id);
    }
    nodes.iter().filter(|node| !node.is_up(world)).for_each(|node| node.start(world));
}
