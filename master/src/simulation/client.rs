//! A client: puts, reads where it was told to for as long as it was told to, removes; asks again elsewhere when nobody answers.

use super::memory::{Condition, Owner, sum_of};
use super::node::NODES;
use super::oracle::Key;
use super::rpc::{Answer, ask, is_elsewhere};
use super::steward;
use super::world::World;
use crate::engine::Engine;
use perilune_protocol::rpc::Call;
use perilune_protocol::rpc::cold::{Passed, ReadThrough, Recall};
use perilune_protocol::rpc::object::{Locate, PutEnd, PutGrant, PutRevoke, PutStart, Remove};
use perilune_protocol::{FaultCode, ObjectKey, ObjectPlace, Outcome, PutConfig, SegmentId, Tso, WriterId};
use perilune_state::objects::KeyRef;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use uuid::Uuid;

/// As the master says in its welcome.
const PUT_DEADLINE_MS: u64 = 3500;
/// How long a client tries.
const DEADLINE_MS: u64 = 8000;

pub(super) struct Client {
    world: Rc<World>,
    pub(super) caller: u64,
    /// Whose: that of the tenant which has this place when something is begun.
    place: usize,
    pub(super) leader: Cell<u64>,
    /// Puts so far: each is a writer of its own, as those of the client library are, and keeps its room only for its own bytes.
    puts: Cell<u64>,
}

/// What is said of where an object is.
pub(super) enum Found {
    /// There, and when that was asked.
    There(ObjectPlace, u64),
    /// In a vault, or on nodes that are away.
    Away,
    Nowhere,
}

/// What came of asking for what is in a vault only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recalled {
    /// It is in memory again.
    Back,
    /// It was read without a copy there.
    Through,
    Not,
}

impl Client {
    pub(super) fn new(world: &Rc<World>, number: u64, place: usize) -> Rc<Self> {
        Rc::new(Self {
            world: Rc::clone(world),
            caller: NODES * 2 + number,
            place,
            leader: Cell::new(world.range(1, world.options.masters)),
            puts: Cell::new(0),
        })
    }

    /// Begins something, for the tenant that there is at the moment.
    fn begin(&self, number: u64) -> Option<Key> {
        let name = self.world.name_at(self.place)?;
        let tenant = self.world.oracle.borrow().owners.named(&name)?;
        self.world.speak(self.caller, &name, String::new());
        Some(Key { tenant, key: key(number) })
    }

    /// Works until no more is begun.
    pub(super) async fn live(self: Rc<Self>) {
        let world = &self.world;
        while !world.closing.get() && !world.is_over() {
            tokio::time::sleep(Duration::from_millis(world.range(0, 150))).await;
            let key = world.below(world.options.keys);
            match world.below(100) {
                0..40 => drop(self.put(key).await),
                40..90 => Rc::clone(&self).get(key).await,
                _ => self.remove(key).await,
            }
        }
    }

