//! The entries on disk, in raft-engine: what is written. Owned by the log thread; `storage` is what raft reads of it.

use super::LogError;
use super::directory::{self, io_error};
use super::engine::{Engine, corrupt, open_engine};
use super::entry::unpack;
use super::files::Files;
use super::members::{Members, decode_self, encode_self};
use super::record::Record;
use super::snapshot::SnapshotId;
use super::stored::{Entries, Stored};
use crate::planted::{self, Defect};
use raft::eraftpb::{Entry, EntryType, HardState};
use raft_engine::{Command, LogBatch};
use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Raft-engine holds many groups; ours is this one.
pub(super) const GROUP: u64 = 1;
const STATE: &[u8] = b"state";
const MEMBERS: &[u8] = b"members";
/// Which member of the group this is. Missing in what earlier releases wrote: then it is 1.
const SELF: &[u8] = b"self";
/// Applied entries kept in memory, so that followers that lag a little are served without a read.
const CACHE_BYTES: usize = 4 << 20;

/// Entries, hard state and membership of this member.
pub(super) struct Store {
    pub(super) engine: Arc<Engine>,
    files: Arc<Files>,
    pub(super) record: Record,
    me: u64,
    pub(super) members: Members,
    pub(super) last: u64,
    /// The newest whole snapshot on disk, to send to those who lag.
    pub(super) newest: Option<SnapshotId>,
    /// A member asked for a newer one.
    pub(super) wanted: Cell<bool>,
    /// The newest entries, without a gap up to `last`; raft asks for them again to apply them.
    pub(super) cache: VecDeque<Entry>,
    cache_bytes: usize,
}

impl Store {
    /// Opens the entries in `dir` of the member `me`; a new store, which is an error when `used`, begins with `first`.
    pub(super) fn open(
        dir: &Path,
        files: Arc<Files>,
        me: u64,
        first: impl FnOnce() -> Result<Members, String>,
        used: bool,
    ) -> Result<Self, LogError> {
        let engine = Arc::new(open_engine(dir, &files)?);
        let corrupt = |what: String| corrupt(dir, what);
        let (members, newest, wanted) = (Members::default(), None, Cell::new(false));
        let mut store =
            Self { engine, files, record: Record::default(), me, members, last: 0, newest, wanted, cache: VecDeque::new(), cache_bytes: 0 };
        match (store.engine.get(GROUP, STATE), store.engine.get(GROUP, MEMBERS)) {
            (Some(record), Some(members)) => {
                store.record = Record::decode(&record).map_err(corrupt)?;
                store.members = Members::decode(&members).map_err(corrupt)?;
                let found = store.engine.get(GROUP, SELF).map_or(Ok(1), |bytes| decode_self(&bytes)).map_err(corrupt)?;
                if found != me {
                    return Err(LogError::OtherMember { path: dir.into(), found, expected: me });
                }
            }
            (None, None) if used && store.engine.last_index(GROUP).is_none() => return Err(corrupt(directory::LOG_GONE.into())),
            // A new log, or one whose very first write did not reach the disk.
            (None, None) if store.engine.last_index(GROUP).is_none() => {
                store.members = first().map_err(LogError::Config)?;
                store
                    .write(&[], |batch, store| store.put_members(batch), true)
                    .map_err(|what| io_error(dir, "the log cannot be begun", std::io::Error::other(what)))?;
            }
            _ => return Err(corrupt("the log holds no state record".into())),
        }
        store.last = store.engine.last_index(GROUP).unwrap_or(store.record.cut_index);
        let begins = store.engine.first_index(GROUP).unwrap_or(store.last + 1);
        if begins > store.record.cut_index + 1 {
            return Err(corrupt(format!("the entries {} to {} are missing", store.record.cut_index + 1, begins - 1)));
        }
        if store.last < store.record.last {
            return Err(corrupt(format!("the entries {} to {} are missing", store.last + 1, store.record.last)));
        }
        // What was written by a process that was killed is in the kernel, perhaps not on disk; from here on it is.
        store.files.set_appended(store.last);
        store.files.sync();
        match store.files.failure() {
            Some(what) => Err(io_error(dir, "the log cannot be synced", std::io::Error::other(what.to_owned()))),
            None => Ok(store),
        }
    }

