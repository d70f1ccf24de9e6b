//! The rules about copies in vaults.

use super::memory::{Owner, sum_of};
use super::oracle::{Check, Key, Oracle};
use super::vaults::{Shared, lock};
use perilune_protocol::rpc::cold::Through;
use perilune_protocol::{ColdName, Tso};

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

    /// Whether it is there, or would be if the bucket had not lost it.
    pub(super) fn is_saved(&self, name: ColdName) -> bool {
        self.is_there(name) || lock(self.buckets).is_lost(name)
    }

    /// "an upload is named when it is whole".
    pub(super) fn named(&self, name: ColdName) -> Check {
        let (there, said) = (self.is_saved(name), lock(self.buckets).reported.contains(&name));
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
        match self.is_saved(name) {
            true => Ok(()),
            false => Err((
                "what leaves memory is in a vault",
                format!("{} {} left memory, and upload {name} is not there", self.key, self.owner.1),
            )),
        }
    }
}

impl Oracle {
    /// "no stale read", "a lease is honoured", of what was read through a node.
    pub(super) fn passed(&mut self, asked: u64, key: &Key, number: u64, through: &Through) -> Check {
        self.counts.through += 1;
        let is_it = |version: &&Tso| sum_of((number, version.0)) == through.checksum;
        let version = self.keys.get(key).and_then(|versions| versions.keys().find(is_it).copied());
        match version {
            Some(version) if through.passed.checksum == through.checksum => self.found(asked, key, version),
            _ if self.lenient => Ok(()),
            None => Err(("no stale read", format!("{key} was read through a node, and was never published so: {through:?}"))),
            Some(version) => Err(("a lease is honoured", format!("{key} {} was read through a node: {through:?}", version.0))),
        }
    }
}
