//! The rules about copies of objects, which jobs make and give up.

use super::memory::{Condition, Memory, Owner};
use super::oracle::{Check, Key};
use perilune_protocol::ReplicaPlace;

/// So long after a node lost its memory nobody may know it: as long as a master may be stopped between a decision and its commit.
const UNNOTICED_MS: u64 = 20_000;

/// One object, looked at when its copies change.
pub(super) struct Copies<'a> {
    pub(super) key: &'a Key,
    pub(super) owner: Owner,
    pub(super) now: u64,
    pub(super) memory: &'a Memory,
}

impl Copies<'_> {
    fn look(&self, place: &ReplicaPlace) -> Condition {
        self.memory.look(place, self.owner)
    }

    /// As far as anybody can know without comparing bytes.
    fn seems_good(&self, place: &ReplicaPlace) -> bool {
        match self.look(place) {
            Condition::Right | Condition::Rotten => true,
            Condition::Wrong(_) => false,
            Condition::Gone(at) => self.now < at + UNNOTICED_MS,
        }
    }

    /// "a copy is committed when it is right": it was written to the end, and compared.
    pub(super) fn came(&self, place: &ReplicaPlace) -> Check {
        match self.look(place) {
            Condition::Wrong(whose) => {
                let what = format!("{} {}: the copy at {place:?} is committed and holds bytes of {whose:?}", self.key, self.owner.1);
                Err(("a copy is committed when it is right", what))
            }
            Condition::Right | Condition::Rotten | Condition::Gone(_) => Ok(()),
        }
    }

    /// "no job loses a good copy": those that stay are as many as were wanted, or as there were, unless what went was bad.
    pub(super) fn changed(&self, before: &[ReplicaPlace], after: &[ReplicaPlace], gone: &[ReplicaPlace], wanted: u8) -> Check {
        let good = |places: &[ReplicaPlace]| places.iter().filter(|place| self.seems_good(place)).count();
        let took_good = gone.iter().any(|place| self.look(place) == Condition::Right);
        let (before, after) = (good(before), good(after));
        if !took_good || after >= before.min(usize::from(wanted)) {
            return Ok(());
        }
        let what = format!("{} {}: {before} good copies were {after} after {gone:?} went; {wanted} were wanted", self.key, self.owner.1);
        Err(("no job loses a good copy", what))
    }

    /// "what can be read is not removed" by a job.
    pub(super) fn removed(&self, places: &[ReplicaPlace]) -> Check {
        match places.iter().find(|place| self.look(place) == Condition::Right) {
            None => Ok(()),
            Some(good) => {
                let what = format!("{} {} was given up, and its copy at {good:?} is right", self.key, self.owner.1);
                Err(("what can be read is not removed", what))
            }
        }
    }
}