    pub(super) fn engine(&self) -> Arc<Engine> {
        Arc::clone(&self.engine)
    }

    pub(super) fn cut_index(&self) -> u64 {
        self.record.cut_index
    }

    /// The entry behind which the log begins.
    pub(super) fn cut(&self) -> SnapshotId {
        SnapshotId { index: self.record.cut_index, term: self.record.cut_term }
    }

    /// Whether anything was ever decided here.
    pub(super) fn is_used(&self) -> bool {
        self.last > 0 || self.record.term > 0
    }

    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Reads everything from the entry `from` on and says what of it is damaged, so that raft never meets it.
    pub(super) fn check(&self, from: u64) -> Result<(), String> {
        let mut next = from.max(self.record.cut_index + 1);
        while next <= self.last {
            let mut entries: Vec<Stored> = Vec::new();
            self.engine
                .fetch_entries_to::<Entries>(GROUP, next, self.last + 1, Some(CACHE_BYTES), &mut entries)
                .map_err(|e| format!("the entries from {next} on cannot be read: {e}"))?;
            for Stored { entry, .. } in &entries {
                if entry.index != next {
                    return Err(format!("where the entry {next} should be is the entry {}", entry.index));
                }
                if entry.entry_type() == EntryType::EntryNormal {
                    unpack(&entry.data).map_err(|what| format!("the entry {next}: {what}"))?;
                }
                next += 1;
            }
            if entries.is_empty() {
                return Err(format!("the entry {next} is missing"));
            }
        }
        Ok(())
    }

    pub(super) fn members(&self) -> &Members {
        &self.members
    }

    /// The entry `members.index` made the group so.
    pub(super) fn set_members(&mut self, members: Members) -> Result<(), String> {
        self.members = members;
        self.write(&[], |batch, store| store.put_members(batch), false)
    }

    pub(super) fn set_newest_snapshot(&mut self, id: Option<SnapshotId>) {
        self.newest = id;
    }

    /// The newest snapshot does not serve.
    pub(super) fn want_snapshot(&self) {
        self.wanted.set(true);
    }

    /// Whether a newer snapshot was asked for since the last call.
    pub(super) fn wants_snapshot(&self) -> bool {
        self.wanted.take()
    }

    /// The log begins anew behind a snapshot that the leader sent. On disk when this returns.
    pub(super) fn install(&mut self, id: SnapshotId, members: Members) -> Result<(), String> {
        (self.record.cut_index, self.record.cut_term) = (id.index, id.term);
        self.record.commit = self.record.commit.max(id.index);
        (self.last, self.members) = (id.index, members);
        (self.cache, self.cache_bytes) = (VecDeque::new(), 0);
        let anew = |batch: &mut LogBatch, store: &Self| {
            batch.add_command(GROUP, Command::Clean);
            store.put_members(batch)
        };
        self.write(&[], anew, true)
    }

    fn put_members(&self, batch: &mut LogBatch) -> raft_engine::Result<()> {
        batch.put(GROUP, SELF.to_vec(), encode_self(self.me))?;
        batch.put(GROUP, MEMBERS.to_vec(), self.members.encode())
    }

    /// What a snapshot proves to be committed is.
    pub(super) fn committed(&mut self, index: u64) {
        self.record.commit = self.record.commit.max(index);
    }

