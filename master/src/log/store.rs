//! The entries on disk: raft's `Storage` over raft-engine. Owned by the log thread.

use super::LogError;
use super::directory::{self, io_error};
use super::entry::{crc, unpack};
use super::files::{Files, LogFiles, strange_header};
use super::record::Record;
use super::stored::{Entries, Stored};
use protobuf_prost::Message as _;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use raft_engine::{Command, Config, LogBatch, ReadableSize, RecoveryMode};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

pub(super) type Engine = raft_engine::Engine<LogFiles, raft_engine::internals::FilePipeLog<LogFiles>>;

/// Raft-engine holds many groups; ours is this one.
const GROUP: u64 = 1;
const STATE: &[u8] = b"state";
const MEMBERS: &[u8] = b"members";
const MEMBERS_VERSION: u8 = 1;
/// A log file is full at this size; whole files are deleted once the log is cut behind them.
const FILE_BYTES: u64 = 32 << 20;
/// Applied entries kept in memory, so that followers that lag a little are served without a read.
const CACHE_BYTES: usize = 4 << 20;

/// Entries, hard state and membership of this member.
pub(super) struct Store {
    engine: Arc<Engine>,
    files: Arc<Files>,
    record: Record,
    members: ConfState,
    last: u64,
    /// The newest entries, without a gap up to `last`; raft asks for them again to apply them.
    cache: VecDeque<Entry>,
    cache_bytes: usize,
}

