//! What was applied, to be read again by any thread: the newest entries in memory, those before from the files.
//!
//! The log thread writes the recent entries under a lock that readers hold for a few clones only; files are read without it.

use super::reader::Reader;
use bytes::Bytes;
use perilune_protocol::Tso;
use raft::eraftpb::{Entry, EntryType};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use tokio::sync::watch;

/// Applied entries kept in memory, by bytes of their data and by count.
const RECENT_BYTES: usize = 8 << 20;
const RECENT_ENTRIES: usize = 1 << 16;
/// Most entries that a reader takes while the log thread may wait.
const STEP: usize = 1024;
/// No more than this is little.
const LITTLE_ENTRIES: usize = 64;
const LITTLE_BYTES: usize = 16 << 10;

/// An entry that was applied.
#[derive(Clone, Debug)]
pub(crate) struct Past {
    pub(crate) index: u64,
    /// When it was decided; `None`: by a release that stamped none, or it holds nothing of the machine's.
    pub(crate) stamp: Option<Tso>,
    /// Packed effects ([`super::entry::unpack`]); may be empty.
    pub(crate) data: Bytes,
}

/// Why entries cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    /// They are gone: the log begins with this one.
    Behind(u64),
    /// There are no such yet: this is the last that was applied.
    Ahead(u64),
    /// The files say otherwise.
    Broken(String),
}

/// How far the machine is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reached {
    /// The last entry that was applied.
    pub(crate) index: u64,
    /// No entry to come has a lower stamp, nor this one.
    pub(crate) stamp: Tso,
}

/// The room. One for each log.
pub(crate) struct History {
    /// `None` once the log is closed; held while files are read.
    reader: RwLock<Option<Reader>>,
    recent: Mutex<Recent>,
    /// The last entry that was applied, told once a turn.
    told: watch::Sender<u64>,
}

#[derive(Default)]
struct Recent {
    /// The log begins with this entry.
    first: u64,
    reached: Reached,
    /// The last ones that were applied, without a gap.
    entries: VecDeque<Past>,
    bytes: usize,
    /// An entry was stamped that is not applied yet, and may never be.
    under_way: bool,
}

impl History {
    /// The log begins with the entry `first`.
    pub(super) fn new(reader: Reader, first: u64, reached: Reached) -> Self {
        let recent = Recent { first, reached, ..Recent::default() };
        Self { reader: RwLock::new(Some(reader)), recent: Mutex::new(recent), told: watch::channel(reached.index).0 }
    }

