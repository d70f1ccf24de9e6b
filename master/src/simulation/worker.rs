//! The store node as it works on copies: fetches, writes and compares them.

use super::memory::{Run, sum_found};
use super::node::{NODES, Node};
use super::orders::Trade;
use super::world::World;
use perilune_protocol::rpc::work::{TakeWork, WorkDone, WorkOrder, WorkOutcome};
use perilune_protocol::{NodeId, ReplicaPlace};
use std::rc::Rc;
use std::time::Duration;

/// Connections that ask for work on copies.
pub(super) const WORK: u64 = NODES * 2;

/// Fetches, writes and compares copies.
pub(super) struct Copying;

impl Trade for Copying {
    type Order = WorkOrder;
    type Done = WorkDone;
    type Question = TakeWork;
    const HANDS: usize = 4;
    const CALLER: u64 = WORK;
    const PAUSE_MS: u64 = 20;
    const UNTOLD: u64 = 30;

    fn question(node: NodeId, done: Vec<WorkDone>, room: u32, wait_ms: u64) -> TakeWork {
        TakeWork { node, done, room, wait_ms }
    }

    fn told(question: TakeWork) -> Vec<WorkDone> {
        question.done
    }

    async fn carry_out(node: &Node, world: &Rc<World>, order: &WorkOrder, asked: u64) -> WorkDone {
        let hand = Hand { node, world, life: node.life.get(), until: asked + order.limit_ms, slow: world.per_mille(80) };
        world.note("order", || {
            format!("{} for {}: {} from {:?}", order.id, node.id, told(&order.place), order.source.as_ref().map(|s| s.segment.id))
        });
        WorkDone { id: order.id, outcome: hand.work(order).await.unwrap_or_else(|stopped| stopped) }
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
