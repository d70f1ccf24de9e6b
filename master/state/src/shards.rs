//! What there is of shards, counted by a walk over the objects when somebody asks: puts, removals and evictions keep no numbers for it. And the
//! jobs on shards, as far as somebody may want to stop them.

use crate::apply::State;
use crate::directory::{ShardId, TableRecord};
use crate::objects::{KeyRef, Object};
use perilune_protocol::{SegmentId, TenantId, Tso};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How far the second copy of a shard may be behind, in milliseconds, and still count as in step.
const BEHIND_MAX_MS: u64 = 120_000;

/// What there is of one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardCount {
    /// Bytes of its values, each counted once.
    pub bytes: u64,
    /// Its objects.
    pub objects: u64,
    /// Their copies that can be read, in memory and in vaults.
    pub copies: u64,
    /// Segments that have one.
    pub segments: BTreeSet<SegmentId>,
    /// Objects that have a second copy: on another node, or in a vault.
    pub doubled: u64,
    /// The oldest object that has none.
    pub lacks_since: Option<Tso>,
    /// Objects that are in a vault.
    pub saved: u64,
    /// The newest object.
    pub newest: Tso,
    /// The oldest object that is in no vault.
    pub unsaved_since: Option<Tso>,
}

impl ShardCount {
    fn count(&mut self, object: &Object) {
        self.objects += 1;
        self.bytes += object.size;
        let read = object.replicas.iter().filter(|r| r.segment.readable()).count() + usize::from(object.cold.is_some());
        self.copies += read as u64;
        self.segments.extend(object.replicas.iter().map(|r| r.segment.id()));
        self.newest = self.newest.max(object.version);
        if object.cold.is_some() {
            self.saved += 1;
        } else {
            self.unsaved_since = Some(oldest(self.unsaved_since, object.version));
        }
        let mut nodes = object.replicas.iter().filter(|r| r.segment.readable()).map(|r| r.segment.node());
        let first = nodes.next();
        if object.cold.is_some() || nodes.any(|node| Some(node) != first) {
            self.doubled += 1;
        } else {
            self.lacks_since = Some(oldest(self.lacks_since, object.version));
        }
    }

    /// The version up to which all of it is in a vault; 0 where nothing is.
    pub fn saved_to(&self) -> Tso {
        let to = self.unsaved_since.map_or(self.newest, |since| Tso(since.0.saturating_sub(1)));
        if self.saved == 0 { Tso(0) } else { to }
    }

    /// Whether its second copy is in step `now`: there is one, or it would be if it were empty (`doubled`), and what it lacks is younger than two minutes.
    pub fn is_in_step(&self, now: Tso, doubled: bool) -> bool {
        let has = self.lacks_since.map_or(now, |since| Tso(since.0.saturating_sub(1)));
        (doubled || self.doubled > 0) && !is_lagging(now, has)
    }
}

fn oldest(known: Option<Tso>, version: Tso) -> Tso {
    known.map_or(version, |known| known.min(version))
}

/// Whether what has everything up to `has` is too far behind what is at `leader`.
fn is_lagging(leader: Tso, has: Tso) -> bool {
    leader > has && leader.physical_ms() - has.physical_ms() > BEHIND_MAX_MS
}

impl State {
    /// What there is of these shards of a tenant; of a table that has nothing, nothing is said. Looks at every object.
    pub fn count_shards(&self, tenant: TenantId, wanted: &dyn Fn(ShardId) -> bool) -> BTreeMap<ShardId, ShardCount> {
        let (known, rest) = (Arc::clone(&self.directory.known()), TableRecord::default_of(tenant));
        let mut counts: BTreeMap<ShardId, ShardCount> = BTreeMap::new();
        self.index.for_each(&mut |object| {
            let key = object.key.as_ref();
            if key.tenant == tenant {
                let shard = known.shard_of(&rest, key.bytes);
                if wanted(shard) {
                    counts.entry(shard).or_default().count(object);
                }
            }
            ControlFlow::Continue(())
        });
        counts
    }

    /// The shard that a key of a tenant is in.
    pub fn shard_of(&self, key: KeyRef<'_>) -> ShardId {
        self.directory.known().shard_of(&TableRecord::default_of(key.tenant), key.bytes)
    }

    /// Whether this version of some object of a tenant is published. Looks at every object.
    pub fn published(&self, tenant: TenantId, version: Tso) -> Option<Arc<Object>> {
        let mut found = None;
        self.index.for_each(&mut |object| {
            if object.version == version && object.key.as_ref().tenant == tenant {
                found = Some(Arc::clone(object));
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        found
    }
}

/// The jobs that are done shard by shard: whoever does one says so here, and looks between two objects whether it is to go on. Soft, as jobs are.
pub struct ShardJobs {
    running: Arc<Mutex<BTreeMap<ShardId, Numbered>>>,
    /// The number of the next one. Guards nothing, so relaxed.
    next: AtomicU64,
    passes: Mutex<BTreeMap<ShardId, Passes>>,
}

/// How often a shard was done with, in this reign.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passes {
    /// Offloads that ended with all of it in a vault.
    pub offloads: u64,
    /// Rounds of the evictor that took something of it out of memory.
    pub evictions: u64,
}

#[derive(Clone)]
struct Numbered {
    id: u64,
    stop: Arc<AtomicBool>,
}

/// Why no job was stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoJob {
    /// The shard has none.
    None,
    /// It has this one.
    Other(u64),
}

impl ShardJobs {
    /// None yet, in the reign of this term: no job of another has the number of one of these.
    pub fn new(term: u64) -> Self {
        Self { running: Arc::default(), next: AtomicU64::new((term << 32) + 1), passes: Mutex::default() }
    }

