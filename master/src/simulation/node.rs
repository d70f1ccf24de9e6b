//! A store node: lends segments, says that it lives, dies with its memory or without.

use super::rpc::{ask, hang_up, is_elsewhere};
use super::world::World;
use perilune_protocol::rpc::segment::Mount;
use perilune_protocol::rpc::session::{Heartbeat, Register};
use perilune_protocol::{Capability, Endpoint, NodeId, Protocol, SegmentDesc, SegmentId};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use uuid::Uuid;

/// Numbers of callers: nodes from here on, clients above.
pub(super) const NODES: u64 = 100;

pub(super) struct Node {
    id: NodeId,
    caller: u64,
    segments: RefCell<Vec<SegmentDesc>>,
    /// Counts processes; what an earlier one was about to do is not done.
    life: Cell<u64>,
    bytes: u64,
}

impl Node {
    pub(super) fn new(world: &World, number: u64) -> Rc<Self> {
        let node = Self {
            id: NodeId(Uuid::from_u128(u128::from(NODES + number))),
            caller: NODES + number,
            segments: RefCell::default(),
            life: Cell::new(0),
            bytes: world.range(2, 8) << 20,
        };
        Rc::new(node)
    }

    /// Its process begins, with its memory as it was or, where there is none, with new memory.
    pub(super) fn start(self: &Rc<Self>, world: &Rc<World>) {
        world.note("node up", || format!("{}", self.id));
        if self.segments.borrow().is_empty() {
            for _ in 0..2 {
                let id = SegmentId(Uuid::from_u64_pair(world.number(), self.caller));
                self.segments.borrow_mut().push(SegmentDesc {
                    id,
                    name: format!("node{}", self.caller),
                    node: self.id,
                    base: 0,
                    size: self.bytes,
                    protocol: Protocol::Tcp,
                    location: String::new(),
                    endpoints: vec![Endpoint::Tcp("127.0.0.1:2".into())],
                    capability: Capability(1),
                });
                world.memory.borrow_mut().lend(id, self.id);
            }
        }
        world.nodes_up.borrow_mut().insert(self.id);
        let (node, world) = (Rc::clone(self), Rc::clone(world));
        tokio::task::spawn_local(async move { node.live(&world).await });
    }

    /// Its process ends, and its memory with it unless that is kept.
    pub(super) fn stop(&self, world: &Rc<World>, keeps: bool) {
        world.note("node down", || format!("{}{}", self.id, if keeps { "" } else { ", its memory is lost" }));
        self.life.set(self.life.get() + 1);
        world.nodes_up.borrow_mut().remove(&self.id);
        if !keeps {
            self.segments.borrow_mut().clear();
            world.memory.borrow_mut().lose(self.id);
        }
        (1..=world.options.masters).for_each(|master| hang_up(world, self.caller, master));
    }

    pub(super) fn is_up(&self, world: &World) -> bool {
        world.nodes_up.borrow().contains(&self.id)
    }

    async fn live(&self, world: &Rc<World>) {
        let (life, mut leader, mut registered) = (self.life.get(), world.range(1, world.options.masters), false);
        while self.life.get() == life && !world.done.get() {
            if !registered {
                registered = self.register(world, leader, life).await;
            }
            let heard = ask(world, self.caller, leader, &Heartbeat { node: self.id }).await;
            if is_elsewhere(&heard) {
                (leader, registered) = (leader % world.options.masters + 1, false);
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            let reply = heard.and_then(|answer| answer.outcome.ok());
            registered &= reply.as_ref().is_some_and(|reply| !reply.register);
            tokio::time::sleep(Duration::from_millis(if registered { 300 } else { 20 })).await;
        }
    }

    async fn register(&self, world: &Rc<World>, leader: u64, life: u64) -> bool {
        let segments = self.segments.borrow().clone();
        let question = Register { node: self.id, name: "node".into(), rest: String::new(), segments: segments.clone() };
        let answer = ask(world, self.caller, leader, &question).await;
        let Some(registered) = answer.and_then(|answer| answer.outcome.ok()).filter(|_| self.life.get() == life) else { return false };
        let anew: Vec<SegmentDesc> = segments.into_iter().filter(|desc| registered.unknown.contains(&desc.id)).collect();
        if anew.is_empty() {
            return true;
        }
        ask(world, self.caller, leader, &Mount { segments: anew }).await.is_some_and(|answer| answer.outcome.is_ok())
    }
}
