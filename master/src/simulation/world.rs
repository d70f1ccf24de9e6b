//! What everybody shares: the time, what is to happen when, the ways between members, and the record of what happened.

use super::Options;
use super::checkpoints;
use super::client::Client;
use super::disk::SimDisk;
use super::draw::Draw;
use super::master::Master;
use super::memory::Memory;
use super::node::Node;
use super::oracle::{Check, Oracle};
use super::steward::Place;
use super::vaults::{self, Shared};
use crate::log::loose::Scratch;
use perilune_protocol::{NodeId, TenantId, Tso, VaultId};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Something that was woken, and may go on once it is told.
type Woken = (Rc<Cell<bool>>, Waker);
type Event = Box<dyn FnOnce(&Rc<World>)>;

/// How the ways between two members, or between a caller and a member, treat what is sent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ways {
    /// Of a thousand messages.
    pub(super) dropped: u64,
    pub(super) doubled: u64,
    pub(super) overtaken: u64,
    pub(super) delayed: u64,
}

/// What a caller says of itself at the beginning of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Speaks {
    pub(super) tenant: String,
    pub(super) unique_id: String,
}

pub(super) struct World {
    pub(super) options: Options,
    pub(super) draw: RefCell<Draw>,
    pub(super) began: Instant,
    queue: RefCell<BTreeMap<(u64, u64), Event>>,
    order: Cell<u64>,
    nudged: Notify,
    /// Woken, by when they began.
    waiting: RefCell<BTreeMap<u64, Woken>>,
    pub(super) masters: RefCell<BTreeMap<u64, Master>>,
    pub(super) oracle: RefCell<Oracle>,
    pub(super) memory: RefCell<Memory>,
    pub(super) buckets: Shared,
    /// Nodes that reach no vault.
    pub(super) cut_off: RefCell<BTreeSet<NodeId>>,
    /// Orders about vaults that nodes are at.
    pub(super) hauls: Cell<u64>,
    pub(super) tenants: RefCell<Vec<Place>>,
    /// Stewards that are at something.
    pub(super) stewards: Cell<u64>,
    /// For whom callers speak.
    pub(super) speaks: RefCell<BTreeMap<u64, Speaks>>,
    /// Puts that were given room lately.
    pub(super) granted: RefCell<VecDeque<(TenantId, Tso)>>,
    pub(super) nodes: RefCell<Vec<Rc<Node>>>,
    /// Store nodes whose process is there.
    pub(super) nodes_up: RefCell<BTreeSet<NodeId>>,
    pub(super) ways: Cell<Ways>,
    /// From whom to whom nothing passes. Callers have numbers above those of members.
    pub(super) cut: RefCell<BTreeSet<(u64, u64)>>,
    /// When the last message from one to another arrives: the next comes behind it.
    pub(super) last: RefCell<BTreeMap<(u64, u64), u64>>,
    pub(super) root: PathBuf,
    pub(super) scratch: Arc<Scratch>,
    pub(super) sessions: Cell<u64>,
    /// No more work is begun.
    pub(super) closing: Cell<bool>,
    pub(super) done: Cell<bool>,
    pub(super) failed: RefCell<Option<(&'static str, String)>>,
    pub(super) hash: Cell<u64>,
    pub(super) events: Cell<u64>,
}

impl World {
    pub(super) fn new(options: Options, root: PathBuf) -> Result<Rc<Self>, String> {
        let mut draw = Draw::new(options.seed);
        let scratch = Scratch::open(Arc::new(SimDisk::new(0)), &root.join("scratch/raft")).map_err(|e| e.to_string())?;
        let (ways, buckets) = (Ways::default(), Shared::default());
        draw.number();
        Ok(Rc::new(Self {
            tenants: RefCell::new(vec![Place::default(); options.tenants as usize]),
            options,
            draw: RefCell::new(draw),
            began: Instant::now(),
            queue: RefCell::default(),
            order: Cell::new(0),
            nudged: Notify::new(),
            waiting: RefCell::default(),
            masters: RefCell::default(),
            oracle: RefCell::new(Oracle::new(Shared::clone(&buckets))),
            buckets,
            cut_off: RefCell::default(),
            hauls: Cell::new(0),
            stewards: Cell::new(0),
            speaks: RefCell::default(),
            granted: RefCell::default(),
            nodes: RefCell::default(),
            memory: RefCell::default(),
            nodes_up: RefCell::default(),
            ways: Cell::new(ways),
            cut: RefCell::default(),
            last: RefCell::default(),
            root,
            scratch: Arc::new(scratch),
            sessions: Cell::new(0),
            closing: Cell::new(false),
            done: Cell::new(false),
            failed: RefCell::new(None),
            hash: Cell::new(0xcbf2_9ce4_8422_2325),
            events: Cell::new(0),
        }))
    }

