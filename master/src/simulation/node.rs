//! A store node: lends segments, says that it lives, works for the master, dies with its memory or without.

use super::cold::{COLD, Hauling};
use super::orders;
use super::rpc::{ask, hang_up, is_elsewhere};
use super::worker::{Copying, WORK};
use super::world::World;
use perilune_protocol::rpc::segment::Mount;
use perilune_protocol::rpc::session::{Heartbeat, Register};
use perilune_protocol::{Capability, Endpoint, NodeId, Protocol, SegmentDesc, SegmentId, VaultId};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;
use uuid::Uuid;

/// Numbers of callers: nodes from here on, clients above.
pub(super) const NODES: u64 = 100;
/// Segments that a node lends.
const SEGMENTS: usize = 2;

/// A segment, and whether a master knew it once: then somebody may still be about to write there.
struct Lent {
    desc: SegmentDesc,
    announced: bool,
}

pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) caller: u64,
    /// Whose it is: that of the tenant that has this place when its process begins.
    pub(super) place: usize,
    segments: RefCell<Vec<Lent>>,
    /// Counts processes; what an earlier one was about to do is not done.
    pub(super) life: Cell<u64>,
    /// Vaults that its process has opened.
    pub(super) opened: RefCell<BTreeSet<VaultId>>,
    bytes: u64,
}

impl Node {
    pub(super) fn new(world: &World, number: u64) -> Rc<Self> {
        let node = Self {
            id: NodeId(Uuid::from_u128(u128::from(NODES + number))),
            caller: NODES + number,
            place: (number % world.options.tenants) as usize,
            segments: RefCell::default(),
            life: Cell::new(0),
            opened: RefCell::default(),
            // What does not fit goes to vaults.
            bytes: if world.options.cold { world.range(4, 12) << 18 } else { world.range(2, 8) << 20 },
        };
        Rc::new(node)
    }

    /// Its process begins, with its memory as it was or, where there is none, with new memory.
    pub(super) fn start(self: &Rc<Self>, world: &Rc<World>) {
        world.note("node up", || format!("{}", self.id));
        world.nodes_up.borrow_mut().insert(self.id);
        let (node, its) = (Rc::clone(self), Rc::clone(world));
        tokio::task::spawn_local(async move { node.live(&its).await });
        tokio::task::spawn_local(orders::work::<Copying>(Rc::clone(self), Rc::clone(world)));
        tokio::task::spawn_local(orders::work::<Hauling>(Rc::clone(self), Rc::clone(world)));
    }

    /// What it presents where it is registered.
    pub(super) fn unique_id(&self, tenant: &str) -> String {
        format!("1:{tenant}:n{}", self.caller)
    }

