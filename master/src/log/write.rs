//! What is written to the store, and what becomes of it when there is no room: nothing is lost, it goes with the next write.

use super::members::encode_self;
use super::store::{GROUP, MEMBERS, SELF, STATE, Store};
use super::stored::{Entries, Stored};
use crate::planted::{self, Defect};
use raft::eraftpb::{Entry, HardState};
use raft_engine::{Command, LogBatch};
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// Why something was not written.
#[derive(Debug)]
pub(super) enum Unwritten {
    /// For lack of room. The log is as it was before, and it may be tried again.
    NoRoom(String),
    /// The store must not be written again.
    Failed(String),
}

impl Unwritten {
    /// Why, when it may be tried again; as an error when not.
    pub(super) fn for_lack_of_room(self) -> Result<String, String> {
        match self {
            Self::NoRoom(why) => Ok(why),
            Self::Failed(why) => Err(why),
        }
    }

    /// Why, whatever that means.
    pub(super) fn why(self) -> String {
        let (Self::NoRoom(why) | Self::Failed(why)) = self;
        why
    }
}

/// What raft asked to be appended.
pub(super) struct Append {
    entries: Vec<Stored>,
    hard: Option<HardState>,
    sync: bool,
}

/// What has changed beside the entries, and goes with the next write.
#[derive(Clone, Copy, Default)]
pub(super) struct Owed {
    /// The log begins anew behind the cut.
    pub(super) anew: bool,
    pub(super) members: bool,
    /// The entries up to the cut are forgotten.
    pub(super) cut: bool,
}

impl Store {
    /// Hands entries and hard state to the kernel, and with `sync` to the disk. Without room they are kept for [`Store::again`].
    pub(super) fn append(&mut self, entries: Vec<Entry>, hard: Option<&HardState>, sync: bool) -> Result<(), Unwritten> {
        let entries = entries.into_iter().map(Stored::from).collect();
        self.append_all(Append { entries, hard: hard.cloned(), sync })
    }

    /// Tries once more what there was no room for.
    pub(super) fn again(&mut self) -> Result<(), Unwritten> {
        self.unappended.take().map_or(Ok(()), |append| self.append_all(append))
    }

    fn append_all(&mut self, append: Append) -> Result<(), Unwritten> {
        let Append { entries, hard, mut sync } = append;
        let before = self.record;
        let mut must = !entries.is_empty();
        if let Some(hard) = &hard {
            // A vote must be on disk before it counts, whatever the durability: it is cast once per election.
            let voted = (hard.term, hard.vote) != (self.record.term, self.record.vote);
            (must, sync) = (must || voted, sync || voted);
            (self.record.term, self.record.vote, self.record.commit) = (hard.term, hard.vote, hard.commit.max(self.record.commit));
        }
        if !must {
            // Only the commit index moved: it travels with the next write.
            return Ok(());
        }
        let started = Instant::now();
        if let Err(error) = self.write(&entries, sync) {
            self.record = before;
            self.unappended = Some(Append { entries, hard, sync });
            return Err(error);
        }
        self.files.counters.append.observe(started.elapsed());
        self.remember(entries.into_iter().map(|s| s.entry).collect());
        Ok(())
    }

    /// Writes what is owed, now if there is room.
    pub(super) fn write_owed(&mut self) -> Result<(), String> {
        match self.write(&[], false) {
            Ok(()) => Ok(()),
            Err(error) => error.for_lack_of_room().map(|why| tracing::warn!("written with the next entries: {why}")),
        }
    }

    pub(super) fn write(&mut self, entries: &[Stored], sync: bool) -> Result<(), Unwritten> {
        let (first, last) = match entries {
            [first, .., last] => (first.entry.index, last.entry.index),
            [only] => (only.entry.index, only.entry.index),
            [] => (0, self.last),
        };
        (self.record.first, self.record.last, self.record.synced) = (first, last, self.files.synced());
        let written = catch_unwind(AssertUnwindSafe(|| {
            let mut batch = LogBatch::default();
            batch.add_entries::<Entries>(GROUP, entries)?;
            if self.owed.anew {
                batch.add_command(GROUP, Command::Clean);
            }
            if self.owed.cut {
                batch.add_command(GROUP, Command::Compact { index: self.record.cut_index + 1 });
            }
            if self.owed.members {
                batch.put(GROUP, SELF.to_vec(), encode_self(self.me))?;
                batch.put(GROUP, MEMBERS.to_vec(), self.members.encode())?;
            }
            batch.put(GROUP, STATE.to_vec(), self.record.encode())?;
            self.engine.write(&mut batch, sync && !planted::is(Defect::Unsynced))
        }));
        match written {
            Ok(Ok(_)) => {}
            Ok(Err(raft_engine::Error::Io(e))) => {
                let why = format!("a write to the log failed: {e}");
                let room = matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) && self.files.failure().is_none();
                return Err(if room { Unwritten::NoRoom(why) } else { Unwritten::Failed(why) });
            }
            Ok(Err(e)) => return Err(Unwritten::Failed(format!("a write to the log failed: {e}"))),
            Err(_) => return Err(Unwritten::Failed("a write to the log failed: raft-engine panicked".into())),
        }
        self.owed = Owed::default();
        self.last = last;
        self.files.set_appended(last);
        if sync {
            if let Some(what) = self.files.failure() {
                return Err(Unwritten::Failed(what.into()));
            }
            self.files.set_synced(last);
        }
        Ok(())
    }
}
