//! Copies in vaults: how they come and go, what of an object may leave memory because of one, and uploads that nothing refers to any more.

use crate::MonotonicMs;
use crate::apply::{Applied, State};
use crate::effect::{ColdCopy, Effect};
use crate::objects::{Few, Key, KeyRef, Object};
use crate::segments::Phase;
use crossbeam::queue::SegQueue;
use perilune_protocol::{ColdName, FaultCode, ObjectKey, TenantId, Tso};

/// So many are remembered; what is beyond is found by whoever compares the vault with the index.
const GARBAGE_MAX: usize = 1 << 20;

/// Uploads that nothing refers to any more. Soft: written by apply while it leads, and by those who upload; one worker takes them out.
#[derive(Default)]
pub struct Garbage {
    names: SegQueue<ColdCopy>,
}

impl Garbage {
    /// Nothing refers to this upload, nor will.
    pub fn add(&self, copy: ColdCopy) {
        if self.names.len() < GARBAGE_MAX {
            self.names.push(copy);
        }
    }

    /// The next one that can be deleted.
    pub fn take(&self) -> Option<ColdCopy> {
        self.names.pop()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

/// What becomes of a copy.
#[derive(Clone, Copy)]
pub(crate) enum ColdChange {
    /// It is the object's, in the place of this one if there is one.
    Came { from: Option<ColdName> },
    /// It is none.
    Lost,
}

impl State {
    /// The effect that makes an upload the copy of an object, in the place of the one that it has.
    pub fn saved(object: &Object, copy: ColdCopy) -> Effect {
        let Some(old) = &object.cold else { return Self::cold_copy(object, copy, true) };
        let key: &Key = &object.key;
        Effect::Moved { tenant: key.as_ref().tenant, key: key.to_object_key(), version: object.version, from: old.name, copy }
    }

    /// The effect that makes an upload a copy of an object (`there`), or says that it is none any more.
    pub fn cold_copy(object: &Object, copy: ColdCopy, there: bool) -> Effect {
        let key: &Key = &object.key;
        Effect::Cold { tenant: key.as_ref().tenant, key: key.to_object_key(), version: object.version, copy, there }
    }

    /// The effect by which an object that has a copy in a vault leaves memory. Nobody need be kept from reading it until then.
    pub fn demotion(object: &Object) -> Effect {
        let key: &Key = &object.key;
        Effect::Demote { tenant: key.as_ref().tenant, key: key.to_object_key(), version: object.version }
    }

    /// Apply: see [`Effect::Cold`] and [`Effect::Moved`].
    pub(crate) fn chill(
        &self,
        tenant: TenantId,
        key: &ObjectKey,
        version: Tso,
        copy: ColdCopy,
        change: ColdChange,
        now: MonotonicMs,
    ) -> Applied {
        let there = matches!(change, ColdChange::Came { .. });
        let Some(old) = self.index.get(KeyRef::new(tenant, key)).filter(|object| object.version == version) else {
            if there && self.is_leading() {
                self.garbage.add(copy);
            }
            return Applied::Refused(FaultCode::ObjectNotFound.with(format!("{key}: this version was removed or replaced")));
        };
        // The log orders both, so on every member the vault is known, or is not.
        if there && self.directory.known().vault(copy.vault).is_none() {
            return Applied::Refused(FaultCode::WrongState.with(format!("{key}: vault {} was dropped", copy.vault)));
        }
        let known = old.cold.as_ref().map(|cold| cold.name);
        match change {
            ColdChange::Came { .. } if known == Some(copy.name) => return Applied::Nothing,
            // Whoever was sent a snapshot from the middle of the log may know a later one.
            ColdChange::Came { from } if known.is_some() && known != from => {
                if self.is_leading() {
                    self.garbage.add(copy);
                }
                return Applied::Refused(FaultCode::ObjectExists.with(format!("{key}: it has a copy in a vault already")));
            }
            ColdChange::Lost if known != Some(copy.name) => return Applied::Nothing,
            _ => self.forsake(&old),
        }
        self.reform(&old, old.with(old.replicas.clone(), there.then(|| Box::new(copy))), &[], now);
        Applied::Done
    }

    /// Apply: see [`Effect::Demote`].
    pub(crate) fn demote(&self, tenant: TenantId, key: &ObjectKey, version: Tso, now: MonotonicMs) -> Applied {
        let Some(old) = self.index.get(KeyRef::new(tenant, key)).filter(|object| object.version == version) else {
            return Applied::Refused(FaultCode::ObjectNotFound.with(format!("{key}: this version was removed or replaced")));
        };
        if old.cold.is_none() {
            return Applied::Refused(FaultCode::WrongState.with(format!("{key}: it has no copy in a vault, so those in memory stay")));
        }
        if !old.replicas.is_empty() {
            self.reform(&old, old.with_replicas(Few::default()), &old.replicas, now);
        }
        // A member that began with a snapshot knows nothing of what lay on segments that are gone.
        if old.replicas.iter().all(|r| r.segment.phase() == Phase::Gone) {
            return Applied::Nothing;
        }
        Applied::Done
    }

    /// Apply: the copy that an object had in a vault is its copy no longer.
    pub(crate) fn forsake(&self, object: &Object) {
        if let Some(copy) = object.cold.as_ref().filter(|_| self.is_leading()) {
            self.garbage.add(ColdCopy::clone(copy));
        }
    }
}
