//! How fast background work may move bytes: a bucket that fills with time, and may be overdrawn by one step.

/// Seconds' worth of bytes that a pause saves up.
const SAVED_S: f64 = 0.25;

/// The bucket.
#[derive(Default)]
pub(super) struct Pace {
    tokens: f64,
    at: u64,
}

impl Pace {
    /// Whether a step may begin at `now` (ms), at `rate` bytes a second.
    pub(super) fn is_due(&mut self, now: u64, rate: u64) -> bool {
        let gained = now.saturating_sub(self.at) as f64 / 1000.0 * rate as f64;
        (self.tokens, self.at) = ((self.tokens + gained).min(rate as f64 * SAVED_S), now);
        self.tokens > 0.0
    }

    /// A step moves so many bytes.
    pub(super) fn spend(&mut self, bytes: u64) {
        self.tokens -= bytes as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_any_time_no_more_is_moved_than_the_rate_a_burst_and_a_step() {
        let (rate, step) = (1_000_000, 300_000);
        let (mut pace, mut moved) = (Pace::default(), 0);
        for now in 0..10_000u64 {
            if pace.is_due(now, rate) {
                pace.spend(step);
                moved += step;
            }
            assert!(moved <= rate * now / 1000 + rate / 4 + step, "at {now} ms: {moved}");
        }
        assert!(moved > 9 * rate, "and it is used");
    }
}
