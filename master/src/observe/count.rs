//! A number that only grows.

use crossbeam::utils::CachePadded;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts from any thread. Alone on its cache line, so that two hot counts do not slow each other.
///
/// Relaxed throughout: the number publishes nothing but itself.
#[derive(Debug, Default)]
pub(super) struct Count(CachePadded<AtomicU64>);

impl Count {
    pub(super) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
