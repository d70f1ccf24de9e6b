//! Lookups. Any number of threads, no lock, no log: what they change (leases, recency) is soft.

use crate::MonotonicMs;
use crate::apply::State;
use crate::effect::ObjectRecord;
use crate::objects::{KeyRef, Object};
use crate::segments::{Reach, Segment};
use perilune_protocol::{Fault, FaultCode, ObjectKey, ObjectPlace, TenantId};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Where an object was found.
enum Reached {
    /// In memory, where it is leased now.
    Memory(Arc<Object>),
    /// In a vault only.
    Vault(Arc<Object>),
}

impl State {
    /// Where objects are; leases each that is in memory. A place without copies is that of an object which has to be fetched from its vault
    /// first, as there is none in memory or only silent nodes have one. The i-th key of the batch counts as used before the (i+1)-th.
    pub fn locate(&self, tenant: TenantId, keys: &[ObjectKey], now: MonotonicMs) -> Vec<Result<ObjectPlace, Fault>> {
        let stamp = self.recency.stamps(keys.len());
        let lease = self.rules.lease_ms;
        keys.iter()
            .enumerate()
            .map(|(i, key)| match self.reach(tenant, key, now, stamp - i as u64) {
                Some(Reached::Memory(object)) => Ok(object.place(lease)),
                Some(Reached::Vault(object)) => Ok(object.cold_place()),
                None => Err(self.absent(tenant, key)),
            })
            .collect()
    }

    /// Whether objects can be read, from a vault at least; leases each that can be read from memory.
    pub fn exists(&self, tenant: TenantId, keys: &[ObjectKey], now: MonotonicMs) -> Vec<bool> {
        let stamp = self.recency.stamps(keys.len());
        keys.iter().enumerate().map(|(i, key)| self.reach(tenant, key, now, stamp - i as u64).is_some()).collect()
    }

    /// How many keys of a chain can be read, from a vault at least, from the head to the first that cannot; leases those in memory.
    pub fn match_prefix(&self, tenant: TenantId, keys: &[ObjectKey], now: MonotonicMs) -> u64 {
        let stamp = self.recency.stamps(keys.len());
        let found = keys.iter().enumerate().take_while(|(i, key)| self.reach(tenant, key, now, stamp - *i as u64).is_some());
        found.count() as u64
    }

    /// Where an object is in memory, without a lease and without counting as a use.
    pub fn peek(&self, tenant: TenantId, key: &ObjectKey) -> Result<ObjectPlace, Fault> {
        self.readable(KeyRef::new(tenant, key)).map(|object| object.place(0)).ok_or_else(|| self.absent(tenant, key))
    }

    /// What is recorded of an object, whether it can be read or not.
    pub fn record(&self, tenant: TenantId, key: &ObjectKey) -> Option<ObjectRecord> {
        self.index.get(KeyRef::new(tenant, key)).map(|object| Self::record_of(&object))
    }

    /// Visits the objects of a tenant that can be read, from a vault at least.
    pub fn for_each(&self, tenant: TenantId, visit: &mut dyn FnMut(&Arc<Object>) -> ControlFlow<()>) {
        self.index.for_each(&mut |object| {
            let ours = object.key.as_ref().tenant == tenant;
            let found = if ours { self.form(object.clone(), Object::reachable) } else { None };
            found.map_or(ControlFlow::Continue(()), |object| visit(&object))
        });
    }

    /// Finds an object that can be read, and leases it if that is in memory. One lookup: most questions are about keys that are not there.
    fn reach(&self, tenant: TenantId, key: &ObjectKey, now: MonotonicMs, stamp: u64) -> Option<Reached> {
        let mut object = self.index.get(KeyRef::new(tenant, key))?;
        while !(self.is_at_hand(&object) && object.grant(now + self.rules.lease_ms, stamp)) {
            match self.successor(&object) {
                Some(next) => object = next,
                None if object.is_condemned() || object.cold.is_none() => return None,
                None => return Some(Reached::Vault(object)),
            }
        }
        Some(Reached::Memory(object))
    }

