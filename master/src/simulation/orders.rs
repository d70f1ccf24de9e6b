//! The store node as it works for the master: asks for orders, has so many under way, tells what came of them twice or never.

use super::node::Node;
use super::rpc::{ask, is_elsewhere};
use super::world::World;
use perilune_protocol::rpc::Call;
use perilune_protocol::rpc::work::BeginRun;
use perilune_protocol::{NodeId, RunId};
use std::cell::RefCell;
use std::fmt::Debug;
use std::rc::Rc;
use std::time::Duration;
use uuid::Uuid;

/// How long it lets itself be kept waiting.
const WAIT_MS: u64 = 300;

/// A kind of orders.
pub(super) trait Trade: 'static {
    type Order;
    type Done: Debug;
    type Question: Call<Reply = Vec<Self::Order>>;
    /// Orders that a node has at a time.
    const HANDS: usize;
    /// Connections that ask for them have numbers this much above those of nodes.
    const CALLER: u64;
    /// The longest pause before it asks again, in milliseconds.
    const PAUSE_MS: u64;
    /// Of a thousand outcomes so many are never told.
    const UNTOLD: u64;

    fn question(node: NodeId, done: Vec<Self::Done>, room: u32, wait_ms: u64) -> Self::Question;

    /// What a question told.
    fn told(question: Self::Question) -> Vec<Self::Done>;

    /// Does what an answer asks for that was asked for at `asked`.
    async fn carry_out(node: &Node, world: &Rc<World>, order: &Self::Order, asked: u64) -> Self::Done;

    /// What became of an order is going to be told.
    fn tells(_: &World, _: &Self::Order, _: &Self::Done) {}
}

/// What was done, and how much is being done.
struct Bench<D> {
    done: Vec<D>,
    under_way: usize,
}

/// Asks for orders as long as the process lives.
pub(super) async fn work<T: Trade>(node: Rc<Node>, world: Rc<World>) {
    let (life, caller) = (node.life.get(), node.caller + T::CALLER);
    let (mut leader, bench) =
        (world.range(1, world.options.masters), Rc::new(RefCell::new(Bench::<T::Done> { done: Vec::new(), under_way: 0 })));
    let begin = BeginRun { node: node.id, run: RunId(Uuid::from_u64_pair(node.caller, life)) };
    let mut begun = false;
    while node.life.get() == life && !world.done.get() {
        if !begun {
            let answer = ask(&world, caller, leader, &begin).await;
            begun = answer.as_ref().is_some_and(|answer| answer.outcome.is_ok());
            if is_elsewhere(&answer) {
                leader = world.other_than(leader);
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        }
        let (done, under_way) = {
            let mut bench = bench.borrow_mut();
            (std::mem::take(&mut bench.done), bench.under_way)
        };
        let (asked, wait_ms) = (world.now(), if under_way == 0 { WAIT_MS } else { 0 });
        let question = T::question(node.id, done, (T::HANDS - under_way.min(T::HANDS)) as u32, wait_ms);
        let answer = ask(&world, caller, leader, &question).await;
        let elsewhere = is_elsewhere(&answer);
        // Another connection is another beginning.
        begun &= answer.is_some() && !elsewhere;
        match answer.and_then(|answer| answer.outcome.ok()) {
            Some(orders) => {
                // Some are told twice.
                if world.per_mille(50) {
                    bench.borrow_mut().done.extend(T::told(question));
                }
                for order in orders {
                    bench.borrow_mut().under_way += 1;
                    tokio::task::spawn_local(carry_out::<T>(Rc::clone(&node), Rc::clone(&world), Rc::clone(&bench), order, asked));
                }
            }
            None => {
                bench.borrow_mut().done.extend(T::told(question));
                if elsewhere {
                    leader = world.other_than(leader);
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(if elsewhere { 50 } else { world.range(1, T::PAUSE_MS) })).await;
    }
}

async fn carry_out<T: Trade>(node: Rc<Node>, world: Rc<World>, bench: Rc<RefCell<Bench<T::Done>>>, order: T::Order, asked: u64) {
    let life = node.life.get();
    let done = T::carry_out(&node, &world, &order, asked).await;
    if node.life.get() != life {
        return;
    }
    world.note("order ended", || format!("{done:?}"));
    let mut bench = bench.borrow_mut();
    bench.under_way -= 1;
    if !world.per_mille(T::UNTOLD) {
        T::tells(&world, &order, &done);
        bench.done.push(done);
    }
}
