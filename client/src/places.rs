//! Where objects were when the master was last asked, for as long as the leases it granted run.
//!
//! While a lease runs, the extents of that version keep its bytes, whatever becomes of the key: so a remembered place
//! saves the question. The price: an object that another client upserted, or removed by force, is still seen as it was
//! for the rest of the lease. A client's own changes are forgotten at once.

use perilune_protocol::{ObjectKey, ObjectPlace};
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const SHARDS: usize = 16;

/// A bounded memory of places.
pub(crate) struct Places {
    shards: Vec<Mutex<Generations>>,
    hasher: RandomState,
    /// Entries per generation of a shard.
    generation: usize,
}

/// The young generation takes new entries; when it is full it becomes the old one, and the old one is forgotten whole.
#[derive(Default)]
struct Generations {
    young: HashMap<ObjectKey, Leased>,
    old: HashMap<ObjectKey, Leased>,
}

#[derive(Clone)]
struct Leased {
    place: Arc<ObjectPlace>,
    until: Instant,
}

impl Places {
    /// Remembers up to about `limit` places; 0 remembers none.
    pub(crate) fn new(limit: usize) -> Self {
        let generation = limit.div_ceil(SHARDS * 2);
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), hasher: RandomState::new(), generation }
    }

    /// The place of `key`, if a read that starts at `now` will find its lease running.
    pub(crate) fn get(&self, key: &ObjectKey, now: Instant) -> Option<Arc<ObjectPlace>> {
        let shard = self.shard(key);
        let leased = shard.young.get(key).or_else(|| shard.old.get(key))?;
        (now < leased.until).then(|| Arc::clone(&leased.place))
    }

    /// Remembers what the master answered to a question that was asked at `asked`, or later.
    pub(crate) fn learn(&self, key: &ObjectKey, place: &Arc<ObjectPlace>, asked: Instant) {
        if self.generation == 0 {
            return;
        }
        let lease = Duration::from_millis(place.lease_ms);
        // A quarter of the lease, at most a second, is left for the read itself and for clocks that run apart.
        let Some(until) = asked.checked_add(lease - (lease / 4).min(Duration::from_secs(1))) else { return };
        let mut shard = self.shard(key);
        if shard.young.len() >= self.generation {
            shard.old = std::mem::take(&mut shard.young);
        }
        shard.young.insert(key.clone(), Leased { place: Arc::clone(place), until });
    }

    /// Forgets `key`.
    pub(crate) fn forget(&self, key: &ObjectKey) {
        let mut shard = self.shard(key);
        shard.young.remove(key);
        shard.old.remove(key);
    }

    /// Forgets everything.
    pub(crate) fn forget_all(&self) {
        for shard in &self.shards {
            *shard.lock().unwrap_or_else(PoisonError::into_inner) = Generations::default();
        }
    }

    fn shard(&self, key: &ObjectKey) -> MutexGuard<'_, Generations> {
        let at = self.hasher.hash_one(key) as usize % SHARDS;
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use perilune_protocol::Tso;

    fn place(lease_ms: u64) -> Arc<ObjectPlace> {
        Arc::new(ObjectPlace { version: Tso(1), size: 1, checksum: 0, lease_ms, replicas: Vec::new() })
    }

    #[test]
    fn a_place_is_known_until_shortly_before_its_lease_ends() {
        let places = Places::new(100);
        let (key, asked) = (ObjectKey::from("k"), Instant::now());
        places.learn(&key, &place(10_000), asked);
        assert!(places.get(&key, asked + Duration::from_millis(8_999)).is_some());
        assert!(places.get(&key, asked + Duration::from_millis(9_000)).is_none());
        places.learn(&key, &place(0), asked);
        assert!(places.get(&key, asked).is_none(), "no lease, nothing to remember");
        places.learn(&key, &place(10_000), asked);
        places.forget(&key);
        assert!(places.get(&key, asked).is_none());
    }

    #[test]
    fn the_memory_is_bounded() {
        let places = Places::new(320);
        let now = Instant::now();
        let keys: Vec<ObjectKey> = (0..10_000).map(|n| ObjectKey::from(format!("key {n}"))).collect();
        for key in &keys {
            places.learn(key, &place(10_000), now);
        }
        let known = keys.iter().filter(|key| places.get(key, now).is_some()).count();
        assert!((100..=320).contains(&known), "{known} places are known");
        assert!(places.get(&keys[9_999], now).is_some(), "the last one is");
        places.forget_all();
        assert!(places.get(&keys[9_999], now).is_none());
    }
}