    /// Milliseconds since the run began.
    pub(super) fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    pub(super) fn number(&self) -> u64 {
        self.draw.borrow_mut().number()
    }

    pub(super) fn below(&self, bound: u64) -> u64 {
        self.draw.borrow_mut().below(bound)
    }

    pub(super) fn range(&self, low: u64, high: u64) -> u64 {
        self.draw.borrow_mut().range(low, high)
    }

    pub(super) fn per_mille(&self, chance: u64) -> bool {
        chance > 0 && self.draw.borrow_mut().per_mille(chance)
    }

    /// It happens in so many milliseconds, after all that happens by then.
    pub(super) fn after(&self, ms: u64, event: impl FnOnce(&Rc<Self>) + 'static) {
        let order = self.next();
        self.queue.borrow_mut().insert((self.now() + ms, order), Box::new(event));
        self.nudge();
    }

    /// The tenant at a place, if there is one.
    pub(super) fn name_at(&self, place: usize) -> Option<String> {
        self.tenants.borrow()[place].name.clone()
    }

    /// From here on this caller says so.
    pub(super) fn speak(&self, caller: u64, tenant: &str, unique_id: String) {
        self.speaks.borrow_mut().insert(caller, Speaks { tenant: tenant.into(), unique_id });
    }

    /// A put was given room.
    pub(super) fn remember_grant(&self, tenant: TenantId, version: Tso) {
        let mut granted = self.granted.borrow_mut();
        granted.push_back((tenant, version));
        if granted.len() > 8 {
            granted.pop_front();
        }
    }

    /// Somebody who looks after the tenant at a place.
    pub(super) fn steward(self: &Rc<Self>, place: usize) -> Rc<Client> {
        let steward = Client::new(self, self.options.clients + 2 + place as u64, place);
        if let Some(name) = self.name_at(place) {
            self.speak(steward.caller, &name, String::new());
        }
        steward
    }

    /// The bucket of a vault that was added.
    pub(super) fn bucket(&self, id: VaultId) -> Option<String> {
        let oracle = self.oracle.borrow();
        let mut vaults = oracle.vaults.values().flat_map(|all| &all.vaults);
        vaults.find(|vault| vault.id == id).map(|vault| vault.target.prefix().to_owned())
    }

    /// The masters there are.
    pub(super) fn members(&self) -> Vec<u64> {
        self.masters.borrow().keys().copied().collect()
    }

    /// Whom to ask where this one does not answer.
    pub(super) fn other_than(&self, master: u64) -> u64 {
        let masters = self.masters.borrow();
        let next = masters.range(master + 1..).next().or_else(|| masters.first_key_value());
        next.map_or(1, |(id, _)| *id)
    }

    /// A number that nobody had before.
    pub(super) fn next(&self) -> u64 {
        self.order.set(self.order.get() + 1);
        self.order.get()
    }