impl Store {
    /// Opens the entries in `dir`; a new store, which is an error when `used`, begins with `members`.
    pub(super) fn open(dir: &Path, files: Arc<Files>, members: ConfState, used: bool) -> Result<Self, LogError> {
        let engine = Arc::new(open_engine(dir, &files)?);
        let corrupt = |what: String| corrupt(dir, what);
        let mut store = Self { engine, files, record: Record::default(), members, last: 0, cache: VecDeque::new(), cache_bytes: 0 };
        match (store.engine.get(GROUP, STATE), store.engine.get(GROUP, MEMBERS)) {
            (Some(record), Some(members)) => {
                store.record = Record::decode(&record).map_err(corrupt)?;
                store.members = decode_members(&members).map_err(corrupt)?;
            }
            (None, None) if used && store.engine.last_index(GROUP).is_none() => return Err(corrupt(directory::LOG_GONE.into())),
            // A new log, or one whose very first write did not reach the disk.
            (None, None) if store.engine.last_index(GROUP).is_none() => store
                .write(&[], |batch, store| batch.put(GROUP, MEMBERS.to_vec(), encode_members(&store.members)), true)
                .map_err(|what| io_error(dir, "the log cannot be begun", std::io::Error::other(what)))?,
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
                unpack(&entry.data).map_err(|what| format!("the entry {next}: {what}"))?;
                next += 1;
            }
            if entries.is_empty() {
                return Err(format!("the entry {next} is missing"));
            }
        }
        Ok(())
    }

    pub(super) fn members(&self) -> &ConfState {
        &self.members
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
    pub(super) fn cut(&mut self, index: u64, term: u64) -> Result<(), String> {
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
            engine.write(&mut batch, sync)
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

    fn cached(&self, index: u64) -> Option<usize> {
        let first = self.cache.front()?.index;
        usize::try_from(index.checked_sub(first)?).ok().filter(|at| *at < self.cache.len())
    }
}

impl Storage for Store {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let hard = HardState { term: self.record.term, vote: self.record.vote, commit: self.record.commit };
        Ok(RaftState::new(hard, self.members.clone()))
    }

    fn entries(&self, low: u64, high: u64, max_size: impl Into<Option<u64>>, _: GetEntriesContext) -> raft::Result<Vec<Entry>> {
        let max_size = max_size.into();
        if low <= self.record.cut_index {
            return Err(StorageError::Compacted.into());
        }
        if high > self.last + 1 {
            return Err(StorageError::Unavailable.into());
        }
        if let Some(at) = self.cached(low) {
            let mut entries: Vec<Entry> = self.cache.range(at..at + (high - low) as usize).cloned().collect();
            raft::util::limit_size(&mut entries, max_size);
            return Ok(entries);
        }
        let mut entries: Vec<Stored> = Vec::new();
        self.engine
            .fetch_entries_to::<Entries>(GROUP, low, high, max_size.map(|n| n as usize), &mut entries)
            .map_err(|e| StorageError::Other(Box::new(e)))?;
        Ok(entries.into_iter().map(|s| s.entry).collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.record.cut_index {
            return Ok(self.record.cut_term);
        }
        if index < self.record.cut_index {
            return Err(StorageError::Compacted.into());
        }
        if let Some(at) = self.cached(index) {
            return Ok(self.cache[at].term);
        }
        match self.engine.get_entry::<Entries>(GROUP, index) {
            Ok(Some(stored)) => Ok(stored.entry.term),
            Ok(None) => Err(StorageError::Unavailable.into()),
            Err(e) => Err(StorageError::Other(Box::new(e)).into()),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.record.cut_index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last)
    }

    /// Asked for by a leader whose follower lags behind the cut; a group of one has none.
    fn snapshot(&self, _: u64, _: u64) -> raft::Result<Snapshot> {
        Err(StorageError::SnapshotTemporarilyUnavailable.into())
    }
}

fn open_engine(dir: &Path, files: &Arc<Files>) -> Result<Engine, LogError> {
    let config = Config {
        dir: dir.to_string_lossy().into_owned(),
        recovery_mode: RecoveryMode::TolerateTailCorruption,
        recovery_threads: 2,
        // Uncompressed: records can then be found behind a broken write, and object entries hardly shrink.
        batch_compression_threshold: ReadableSize(0),
        target_file_size: ReadableSize(FILE_BYTES),
        purge_threshold: ReadableSize(FILE_BYTES),
        // A recycled file still holds old records, which would be taken for new ones behind a broken write.
        enable_log_recycle: false,
        ..Config::default()
    };
    if let Some(path) = strange_header(dir).map_err(|e| io_error(dir, "cannot be looked at", e))? {
        return Err(corrupt(&path, "its header asks for aligned writes, which this program never does".into()));
    }
    // Raft-engine's own lock is only in the way (ours is held): a process just being forked may hold it a little longer than we did.
    match std::fs::remove_file(dir.join("LOCK")) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io_error(dir, "an old lock file cannot be removed", e)),
        _ => {}
    }
    let opened = catch_unwind(AssertUnwindSafe(|| Engine::open_with_file_system(config, Arc::new(LogFiles(Arc::clone(files))))));
    if let Some((path, what)) = files.damage() {
        let advice = "Restore the data directory from a backup, or start with an empty one and let the store nodes mount again; keep the \
                      damaged one for inspection. To give up that write and all behind it instead, cut the file off at that byte \
                      (truncate --size).";
        return Err(LogError::Corrupt { path, what, advice });
    }
    match opened {
        Ok(Ok(engine)) => Ok(engine),
        Ok(Err(raft_engine::Error::Io(e))) => Err(io_error(dir, "the log cannot be opened", e)),
        Ok(Err(e)) => Err(corrupt(dir, e.to_string())),
        Err(_) => Err(corrupt(dir, "its files contradict each other".into())),
    }
}

pub(super) fn corrupt(path: &Path, what: String) -> LogError {
    LogError::Corrupt {
        path: PathBuf::from(path),
        what,
        advice: "Restore the data directory from a backup, or start with an empty one and let the store nodes mount again; \
                 keep the damaged one for inspection.",
    }
}

fn encode_members(members: &ConfState) -> Vec<u8> {
    let body = members.encode_to_vec();
    let mut out = vec![MEMBERS_VERSION];
    out.extend_from_slice(&crc(&body).to_le_bytes());
    out.extend_from_slice(&body);
    out
}

fn decode_members(bytes: &[u8]) -> Result<ConfState, String> {
    let (version, rest) = bytes.split_first().ok_or("the member list is empty")?;
    if *version != MEMBERS_VERSION {
        return Err(format!("member list version {version}, this version reads {MEMBERS_VERSION}"));
    }
    let (sum, body) = rest.split_first_chunk::<4>().ok_or("the member list is cut short")?;
    if crc(body) != u32::from_le_bytes(*sum) {
        return Err("the checksum of the member list does not match".into());
    }
    ConfState::decode(body).map_err(|e| format!("the member list: {e}"))
}
