//! The store node as it brings values to vaults and back.

use super::memory::{sum_found, sum_of};
use super::node::{NODES, Node};
use super::rpc::{ask, is_elsewhere};
use super::vaults::{Mood, lock};
use super::worker::Hand;
use super::world::World;
use perilune_protocol::ReplicaPlace;
use perilune_protocol::rpc::cold::{ColdDone, ColdOrder, ColdOutcome, ColdWay, TakeCold};
use perilune_vault::{Class, VaultFault};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// Orders that a node has at a time.
const HANDS: usize = 8;
/// How long it lets itself be kept waiting.
const WAIT_MS: u64 = 300;
/// Connections that ask for orders have numbers this much above those of nodes.
pub(super) const COLD: u64 = NODES * 4;

#[derive(Default)]
struct Bench {
    done: Vec<ColdDone>,
    under_way: usize,
}

/// Asks for orders as long as the process lives.
pub(super) async fn work(node: Rc<Node>, world: Rc<World>) {
    let (life, caller) = (node.life.get(), node.caller + COLD);
    let (mut leader, bench) = (world.range(1, world.options.masters), Rc::new(RefCell::new(Bench::default())));
    while node.life.get() == life && !world.done.get() {
        let (done, under_way) = {
            let mut bench = bench.borrow_mut();
            (std::mem::take(&mut bench.done), bench.under_way)
        };
        let (asked, wait_ms) = (world.now(), if under_way == 0 { WAIT_MS } else { 0 });
        let question = TakeCold { node: node.id, done, room: (HANDS - under_way.min(HANDS)) as u32, wait_ms };
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
        tokio::time::sleep(Duration::from_millis(if elsewhere { 50 } else { world.range(1, 40) })).await;
    }
}

async fn carry_out(node: Rc<Node>, world: Rc<World>, bench: Rc<RefCell<Bench>>, order: ColdOrder, asked: u64) {
    let life = node.life.get();
    world.hauls.set(world.hauls.get() + 1);
    let hand = Hand { node: &node, world: &world, life, until: asked + order.limit_ms, slow: world.per_mille(60) };
    world.note("cold order", || format!("{} for {}: {:?} {} {}", order.id, node.id, order.way, order.key, order.version.0));
    let outcome = bring(&hand, &order).await.unwrap_or_else(|stopped| stopped);
    // Some do it once more: a hand that heard of nothing.
    let outcome = if world.per_mille(30) { bring(&hand, &order).await.unwrap_or_else(|stopped| stopped) } else { outcome };
    world.hauls.set(world.hauls.get() - 1);
    if node.life.get() != life {
        return;
    }
    world.note("cold ended", || format!("{}: {outcome:?}", order.id));
    let mut bench = bench.borrow_mut();
    bench.under_way -= 1;
    // What became of a few is never told.
    if !world.per_mille(20) {
        bench.done.push(ColdDone { id: order.id, outcome });
    }
}

async fn bring(hand: &Hand<'_>, order: &ColdOrder) -> Result<ColdOutcome, ColdOutcome> {
    let (world, node) = (hand.world, hand.node);
    let bucket = world.bucket(order.vault).ok_or_else(|| ColdOutcome::Failed("what opens the vault is not known".into()))?;
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
        ColdWay::Through { .. } => Err(ColdOutcome::Failed("nobody reads through a node here".into())),
    }
}

async fn write(hand: &Hand<'_>, order: &ColdOrder, value: Vec<super::memory::Run>) -> Result<(), ColdOutcome> {
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
        (Class::NoObject | Class::Damaged, ColdWay::Down) => ColdOutcome::Lost(message),
        (Class::Away, _) => ColdOutcome::Away(message),
        _ => ColdOutcome::Refused(message),
    }
}