    /// Something that was woken goes on when all others that were have said so too.
    pub(super) fn wait_turn(&self, id: u64, granted: &Rc<Cell<bool>>, waker: &Waker) {
        self.waiting.borrow_mut().insert(id, (Rc::clone(granted), waker.clone()));
        self.nudge();
    }

    /// Those who wait go on, in order. Whether there were any.
    fn grant_turns(&self) -> bool {
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        for (granted, waker) in waiting.values() {
            granted.set(true);
            waker.wake_by_ref();
        }
        !waiting.is_empty()
    }

    /// Somebody may have asked for something.
    pub(super) fn nudge(&self) {
        self.nudged.notify_one();
    }

    /// Something happened: it enters the run's hash, and the trace if one is wanted.
    pub(super) fn note(&self, what: &str, say: impl FnOnce() -> String) {
        let words = what.bytes().map(u64::from).chain([self.now()]);
        let hash = words.fold(self.hash.get(), |hash, word| (hash ^ word).wrapping_mul(0x0100_0000_01b3));
        self.hash.set(hash);
        if self.options.trace {
            println!("{:>9} ms  {what:<12} {}", self.now(), say());
        }
    }

    /// Numbers that a repeated run must show as well.
    pub(super) fn mix(&self, number: u64) {
        self.hash.set((self.hash.get() ^ number).wrapping_mul(0x0100_0000_01b3));
    }

    /// The run ends at the first rule that is broken.
    pub(super) fn check(&self, outcome: Check) {
        if let Err((rule, what)) = outcome
            && self.failed.borrow().is_none()
        {
            self.note("BROKEN", || format!("{rule}: {what}"));
            *self.failed.borrow_mut() = Some((rule, what));
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.done.get() || self.failed.borrow().is_some()
    }

    /// How long a message from one to another takes, or nothing when it is lost.
    pub(super) fn way(&self, from: u64, to: u64) -> Option<u64> {
        let Ways { dropped, overtaken, delayed, .. } = self.ways.get();
        if self.cut.borrow().contains(&(from, to)) || self.per_mille(dropped) {
            return None;
        }
        let takes = if self.per_mille(delayed) { self.range(20, 400) } else { self.range(0, 3) };
        let mut last = self.last.borrow_mut();
        let behind = last.entry((from, to)).or_default();
        let at = self.now() + takes;
        if self.per_mille(overtaken) {
            return Some(takes);
        }
        *behind = at.max(*behind);
        Some(*behind - self.now())
    }

    /// What has come to the sinks of feeds is looked at.
    pub(super) fn hear_sinks(&self) {
        let arrived = std::mem::take(&mut vaults::lock(&self.buckets).arrived);
        for (bucket, path, body) in arrived {
            let checked = self.oracle.borrow_mut().arrived(&bucket, &path, &body);
            self.check(checked);
        }
    }

    /// Until it is over.
    pub(super) async fn run(self: &Rc<Self>) {
        while !self.is_over() {
            if let Some(what) = super::panicked() {
                return self.check(Err(("defect", what)));
            }
            if let Some(broken) = vaults::lock(&self.buckets).broken.take()
                && !self.oracle.borrow().lenient
            {
                return self.check(Err(broken));
            }
            // Whoever was told something says what it makes of it.
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            self.hear_sinks();
            checkpoints::hear(self);
            if self.grant_turns() {
                continue;
            }
            Master::hear_requests(self);
            let due = self.queue.borrow().first_key_value().map(|((at, _), _)| *at);
            let at = self.began + Duration::from_millis(due.unwrap_or(u64::from(u32::MAX)));
            if at > Instant::now() {
                tokio::select! {
                    biased;
                    () = self.nudged.notified() => {}
                    () = tokio::time::sleep_until(at) => {}
                }
                continue;
            }
            let next = self.queue.borrow_mut().pop_first();
            if let Some((_, event)) = next {
                self.mix(self.now());
                self.events.set(self.events.get() + 1);
                event(self);
            }
        }
    }
}
