//! The store node as it works for the master: takes orders, fetches, writes and compares copies, and tells what came of it.

use super::memory::{Run, sum_found};
use super::node::{NODES, Node};
use super::rpc::{ask, is_elsewhere};
use super::world::World;
use perilune_protocol::rpc::work::{TakeWork, WorkDone, WorkOrder, WorkOutcome};
use perilune_protocol::{NodeId, ReplicaPlace};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// Orders that a node has at a time.
const HANDS: usize = 4;
/// How long it lets itself be kept waiting, and waits before it asks again.
const WAIT_MS: u64 = 300;
/// Connections that ask for orders have numbers this much above those of nodes.
pub(super) const WORK: u64 = NODES * 2;

/// What was done, and how much is being done.
#[derive(Default)]
struct Bench {
    done: Vec<WorkDone>,
    under_way: usize,
}

/// Asks for orders as long as the process lives.
pub(super) async fn work(node: Rc<Node>, world: Rc<World>) {
    let (life, caller) = (node.life.get(), node.caller + WORK);
    let (mut leader, bench) = (world.range(1, world.options.masters), Rc::new(RefCell::new(Bench::default())));
    while node.life.get() == life && !world.done.get() {
        let (done, under_way) = {
            let mut bench = bench.borrow_mut();
            (std::mem::take(&mut bench.done), bench.under_way)
        };
        let (asked, wait_ms) = (world.now(), if under_way == 0 { WAIT_MS } else { 0 });
        let question = TakeWork { node: node.id, done, room: (HANDS - under_way.min(HANDS)) as u32, wait_ms };
        let answer = ask(&world, caller, leader, &question).await;
        let elsewhere = is_elsewhere(&answer);
        match answer.and_then(|answer| answer.outcome.ok()) {
            Some(orders) => {
                // Some are told twice.
                if world.per_mille(50) {
                    bench.borrow_mut().done.extend(question.done);
                }
                for order in orders {
                    bench.borrow_mut().under_way += 1;
                    tokio::task::spawn_local(carry_out(Rc::clone(&node), Rc::clone(&world), Rc::clone(&bench), order, asked));
                }
            }
            None => {
                bench.borrow_mut().done.extend(question.done);
                if elsewhere {
                    leader = world.other_than(leader);
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(if elsewhere { 50 } else { world.range(1, 20) })).await;
    }
}

async fn carry_out(node: Rc<Node>, world: Rc<World>, bench: Rc<RefCell<Bench>>, order: WorkOrder, asked: u64) {
    let outcome = {
        let life = node.life.get();
        let hand = Hand { node: &node, world: &world, life, until: asked + order.limit_ms, slow: world.per_mille(80) };
        world.note("order", || {
            format!("{} for {}: {} from {:?}", order.id, node.id, told(&order.place), order.source.as_ref().map(|s| s.segment.id))
        });
        let outcome = hand.work(&order).await.unwrap_or_else(|stopped| stopped);
        if node.life.get() != life {
            return;
        }
        outcome
    };
    world.note("order ended", || format!("{}: {outcome:?}", order.id));
    let mut bench = bench.borrow_mut();
    bench.under_way -= 1;
    // What became of a few is never told.
    if !world.per_mille(30) {
        bench.done.push(WorkDone { id: order.id, outcome });
    }
}

fn told(place: &ReplicaPlace) -> String {
    format!("{:?} of segment {}", place.extents, place.segment)
}

/// Whoever is at one order.
pub(super) struct Hand<'a> {
    pub(super) node: &'a Node,
    pub(super) world: &'a Rc<World>,
    pub(super) life: u64,
    pub(super) until: u64,
    pub(super) slow: bool,
}

impl Hand<'_> {
    async fn work(&self, order: &WorkOrder) -> Result<WorkOutcome, WorkOutcome> {
        let (world, place) = (self.world, &order.place);
        if let Some(source) = &order.source {
            let from = ReplicaPlace { segment: source.segment.id, extents: source.extents.clone() };
            let found = self.read(&from, source.segment.node).await.map_err(WorkOutcome::Unread)?;
            let writes = world.oracle.borrow_mut().begin_writing(format!("order {}", order.id), place, world.now(), self.until);
            world.check(writes.as_ref().map(|_| ()).map_err(Clone::clone));
            self.write(place, found).await.map_err(WorkOutcome::Failed)?;
            // Of one that failed nobody knows whether something of it is still on its way.
            world.oracle.borrow_mut().end_writing(writes.unwrap_or_default());
        }
        let found = sum_found(&self.read(place, self.node.id).await.map_err(WorkOutcome::Failed)?);
        Ok(if found == order.checksum { WorkOutcome::Right } else { WorkOutcome::Wrong { found } })
    }

    /// A piece takes its time; none is begun after the end of the order, or of the process.
    pub(super) async fn piece(&self) -> Result<(), String> {
        let takes = if self.slow { self.world.range(0, 3000) } else { self.world.range(0, 15) };
        tokio::time::sleep(Duration::from_millis(takes)).await;
        if self.world.now() >= self.until || self.node.life.get() != self.life {
            return Err("the time for it is over".into());
        }
        Ok(())
    }

    pub(super) async fn read(&self, place: &ReplicaPlace, lends: NodeId) -> Result<Vec<Run>, String> {
        let mut found = Vec::new();
        for extent in &place.extents {
            self.piece().await?;
            let there = self.world.nodes_up.borrow().contains(&lends);
            let runs = self.world.memory.borrow().read(place.segment, *extent).filter(|_| there);
            found.extend(runs.ok_or("it is not lent by anybody")?);
        }
        Ok(found)
    }

    pub(super) async fn write(&self, place: &ReplicaPlace, mut value: Vec<Run>) -> Result<(), String> {
        for extent in &place.extents {
            self.piece().await?;
            let allowed = self.world.oracle.borrow().writes(None, place.segment, *extent);
            self.world.check(allowed);
            let rest = Run::split(&mut value, extent.len);
            if !self.world.memory.borrow_mut().put(place.segment, extent.offset, &value) {
                return Err("the segment is not lent by this node".into());
            }
            value = rest;
        }
        Ok(())
    }
}