    fn lock(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has an entry stamped. From then on, until [`History::settle`], nobody says that all up to a later stamp is known.
    pub(super) fn stamp(&self, stamp: impl FnOnce() -> Option<Tso>) -> Option<Tso> {
        let mut recent = self.lock();
        recent.under_way = true;
        stamp()
    }

    /// The machine has applied it.
    pub(super) fn applied(&self, past: Past) {
        let mut recent = self.lock();
        recent.reached = Reached { index: past.index, stamp: past.stamp.unwrap_or_default().max(recent.reached.stamp) };
        recent.bytes += past.data.len();
        recent.entries.push_back(past);
        while recent.bytes > RECENT_BYTES || recent.entries.len() > RECENT_ENTRIES {
            let Some(gone) = recent.entries.pop_front() else { break };
            recent.bytes -= gone.data.len();
        }
    }

    /// All is told that the log thread did in a turn; `last` is the last entry it has.
    pub(super) fn settle(&self, last: u64) {
        let index = {
            let mut recent = self.lock();
            recent.under_way &= recent.reached.index < last;
            recent.reached.index
        };
        self.told.send_if_modified(|told| std::mem::replace(told, index) != index);
    }

    /// The log is closed, and may be opened anew: no file is read from here on.
    pub(super) fn close(&self) {
        *self.reader.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The entries before `first` are gone.
    pub(super) fn begins_with(&self, first: u64) {
        let mut recent = self.lock();
        recent.first = first;
        while recent.entries.front().is_some_and(|past| past.index < first) {
            recent.bytes -= recent.entries.pop_front().map_or(0, |gone| gone.data.len());
        }
    }

    /// The machine was replaced by what another member's was behind the entry `index`; none before are there.
    pub(super) fn replaced(&self, index: u64) {
        let mut recent = self.lock();
        let stamp = recent.reached.stamp;
        *recent = Recent { first: index + 1, reached: Reached { index, stamp }, under_way: recent.under_way, ..Recent::default() };
    }

    /// The first entry that can be read, or will be.
    pub(crate) fn first(&self) -> u64 {
        self.lock().first
    }

    /// How far the machine is. Where nothing is under way, with the stamp that `fresh` gives: one that no entry to come can have.
    pub(crate) fn reached(&self, fresh: impl FnOnce() -> Option<Tso>) -> Reached {
        let recent = self.lock();
        let Reached { index, stamp } = recent.reached;
        let fresh = if recent.under_way { None } else { fresh() };
        Reached { index, stamp: fresh.unwrap_or_default().max(stamp) }
    }

    /// Entries from `from` on, in order and without a gap: as many as have `most_bytes`, and one at least; none when there are no more. May read
    /// files.
    pub(crate) fn read(&self, from: u64, most_bytes: usize) -> Result<Vec<Past>, Unread> {
        let until = {
            let recent = self.lock();
            if from < recent.first {
                return Err(Unread::Behind(recent.first));
            }
            if from > recent.reached.index + 1 {
                return Err(Unread::Ahead(recent.reached.index));
            }
            let begins = recent.entries.front().map_or(recent.reached.index + 1, |past| past.index);
            if from >= begins {
                let mut bytes = 0;
                let fits = |past: &&Past| {
                    let fits = bytes < most_bytes;
                    bytes += past.data.len();
                    fits
                };
                return Ok(recent.entries.range((from - begins) as usize..).take(STEP).take_while(fits).cloned().collect());
            }
            begins
        };
        let read = self.read_files(from, until, most_bytes);
        // What was cut meanwhile cannot be read.
        let first = self.first();
        if from < first { Err(Unread::Behind(first)) } else { read }
    }

    fn read_files(&self, from: u64, until: u64, most_bytes: usize) -> Result<Vec<Past>, Unread> {
        let until = until.min(from + STEP as u64);
        let reader = self.reader.read().unwrap_or_else(PoisonError::into_inner);
        let Some(reader) = reader.as_ref() else { return Err(Unread::Broken("the log is closed".into())) };
        reader
            .read(from..until, most_bytes)
            .and_then(|entries| entries.into_iter().map(|stored| Past::of(stored.entry)).collect())
            .map_err(Unread::Broken)
    }

    /// Whether there is little from `from` on, all of it in memory: not worth another thread, nor an answer of its own.
    pub(crate) fn is_little(&self, from: u64) -> bool {
        let recent = self.lock();
        let begins = recent.entries.front().map_or(recent.reached.index + 1, |past| past.index);
        let nth = from.checked_sub(begins).map_or(usize::MAX, |nth| nth as usize);
        nth <= recent.entries.len() && recent.entries.len() - nth <= LITTLE_ENTRIES && {
            recent.entries.range(nth..).map(|past| past.data.len()).sum::<usize>() <= LITTLE_BYTES
        }
    }

    /// What changes when more was applied; at least once whenever the entry it shows has been reached.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.told.subscribe()
    }
}

impl Past {
    /// What the machine meets of an entry.
    pub(super) fn of(entry: Entry) -> Result<Self, String> {
        let stamp = super::entry::stamp_of(&entry.context).map_err(|what| format!("the entry {}: {what}", entry.index))?;
        let data = if entry.entry_type() == EntryType::EntryNormal { entry.data.into() } else { Bytes::new() };
        Ok(Self { index: entry.index, stamp, data })
    }
}
