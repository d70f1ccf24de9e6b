//! All work of a lane in the order of its deadlines.

use std::collections::VecDeque;
use std::time::Instant;

/// Entries by deadline and id. Ids grow and deadlines mostly too, and what comes first is mostly done first: so entries are added at the end
/// and taken from the front, and only others cost a search. One that was taken from the middle leaves its place empty until it comes to the front,
/// or until more places are empty than not.
pub(super) struct Agenda<T> {
    entries: VecDeque<(Key, Option<T>)>,
    len: usize,
}

/// So many empty places are not worth the effort.
const EMPTY_MAX: usize = 64;

/// A deadline, and the id of its work.
pub(super) type Key = (Instant, u64);

impl<T> Agenda<T> {
    pub(super) fn new() -> Self {
        Self { entries: VecDeque::new(), len: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first deadline.
    pub(super) fn nearest(&self) -> Option<Instant> {
        self.entries.front().map(|((deadline, _), _)| *deadline)
    }

    pub(super) fn insert(&mut self, key: Key, entry: T) {
        if self.entries.len() > 2 * self.len + EMPTY_MAX {
            self.entries.retain(|(_, entry)| entry.is_some());
        }
        if self.entries.back().is_none_or(|(last, _)| *last < key) {
            self.entries.push_back((key, Some(entry)));
        } else {
            let at = self.entries.partition_point(|(other, _)| *other < key);
            self.entries.insert(at, (key, Some(entry)));
        }
        self.len += 1;
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        let front = self.entries.front().is_some_and(|(first, _)| *first == key);
        let at = if front { 0 } else { self.entries.binary_search_by_key(&key, |(other, _)| *other).ok()? };
        let taken = self.entries[at].1.take()?;
        self.len -= 1;
        while self.entries.front().is_some_and(|(_, entry)| entry.is_none()) {
            self.entries.pop_front();
        }
        Some(taken)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.entries.iter().filter_map(|(key, entry)| Some((*key, entry.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::time::Duration;

    /// Beside an ordered map, with a step of a fixed sequence for every insertion and removal.
    #[test]
    fn it_is_an_ordered_map() {
        let (now, mut agenda, mut map, mut random) = (Instant::now(), Agenda::new(), BTreeMap::new(), 1_u64);
        for id in 0..5000 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let key = (now + Duration::from_secs(random >> 33 & 3), id);
            agenda.insert(key, id);
            map.insert(key, id);
            let chosen = map.keys().nth((random >> 40) as usize % (map.len() * 2)).copied();
            let gone = chosen.unwrap_or((now, id + 1));
            assert_eq!(agenda.remove(gone), map.remove(&gone));
            assert_eq!(agenda.remove(gone), None);
            assert_eq!((agenda.nearest(), agenda.is_empty()), (map.keys().next().map(|key| key.0), map.is_empty()));
            assert!(agenda.entries.len() <= 2 * map.len() + EMPTY_MAX + 2, "empty places are cleared away");
        }
        assert!(map.len() > 100 && agenda.iter().map(|(key, id)| (key, *id)).eq(map));
    }
}
