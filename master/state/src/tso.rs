//! Issues the stamps of the one clock, within a limit that the log knows, so that no later leader repeats one.

use perilune_protocol::Tso;
use std::sync::atomic::{AtomicU64, Ordering};

/// How far ahead of the clock the logged limit is put.
const LIMIT_AHEAD_MS: u64 = 10_000;

/// The source of stamps.
///
/// `last`: every proposer, by one RMW per batch. `limit`: written by apply, read by proposers.
/// Relaxed suffices: stamps order themselves, they publish nothing else.
#[derive(Debug, Default)]
pub struct TsoSource {
    last: AtomicU64,
    limit: AtomicU64,
}

/// The logged limit is reached: log this one, then ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeedLimit(pub Tso);

impl TsoSource {
    /// The first of `count` consecutive stamps, none issued before. `now_ms` is the wall clock; it may jump, stamps do not go back.
    pub fn next(&self, now_ms: u64, count: u64) -> Result<Tso, NeedLimit> {
        let limit = self.limit.load(Ordering::Relaxed);
        let mut last = self.last.load(Ordering::Relaxed);
        loop {
            let first = (last + 1).max(Tso::from_physical(now_ms).0);
            if first + count - 1 > limit {
                return Err(NeedLimit(Tso(first + count + Tso::from_physical(LIMIT_AHEAD_MS).0)));
            }
            match self.last.compare_exchange_weak(last, first + count - 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(Tso(first)),
                Err(seen) => last = seen,
            }
        }
    }

    /// The limit that is to be logged when less than so many milliseconds of stamps are left before the one that there is. Told by the stamps, which may be
    /// ahead of the wall clock.
    pub fn near_limit(&self, now_ms: u64, left_ms: u64) -> Option<NeedLimit> {
        let next = (self.last.load(Ordering::Relaxed) + 1).max(Tso::from_physical(now_ms).0);
        let is_near = self.limit.load(Ordering::Relaxed) < next + Tso::from_physical(left_ms).0;
        is_near.then(|| NeedLimit(Tso(next + Tso::from_physical(LIMIT_AHEAD_MS).0)))
    }

    /// One for an entry of the log, which carries it to every later leader and so needs no limit: above all issued before, and at least this.
    pub fn stamp(&self, least: Tso) -> Tso {
        let next = |last: u64| (last + 1).max(least.0);
        // The closure always gives one.
        Tso(next(self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last))).unwrap_or(0)))
    }

    /// The log allows stamps up to `limit`.
    pub fn raise_limit(&self, limit: Tso) {
        self.limit.fetch_max(limit.0, Ordering::Relaxed);
    }

    /// The limit the log knows.
    pub fn limit(&self) -> Tso {
        Tso(self.limit.load(Ordering::Relaxed))
    }

    /// A new leader starts above everything its predecessor may have issued.
    pub fn skip_past_limit(&self) {
        self.last.fetch_max(self.limit.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Leaves out stamps of less than a millisecond, other ones at another time. A lone master that loses its last entries with the power knows the limit
    /// that it knew when it began before: it does not give the stamps of those to others.
    pub fn stagger(&self, now_ms: u64) {
        self.last.fetch_add(now_ms & ((1 << Tso::LOGICAL_BITS) - 1), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_of_entries_rise_with_the_others_and_may_pass_the_limit() {
        let tso = TsoSource::default();
        tso.raise_limit(Tso(10));
        assert_eq!((tso.next(0, 3), tso.stamp(Tso(2)), tso.stamp(Tso(9))), (Ok(Tso(1)), Tso(4), Tso(9)));
        assert_eq!((tso.next(0, 1), tso.stamp(Tso(0))), (Ok(Tso(10)), Tso(11)));
        assert!(tso.next(0, 1).is_err(), "the log knows only up to 10");
        tso.raise_limit(Tso(11));
        assert!(tso.next(0, 1).is_err());
    }

    #[test]
    fn who_begins_at_the_same_limit_at_another_time_gives_other_stamps() {
        let first = |now_ms| {
            let tso = TsoSource::default();
            tso.raise_limit(Tso::from_physical(20_000));
            tso.skip_past_limit();
            tso.stagger(now_ms);
            tso.stamp(Tso(0))
        };
        assert!(first(10_000) > Tso::from_physical(20_000) && first(10_000) != first(10_001));
        assert!(first(u64::MAX) <= Tso::from_physical(20_001));
    }

    #[test]
    fn a_limit_is_near_by_the_stamps_also_where_the_clock_is_behind_them() {
        let tso = TsoSource::default();
        tso.raise_limit(Tso::from_physical(20_000));
        assert_eq!(tso.near_limit(10_000, 4000), None);
        assert_eq!(tso.near_limit(16_001, 4000), Some(NeedLimit(Tso::from_physical(26_001))));
        // A new leader, whose clock is behind that of the one before.
        tso.skip_past_limit();
        assert!(tso.next(10_000, 1).is_err());
        let NeedLimit(limit) = tso.near_limit(10_000, 4000).unwrap();
        tso.raise_limit(limit);
        assert!(tso.next(10_000, 1).is_ok_and(|stamp| stamp > Tso::from_physical(20_000)));
        assert_eq!(tso.near_limit(10_000, 4000), None, "not again before the stamps have come near");
    }

    #[test]
    fn stamps_rise_even_when_the_clock_jumps_back_or_the_leader_changes() {
        let tso = TsoSource::default();
        let NeedLimit(limit) = tso.next(1000, 1).unwrap_err();
        tso.raise_limit(limit);
        let a = tso.next(1000, 4).unwrap();
        let b = tso.next(10, 1).unwrap();
        assert_eq!(b.0, a.0 + 4);
        let successor = TsoSource::default();
        successor.raise_limit(limit);
        successor.skip_past_limit();
        let need = successor.next(10, 1).unwrap_err();
        successor.raise_limit(need.0);
        assert!(successor.next(10, 1).unwrap() > limit);
    }
}
