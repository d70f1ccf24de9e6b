//! What raft reads from the store.

use super::store::{GROUP, Store};
use super::stored::{Entries, Stored};
use raft::eraftpb::{Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

impl Storage for Store {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let hard = HardState { term: self.record.term, vote: self.record.vote, commit: self.record.commit };
        Ok(RaftState::new(hard, self.members.conf_state()))
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

    /// Asked for by a leader whose follower lags behind the cut. The members are those of now, not those of the snapshot's entry, among
    /// whom the follower may not yet have been; it leaves out the changes up to [`super::members::Members::index`].
    fn snapshot(&self, request_index: u64, _: u64) -> raft::Result<Snapshot> {
        let Some(id) = self.newest.filter(|id| id.index >= request_index) else {
            self.want_snapshot();
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        };
        let mut snapshot = Snapshot { data: self.members.encode(), ..Snapshot::default() };
        let meta = snapshot.mut_metadata();
        (meta.index, meta.term) = (id.index, id.term);
        meta.set_conf_state(self.members.conf_state());
        Ok(snapshot)
    }
}