    /// Whether an object is to be read from memory. What is in a vault as well is not, where all nodes that have it in memory have fallen silent
    /// and another of its tenant's has not, which can read the vault.
    pub fn is_at_hand(&self, object: &Object) -> bool {
        let mut there = object.replicas.iter().map(|replica| &replica.segment).filter(|segment| segment.readable());
        if object.cold.is_none() || there.clone().any(|segment| !self.is_silent(segment)) {
            return there.next().is_some();
        }
        let tenant = object.key.as_ref().tenant;
        there.next().is_some() && !self.segments.table().iter().any(|s| s.tenant() == tenant && s.reach() == Reach::Alive)
    }

    /// Whether its node was heard by this leader, and is not now. Those that are yet to say that they are there mostly do.
    fn is_silent(&self, segment: &Segment) -> bool {
        segment.reach() != Reach::Alive && self.nodes.knows(segment.node())
    }

    /// What took the place of an object while somebody looked at it: the next version, or itself with other copies.
    pub(crate) fn successor(&self, object: &Arc<Object>) -> Option<Arc<Object>> {
        // Whatever replaces an object is in the index before the object is condemned.
        if object.is_condemned() { self.index.get(object.key.as_ref()).filter(|next| !Arc::ptr_eq(next, object)) } else { None }
    }

    /// The object of a key, unless it is being removed.
    pub fn standing(&self, key: KeyRef<'_>) -> Option<Arc<Object>> {
        let mut object = self.index.get(key)?;
        while object.is_condemned() {
            object = self.successor(&object)?;
        }
        Some(object)
    }

    /// Whether another version stands where this one did, or has its copy in another vault.
    pub fn was_replaced(&self, object: &Object) -> bool {
        let name = |object: &Object| object.cold.as_ref().map(|copy| copy.name);
        let moved = |now: &Object| name(now).zip(name(object)).is_some_and(|(now, then)| now != then);
        self.standing(object.key.as_ref()).is_some_and(|now| now.version != object.version || moved(&now))
    }

    /// The object of a key, if it can be read from memory.
    pub(crate) fn readable(&self, key: KeyRef<'_>) -> Option<Arc<Object>> {
        self.form(self.index.get(key)?, Object::readable)
    }

    /// Whether there is an object that can be read, from a vault at least.
    pub(crate) fn reachable(&self, key: KeyRef<'_>) -> bool {
        self.index.get(key).and_then(|object| self.form(object, Object::reachable)).is_some()
    }

    /// The object of a key, if it has a copy in a vault.
    pub fn cold(&self, key: KeyRef<'_>) -> Option<Arc<Object>> {
        self.standing(key).filter(|object| object.cold.is_some())
    }

    fn form(&self, mut object: Arc<Object>, fits: fn(&Object) -> bool) -> Option<Arc<Object>> {
        while !fits(&object) {
            object = self.successor(&object)?;
        }
        Some(object)
    }

    /// Why an object cannot be read.
    pub(crate) fn absent(&self, tenant: TenantId, key: &ObjectKey) -> Fault {
        if let Err(fault) = key.check() {
            return fault;
        }
        let at = KeyRef::new(tenant, key);
        match self.standing(at) {
            Some(object) if object.cold.is_some() => {
                FaultCode::NoReadableReplica.with(format!("{key}: it is in its vault only, and has to be fetched first"))
            }
            Some(_) => {
                FaultCode::NoReadableReplica.with(format!("{key}: the nodes that hold its copies are lost; it returns when they do"))
            }
            _ if self.puts.get(at).is_some() => FaultCode::ObjectNotFound.with(format!("{key}: being put, not yet published")),
            _ => FaultCode::ObjectNotFound.with(format!("{key}: no such object")),
        }
    }
}
