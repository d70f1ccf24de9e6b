//! Counts that the log's threads make and [`super::LogStatus`] reads. Every field: written by the thread named, read by anyone, relaxed:
//! they order nothing.

use super::status::{LATENCY_BOUNDS_US, Latency};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

#[derive(Default)]
pub(super) struct Counters {
    /// Log thread, sync thread and purge: whoever syncs a log file.
    pub(super) fsyncs: AtomicU64,
    /// Log thread.
    pub(super) entries: AtomicU64,
    /// Log thread.
    pub(super) effects: AtomicU64,
    /// Log thread and purge: whoever writes to a log file.
    pub(super) bytes_written: AtomicU64,
    /// Log thread.
    pub(super) snapshots: AtomicU64,
    /// Log thread.
    pub(super) snapshot_failures: AtomicU64,
    /// Log thread.
    pub(super) append: Histogram,
    /// As `fsyncs`.
    pub(super) sync: Histogram,
}

/// A latency histogram that many threads may feed.
#[derive(Default)]
pub(super) struct Histogram {
    buckets: [AtomicU64; LATENCY_BOUNDS_US.len() + 1],
    sum_ns: AtomicU64,
}

impl Histogram {
    pub(super) fn observe(&self, took: Duration) {
        let us = took.as_nanos().div_ceil(1000);
        let bucket = LATENCY_BOUNDS_US.partition_point(|bound| u128::from(*bound) < us);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_ns.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    pub(super) fn read(&self) -> Latency {
        Latency { buckets: std::array::from_fn(|i| self.buckets[i].load(Relaxed)), sum: Duration::from_nanos(self.sum_ns.load(Relaxed)) }
    }
}

pub(super) fn count(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_falls_into_the_first_bucket_that_holds_it() {
        let histogram = Histogram::default();
        for us in [0, 10, 11, 2_500_000, 2_500_001] {
            histogram.observe(Duration::from_micros(us));
        }
        let read = histogram.read();
        assert_eq!((read.buckets[0], read.buckets[1], read.buckets[13], read.buckets[14]), (2, 1, 1, 1));
        assert_eq!((read.count(), read.sum), (5, Duration::from_micros(5_000_022)));
    }
}
