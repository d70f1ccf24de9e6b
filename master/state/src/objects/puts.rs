//! Puts in progress. Soft: they die with the leader, and their space with them.
//!
//! ```text
//!            put_end                  apply(Commit)
//!  Writing ──────────► Ending ───────────────────────► published, entry gone
//!     │  revoke, or abandoned too long
//!     └──────────────► Discarded ► entry gone, space in limbo until the writer must have stopped
//! ```

use super::key::{ByKey, KeyMap, Keyed};
use super::{Few, Key, KeyRef, Replica, limbo};
use crate::MonotonicMs;
use crate::write::Stamp;
use perilune_protocol::{NodeId, Pin, PutConfig, SegmentId, TenantId, Tso, WriterId};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// No connection has this number.
const LEFT: u64 = u64::MAX;
const WRITING: u8 = 0;
const ENDING: u8 = 1;
const DISCARDED: u8 = 2;

/// What saying that a put is done came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was in progress until now.
    First,
    /// Somebody said so before; the commit is on its way.
    Again,
    /// It was discarded.
    TooLate,
}

/// One put.
pub struct Put {
    /// The key.
    pub key: Key,
    /// The version it will be.
    pub version: Tso,
    /// Bytes.
    pub size: u64,
    /// Resistance to eviction.
    pub pin: Pin,
    /// How many copies were asked for.
    pub wanted: u8,
    /// Where the writer writes.
    pub replicas: Few<Replica>,
    writer: WriterId,
    /// The connection that its writer asked on, last; [`LEFT`] once the writer's side has closed that. Relaxed: as `started`.
    session: AtomicU64,
    /// When room was given, last. Relaxed: whoever discards by it wins or loses by `state`.
    started: AtomicU64,
    /// Moved only by compare-exchange from WRITING, so ending and discarding exclude each other.
    state: AtomicU8,
}

impl Put {
    /// A put that starts now.
    pub fn new(key: Key, version: Tso, size: u64, config: &PutConfig, replicas: Few<Replica>, stamp: Stamp<'_>) -> Self {
        let (pin, wanted, writer) = (config.pin, config.replicas, stamp.writer);
        let (session, started, state) = (AtomicU64::new(stamp.session), AtomicU64::new(stamp.now), AtomicU8::new(WRITING));
        Self { key, version, size, pin, wanted, replicas, writer, session, started, state }
    }

    /// When room was given, last.
    pub fn started(&self) -> MonotonicMs {
        self.started.load(Ordering::Relaxed)
    }

    /// What its tenant was promised for it, in bytes.
    pub(crate) fn promised(&self) -> i64 {
        (self.size * self.replicas.len() as u64) as i64
    }

    /// Who puts.
    pub fn writer(&self) -> WriterId {
        self.writer
    }

    /// Whether this writer began it, for a value of so many bytes.
    pub fn is_of(&self, writer: WriterId, size: u64) -> bool {
        self.writer == writer && self.size == size
    }

    /// Its writer asks once more: it has the room as long as if it were given now. False when the put has ended or was discarded.
    pub fn renew(&self, stamp: Stamp<'_>) -> bool {
        self.session.store(stamp.session, Ordering::Relaxed);
        self.started.fetch_max(stamp.now, Ordering::Relaxed);
        self.state.load(Ordering::Acquire) == WRITING
    }

    /// Who may write as long as it is not over.
    pub(crate) fn may_write(&self, discard_ms: u64) -> limbo::Writer {
        let (version, session) = (self.version, self.session.load(Ordering::Relaxed));
        limbo::Writer { version, session, ends: self.started() + discard_ms }
    }

    /// Whether its writer closed the connection that it asked on, so that it is not one that was stopped in the middle of a write. It may live, and
    /// then keeps its deadline.
    pub fn has_left(&self) -> bool {
        self.session.load(Ordering::Relaxed) == LEFT
    }

    /// The writer is done. [`Ending::First`] for exactly one caller, who owes the log the commit: a second commit of the same put
    /// could reach the log after the object was removed again, and publish space that has been given to others.
    pub fn end(&self) -> Ending {
        match self.state.compare_exchange(WRITING, ENDING, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ending::First,
            Err(ENDING) => Ending::Again,
            Err(_) => Ending::TooLate,
        }
    }

    /// Whether the commit is on its way.
    pub fn is_ending(&self) -> bool {
        self.state.load(Ordering::Acquire) == ENDING
    }

