//! Checkpoints: the whole state, as it once was, in a vault, and with it every upload that it names.
//!
//! ```text
//!   begun ──► kept ──► gone       from when one is begun until it is kept nobody deletes uploads: it may name any
//!     └──────────────────┘        while it is kept, nobody deletes those it names
//! ```
//!
//! The map is replaced whole by the apply loop, its only writer; readers take the present one and never wait.

use crate::apply::Applied;
use arc_swap::{ArcSwap, Guard};
use perilune_protocol::{ColdName, FaultCode, VaultId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How far a checkpoint is. It never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stage {
    /// Its files are being written, by the leader that began it.
    Begun,
    /// All of it is in the vault.
    Kept,
    /// It is not to be found there, nor will be.
    Gone,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Counted up; none is given twice.
    pub number: u64,
    /// Tells it from one of the same number that another cluster made.
    pub name: ColdName,
    /// Where it lies.
    pub vault: VaultId,
    /// How far it is.
    pub stage: Stage,
    /// When it was begun, in milliseconds since 1970.
    pub at_ms: u64,
    /// Objects in it; 0 until it is kept.
    pub objects: u64,
    /// Those of them that have a copy in a vault.
    pub saved: u64,
}

/// All that are begun or kept, and the highest number there ever was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    last: u64,
    all: BTreeMap<u64, Checkpoint>,
}

impl Recorded {
    /// A number that none of them has had; higher than `found` as well.
    pub fn next(&self, found: u64) -> u64 {
        self.last.max(found) + 1
    }

    /// The one that is being written.
    pub fn begun(&self) -> Option<&Checkpoint> {
        self.all.values().find(|one| one.stage == Stage::Begun)
    }

    /// Those that are kept, the oldest first.
    pub fn kept(&self) -> impl DoubleEndedIterator<Item = &Checkpoint> {
        self.all.values().filter(|one| one.stage == Stage::Kept)
    }

    /// Both.
    pub fn iter(&self) -> impl Iterator<Item = &Checkpoint> {
        self.all.values()
    }
}

/// The room.
#[derive(Default)]
pub struct Checkpoints {
    recorded: ArcSwap<Recorded>,
}

impl Checkpoints {
    /// What is recorded now.
    pub fn recorded(&self) -> Guard<Arc<Recorded>> {
        self.recorded.load()
    }

    /// Apply: see [`crate::Effect::Checkpoint`].
    pub(crate) fn apply(&self, checkpoint: Checkpoint) -> Applied {
        let mut recorded = Recorded::clone(&self.recorded.load());
        let known = recorded.all.get(&checkpoint.number);
        match (known, checkpoint.stage) {
            (Some(known), _) if known.name != checkpoint.name => return refused(&checkpoint, "another has its number"),
            (Some(known), stage) if stage <= known.stage => return Applied::Done,
            // Gone, or begun by a leader that did not know of one.
            (None, Stage::Begun) if checkpoint.number <= recorded.last => return refused(&checkpoint, "its number was given before"),
            (None, Stage::Begun) if recorded.begun().is_some() => return refused(&checkpoint, "another is being written"),
            (None, Stage::Kept) => return refused(&checkpoint, "it was given up"),
            (_, Stage::Gone) => drop(recorded.all.remove(&checkpoint.number)),
            (_, Stage::Begun | Stage::Kept) => {
                recorded.last = recorded.last.max(checkpoint.number);
                recorded.all.insert(checkpoint.number, checkpoint);
            }
        }
        self.recorded.store(Arc::new(recorded));
        Applied::Done
    }

    /// As a snapshot has it; nothing where there never was one.
    pub(crate) fn stored(&self) -> Option<Recorded> {
        let recorded = self.recorded.load();
        (recorded.last > 0).then(|| Recorded::clone(&recorded))
    }

    /// What a snapshot had.
    pub(crate) fn replace(&self, recorded: Recorded) {
        self.recorded.store(Arc::new(recorded));
    }
}

fn refused(checkpoint: &Checkpoint, why: &str) -> Applied {
    Applied::Refused(FaultCode::WrongState.with(format!("checkpoint {}: {why}", checkpoint.number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(number: u64, stage: Stage) -> Checkpoint {
        let name = ColdName("67e55044-10b1-426f-9247-bb680e5fe0c8".parse().unwrap());
        Checkpoint { number, name, vault: VaultId(2), stage, at_ms: 7, objects: 0, saved: 0 }
    }

    #[test]
    fn one_is_written_at_a_time_and_none_comes_back() {
        let room = Checkpoints::default();
        let (apply, refused) = (|number, stage| room.apply(one(number, stage)), |done| done != Applied::Done);
        assert!(room.stored().is_none() && room.recorded().next(0) == 1 && room.recorded().next(7) == 8);
        assert!(refused(apply(3, Stage::Kept)), "nobody began it");
        assert_eq!(apply(3, Stage::Begun), Applied::Done);
        assert!(refused(apply(4, Stage::Begun)));
        assert!(refused(room.apply(Checkpoint { name: ColdName::random(), ..one(3, Stage::Kept) })));
        assert_eq!((apply(3, Stage::Kept), apply(3, Stage::Begun), apply(3, Stage::Kept)), (Applied::Done, Applied::Done, Applied::Done));
        assert!(room.recorded().begun().is_none() && room.recorded().kept().count() == 1);
        assert_eq!((apply(4, Stage::Begun), apply(4, Stage::Gone), apply(4, Stage::Gone)), (Applied::Done, Applied::Done, Applied::Done));
        assert!(refused(apply(4, Stage::Kept)) && refused(apply(4, Stage::Begun)), "it was given up");
        assert_eq!(room.recorded().next(0), 5);
        let other = Checkpoints::default();
        other.replace(room.stored().unwrap());
        assert_eq!(**other.recorded(), **room.recorded());
    }
}
