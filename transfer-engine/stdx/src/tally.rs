//! Counts down to zero and tells exactly one caller.

use crate::primitive::{AtomicUsize, Ordering};

/// How many parts of something are still under way.
#[derive(Debug)]
pub struct Tally {
    /// Lowered by whoever finishes a part, once for each part.
    left: AtomicUsize,
}

impl Tally {
    /// A tally of `parts`. One of no parts tells nobody, as nobody finishes.
    pub fn new(parts: usize) -> Self {
        Self { left: AtomicUsize::new(parts) }
    }

    /// There are so many. Only before anybody has a part to finish: what hands those over orders this before.
    pub fn expect(&self, parts: usize) {
        self.left.store(parts, Ordering::Relaxed);
    }

    /// One part is done. `true` for exactly one caller: the last, which sees what all others did before their call.
    pub fn done(&self) -> bool {
        // Release pairs with the Acquire of the last caller: the RMWs in between continue the release sequence of each.
        let before = self.left.fetch_sub(1, Ordering::AcqRel);
        debug_assert_ne!(before, 0, "more parts done than there were");
        before == 1
    }

    /// Parts still under way. When 0, the caller sees what all of them did.
    pub fn left(&self) -> usize {
        // Acquire pairs with the Release of `done`.
        self.left.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primitive::testing::{Arc, model, thread};

    #[cfg(not(loom))]
    #[test]
    fn tells_the_last_of_many() {
        let tally = Tally::new(0);
        tally.expect(3);
        assert_eq!([tally.done(), tally.done(), tally.done()], [false, false, true]);
        assert_eq!(tally.left(), 0);
    }

    /// Guards against a batch that completes twice, never, or before its parts can be seen.
    #[test]
    fn one_thread_is_told_and_sees_all_parts() {
        model(|| {
            let shared = Arc::new((Tally::new(2), [AtomicUsize::new(0), AtomicUsize::new(0)]));
            let finish = |shared: &(Tally, [AtomicUsize; 2]), part: usize| {
                shared.1[part].store(1, Ordering::Relaxed);
                let last = shared.0.done();
                if last {
                    assert!(shared.1.iter().all(|part| part.load(Ordering::Relaxed) == 1));
                }
                last
            };
            let other = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || finish(&shared, 0))
            };
            let here = finish(&shared, 1);
            assert_ne!(other.join().unwrap(), here);
        });
    }
}