    /// Hands entries and hard state to the kernel, and with `sync` to the disk. After an error the store must not be written again.
    pub(super) fn append(&mut self, entries: Vec<Entry>, hard: Option<&HardState>, sync: bool) -> Result<(), String> {
        let mut must = !entries.is_empty();
        let mut sync = sync;
        if let Some(hard) = hard {
            // A vote must be on disk before it counts, whatever the durability: it is cast once per election.
            let voted = (hard.term, hard.vote) != (self.record.term, self.record.vote);
            (must, sync) = (must || voted, sync || voted);
            (self.record.term, self.record.vote, self.record.commit) = (hard.term, hard.vote, hard.commit.max(self.record.commit));
        }
        if !must {
            // Only the commit index moved: it travels with the next write.
            return Ok(());
        }
        let entries: Vec<Stored> = entries.into_iter().map(Stored::from).collect();
        let started = Instant::now();
        self.write(&entries, |_, _| Ok(()), sync)?;
        self.files.counters.append.observe(started.elapsed());
        self.remember(entries.into_iter().map(|s| s.entry).collect());
        Ok(())
    }

    /// Forgets the entries up to `index`, which the older of two snapshots covers.
    pub(super) fn cut_behind(&mut self, index: u64, term: u64) -> Result<(), String> {
        if index <= self.record.cut_index {
            return Ok(());
        }
        (self.record.cut_index, self.record.cut_term) = (index, term);
        self.write(
            &[],
            |batch, _| {
                batch.add_command(GROUP, Command::Compact { index: index + 1 });
                Ok(())
            },
            false,
        )?;
        while self.cache.front().is_some_and(|e| e.index <= index) {
            self.evict();
        }
        Ok(())
    }

    /// Lets go of applied entries beyond what the cache may hold.
    pub(super) fn applied(&mut self, index: u64) {
        while self.cache_bytes > CACHE_BYTES && self.cache.len() > 1 && self.cache.front().is_some_and(|e| e.index <= index) {
            self.evict();
        }
    }

    fn write(
        &mut self,
        entries: &[Stored],
        extra: impl FnOnce(&mut LogBatch, &Self) -> raft_engine::Result<()>,
        sync: bool,
    ) -> Result<(), String> {
        let (first, last) = match entries {
            [first, .., last] => (first.entry.index, last.entry.index),
            [only] => (only.entry.index, only.entry.index),
            [] => (0, self.last),
        };
        self.record.first = first;
        self.record.last = last;
        self.record.synced = self.files.synced();
        let mut batch = LogBatch::default();
        let engine = &self.engine;
        let written = catch_unwind(AssertUnwindSafe(|| {
            batch.add_entries::<Entries>(GROUP, entries)?;
            extra(&mut batch, self)?;
            batch.put(GROUP, STATE.to_vec(), self.record.encode())?;
            engine.write(&mut batch, sync && !planted::is(Defect::Unsynced))
        }));
        match written {
            Ok(Ok(_)) => {}
            Ok(Err(raft_engine::Error::Io(e))) => return Err(format!("a write to the log failed: {e}")),
            Ok(Err(e)) => return Err(format!("a write to the log failed: {e}")),
            Err(_) => return Err("a write to the log failed: raft-engine panicked".into()),
        }
        self.last = last;
        self.files.set_appended(last);
        if sync {
            if let Some(what) = self.files.failure() {
                return Err(what.into());
            }
            self.files.set_synced(last);
        }
        Ok(())
    }

    fn remember(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first().map(|e| e.index) else { return };
        while self.cache.back().is_some_and(|e| e.index >= first) {
            self.cache_bytes -= self.cache.pop_back().map_or(0, |e| e.data.len());
        }
        self.cache_bytes += entries.iter().map(|e| e.data.len()).sum::<usize>();
        self.cache.extend(entries);
    }

    fn evict(&mut self) {
        self.cache_bytes -= self.cache.pop_front().map_or(0, |e| e.data.len());
    }

    pub(super) fn cached(&self, index: u64) -> Option<usize> {
        let first = self.cache.front()?.index;
        usize::try_from(index.checked_sub(first)?).ok().filter(|at| *at < self.cache.len())
    }
}
