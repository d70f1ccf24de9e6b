//! How long things took.

use hdrhistogram::Histogram;
use serde::Serialize;
use std::time::Duration;

/// A histogram of durations up to ten minutes, true to three digits.
#[derive(Clone, Debug)]
pub struct Latency(Histogram<u64>);

/// What is told of a histogram; microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Percentiles {
    /// How many durations.
    pub count: u64,
    /// Half were shorter, in microseconds.
    pub p50_us: f64,
    /// 99 of 100 were shorter, in microseconds.
    pub p99_us: f64,
    /// 999 of 1000 were shorter, in microseconds.
    pub p999_us: f64,
    /// The longest, in microseconds.
    pub max_us: f64,
}

const LONGEST_NS: u64 = 600_000_000_000;

impl Default for Latency {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("the bounds are constants that a histogram takes"))
    }
}

impl Latency {
    /// Counts one duration.
    pub fn record(&mut self, took: Duration) {
        self.0.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(LONGEST_NS));
    }

    /// Takes in what another histogram counted.
    pub fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    /// What is told of it.
    pub fn percentiles(&self) -> Percentiles {
        let us = |ns: u64| ns as f64 / 1000.0;
        let at = |q| us(self.0.value_at_quantile(q));
        if self.0.is_empty() {
            return Percentiles::default();
        }
        Percentiles { count: self.0.len(), p50_us: at(0.5), p99_us: at(0.99), p999_us: at(0.999), max_us: us(self.0.max()) }
    }
}

impl Percentiles {
    /// A number of microseconds as people read it.
    pub fn show(us: f64) -> String {
        match us {
            us if us < 1_000.0 => format!("{us:.1} us"),
            us if us < 1_000_000.0 => format!("{:.2} ms", us / 1e3),
            us => format!("{:.2} s", us / 1e6),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let mut a = Latency::default();
        let mut b = Latency::default();
        (1..=500).for_each(|us| a.record(Duration::from_micros(us)));
        (501..=1000).for_each(|us| b.record(Duration::from_micros(us)));
        a.add(&b);
        let told = a.percentiles();
        assert_eq!(told.count, 1000);
        assert!((told.p50_us - 500.0).abs() < 1.0 && (told.p99_us - 990.0).abs() < 1.0 && (told.max_us - 1000.0).abs() < 1.0, "{told:?}");
        assert_eq!(Latency::default().percentiles().count, 0);
    }
}