    fn discard(&self) -> bool {
        self.state.compare_exchange(WRITING, DISCARDED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

impl Keyed for Put {
    fn key(&self) -> &Key {
        &self.key
    }
}

/// The room.
#[derive(Default)]
pub struct Puts {
    map: KeyMap<Put, Arc<Put>>,
    /// Those that were given up last and not aborted, the newest behind. Of this process alone.
    given_up: Mutex<VecDeque<GivenUp>>,
    aborted: Mutex<Aborted>,
    /// Whether there is any of those. Relaxed: whoever is to hear of one asks after it was told that.
    any_aborted: AtomicBool,
}

/// Those that were aborted last, the newest behind: the same on every member, as apply writes them.
#[derive(Default)]
struct Aborted {
    puts: VecDeque<GivenUp>,
    /// How many each writer has among them: nearly all that put have none.
    writers: HashMap<WriterId, usize>,
}

impl Aborted {
    fn push(&mut self, put: GivenUp) {
        if self.puts.iter().rev().any(|known| known.version == put.version) {
            return;
        }
        if self.puts.len() == GIVEN_UP_MAX
            && let Some(oldest) = self.puts.pop_front()
            && let Entry::Occupied(mut count) = self.writers.entry(oldest.writer)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        *self.writers.entry(put.writer).or_default() += 1;
        self.puts.push_back(put);
    }
}

/// A put that came to nothing.
#[derive(Clone, Debug)]
pub struct GivenUp {
    /// The key.
    pub key: Key,
    /// The version it would have been.
    pub version: Tso,
    /// Who put.
    pub writer: WriterId,
    /// Whether somebody else than its writer ended it on purpose: that is not to begin it anew.
    pub aborted: bool,
}

/// So many are remembered.
const GIVEN_UP_MAX: usize = 16_384;

impl Puts {
    /// Enters a put; at most one per key. The `Err` is the one that is there.
    pub fn begin(&self, put: Arc<Put>) -> Result<(), Arc<Put>> {
        match self.map.pin().try_insert(ByKey(Arc::clone(&put)), put) {
            Ok(_) => Ok(()),
            Err(occupied) => Err(occupied.current.clone()),
        }
    }

    /// The put of a key.
    pub fn get(&self, key: KeyRef<'_>) -> Option<Arc<Put>> {
        self.map.pin().get(&key).cloned()
    }

    /// Whoever asked on this connection has closed it.
    pub(crate) fn left(&self, session: u64) {
        for put in self.map.pin().values() {
            // Asked for again on another one meanwhile, it is that one's.
            let _ = put.session.compare_exchange(session, LEFT, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Ends a put without publishing it. True for exactly one caller, who owes its space to limbo.
    pub fn discard(&self, put: &Put, aborted: bool) -> bool {
        if !put.discard() || self.finish(put.key.as_ref(), put.version).is_none() {
            return false;
        }
        let gone = GivenUp { key: put.key.clone(), version: put.version, writer: put.writer, aborted };
        if aborted {
            self.note_aborted(gone);
        } else {
            let mut given_up = self.given_up();
            if given_up.len() == GIVEN_UP_MAX {
                given_up.pop_front();
            }
            given_up.push_back(gone);
        }
        true
    }

    /// Somebody ended a put, here or with an earlier leader.
    pub(crate) fn note_aborted(&self, gone: GivenUp) {
        self.lock_aborted().push(gone);
        self.any_aborted.store(true, Ordering::Relaxed);
    }

    /// What somebody else than its writer ended, as far as it is remembered.
    pub(crate) fn aborted(&self) -> Vec<GivenUp> {
        self.lock_aborted().puts.iter().cloned().collect()
    }

    /// The last put of this key by this writer that was aborted.
    pub(crate) fn last_aborted(&self, key: KeyRef<'_>, writer: WriterId) -> Option<Tso> {
        if !self.any_aborted.load(Ordering::Relaxed) {
            return None;
        }
        let aborted = self.lock_aborted();
        aborted.writers.get(&writer)?;
        aborted.puts.iter().rev().find(|gone| gone.writer == writer && gone.key.as_ref() == key).map(|gone| gone.version)
    }

    /// The last put that was given up of which this is true.
    pub fn last_given_up(&self, is_it: impl Fn(&GivenUp) -> bool) -> Option<GivenUp> {
        let aborted = self.lock_aborted().puts.iter().rev().find(|gone| is_it(gone)).cloned();
        let given_up = self.given_up().iter().rev().find(|gone| is_it(gone)).cloned();
        aborted.into_iter().chain(given_up).max_by_key(|gone| gone.version)
    }

    /// The versions of those that were given up of which this is true.
    pub(crate) fn given_up_where(&self, is_it: impl Fn(&GivenUp) -> bool) -> Vec<Tso> {
        let mut found: Vec<_> = self.lock_aborted().puts.iter().filter(|gone| is_it(gone)).map(|gone| gone.version).collect();
        found.extend(self.given_up().iter().filter(|gone| is_it(gone)).map(|gone| gone.version));
        found
    }

    fn lock_aborted(&self) -> MutexGuard<'_, Aborted> {
        self.aborted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn given_up(&self) -> MutexGuard<'_, VecDeque<GivenUp>> {
        self.given_up.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of a tenant.
    pub(crate) fn of(&self, tenant: TenantId) -> Vec<Arc<Put>> {
        self.map.pin().values().filter(|put| put.key.as_ref().tenant == tenant).cloned().collect()
    }

    /// Apply: the put is published, or cannot be.
    pub(crate) fn finish(&self, key: KeyRef<'_>, version: Tso) -> Option<Arc<Put>> {
        let map = self.map.pin();
        let (_, put) = map.remove_if(&key, |_, put| put.version == version).ok().flatten()?;
        Some(put.clone())
    }

    /// Puts that started before `before` and were never ended, in the order of their versions.
    pub fn abandoned(&self, before: MonotonicMs) -> Vec<Arc<Put>> {
        let is_abandoned = |p: &&Arc<Put>| p.started() < before && p.state.load(Ordering::Acquire) == WRITING;
        let mut abandoned: Vec<_> = self.map.pin().values().filter(is_abandoned).cloned().collect();
        abandoned.sort_unstable_by_key(|p| p.version);
        abandoned
    }

    /// Whether one may be writing to this segment, or was and is not yet published.
    pub fn any_on(&self, segment: SegmentId) -> bool {
        self.map.pin().values().any(|put| put.replicas.iter().any(|r| r.segment.id() == segment))
    }

    /// How many may be writing to the memory of this node.
    pub fn on_node(&self, node: NodeId) -> u64 {
        self.map.pin().values().filter(|put| put.replicas.iter().any(|r| r.segment.node() == node)).count() as u64
    }

    /// How many are in progress.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }
}
