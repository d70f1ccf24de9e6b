//! The entries on disk, in raft-engine. Owned by the log thread; `write` is how something gets there, `storage` what raft reads of it.

use super::LogError;
use super::directory::{self, io_error};
use super::engine::{Engine, corrupt, open_engine};
use super::entry::{stamp_of, unpack};
use super::files::Files;
use super::members::{Members, decode_self};
use super::record::Record;
use super::snapshot::SnapshotId;
use super::stored::{Entries, Stored};
use super::write::{Append, Owed, Unwritten};
use perilune_protocol::Tso;
use raft::Storage;
use raft::eraftpb::{Entry, EntryType};
use std::cell::Cell;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

/// Raft-engine holds many groups; ours is this one.
pub(super) const GROUP: u64 = 1;
pub(super) const STATE: &[u8] = b"state";
pub(super) const MEMBERS: &[u8] = b"members";
/// Which member of the group this is. Missing in what earlier releases wrote: then it is 1.
pub(super) const SELF: &[u8] = b"self";
/// Applied entries kept in memory, so that followers that lag a little are served without a read.
const CACHE_BYTES: usize = 4 << 20;

/// So many entries without a stamp are looked past.
const UNSTAMPED: usize = 64;

/// Entries, hard state and membership of this member.
pub(super) struct Store {
    pub(super) engine: Arc<Engine>,
    pub(super) files: Arc<Files>,
    pub(super) record: Record,
    pub(super) me: u64,
    pub(super) members: Members,
    pub(super) owed: Owed,
    /// There was no room for it.
    pub(super) unappended: Option<Append>,
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
        let (owed, unappended, cache, cache_bytes) = (Owed::default(), None, VecDeque::new(), 0);
        let record = Record::default();
        let mut store = Self { engine, files, record, me, members, owed, unappended, last: 0, newest, wanted, cache, cache_bytes };
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
                store.owed.members = true;
                let begun = store.write(&[], true).map_err(Unwritten::why);
                begun.map_err(|what| io_error(dir, "the log cannot be begun", std::io::Error::other(what)))?;
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

    /// The highest stamp of the entries up to `index`, as far as the log goes back. Those that raft proposes itself have none, and come one at a time.
    pub(super) fn stamp_at(&self, index: u64) -> Result<Tso, String> {
        for at in (self.record.cut_index + 1..=index).rev().take(UNSTAMPED) {
            let read = self.engine.get_entry::<Entries>(GROUP, at).map_err(|e| format!("the entry {at} cannot be read: {e}"))?;
            if let Some(stamp) = read.map_or(Ok(None), |stored| stamp_of(&stored.entry.context))? {
                return Ok(stamp);
            }
        }
        Ok(Tso::default())
    }

    pub(super) fn members(&self) -> &Members {
        &self.members
    }

    /// The entry `members.index` made the group so.
    pub(super) fn set_members(&mut self, members: Members) -> Result<(), String> {
        self.members = members;
        self.owed.members = true;
        self.write_owed()
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
        (self.owed.anew, self.owed.members) = (true, true);
        self.write(&[], true).map_err(Unwritten::why)
    }

    /// What a snapshot proves to be committed is.
    pub(super) fn committed(&mut self, index: u64) {
        self.record.commit = self.record.commit.max(index);
    }

    /// Forgets the entries up to `index`, which the older of two snapshots covers, and gives the highest stamp among them; `None` where they were
    /// forgotten before.
    pub(super) fn cut_behind(&mut self, index: u64) -> Result<Option<Tso>, String> {
        if index <= self.record.cut_index {
            return Ok(None);
        }
        let stamp = self.stamp_at(index)?;
        let term = self.term(index).map_err(|e| format!("the entry {index}: {e}"))?;
        (self.record.cut_index, self.record.cut_term) = (index, term);
        // Written anew with every cut, so that it keeps no old file.
        (self.owed.cut, self.owed.members) = (true, true);
        self.write_owed()?;
        while self.cache.front().is_some_and(|e| e.index <= index) {
            self.evict();
        }
        Ok(Some(stamp))
    }

    /// Lets go of applied entries beyond what the cache may hold.
    pub(super) fn applied(&mut self, index: u64) {
        while self.cache_bytes > CACHE_BYTES && self.cache.len() > 1 && self.cache.front().is_some_and(|e| e.index <= index) {
            self.evict();
        }
    }

    pub(super) fn remember(&mut self, entries: Vec<Entry>) {
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
