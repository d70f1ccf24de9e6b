//! From member to member: messages, and snapshots in stretches.

use super::master::act;
use super::world::World;
use crate::log::loose::Parcel;
use std::cell::Cell;
use std::rc::Rc;

/// A message to another member.
pub(super) fn carry(world: &Rc<World>, from: u64, to: u64, bytes: Vec<u8>) {
    let doubled = world.per_mille(world.ways.get().doubled);
    let receiver = world.masters.borrow().get(&to).map_or(0, |m| m.life);
    for _ in 0..=u64::from(doubled) {
        match world.way(from, to) {
            Some(takes) => {
                let bytes = bytes.clone();
                world.after(takes, move |world| deliver(world, from, to, receiver, bytes));
            }
            None => {
                let life = world.masters.borrow().get(&from).map_or(0, |m| m.life);
                world.after(50, move |world| {
                    act(world, from, life, move |up, now| {
                        up.loose.unreachable(to);
                        up.loose.turn(now, false);
                    });
                });
            }
        }
    }
}

fn deliver(world: &Rc<World>, from: u64, to: u64, life: u64, bytes: Vec<u8>) {
    let again = Rc::clone(world);
    act(world, to, life, move |up, now| {
        if !up.loose.receive(from, &bytes) {
            again.check(Err(("defect", format!("master {to} could not read what master {from} sent"))));
        }
        up.loose.turn(now, false);
    });
}

/// The next stretch of a snapshot.
pub(super) fn stretch(world: &Rc<World>, from: u64, life: u64, mut parcel: Parcel) {
    let to = parcel.to;
    let there = world.masters.borrow().get(&from).is_some_and(|m| m.life == life && m.up.is_some());
    if !there {
        return;
    }
    let broken = Cell::new(true);
    if let Ok((bytes, ended)) = parcel.next()
        && let Some(takes) = world.way(from, to)
    {
        broken.set(false);
        let receiver = world.masters.borrow().get(&to).map_or(0, |m| m.life);
        world.after(takes, move |world| deliver(world, from, to, receiver, bytes));
        world.after(takes + 1, move |world| {
            if ended {
                world.oracle.borrow_mut().counts.snapshots += 1;
                world.note("snapshot", || format!("of master {from} to master {to}"));
                act(world, from, life, move |up, _| up.loose.snapshot_sent(to, true));
            } else {
                stretch(world, from, life, parcel);
            }
        });
    }
    if broken.get() {
        let receiver = world.masters.borrow().get(&to).map_or(0, |m| m.life);
        world.after(1, move |world| {
            act(world, to, receiver, move |up, _| up.loose.hung_up(from));
            act(world, from, life, move |up, _| up.loose.snapshot_sent(to, false));
        });
    }
}
