//! The only place where the master reads clocks.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Monotonic milliseconds since the master began, and the wall clock for stamps. Cheap to copy.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    began: Instant,
}

impl Clock {
    /// Begins now.
    pub fn begin() -> Self {
        Self { began: Instant::now() }
    }

    /// Milliseconds since the beginning, counted from 1 (0 means "no time" in the brain).
    pub fn now(self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    /// Milliseconds since 1970; may jump.
    pub fn wall_ms(self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(0))
    }
}
