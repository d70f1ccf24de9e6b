//! Objects that are to be brought to a vault, in the order in which they were offered. Bounded: what finds no place is offered again.

use super::lock;
use perilune_state::objects::{Key, Object};
use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex};

/// So many wait at a time.
pub(super) const OFFERS_MAX: usize = 4096;

#[derive(Default)]
pub(crate) struct Offers(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    objects: VecDeque<Arc<Object>>,
    keys: HashSet<Key>,
}

impl Offers {
    /// Takes an object in, unless it waits already. False when there is no place.
    pub(crate) fn offer(&self, object: &Arc<Object>) -> bool {
        let mut inner = lock(&self.0);
        if inner.objects.len() >= OFFERS_MAX {
            return false;
        }
        if inner.keys.insert(object.key.clone()) {
            inner.objects.push_back(object.clone());
        }
        true
    }

    /// The first of those that `fit`, among the next `look`.
    pub(super) fn take<T>(&self, look: usize, fits: impl Fn(&Arc<Object>) -> Fit<T>) -> Option<T> {
        let mut inner = lock(&self.0);
        let mut nth = 0;
        while nth < look.min(inner.objects.len()) {
            match fits(&inner.objects[nth]) {
                Fit::Later => nth += 1,
                Fit::Never => inner.forget(nth),
                Fit::Now(found) => {
                    inner.forget(nth);
                    return Some(found);
                }
            }
        }
        None
    }

    pub(super) fn is_empty(&self) -> bool {
        lock(&self.0).objects.is_empty()
    }
}

/// Whether an offer is taken.
pub(super) enum Fit<T> {
    /// As this.
    Now(T),
    /// It stays where it is.
    Later,
    /// It is dropped.
    Never,
}

impl Inner {
    fn forget(&mut self, nth: usize) {
        if let Some(object) = self.objects.remove(nth) {
            self.keys.remove(&object.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use perilune_protocol::{Pin, TenantId, Tso};
    use perilune_state::objects::KeyRef;

    #[test]
    fn offers_are_taken_in_order_once_and_are_bounded() {
        let object = |n: u64| {
            let key = KeyRef { tenant: TenantId(0), bytes: &n.to_le_bytes() }.to_owned();
            Arc::new(Object::new(key, Tso(n), 1, 0, Pin::None, Box::default(), 0))
        };
        let offers = Offers::default();
        let taken = (0..2 * OFFERS_MAX as u64).filter(|n| offers.offer(&object(*n)) && offers.offer(&object(0))).count();
        assert!(taken < OFFERS_MAX && !offers.is_empty(), "{taken}");
        let pick = |object: &Arc<Object>| match object.version.0 {
            0 | 2 => Fit::Later,
            1 => Fit::Never,
            n => Fit::Now(n),
        };
        assert_eq!(offers.take(2, pick), None, "the first waits, the second is gone, the third waits");
        assert_eq!(offers.take(9, pick), Some(3));
        assert_eq!(offers.take(9, |object| Fit::Now(object.version.0)), Some(0));
        assert_eq!(offers.take(1, |object| Fit::Now(object.version.0)), Some(2));
        let rest = std::iter::from_fn(|| offers.take(1, |object| Fit::Now(object.version.0))).count();
        assert_eq!(rest, OFFERS_MAX - 4);
        assert!(offers.is_empty() && offers.offer(&object(0)));
    }
}
