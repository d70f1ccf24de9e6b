//! The clocks of one member: one that runs a little fast or slow, and one on the wall that jumps.

use crate::engine::Time;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// 2023, somewhen.
pub(super) const WALL_BEGAN_MS: i64 = 1_700_000_000_000;

pub(super) struct MemberTime {
    /// When this process began, and when the whole run did.
    pub(super) began: Instant,
    pub(super) run_began: Instant,
    /// Millionths by which the monotonic clock is fast.
    pub(super) fast_ppm: i64,
    /// Milliseconds by which the wall clock is ahead.
    pub(super) ahead_ms: AtomicI64,
}

impl Time for MemberTime {
    fn elapsed(&self) -> Duration {
        let us = self.began.elapsed().as_micros() as i64;
        Duration::from_micros((us + us * self.fast_ppm / 1_000_000) as u64)
    }

    fn wall_ms(&self) -> u64 {
        (WALL_BEGAN_MS + self.run_began.elapsed().as_millis() as i64 + self.ahead_ms.load(Ordering::Relaxed)) as u64
    }
}
