//! The rules about copies in vaults.

use super::memory::Owner;
use super::oracle::{Check, Key};
use super::vaults::{Shared, lock};
use perilune_protocol::ColdName;

/// One object whose copy in a vault comes or goes.
pub(super) struct Chilled<'a> {
    pub(super) key: &'a Key,
    pub(super) owner: Owner,
    pub(super) buckets: &'a Shared,
}

impl Chilled<'_> {
    /// Whether it can be read there; what a bucket lost is nobody's fault.
    pub(super) fn is_there(&self, name: ColdName) -> bool {
        lock(self.buckets).has(name, self.owner)
    }

    fn is_excused(&self, name: ColdName) -> bool {
        lock(self.buckets).is_lost(name)
    }

    /// "an upload is named when it is whole".
    pub(super) fn named(&self, name: ColdName) -> Check {
        let (there, said) = (self.is_there(name) || self.is_excused(name), lock(self.buckets).reported.contains(&name));
        lock(self.buckets).named.insert(name);
        let broken =
            |why| Err(("an upload is named when it is whole", format!("{} {} has upload {name}, which {why}", self.key, self.owner.1)));
        match (there, said) {
            (true, true) => Ok(()),
            (false, _) => broken("is not there"),
            (true, false) => broken("no node has said to be there"),
        }
    }

    /// "what a vault has is not given up".
    pub(super) fn given_up(&self, name: ColdName) -> Check {
        lock(self.buckets).named.remove(&name);
        match self.is_there(name) {
            false => Ok(()),
            true => Err((
                "what a vault has is not given up",
                format!("{} {}: upload {name} is said to be lost, and is there", self.key, self.owner.1),
            )),
        }
    }

    /// "what leaves memory is in a vault".
    pub(super) fn demoted(&self, name: ColdName) -> Check {
        match self.is_there(name) || self.is_excused(name) {
            true => Ok(()),
            false => Err((
                "what leaves memory is in a vault",
                format!("{} {} left memory, and upload {name} is not there", self.key, self.owner.1),
            )),
        }
    }
}
