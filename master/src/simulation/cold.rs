//! The store node as it brings values to vaults and back.

use super::memory::{Run, sum_found, sum_of};
use super::node::{NODES, Node};
use super::orders::Trade;
use super::vaults::{Mood, lock};
use super::worker::Hand;
use super::world::World;
use perilune_protocol::rpc::cold::{ColdDone, ColdOrder, ColdOutcome, ColdWay, Passed, TakeCold};
use perilune_protocol::{Extent, NodeId, ReplicaPlace};
use perilune_vault::{Class, VaultFault};
use std::rc::Rc;
use std::time::Duration;

/// Connections that ask for work on vaults.
pub(super) const COLD: u64 = NODES * 4;

/// Uploads and fetches values.
pub(super) struct Hauling;

impl Trade for Hauling {
    type Order = ColdOrder;
    type Done = ColdDone;
    type Question = TakeCold;
    const HANDS: usize = 8;
    const CALLER: u64 = COLD;
    const PAUSE_MS: u64 = 40;
    const UNTOLD: u64 = 20;

    fn question(node: NodeId, done: Vec<ColdDone>, room: u32, wait_ms: u64) -> TakeCold {
        TakeCold { node, done, room, wait_ms }
    }

    fn told(question: TakeCold) -> Vec<ColdDone> {
        question.done
    }

    async fn carry_out(node: &Node, world: &Rc<World>, order: &ColdOrder, asked: u64) -> ColdDone {
        world.hauls.set(world.hauls.get() + 1);
        let hand = Hand { node, world, life: node.life.get(), until: asked + order.limit_ms, slow: world.per_mille(60) };
        world.note("cold order", || format!("{} for {}: {:?} {} {}", order.id, node.id, order.way, order.key, order.version.0));
        let outcome = bring(&hand, order).await.unwrap_or_else(|stopped| stopped);
        // Some do it once more: a hand that heard of nothing.
        let outcome = if world.per_mille(30) { bring(&hand, order).await.unwrap_or_else(|stopped| stopped) } else { outcome };
        world.hauls.set(world.hauls.get() - 1);
        ColdDone { id: order.id, outcome }
    }

    fn tells(world: &World, order: &ColdOrder, done: &ColdDone) {
        if order.way == ColdWay::Up && matches!(done.outcome, ColdOutcome::Done { .. }) {
            lock(&world.buckets).reported.insert(order.name);
        }
    }
}

async fn bring(hand: &Hand<'_>, order: &ColdOrder) -> Result<ColdOutcome, ColdOutcome> {
    let (world, node) = (hand.world, hand.node);
    let bucket = open(hand, order).await?;
    match order.way {
        ColdWay::Up => {
            let value = hand.read(&order.place, node.id).await.map_err(ColdOutcome::Failed)?;
            if sum_found(&value) != order.checksum {
                return Err(ColdOutcome::Wrong("the bytes are others".into()));
            }
            request(hand, &bucket).await?;
            lock(&world.buckets).upload(&bucket, order.name, value).map_err(|fault| told(fault, order.way))?;
            // The node may end before it hears the answer, or the way back is cut.
            hand.piece().await.map_err(ColdOutcome::Away)?;
            Ok(ColdOutcome::Done { stored: order.size })
        }
        ColdWay::Down => {
            request(hand, &bucket).await?;
            let value = lock(&world.buckets).fetch(&bucket, order.name).map_err(|fault| told(fault, order.way))?;
            if sum_found(&value) != order.checksum {
                return Err(ColdOutcome::Lost("altered".into()));
            }
            write(hand, order, value).await?;
            let found = hand.read(&order.place, node.id).await.map_err(ColdOutcome::Failed)?;
            if sum_found(&found) != sum_of((super::client::number(&order.key), order.version.0)) {
                return Err(ColdOutcome::Wrong("what was written is not there".into()));
            }
            Ok(ColdOutcome::Done { stored: 0 })
        }
        ColdWay::Through { .. } => {
            request(hand, &bucket).await?;
            let value = lock(&world.buckets).fetch(&bucket, order.name).map_err(|fault| told(fault, order.way))?;
            if sum_found(&value) != order.checksum {
                return Err(ColdOutcome::Lost("altered".into()));
            }
            let segment = node.lends().ok_or_else(|| ColdOutcome::Failed("it lends nothing".into()))?;
            let extent = Extent { offset: 0, len: order.size };
            Ok(ColdOutcome::Passed(Box::new(Passed { segment, extent, checksum: sum_found(&value), ticket: order.id })))
        }
    }
}

/// That a vault is the one it should be is looked at once in a process: whoever empties it later has to wait for what is on its way there.
async fn open(hand: &Hand<'_>, order: &ColdOrder) -> Result<String, ColdOutcome> {
    let (world, node) = (hand.world, hand.node);
    let bucket = world.bucket(order.vault).ok_or_else(|| ColdOutcome::Failed("what opens the vault is not known".into()))?;
    if !node.opened.borrow().contains(&order.vault) {
        request(hand, &bucket).await?;
        lock(&world.buckets).find_claim(&bucket).map_err(|fault| told(fault, ColdWay::Up))?;
        node.opened.borrow_mut().insert(order.vault);
    }
    Ok(bucket)
}

async fn write(hand: &Hand<'_>, order: &ColdOrder, value: Vec<Run>) -> Result<(), ColdOutcome> {
    let (world, place): (_, &ReplicaPlace) = (hand.world, &order.place);
    let writes = world.oracle.borrow_mut().begin_writing(format!("cold order {}", order.id), place, world.now(), hand.until);
    world.check(writes.as_ref().map(|_| ()).map_err(Clone::clone));
    hand.write(place, value).await.map_err(ColdOutcome::Failed)?;
    // Of one that failed nobody knows whether something of it is still on its way.
    world.oracle.borrow_mut().end_writing(writes.unwrap_or_default());
    Ok(())
}

/// A request is on its way to a bucket, unless the node is cut off from all of them.
async fn request(hand: &Hand<'_>, bucket: &str) -> Result<(), ColdOutcome> {
    let world = hand.world;
    let takes = if lock(&world.buckets).mood(bucket) == Mood::Slow { world.range(500, 8000) } else { world.range(1, 40) };
    tokio::time::sleep(Duration::from_millis(takes)).await;
    hand.piece().await.map_err(ColdOutcome::Away)?;
    if world.cut_off.borrow().contains(&hand.node.id) {
        return Err(ColdOutcome::Away("no way there".into()));
    }
    Ok(())
}

/// What a fault of a vault means for an order, as the node has it.
fn told(VaultFault { class, message }: VaultFault, way: ColdWay) -> ColdOutcome {
    match (class, way) {
        (Class::NoObject | Class::Damaged, ColdWay::Down | ColdWay::Through { .. }) => ColdOutcome::Lost(message),
        (Class::Away, _) => ColdOutcome::Away(message),
        _ => ColdOutcome::Refused(message),
    }
}
