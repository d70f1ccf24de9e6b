//! Effects of the log that came to nothing: a commit that came too late, the removal of what was gone. Nobody is to be told of them as of events.
//!
//! What an effect comes to depends on the state it meets. A member that begins with a snapshot meets another one: the snapshot may know already
//! what follows its entry. So what came to nothing is noted where it is applied for the first time, and goes with every snapshot.

use perilune_protocol::Tso;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where an effect is: the stamp of its entry, and its place in it.
pub type Place = (Tso, u32);

/// The room. Written by apply; read by those who tell what happened, and by those who write snapshots.
#[derive(Default)]
pub struct Moot {
    noted: Mutex<Noted>,
}

/// As it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Noted {
    /// The last effect that was applied for the first time.
    upto: Place,
    /// What came to nothing until then, in order, as far as the log goes back.
    places: VecDeque<Place>,
}

impl Moot {
    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies the effect at `place` by `apply`, which tells what it gave and whether that is nothing. Whoever writes a snapshot finds either
    /// none of it or all.
    pub fn watch<T>(&self, place: Place, apply: impl FnOnce() -> (T, bool)) -> T {
        let mut noted = self.lock();
        let (outcome, moot) = apply();
        if place > noted.upto {
            noted.upto = place;
            if moot {
                noted.places.push_back(place);
            }
        }
        outcome
    }

    /// Which effects of the entry with this stamp came to nothing, by their places.
    pub fn of(&self, stamp: Tso) -> Vec<u32> {
        let noted = self.lock();
        let from = noted.places.partition_point(|place| place.0 < stamp);
        noted.places.range(from..).take_while(|place| place.0 == stamp).map(|place| place.1).collect()
    }

    /// The log begins with the entry of this stamp.
    pub fn forget(&self, before: Tso) {
        let mut noted = self.lock();
        let gone = noted.places.partition_point(|place| place.0 < before);
        noted.places.drain(..gone);
    }

    pub(crate) fn noted(&self) -> Noted {
        self.lock().clone()
    }

    pub(crate) fn replace(&self, noted: Noted) {
        *self.lock() = noted;
    }
}

impl Noted {
    /// The stamp of the last entry it knows of.
    pub(crate) fn stamp(&self) -> Tso {
        self.upto.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_applied_again_is_judged_by_the_first_time() {
        let moot = Moot::default();
        let apply = |moot: &Moot, place: (u64, u32), nothing| moot.watch((Tso(place.0), place.1), || ((), nothing));
        for (place, nothing) in [((5, 0), false), ((5, 1), true), ((5, 2), true), ((9, 0), true), ((9, 1), false)] {
            apply(&moot, place, nothing);
        }
        let copy = Moot::default();
        copy.replace(moot.noted());
        // It begins with a snapshot that knows more than its entry.
        for (place, nothing) in [((5, 1), false), ((5, 2), true), ((9, 0), false), ((9, 1), true), ((9, 2), true), ((11, 0), false)] {
            apply(&copy, place, nothing);
        }
        let of = |stamp| copy.of(Tso(stamp));
        assert_eq!((of(5), of(8), of(9), of(11), of(12)), (vec![1, 2], vec![], vec![0, 2], vec![], vec![]));
        copy.forget(Tso(9));
        assert_eq!((copy.of(Tso(5)), copy.of(Tso(9)), copy.noted().places.len()), (vec![], vec![0, 2], 2));
    }
}
