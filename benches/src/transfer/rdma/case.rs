//! What is measured, and what one measurement gave.

use perilune_transfer_engine::Op;
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Bytes a second of writes.
    Write,
    /// Bytes a second of reads.
    Read,
    /// Half the round trip of two sides that write into each other's memory in turn and watch their own.
    WriteLatency,
    /// From asking for one read until its bytes are there.
    ReadLatency,
}

impl Measure {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Write, Self::Read, Self::WriteLatency, Self::ReadLatency];

    /// The words in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::WriteLatency => "write latency",
            Self::ReadLatency => "read latency",
        }
    }

    /// Whether the value is a rate in bytes a second; otherwise it is a time in microseconds.
    pub fn is_rate(self) -> bool {
        matches!(self, Self::Write | Self::Read)
    }

    pub(super) fn op(self) -> Op {
        match self {
            Self::Write | Self::WriteLatency => Op::Write,
            Self::Read | Self::ReadLatency => Op::Read,
        }
    }
}

impl FromStr for Measure {
    type Err = String;
    /// The words of [`Measure::as_str`] with a hyphen between them.
    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|measure| measure.as_str().replace(' ', "-") == text);
        found.ok_or_else(|| format!("`{text}` is not measured: there are write, read, write-latency and read-latency"))
    }
}

/// One figure to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Case {
    pub(super) measure: Measure,
    /// Pairs of devices.
    pub(super) devices: usize,
    /// Bytes of an operation.
    pub(super) size: usize,
    /// Operations under way, of all devices together.
    pub(super) in_flight: usize,
}

/// How many operations make up one measurement.
#[derive(Clone, Copy, Debug)]
pub(super) enum Until {
    /// This many.
    Count(u64),
    /// As many as fit into this time.
    Time(std::time::Duration),
}

/// What one measurement gave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// In the unit of the measure.
    pub(super) value: f64,
    /// How many operations that were.
    pub(super) operations: u64,
    /// Seconds of all of them together.
    pub(super) seconds: f64,
}

impl Sample {
    /// How many operations of this kind fill `time`; at least twice what is under way at once, at least 5 as perftest wants, and a
    /// multiple of what is under way.
    pub(super) fn fill(&self, case: &Case, time: std::time::Duration) -> u64 {
        let least = (2 * case.in_flight as u64).max(5);
        let many = (self.operations as f64 / self.seconds * time.as_secs_f64()) as u64;
        many.max(least).next_multiple_of(case.in_flight as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measure_is_found_by_its_name_and_no_other_word() {
        for measure in Measure::ALL {
            assert_eq!(measure.as_str().replace(' ', "-").parse(), Ok(measure));
        }
        assert!("latency".parse::<Measure>().unwrap_err().contains("`latency`"));
    }
}
