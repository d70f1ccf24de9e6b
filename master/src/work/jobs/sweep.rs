//! A pass over all objects, in slices, that can be gone on with by another leader: where it is, is one number.

use perilune_protocol::checksum;
use perilune_state::State;
use perilune_state::objects::{Key, Object};
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

/// The end of a pass: keys are spread over the numbers below.
pub(super) const END: u64 = 1 << 32;
/// A pass looks at the whole index as often as it has slices.
const SLICES_MAX: u64 = 64;

/// A pass.
pub(super) struct Sweep {
    /// Where the slice that `found` is from begins and ends.
    begun: u64,
    at: u64,
    found: VecDeque<Arc<Object>>,
    /// About how many objects are in a slice.
    slice: u64,
}

impl Sweep {
    /// Goes on at `at`, as `Sweep::at` said.
    pub(super) fn from(at: u64, slice: u64) -> Self {
        Self { begun: at.min(END), at: at.min(END), found: VecDeque::new(), slice }
    }

    /// Where a pass that goes on from here must begin.
    pub(super) fn at(&self) -> u64 {
        if self.found.is_empty() { self.at } else { self.begun }
    }

    /// The next object that was `wanted` when it was looked at. `None` at the end of the pass.
    pub(super) fn next(&mut self, state: &State, mut wanted: impl FnMut(&Arc<Object>) -> bool) -> Option<Arc<Object>> {
        while self.found.is_empty() {
            if self.at >= END {
                return None;
            }
            let slices = (state.index.len() as u64 / self.slice.max(1)).clamp(1, SLICES_MAX);
            let (from, to) = (self.at, (self.at + END.div_ceil(slices)).min(END));
            state.index.for_each(&mut |object| {
                if (from..to).contains(&place(&object.key)) && wanted(object) {
                    self.found.push_back(object.clone());
                }
                ControlFlow::Continue(())
            });
            // Not in the order of the index, which is another in each process.
            self.found.make_contiguous().sort_by_cached_key(|object| place(&object.key));
            (self.begun, self.at) = (from, to);
        }
        self.found.pop_front()
    }
}

/// Where a key stands in every pass of every leader.
fn place(key: &Key) -> u64 {
    let key = key.as_ref();
    checksum(&[&key.tenant.0.to_le_bytes(), key.bytes]) & (END - 1)
}

/// Passes, one after the other: when something happened to segments, and now and then.
pub(super) struct Passes {
    present: Option<Sweep>,
    slice: u64,
    /// Milliseconds between two.
    every: u64,
    due: u64,
    /// The segments as they were when the last one began.
    seen: u64,
}

impl Passes {
    /// The first goes on at `at` where an earlier leader was, if it was somewhere, and begins at once.
    pub(super) fn new(at: u64, slice: u64, every: u64) -> Self {
        let present = (at > 0 && at < END).then(|| Sweep::from(at, slice));
        Self { present, slice, every, due: 0, seen: 0 }
    }

    /// Where the present one is; 0 when there is none.
    pub(super) fn at(&self) -> u64 {
        self.present.as_ref().map_or(0, Sweep::at)
    }

    /// Whether one goes on.
    pub(super) fn underway(&self) -> bool {
        self.present.is_some()
    }

    /// When the next begins, if nothing happens.
    pub(super) fn next_at(&self) -> u64 {
        self.due
    }

    /// The next begins at `now`, if not before.
    pub(super) fn due_at(&mut self, now: u64) {
        self.due = self.due.min(now);
    }

    /// Begins one if it is time. True when a new one began.
    pub(super) fn begin(&mut self, state: &State, now: u64) -> bool {
        let seen = fingerprint(state);
        if self.present.is_some() && self.due == 0 {
            // An earlier leader began it.
            self.due = now + self.every;
        }
        if self.present.is_some() || (now < self.due && seen == self.seen) {
            return false;
        }
        (self.seen, self.due) = (seen, now + self.every);
        self.present = Some(Sweep::from(0, self.slice));
        true
    }

    /// The next object of the present one. `None`: it has ended, or there is none.
    pub(super) fn next(&mut self, state: &State, wanted: impl FnMut(&Arc<Object>) -> bool) -> Option<Arc<Object>> {
        let found = self.present.as_mut()?.next(state, wanted);
        if found.is_none() {
            self.present = None;
        }
        found
    }
}

/// Changes when a segment comes, goes, drains, or its node is lost or returns.
fn fingerprint(state: &State) -> u64 {
    let word = |s: &Arc<perilune_state::segments::Segment>| {
        let (phase, reach) = (s.phase() as u8, s.reach() as u8);
        checksum(&[s.id().0.as_bytes(), &[phase, reach]])
    };
    // A sum, since the table has no order.
    state.segments.table().iter().map(word).fold(1, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use perilune_protocol::{Pin, TenantId, Tso};
    use perilune_state::Rules;
    use perilune_state::objects::{Few, KeyRef};
    use std::collections::BTreeSet;

    fn state(objects: u64) -> State {
        let rules: Rules = crate::MasterConfig::default().rules();
        let state = State::new(rules);
        for n in 0..objects {
            let key = KeyRef { tenant: TenantId(0), bytes: &n.to_be_bytes() }.to_owned();
            state.index.publish(Arc::new(Object::new(key, Tso(n + 1), 1, 0, Pin::None, Few::default(), 0)));
        }
        state
    }

    #[test]
    fn a_pass_that_another_goes_on_with_meets_every_object() {
        let state = state(5000);
        for stop in [1, 700, 4999] {
            let (mut met, mut first) = (BTreeSet::new(), Sweep::from(0, 300));
            for _ in 0..stop {
                met.insert(first.next(&state, |_| true).unwrap().version);
            }
            // The objects in hand are met again rather than not at all.
            let mut second = Sweep::from(first.at(), 300);
            let mut again = 0;
            while let Some(object) = second.next(&state, |_| true) {
                again += u64::from(!met.insert(object.version));
            }
            assert_eq!(met.len(), 5000);
            assert!(again < 900, "{again} objects met twice: more than a slice");
            assert_eq!(second.at(), END);
        }
    }

    #[test]
    fn a_pass_begins_at_once_then_when_it_is_time() {
        let state = state(3);
        let mut passes = Passes::new(0, 10, 1000);
        assert!(passes.begin(&state, 5) && !passes.begin(&state, 6));
        while passes.next(&state, |_| true).is_some() {}
        assert!(!passes.underway() && !passes.begin(&state, 1004));
        assert!(passes.begin(&state, 1005));
        assert!(Passes::new(77, 10, 1000).underway(), "gone on with");
    }
}
