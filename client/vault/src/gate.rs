//! When to ask a vault again, and when not to: growing pauses, and a gate that is closed to all but one while the vault is away.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How a vault is asked.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// One request takes no longer; then it is a failure, and may be repeated.
    pub attempt: Duration,
    /// The pause before the first repetition, which doubles with each.
    pub pause_min: Duration,
    /// No pause is longer.
    pub pause_max: Duration,
    /// Failures one after another until the vault is *away*. An answer that a caller's deadline was too short for is one, too.
    pub failures: u32,
    /// Names the sequence of what pauses differ by, so that many callers do not come back at once.
    pub seed: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            attempt: Duration::from_secs(30),
            pause_min: Duration::from_millis(100),
            pause_max: Duration::from_secs(30),
            failures: 5,
            seed: uuid::Uuid::new_v4().as_u64_pair().0,
        }
    }
}

/// Pauses that grow from one limit to the other; each is between half and all of what it grew to.
#[derive(Clone, Debug)]
pub(crate) struct Pauses {
    next: Duration,
    max: Duration,
    random: u64,
}

impl Pauses {
    pub(crate) fn new(limits: &Limits, seed: u64) -> Self {
        Self { next: limits.pause_min, max: limits.pause_max, random: seed }
    }

    /// The next pause.
    pub(crate) fn take(&mut self) -> Duration {
        let whole = self.next.min(self.max);
        self.next = whole.saturating_mul(2);
        whole.mul_f64(0.5 + 0.5 * self.unit())
    }

    /// Evenly in `0.0 .. 1.0` (SplitMix64).
    fn unit(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Counts failures, and lets one attempt at a time through while the vault is away.
pub(crate) struct Gate {
    limits: Limits,
    state: Mutex<State>,
}

struct State {
    failures: u32,
    /// When the newest failure was counted: what began before it fails for the same reason, and counts no more.
    counted: Option<Instant>,
    /// While away: when the next probe may go, and whether one is on its way.
    next: Instant,
    probing: bool,
    pauses: Pauses,
    why: String,
    /// Callers so far; each has pauses of its own.
    callers: u64,
}

impl Gate {
    pub(crate) fn new(limits: Limits) -> Self {
        let pauses = Pauses::new(&limits, limits.seed);
        let state = State { failures: 0, counted: None, next: Instant::now(), probing: false, pauses, why: String::new(), callers: 0 };
        Self { limits, state: Mutex::new(state) }
    }

    /// The pauses of one more caller.
    pub(crate) fn pauses(&self) -> Pauses {
        let mut state = self.state();
        state.callers += 1;
        Pauses::new(&self.limits, self.limits.seed ^ state.callers)
    }

    /// Whether the vault is away.
    pub(crate) fn is_away(&self) -> bool {
        self.away(&self.state())
    }

    /// Begins an attempt.
    ///
    /// # Errors
    /// What failed last, while the vault is away and it is not the time, or somebody else's turn, to try.
    pub(crate) fn enter(&self, now: Instant) -> Result<Pass<'_>, String> {
        let mut state = self.state();
        let probe = self.away(&state);
        if probe && (state.probing || now < state.next) {
            return Err(state.why.clone());
        }
        state.probing |= probe;
        Ok(Pass { gate: self, begun: now, probe, settled: false })
    }

    fn away(&self, state: &State) -> bool {
        state.failures >= self.limits.failures
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One attempt. Dropped without a word, it says nothing about the vault.
pub(crate) struct Pass<'a> {
    gate: &'a Gate,
    begun: Instant,
    probe: bool,
    settled: bool,
}

impl Pass<'_> {
    /// The vault answered, whatever it said.
    pub(crate) fn answered(mut self) {
        let mut state = self.gate.state();
        self.settled = true;
        state.probing &= !self.probe;
        state.failures = 0;
        state.pauses = Pauses::new(&self.gate.limits, state.pauses.random);
    }

    /// The vault did not answer, or said that it cannot.
    pub(crate) fn failed(mut self, now: Instant, why: &str) {
        let mut state = self.gate.state();
        self.settled = true;
        state.probing &= !self.probe;
        if state.counted.is_some_and(|counted| self.begun < counted) {
            return;
        }
        state.counted = Some(now);
        state.failures = state.failures.saturating_add(1);
        state.why = why.to_owned();
        if self.gate.away(&state) {
            state.next = now + state.pauses.take();
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.probe && !self.settled {
            self.gate.state().probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        attempt: Duration::from_secs(1),
        pause_min: Duration::from_millis(100),
        pause_max: Duration::from_secs(30),
        failures: 5,
        seed: 7,
    };

    fn fail(gate: &Gate, at: Instant) {
        gate.enter(at).unwrap().failed(at, "no route");
    }

    #[test]
    fn pauses_grow_to_their_limit_and_their_seed_decides_them() {
        let take = |seed| {
            let mut pauses = Pauses::new(&LIMITS, seed);
            (0..12).map(|_| pauses.take()).collect::<Vec<_>>()
        };
        let mut whole = LIMITS.pause_min;
        for pause in take(7) {
            assert!(pause <= whole && pause >= whole / 2, "{pause:?} of {whole:?}");
            whole = (whole * 2).min(LIMITS.pause_max);
        }
        assert_eq!(take(7), take(7));
        assert_ne!(take(7), take(8));
    }

    #[test]
    fn after_five_failures_one_at_a_time_tries_and_all_others_are_told() {
        let gate = Gate::new(LIMITS);
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        for n in 0..4 {
            fail(&gate, at(n));
        }
        assert!(!gate.is_away());
        fail(&gate, at(4));
        assert!(gate.is_away());
        assert_eq!(gate.enter(at(5)).err().as_deref(), Some("no route"), "the pause has just begun");

        let probe = gate.enter(at(200)).unwrap();
        assert!(gate.enter(at(200)).is_err(), "one probe at a time");
        probe.failed(at(200), "still none");
        assert_eq!(gate.enter(at(290)).err().as_deref(), Some("still none"), "the next pause is longer");

        gate.enter(at(500)).unwrap().answered();
        assert!(!gate.is_away());
        let (a, b) = (gate.enter(at(501)), gate.enter(at(501)));
        assert!(a.is_ok() && b.is_ok());
    }

    #[test]
    fn what_fails_together_counts_once() {
        let gate = Gate::new(LIMITS);
        let start = Instant::now();
        let together: Vec<_> = (0..16).map(|_| gate.enter(start).unwrap()).collect();
        for pass in together {
            pass.failed(start + Duration::from_millis(1), "reset");
        }
        assert!(!gate.is_away());
    }

    #[test]
    fn a_probe_that_is_given_up_makes_room_for_the_next() {
        let gate = Gate::new(LIMITS);
        let start = Instant::now();
        for n in 0..5 {
            fail(&gate, start + Duration::from_millis(n));
        }
        let later = start + Duration::from_secs(60);
        drop(gate.enter(later).unwrap());
        assert!(gate.enter(later).is_ok());
    }
}
