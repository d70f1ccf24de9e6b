//! Objects in the order of the stamps they were last seen with: a sorted list in blocks, 16 bytes an object. Most come last and leave first.

use super::Object;
use std::collections::VecDeque;
use std::sync::Arc;

/// Where an object stands: its stamp, then its version. Two of one stamp exist only when nobody used either.
pub(super) type Place = (u64, u64);

/// Items of a block. What is found is found by halves; only the items behind it in its block move up.
const BLOCK: usize = 256;

/// The list. No block is empty.
#[derive(Default)]
pub(super) struct Ranks {
    blocks: VecDeque<Vec<Item>>,
    len: usize,
}

struct Item {
    stamp: u64,
    object: Arc<Object>,
}

impl Item {
    fn place(&self) -> Place {
        (self.stamp, self.object.version.0)
    }

    /// The stamp mostly decides, without a look at the object.
    fn is_before(&self, place: Place) -> bool {
        self.stamp < place.0 || (self.stamp == place.0 && self.place() < place)
    }
}

impl Ranks {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// In order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.blocks.iter().flatten().map(|item| &item.object)
    }

    /// The first object behind a place; without one, the first of all.
    pub(super) fn after(&self, place: Option<Place>) -> Option<(Place, &Arc<Object>)> {
        let (block, nth) = place.map_or((0, 0), |(stamp, version)| self.find((stamp, version.saturating_add(1))));
        let item = self.blocks.get(block)?.get(nth)?;
        Some((item.place(), &item.object))
    }

    /// Puts an object where its stamp says; what stands there makes way.
    pub(super) fn insert(&mut self, object: Arc<Object>) {
        let item = Item { stamp: object.touched(), object };
        let (block, nth) = self.find(item.place());
        let Some(items) = self.blocks.get_mut(block) else { return self.push(item) };
        if items[nth].place() == item.place() {
            items[nth] = item;
            return;
        }
        items.insert(nth, item);
        self.len += 1;
        if items.len() > BLOCK {
            let rest = items.split_off(BLOCK / 2);
            self.blocks.insert(block + 1, rest);
        }
    }

    fn push(&mut self, item: Item) {
        self.len += 1;
        match self.blocks.back_mut() {
            Some(last) if last.len() < BLOCK => last.push(item),
            _ => self.blocks.push_back(vec![item]),
        }
    }

    /// Takes out what stands at a place.
    pub(super) fn remove(&mut self, place: Place) {
        let (block, nth) = self.find(place);
        let Some(items) = self.blocks.get_mut(block) else { return };
        if items[nth].place() != place {
            return;
        }
        items.remove(nth);
        self.len -= 1;
        if items.len() <= BLOCK / 4 {
            self.merge(block);
        }
    }

    /// Puts what is left of a block in front of the next, or makes it as small as it is.
    fn merge(&mut self, block: usize) {
        let mut items = std::mem::take(&mut self.blocks[block]);
        match self.blocks.get_mut(block + 1) {
            Some(next) if items.len() + next.len() <= BLOCK => {
                next.splice(..0, items);
            }
            _ if items.is_empty() => {}
            _ => {
                items.shrink_to(BLOCK / 2);
                self.blocks[block] = items;
                return;
            }
        }
        self.blocks.remove(block);
    }

    /// Lets go of all for which `keep` is false.
    pub(super) fn retain(&mut self, keep: impl Fn(&Object) -> bool) {
        let blocks = std::mem::take(&mut self.blocks);
        self.len = 0;
        blocks.into_iter().flatten().filter(|item| keep(&item.object)).for_each(|item| self.push(item));
    }

    /// Block and item of the first that is not before a place.
    fn find(&self, place: Place) -> (usize, usize) {
        let block = self.blocks.partition_point(|items| items.last().is_some_and(|last| last.is_before(place)));
        (block, self.blocks.get(block).map_or(0, |items| items.partition_point(|item| item.is_before(place))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{Few, KeyRef};
    use perilune_protocol::{Pin, TenantId, Tso};
    use std::collections::BTreeMap;
    use std::ops::Bound;

    fn object(stamp: u64, version: u64) -> Arc<Object> {
        let key = KeyRef { tenant: TenantId(0), bytes: b"k" }.to_owned();
        Arc::new(Object::new(key, Tso(version), 1, 0, Pin::None, Few::default(), stamp))
    }

    /// The oracle is an ordered map; whatever is done, both have the same in the same order.
    #[test]
    fn agrees_with_an_ordered_map() {
        for seed in 1..20u64 {
            let mut state = seed;
            let mut draw = |n: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % n
            };
            let (mut ranks, mut oracle) = (Ranks::default(), BTreeMap::<Place, Arc<Object>>::new());
            // Long runs of one kind, so that it grows to many blocks and shrinks to none.
            for run in 0..40 {
                let (kind, steps) = (draw(5), draw(2000));
                for _ in 0..steps {
                    let last = oracle.last_key_value().map_or(0, |(place, _)| place.0);
                    match kind {
                        // At the end, anywhere, at the front, anywhere.
                        0 | 1 => {
                            let new = object(if kind == 0 { last + draw(2) } else { draw(last + 1) }, draw(4));
                            oracle.insert((new.touched(), new.version.0), new.clone());
                            ranks.insert(new);
                        }
                        2 => {
                            let first = ranks.after(None).map(|(place, _)| place);
                            assert_eq!(first, oracle.first_key_value().map(|(place, _)| *place));
                            first.into_iter().for_each(|place| ranks.remove(place));
                            oracle.pop_first();
                        }
                        _ => {
                            let from = (draw(last + 1), draw(4));
                            let next = oracle.range((Bound::Excluded(from), Bound::Unbounded)).next();
                            let found = ranks.after(Some(from)).map(|(place, object)| (place, object.clone()));
                            let at = format!("seed {seed} run {run}");
                            assert_eq!(found.as_ref().map(|(place, _)| *place), next.map(|(place, _)| *place), "{at}");
                            let gone = if draw(2) == 0 { found.map_or(from, |(place, _)| place) } else { from };
                            ranks.remove(gone);
                            oracle.remove(&gone);
                        }
                    }
                }
                if draw(8) == 0 {
                    ranks.retain(|object| object.version.0 != 1);
                    oracle.retain(|place, _| place.1 != 1);
                }
                assert_eq!((ranks.len(), ranks.is_empty()), (oracle.len(), oracle.is_empty()), "seed {seed} run {run}");
                assert_eq!(ranks.iter().count(), ranks.len(), "seed {seed} run {run}");
                assert!(ranks.iter().zip(oracle.values()).all(|(a, b)| Arc::ptr_eq(a, b)), "seed {seed} run {run}");
                assert!(ranks.blocks.iter().all(|items| (1..=BLOCK).contains(&items.len())), "seed {seed} run {run}");
            }
        }
    }
}