    async fn ask<C: Call>(&self, question: &C, until: u64) -> Option<Answer<C::Reply>> {
        loop {
            let answer = ask(&self.world, self.caller, self.leader.get(), question).await;
            if !is_elsewhere(&answer) {
                return answer;
            }
            self.leader.set(self.world.other_than(self.leader.get()));
            if self.world.now() >= until || self.world.is_over() {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The version, if it was acknowledged.
    pub(super) async fn put(&self, number: u64) -> Option<Tso> {
        let (world, key) = (&self.world, self.begin(number)?);
        // The master counts from when it gives room, which is later.
        let asked = world.now();
        let config =
            PutConfig { replicas: world.range(1, 2) as u8, best_effort: true, upsert: world.per_mille(700), ..PutConfig::default() };
        let size = if world.per_mille(500) { world.range(1, 1500) << 10 } else { world.range(1, 5000) };
        self.puts.set(self.puts.get() + 1);
        let writer = WriterId(Uuid::from_u64_pair(self.caller, self.puts.get()));
        let question = PutStart { puts: vec![(key.key.clone(), size)], config, writer };
        let answer = self.ask(&question, asked + DEADLINE_MS).await?;
        let grant = answer.outcome.ok()?.pop()?.ok()?;
        let granted = world.oracle.borrow_mut().granted(asked, world.now(), self.caller, grant.version);
        world.check(granted);
        let granted = world.oracle.borrow().owners.granted(asked, &key, &grant.replicas);
        world.check(granted);
        world.remember_grant(key.tenant, grant.version);
        world.note("granted", || format!("{key} {} of {size} bytes to client {}: {:?}", grant.version.0, self.caller, grant.replicas));
        if !self.write(&key, number, &grant, asked).await {
            match world.below(10) {
                0..5 => drop(self.end(&PutRevoke { puts: vec![(key.key, grant.version)] }, grant.version, world.now() + 500).await),
                5..8 => drop(steward::abort(world, self, key.tenant, grant.version, true).await),
                _ => {}
            }
            return None;
        }
        let question = PutEnd { puts: vec![(key.key.clone(), grant.version, sum_of((number, grant.version.0)))] };
        self.end(&question, grant.version, asked + DEADLINE_MS).await?.ok()?;
        world.note("stored", || format!("{key} {}", grant.version.0));
        let stored = world.oracle.borrow_mut().stored(world.now(), &key, grant.version);
        world.check(stored);
        Some(grant.version)
    }

    /// Says that a put is over, one way or the other.
    async fn end<C: Call<Reply = Vec<Outcome<()>>>>(&self, question: &C, version: Tso, until: u64) -> Option<Outcome<()>> {
        let aborted = self.world.oracle.borrow().owners.is_aborted(version);
        let told = self.ask(question, until).await?.outcome.ok()?.pop()?;
        if aborted {
            let checked = self.world.oracle.borrow().owners.tells(version, &told);
            self.world.check(checked);
        }
        Some(told)
    }

    /// Every copy, piece by piece; not a byte after the deadline. False when something was not written.
    async fn write(&self, key: &Key, number: u64, grant: &PutGrant, asked: u64) -> bool {
        let world = &self.world;
        let mut writes = Vec::new();
        for replica in &grant.replicas {
            let begun = world.oracle.borrow_mut().begin_writing(
                format!("{key} {}", grant.version.0),
                replica,
                world.now(),
                asked + PUT_DEADLINE_MS,
            );
            writes.extend(begun.as_ref().ok());
            world.check(begun.map(|_| ()));
        }
        let written = self.write_all(key, number, grant, asked).await;
        // Of one that failed nobody knows whether something of it is still on its way.
        if written {
            writes.into_iter().for_each(|number| world.oracle.borrow_mut().end_writing(number));
        }
        written
    }

    async fn write_all(&self, key: &Key, number: u64, grant: &PutGrant, asked: u64) -> bool {
        let world = &self.world;
        let slow = world.per_mille(100);
        let owner: Owner = (number, grant.version.0);
        for replica in &grant.replicas {
            let mut at = 0;
            for extent in &replica.extents {
                let takes = if slow { world.range(0, 3000) } else { world.range(0, 10) };
                tokio::time::sleep(Duration::from_millis(takes)).await;
                // One that dies in the middle is never heard of again.
                if world.now() >= asked + PUT_DEADLINE_MS || world.per_mille(20) || !self.reaches(replica.segment) {
                    return false;
                }
                let allowed = world.oracle.borrow().writes(Some((key, grant.version)), replica.segment, *extent);
                world.check(allowed);
                world.memory.borrow_mut().write(replica.segment, *extent, owner, at);
                at += extent.len;
            }
        }
        true
    }

    fn reaches(&self, segment: SegmentId) -> bool {
        let node = self.world.memory.borrow().node(segment);
        node.is_some_and(|node| self.world.nodes_up.borrow().contains(&node))
    }

    /// What operators do. Whether it was done.
    pub(super) async fn order<C: Call>(&self, question: &C) -> Option<C::Reply> {
        self.ordered(question).await.map(|(reply, _)| reply)
    }

    /// The same, with the engine that did it.
    pub(super) async fn ordered<C: Call>(&self, question: &C) -> Option<(C::Reply, Engine)> {
        let Answer { outcome, engine } = self.ask(question, self.world.now() + DEADLINE_MS).await?;
        let done = outcome.inspect_err(|fault| self.world.note("refused", || format!("{}: {fault}", C::NAME)));
        Some((done.ok()?, engine))
    }

    async fn get(self: Rc<Self>, number: u64) {
        let found = match self.locate(number).await {
            Found::Away if self.recall(number).await == Recalled::Back => self.locate(number).await,
            found => found,
        };
        if let (Found::There(place, asked), Some(key)) = (found, self.begin(number)) {
            tokio::task::spawn_local(async move { self.remember(&key, number, &place, asked).await });
        }
    }

    /// Has it fetched from its vault; reads it through a node where memory has no room for it.
    pub(super) async fn recall(&self, number: u64) -> Recalled {
        let Some(key) = self.begin(number) else { return Recalled::Not };
        let question = Recall { keys: vec![key.key.clone()], wait_ms: 1000 };
        let answer = self.ask(&question, self.world.now() + DEADLINE_MS).await;
        let outcomes = answer.and_then(|answer| answer.outcome.ok());
        let outcome = outcomes.and_then(|mut outcomes| outcomes.pop());
        self.world.note("recalled", || format!("key{number} by client {}: {outcome:?}", self.caller));
        match outcome {
            Some(Ok(())) => Recalled::Back,
            Some(Err(fault)) if fault.code == FaultCode::NoSpace && self.read_through(&key, number).await => Recalled::Through,
            _ => Recalled::Not,
        }
    }

    async fn read_through(&self, key: &Key, number: u64) -> bool {
        let asked = self.world.now();
        let question = ReadThrough { key: key.key.clone(), offset: 0, len: Passed::BYTES_MAX, taken: 0, wait_ms: 1000 };
        let answer = self.ask(&question, asked + DEADLINE_MS).await;
        let Some(Ok(through)) = answer.map(|answer| answer.outcome) else { return false };
        let checked = self.world.oracle.borrow_mut().passed(asked, key, number, &through);
        self.world.check(checked);
        true
    }

    /// Reads at once, and again while the lease runs; a quarter of it is left for the read.
    async fn remember(&self, key: &Key, number: u64, place: &ObjectPlace, asked: u64) {
        let world = &self.world;
        while world.now() < asked + place.lease_ms * 3 / 4 && !world.is_over() {
            self.read(key, number, place);
            let next = world.range(1, 1500);
            tokio::time::sleep(Duration::from_millis(next)).await;
        }
    }

    /// Where it is, and when that was asked.
    pub(super) async fn locate(&self, number: u64) -> Found {
        self.try_locate(number).await.unwrap_or(Found::Nowhere)
    }

    async fn try_locate(&self, number: u64) -> Option<Found> {
        let (world, key) = (&self.world, self.begin(number)?);
        let question = Locate { keys: vec![key.key.clone()] };
        let until = world.now() + DEADLINE_MS;
        loop {
            // Each question counts from when it is asked itself.
            let asked = world.now();
            let answer = ask(world, self.caller, self.leader.get(), &question).await;
            if is_elsewhere(&answer) {
                self.leader.set(world.other_than(self.leader.get()));
                if world.now() >= until || world.is_over() {
                    return None;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            let Answer { outcome, engine } = answer?;
            return match outcome.ok()?.pop()? {
                Ok(place) => {
                    world.note("found", || format!("{key} {} by client {}", place.version.0, self.caller));
                    let found = world.oracle.borrow_mut().found(asked, &key, place.version);
                    world.check(found);
                    Some(if place.replicas.is_empty() { Found::Away } else { Found::There(place, asked) })
                }
                Err(fault) if fault.code == FaultCode::NoReadableReplica => Some(Found::Away),
                Err(fault) => {
                    if fault.code == FaultCode::ObjectNotFound {
                        let there = engine.state().index.get(KeyRef::new(key.tenant, &key.key));
                        let leaving = there.is_some_and(|object| object.is_condemned());
                        world.note("not found", || format!("{key} by client {}: {}", self.caller, fault.message));
                        let missed = world.oracle.borrow_mut().missed(asked, &key, leaving);
                        world.check(missed);
                    }
                    None
                }
            };
        }
    }

    /// One copy whose node is there; another where its bytes changed by themselves, which the checksum tells.
    pub(super) fn read(&self, key: &Key, number: u64, place: &ObjectPlace) -> bool {
        let world = &self.world;
        let mut reachable: Vec<_> = place.replicas.iter().filter(|replica| self.reaches(replica.segment)).collect();
        while !reachable.is_empty() {
            let replica = reachable.swap_remove(world.below(reachable.len() as u64) as usize);
            let found = world.memory.borrow().look(replica, (number, place.version.0));
            let read = world.oracle.borrow().read(key, place.version, replica, found);
            world.check(read);
            if found == Condition::Right {
                return true;
            }
        }
        false
    }

    async fn remove(&self, number: u64) {
        let world = &self.world;
        let Some(key) = self.begin(number) else { return };
        let question = Remove { keys: vec![key.key.clone()], force: world.per_mille(500) };
        let answer = self.ask(&question, world.now() + DEADLINE_MS).await;
        let removed = answer.and_then(|answer| answer.outcome.ok()).and_then(|mut outcomes| outcomes.pop());
        if matches!(removed, Some(Ok(()))) {
            world.note("removed", || format!("{key} by client {}", self.caller));
            world.oracle.borrow_mut().removed(world.now(), &key);
        }
    }
}

pub(super) fn key(number: u64) -> ObjectKey {
    format!("key{number}").as_str().into()
}

/// The number in a key.
pub(super) fn number(key: &ObjectKey) -> u64 {
    std::str::from_utf8(key.as_bytes()).ok().and_then(|text| text.strip_prefix("key")?.parse().ok()).unwrap_or(u64::MAX)
}
