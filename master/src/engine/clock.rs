//! The only place where the master reads clocks.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Where the time comes from.
pub(crate) trait Time: Send + Sync {
    /// Since the beginning; never goes back.
    fn elapsed(&self) -> Duration;

    /// Milliseconds since 1970; may jump.
    fn wall_ms(&self) -> u64;
}

/// Monotonic milliseconds since the master began, and the wall clock for stamps. Cheap to clone.
#[derive(Clone)]
pub struct Clock(Arc<dyn Time>);

/// The clocks of this machine.
struct System {
    began: Instant,
}

impl Time for System {
    fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    fn wall_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(0))
    }
}

impl Clock {
    /// Begins now.
    pub fn begin() -> Self {
        Self(Arc::new(System { began: Instant::now() }))
    }

    /// A clock that goes by another time.
    #[cfg(feature = "simulation")]
    pub(crate) fn by(time: Arc<dyn Time>) -> Self {
        Self(time)
    }

    /// Milliseconds since the beginning, counted from 1 (0 means "no time" in the brain).
    pub fn now(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    /// Milliseconds since 1970; may jump.
    pub fn wall_ms(&self) -> u64 {
        self.0.wall_ms()
    }
}
