//! A promise "readable until", and the one moment after which nobody can be promised anything.

use crate::primitive::{AtomicU64, Ordering};

/// Set once the word is condemned. As the highest bit it makes every condemned word larger than every time, so that `fetch_max` of a
/// grant leaves a condemned word as it is.
const CONDEMNED: u64 = 1 << 63;

/// A lease and its end in one word.
///
/// ```text
///   63         62                                  0
///  +-----------+------------------------------------+
///  | condemned | readable until, ms; 0 = never leased |
///  +-----------+------------------------------------+
///
///   until ── grant: until = max ──> until'      any thread, any number of times
///     └───── condemn, by force ──> condemned    exactly one thread, once; the time stays readable, nothing follows
/// ```
///
/// Whose clock the milliseconds are is the caller's business, as long as it is one clock.
#[derive(Debug)]
pub struct LeaseWord {
    /// Grown by any granter, condemned by one thread. Each change is one RMW, so they have one order and every granter is either before
    /// the condemnation (which then returns or honours its time) or told no.
    word: AtomicU64,
}

impl Default for LeaseWord {
    fn default() -> Self {
        Self::new()
    }
}

impl LeaseWord {
    /// A word that was never leased.
    pub fn new() -> Self {
        Self { word: AtomicU64::new(0) }
    }

    /// Promises readability until `until` (ms) at least; an earlier promise of more stays. `false` when condemned: nothing was promised.
    /// Times of 2^63 - 1 and above all mean that.
    pub fn grant(&self, until: u64) -> bool {
        let until = until.min(CONDEMNED - 1);
        // Acquire pairs with the Release of whoever condemned: a refused granter sees what was done before the condemnation.
        // Release pairs with the Acquire of the condemner, which sees what every granter before it did.
        self.word.fetch_max(until, Ordering::AcqRel) & CONDEMNED == 0
    }

    /// Condemns if the lease has lapsed (`until <= now`). `Ok` for exactly one caller. `Err` gives the time of the lease: that of a lease
    /// which is not over, or of a word that another caller condemned already (see [`Self::is_condemned`]).
    pub fn condemn(&self, now: u64) -> Result<(), u64> {
        // Acquire and Release: see `grant`.
        self.word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| (word <= now.min(CONDEMNED - 1)).then_some(word | CONDEMNED))
            .map(drop)
            .map_err(|word| word & !CONDEMNED)
    }

    /// Condemns whether the lease has lapsed or not. `Some` for exactly one caller: the time until which readers that were promised
    /// something may still be reading.
    pub fn condemn_by_force(&self) -> Option<u64> {
        // Acquire and Release: see `grant`.
        let before = self.word.fetch_or(CONDEMNED, Ordering::AcqRel);
        (before & CONDEMNED == 0).then_some(before)
    }

    /// Takes over a promise until `until` (ms) that another word made for the same thing; a condemned word honours it too.
    pub fn inherit(&self, until: u64) {
        let until = until.min(CONDEMNED - 1);
        // Acquire and Release: see `grant`. The closure always gives a value.
        let _ =
            self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| Some((word & CONDEMNED) | (word & !CONDEMNED).max(until)));
    }

    /// Until when (ms) reading was promised; stays readable after the condemnation.
    pub fn until(&self) -> u64 {
        // Acquire pairs with the Release of the last change.
        self.word.load(Ordering::Acquire) & !CONDEMNED
    }

    /// Whether no lease can be granted any more.
    pub fn is_condemned(&self) -> bool {
        // Acquire pairs with the Release of the condemner.
        self.word.load(Ordering::Acquire) & CONDEMNED != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primitive::testing::{Arc, model, thread};

    #[cfg(not(loom))]
    #[test]
    fn a_lease_only_grows_until_it_is_condemned() {
        let lease = LeaseWord::new();
        assert!(lease.grant(10) && lease.grant(5));
        assert_eq!((lease.until(), lease.is_condemned()), (10, false));
        assert_eq!(lease.condemn(9), Err(10));
        assert_eq!(lease.condemn(10), Ok(()));
        assert_eq!((lease.condemn(11), lease.condemn_by_force()), (Err(10), None));
        assert!(!lease.grant(u64::MAX), "no lease after the condemnation");
        assert_eq!((lease.until(), lease.is_condemned()), (10, true));
    }

    #[cfg(not(loom))]
    #[test]
    fn the_largest_times_are_times_and_not_condemnations() {
        let lease = LeaseWord::new();
        assert!(lease.grant(u64::MAX));
        assert_eq!((lease.until(), lease.is_condemned()), (CONDEMNED - 1, false));
        assert_eq!(lease.condemn(u64::MAX - 1), Ok(()), "no time lies after the largest");
        let forced = LeaseWord::new();
        assert!(forced.grant(7));
        assert_eq!((forced.condemn_by_force(), forced.condemn_by_force()), (Some(7), None));
    }

    /// Guards against a lease that was granted on a word while another took its place: whoever is refused finds the other, and the last
    /// to be condemned knows every promise.
    #[test]
    fn a_word_that_takes_anothers_place_honours_what_that_one_promised() {
        model(|| {
            let (old, new) = (Arc::new(LeaseWord::new()), Arc::new(LeaseWord::new()));
            let granter = {
                let (old, new) = (Arc::clone(&old), Arc::clone(&new));
                thread::spawn(move || old.grant(20) || new.grant(20))
            };
            assert!(new.grant(old.until()));
            old.condemn_by_force();
            new.inherit(old.until());
            let until = new.condemn_by_force().expect("nobody else condemns");
            if granter.join().unwrap() {
                assert!(until == 20 || new.until() == 20, "granted and forgotten");
            } else {
                assert_eq!(until, 0);
            }
        });
    }

    /// Guards against a lease that is granted but not honoured: either the grant is refused, or whoever condemned knows its time.
    #[test]
    fn a_grant_is_refused_or_honoured() {
        model(|| {
            let lease = Arc::new(LeaseWord::new());
            let granter = {
                let lease = Arc::clone(&lease);
                thread::spawn(move || lease.grant(20))
            };
            let lapsed = lease.condemn(10).is_ok();
            let granted = granter.join().unwrap();
            assert_ne!(lapsed, granted, "a lease until 20 and a condemnation at 10 exclude each other");
            assert_eq!(lease.until(), if granted { 20 } else { 0 });
        });
    }

    /// Guards against two threads that both believe they condemned, and free the same space twice.
    #[test]
    fn exactly_one_thread_condemns() {
        model(|| {
            let lease = Arc::new(LeaseWord::new());
            let granter = {
                let lease = Arc::clone(&lease);
                thread::spawn(move || (lease.grant(5), lease.condemn_by_force()))
            };
            let here = lease.condemn(0).is_ok();
            let (granted, forced) = granter.join().unwrap();
            assert_eq!(usize::from(here) + usize::from(forced.is_some()), 1);
            assert_eq!(forced, granted.then_some(5), "by force returns the lease that must be honoured");
        });
    }
}