    /// A job on a shard begins, unless the shard has one. It ends when what is given is dropped.
    pub fn begin(&self, shard: ShardId) -> Option<ShardJob> {
        let mut running = lock(&self.running);
        if running.contains_key(&shard) {
            return None;
        }
        let job = Numbered { id: self.next.fetch_add(1, Ordering::Relaxed), stop: Arc::default() };
        running.insert(shard, job.clone());
        Some(ShardJob { shard, id: job.id, stop: job.stop, running: Arc::clone(&self.running) })
    }

    /// The jobs that are done now, and their numbers.
    pub fn running(&self) -> Vec<(ShardId, u64)> {
        lock(&self.running).iter().map(|(shard, job)| (*shard, job.id)).collect()
    }

    /// Something was finished that is counted.
    pub fn passed(&self, shard: ShardId, count: impl FnOnce(&mut Passes)) {
        count(lock(&self.passes).entry(shard).or_default());
    }

    /// What was finished of a shard.
    pub fn passes(&self, shard: ShardId) -> Passes {
        lock(&self.passes).get(&shard).copied().unwrap_or_default()
    }

    /// The job of this number, in digits, is to stop before its next object.
    ///
    /// # Errors
    /// Where the shard has no such job.
    pub fn stop(&self, shard: ShardId, id: &str) -> Result<(), NoJob> {
        match lock(&self.running).get(&shard) {
            None => Err(NoJob::None),
            Some(job) if job.id.to_string() != id => Err(NoJob::Other(job.id)),
            Some(job) => {
                job.stop.store(true, Ordering::Relaxed);
                Ok(())
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A job on a shard, as long as it is done.
pub struct ShardJob {
    shard: ShardId,
    id: u64,
    /// Guards nothing, so relaxed.
    stop: Arc<AtomicBool>,
    running: Arc<Mutex<BTreeMap<ShardId, Numbered>>>,
}

impl ShardJob {
    /// Its shard.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// Its number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether it is to stop.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl Drop for ShardJob {
    fn drop(&mut self) {
        lock(&self.running).remove(&self.shard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_minutes_behind_is_in_step_and_a_millisecond_more_is_not() {
        let at = |ms: u64| Tso::from_physical(1_716_177_600_000 - ms);
        for (behind, lags) in [(0, false), (119_999, false), (120_000, false), (120_001, true)] {
            assert_eq!(is_lagging(at(0), at(behind)), lags, "{behind}");
        }
        assert!(!is_lagging(at(200_000), at(0)), "ahead");
        let count = |doubled, lacks: Option<u64>| ShardCount { doubled, lacks_since: lacks.map(at), ..ShardCount::default() };
        let is = |count: ShardCount, doubled| count.is_in_step(at(0), doubled);
        assert!(is(count(1, None), false) && is(count(1, Some(60_000)), false) && is(count(0, Some(60_000)), true));
        assert!(!is(count(1, Some(180_000)), true) && !is(count(0, Some(1)), false) && !is(count(0, None), false));
    }

    #[test]
    fn a_job_is_stopped_by_its_number_and_only_while_it_is_done() {
        let (jobs, shard, first) = (ShardJobs::new(3), ShardId(7), (3 << 32) + 1);
        assert_eq!(jobs.stop(shard, &first.to_string()), Err(NoJob::None));
        let job = jobs.begin(shard).unwrap();
        assert_eq!((jobs.running(), job.shard(), job.id()), (vec![(shard, first)], shard, first));
        assert!(jobs.begin(shard).is_none() && jobs.begin(ShardId(8)).is_some_and(|other| other.id() == first + 1));
        assert_eq!(["another", "0"].map(|id| jobs.stop(shard, id)), [Err(NoJob::Other(first)), Err(NoJob::Other(first))]);
        assert!(!job.is_stopped());
        assert_eq!(jobs.stop(shard, &first.to_string()), Ok(()));
        assert!(job.is_stopped());
        drop(job);
        assert_eq!(jobs.stop(shard, &first.to_string()), Err(NoJob::None));
        assert!(jobs.begin(shard).is_some_and(|job| !job.is_stopped() && job.id() == first + 2));
        jobs.passed(shard, |passes| passes.offloads += 1);
        jobs.passed(shard, |passes| passes.offloads += 1);
        assert_eq!((jobs.passes(shard).offloads, jobs.passes(ShardId(8))), (2, Passes::default()));
    }

    #[test]
    fn a_shard_is_saved_up_to_its_oldest_object_that_is_not() {
        let count = |saved, unsaved_since| ShardCount { saved, newest: Tso(9), unsaved_since, ..ShardCount::default() };
        let to = [count(2, None), count(2, Some(Tso(5))), count(0, Some(Tso(5)))].map(|count| count.saved_to());
        assert_eq!(to, [Tso(9), Tso(4), Tso(0)]);
    }
}
