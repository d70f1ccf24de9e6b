//! What a caller does while a master lets it wait: it looks elsewhere, more and more seldom.

use std::time::{Duration, Instant};

/// So long an answer may take before anybody wonders. Masters wait longer than this for a leader before they elect another.
const UNSUSPICIOUS: Duration = Duration::from_millis(150);
/// Looks follow each other after an eighth of the time waited so far, which is how late a new leader may be found, but no sooner and no
/// later than this.
const PAUSE: (Duration, Duration) = (Duration::from_millis(25), Duration::from_secs(1));

/// Looks elsewhere; true when the answer need not be waited for any longer.
pub(crate) type Look<'a> = &'a dyn Fn() -> bool;

/// One wait.
pub(super) struct Silence<'a> {
    began: Instant,
    next: Instant,
    look: Look<'a>,
}

impl<'a> Silence<'a> {
    pub(super) fn begin(look: Look<'a>) -> Self {
        let began = Instant::now();
        Self { began, next: began + UNSUSPICIOUS, look }
    }

    /// When to look the next time.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.next
    }

    pub(super) fn look(&mut self) -> bool {
        let found = (self.look)();
        let now = Instant::now();
        self.next = now + ((now - self.began) / 8).clamp(PAUSE.0, PAUSE.1);
        found
    }
}