    /// Waits for a tenant, and speaks for it from then on.
    async fn find_tenant(&self, world: &World, life: u64) {
        loop {
            let place = world.tenants.borrow()[self.place].clone();
            if let Some(name) = place.name {
                let unique_id = if place.pooled { self.unique_id(&name) } else { String::new() };
                return [0, WORK, COLD].into_iter().for_each(|more| world.speak(self.caller + more, &name, unique_id.clone()));
            }
            if self.life.get() != life || world.done.get() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Its process ends, and its memory with it unless that is kept.
    pub(super) fn stop(&self, world: &Rc<World>, keeps: bool) {
        world.note("node down", || format!("{}{}", self.id, if keeps { "" } else { ", its memory is lost" }));
        self.life.set(self.life.get() + 1);
        self.opened.borrow_mut().clear();
        world.nodes_up.borrow_mut().remove(&self.id);
        if !keeps {
            self.drop_segments(world, |_| true);
        }
        for caller in [self.caller, self.caller + WORK, self.caller + COLD] {
            world.members().into_iter().for_each(|master| hang_up(world, caller, master));
        }
    }

    /// Memory of it.
    pub(super) fn lends(&self) -> Option<SegmentDesc> {
        self.segments.borrow().first().map(|lent| lent.desc.clone())
    }

    pub(super) fn is_up(&self, world: &World) -> bool {
        world.nodes_up.borrow().contains(&self.id)
    }

    fn drop_segments(&self, world: &World, goes: impl Fn(&Lent) -> bool) {
        self.segments.borrow_mut().retain(|lent| {
            let stays = !goes(lent);
            if !stays {
                world.note("memory freed", || lent.desc.id.to_string());
                world.memory.borrow_mut().lose(lent.desc.id, world.now());
            }
            stays
        });
    }

    /// New memory in the place of what was given back.
    fn fill_up(&self, world: &World) {
        let mut segments = self.segments.borrow_mut();
        while segments.len() < SEGMENTS {
            let id = SegmentId(Uuid::from_u64_pair(world.number(), self.caller));
            world.memory.borrow_mut().lend(id, self.id);
            let desc = SegmentDesc {
                id,
                name: format!("node{}", self.caller),
                node: self.id,
                base: 0,
                size: self.bytes,
                protocol: Protocol::Tcp,
                location: String::new(),
                endpoints: vec![Endpoint::Tcp("127.0.0.1:2".into())],
                capability: Capability(1),
            };
            segments.push(Lent { desc, announced: false });
        }
    }

    async fn live(&self, world: &Rc<World>) {
        let (life, mut leader, mut registered) = (self.life.get(), world.range(1, world.options.masters), false);
        self.find_tenant(world, life).await;
        while self.life.get() == life && !world.done.get() {
            if !registered {
                registered = self.register(world, leader, life).await;
            }
            let heard = ask(world, self.caller, leader, &Heartbeat { node: self.id }).await;
            if is_elsewhere(&heard) {
                (leader, registered) = (world.other_than(leader), false);
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            if let Some(reply) = heard.and_then(|answer| answer.outcome.ok()).filter(|_| self.life.get() == life) {
                registered &= !reply.register && reply.release.is_empty();
                self.drop_segments(world, |lent| reply.release.contains(&lent.desc.id));
            } else {
                registered = false;
            }
            tokio::time::sleep(Duration::from_millis(if registered { 300 } else { 20 })).await;
        }
    }

    async fn register(&self, world: &Rc<World>, leader: u64, life: u64) -> bool {
        self.fill_up(world);
        let segments: Vec<SegmentDesc> = self.segments.borrow().iter().map(|lent| lent.desc.clone()).collect();
        let question = Register { node: self.id, name: "node".into(), rest: String::new(), segments };
        let answer = ask(world, self.caller, leader, &question).await;
        let Some(registered) = answer.and_then(|answer| answer.outcome.ok()).filter(|_| self.life.get() == life) else { return false };
        let is_unknown = |lent: &Lent| registered.unknown.contains(&lent.desc.id);
        self.segments.borrow_mut().iter_mut().filter(|lent| !is_unknown(lent)).for_each(|lent| lent.announced = true);
        // Lent anew under another id: somebody may still be about to write under the old one.
        self.drop_segments(world, |lent| is_unknown(lent) && lent.announced);
        self.fill_up(world);
        let is_new = |lent: &&Lent| is_unknown(lent) && !lent.announced;
        let anew: Vec<SegmentDesc> = self.segments.borrow().iter().filter(is_new).map(|lent| lent.desc.clone()).collect();
        if anew.is_empty() {
            return self.segments.borrow().iter().all(|lent| lent.announced);
        }
        let mounted = ask(world, self.caller, leader, &Mount { segments: anew.clone() }).await.is_some_and(|answer| answer.outcome.is_ok());
        let is_mounted = |lent: &&mut Lent| mounted && anew.contains(&lent.desc);
        self.segments.borrow_mut().iter_mut().filter(is_mounted).for_each(|lent| lent.announced = true);
        mounted
    }
}
