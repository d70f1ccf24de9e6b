//! Waiting for what can be seen, in every test of masters.

use std::time::{Duration, Instant};

/// Polls until it holds; a minute is for a machine that does ten other things.
pub(crate) fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < give_up, "never came: {what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}
