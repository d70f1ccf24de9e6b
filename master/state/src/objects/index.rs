//! From key to object, without a lock. The hottest room.

use super::key::{ByKey, KeyMap};
use super::{KeyRef, Object};
use perilune_protocol::Tso;
use std::ops::ControlFlow;
use std::sync::Arc;

/// What the rest of the brain needs of an index, so that a better one can replace it.
///
/// Lookups run on any thread at any time. `publish`, `replace` and `remove` are called by the apply loop only.
pub trait ObjectIndex: Send + Sync {
    /// The object of a key.
    fn get(&self, key: KeyRef<'_>) -> Option<Arc<Object>>;
    /// Makes a version visible unless a newer one is.
    fn publish(&self, object: Arc<Object>) -> Published;
    /// Puts another form of the version that is there in its place; no lookup finds neither.
    fn replace(&self, object: Arc<Object>);
    /// Takes this version out, if it is the one that is there.
    fn remove(&self, key: KeyRef<'_>, version: Tso) -> Option<Arc<Object>>;
    /// So many more objects are about to come.
    fn reserve(&self, objects: usize);
    /// How many objects there are; approximate while they change.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Visits every object that is there during the whole visit, and some of those that come or go meanwhile.
    /// Never delays a lookup.
    fn for_each(&self, visit: &mut dyn FnMut(&Arc<Object>) -> ControlFlow<()>);
}

/// What publishing did.
pub enum Published {
    /// The key was new.
    Fresh,
    /// This older version is no longer visible.
    Replaced(Arc<Object>),
    /// This version, or a newer one, is there already.
    Known(Arc<Object>),
}

/// Over `papaya`: lock-free reads and writes, and iteration that does not stop either (DESIGN D2).
#[derive(Default)]
pub struct PapayaIndex {
    map: KeyMap<Object, ()>,
}

impl ObjectIndex for PapayaIndex {
    fn get(&self, key: KeyRef<'_>) -> Option<Arc<Object>> {
        self.map.pin().get_key_value(&key).map(|(ByKey(object), ())| Arc::clone(object))
    }

    fn publish(&self, object: Arc<Object>) -> Published {
        let known = self.get(object.key.as_ref());
        if let Some(known) = known.as_ref().filter(|known| known.version >= object.version) {
            return Published::Known(Arc::clone(known));
        }
        // Nobody else publishes, so this is what it takes the place of.
        self.replace(object);
        known.map_or(Published::Fresh, Published::Replaced)
    }

    fn replace(&self, object: Arc<Object>) {
        // The item as a whole, not only what stands beside it.
        self.map.pin().insert(ByKey(object), ());
    }

    fn remove(&self, key: KeyRef<'_>, version: Tso) -> Option<Arc<Object>> {
        match self.map.pin().remove_if(&key, |ByKey(object), ()| object.version == version) {
            Ok(Some((ByKey(object), ()))) => Some(Arc::clone(object)),
            Ok(None) | Err(_) => None,
        }
    }

    fn reserve(&self, objects: usize) {
        self.map.pin().reserve(objects);
    }

    fn len(&self) -> usize {
        self.map.len()
    }

    fn for_each(&self, visit: &mut dyn FnMut(&Arc<Object>) -> ControlFlow<()>) {
        for ByKey(object) in self.map.pin().keys() {
            if visit(object).is_break() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{Few, Key};
    use perilune_protocol::{Pin, TenantId};
    use std::collections::BTreeMap;

    fn object(key: &Key, version: u64) -> Arc<Object> {
        Arc::new(Object::new(key.clone(), Tso(version), 1, 0, Pin::None, Few::default(), 0))
    }

    /// The oracle is a map of versions; every answer of the index must be its answer.
    #[test]
    fn agrees_with_an_ordered_map() {
        for seed in 1..40u64 {
            let mut state = seed;
            let mut draw = |n: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % n
            };
            let index = PapayaIndex::default();
            let mut oracle: BTreeMap<Key, u64> = BTreeMap::new();
            for step in 0..400 {
                let key = KeyRef { tenant: TenantId(draw(2) as u32), bytes: format!("k{}", draw(12)).as_bytes() }.to_owned();
                let version = draw(50) + 1;
                let at = format!("seed {seed} step {step}");
                match draw(3) {
                    0 => {
                        let expected = oracle.get(&key).copied();
                        match index.publish(object(&key, version)) {
                            Published::Fresh => assert_eq!(expected, None, "{at}"),
                            Published::Replaced(old) => assert!(expected == Some(old.version.0) && old.version.0 < version, "{at}"),
                            Published::Known(known) => assert!(expected == Some(known.version.0) && known.version.0 >= version, "{at}"),
                        }
                        oracle.entry(key).and_modify(|v| *v = (*v).max(version)).or_insert(version);
                    }
                    1 => {
                        let hit = oracle.get(&key) == Some(&version);
                        assert_eq!(index.remove(key.as_ref(), Tso(version)).is_some(), hit, "{at}");
                        if hit {
                            oracle.remove(&key);
                        }
                    }
                    _ => assert_eq!(index.get(key.as_ref()).map(|o| o.version.0), oracle.get(&key).copied(), "{at}"),
                }
            }
            let mut seen = BTreeMap::new();
            index.for_each(&mut |o| {
                seen.insert(o.key.clone(), o.version.0);
                ControlFlow::Continue(())
            });
            assert_eq!(seen, oracle, "seed {seed}");
            assert_eq!(index.len(), oracle.len(), "seed {seed}");
        }
    }
}
