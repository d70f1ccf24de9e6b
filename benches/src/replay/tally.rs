//! What a worker saw, and the sum over workers.

use crate::report::Latency;
use perilune_protocol::Fault;
use serde::Serialize;
use std::collections::BTreeMap;

/// Counts of one worker, or of all.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tally {
    /// Requests that were looked up.
    pub requests: u64,
    /// Blocks those requests asked for.
    pub blocks: u64,
    /// Blocks the longest-prefix lookups found.
    pub hits: u64,
    /// Bytes read and verified.
    pub read_bytes: u64,
    /// Bytes of puts that were stored.
    pub written_bytes: u64,
    /// Puts stored.
    pub stored: u64,
    /// Puts of blocks that another request had put meanwhile.
    pub existed: u64,
    /// Puts refused because nothing could be evicted.
    pub full: u64,
    /// Blocks that were found and then gone when they were read; they were put again.
    pub vanished: u64,
    /// Blocks whose bytes were not those that were put. Anything but 0 is a defect of the store.
    pub wrong: u64,
    /// What the first wrong blocks were.
    pub wrong_examples: Vec<String>,
    /// Other faults, by operation and kind.
    pub faults: BTreeMap<String, u64>,
    /// One sentence of each of them.
    pub fault_examples: BTreeMap<String, String>,
    /// How late the latest request started, in milliseconds after it was due.
    pub late_ms: u64,
    /// Per minute of the trace.
    pub minutes: Vec<Minute>,
    /// Of the lookups.
    #[serde(skip)]
    pub lookup: Latency,
    /// Of the calls that read blocks.
    #[serde(skip)]
    pub get: Latency,
    /// Of the calls that wrote blocks.
    #[serde(skip)]
    pub put: Latency,
}

/// One minute of the trace.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Minute {
    /// Requests looked up.
    pub requests: u64,
    /// Blocks asked for.
    pub blocks: u64,
    /// Blocks found.
    pub hits: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Faults of any kind, full ones included.
    pub faults: u64,
}

const EXAMPLES: usize = 5;

impl Tally {
    /// The row of the minute in which a request was made.
    pub fn minute(&mut self, timestamp_ms: u64) -> &mut Minute {
        let index = usize::try_from(timestamp_ms / 60_000).unwrap_or(usize::MAX).min(MINUTES_MAX);
        if self.minutes.len() <= index {
            self.minutes.resize(index + 1, Minute::default());
        }
        &mut self.minutes[index]
    }

    /// Counts a fault of `operation`.
    pub fn fault(&mut self, operation: &str, fault: &Fault) {
        let kind = format!("{operation} {}", fault.code.as_str());
        *self.faults.entry(kind.clone()).or_default() += 1;
        self.fault_examples.entry(kind).or_insert_with(|| fault.message.clone());
    }

    /// Counts a block with a wrong byte.
    pub fn wrong(&mut self, what: String) {
        self.wrong += 1;
        if self.wrong_examples.len() < EXAMPLES {
            self.wrong_examples.push(what);
        }
    }

    /// Takes in what another worker saw.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in [
            (&mut self.requests, other.requests),
            (&mut self.blocks, other.blocks),
            (&mut self.hits, other.hits),
            (&mut self.read_bytes, other.read_bytes),
            (&mut self.written_bytes, other.written_bytes),
            (&mut self.stored, other.stored),
            (&mut self.existed, other.existed),
            (&mut self.full, other.full),
            (&mut self.vanished, other.vanished),
            (&mut self.wrong, other.wrong),
        ] {
            *mine += theirs;
        }
        self.late_ms = self.late_ms.max(other.late_ms);
        self.wrong_examples.extend(other.wrong_examples.iter().take(EXAMPLES - self.wrong_examples.len()).cloned());
        for (kind, count) in &other.faults {
            *self.faults.entry(kind.clone()).or_default() += count;
        }
        for (kind, example) in &other.fault_examples {
            self.fault_examples.entry(kind.clone()).or_insert_with(|| example.clone());
        }
        if self.minutes.len() < other.minutes.len() {
            self.minutes.resize(other.minutes.len(), Minute::default());
        }
        for (mine, theirs) in self.minutes.iter_mut().zip(&other.minutes) {
            mine.requests += theirs.requests;
            mine.blocks += theirs.blocks;
            mine.hits += theirs.hits;
            mine.read_bytes += theirs.read_bytes;
            mine.written_bytes += theirs.written_bytes;
            mine.faults += theirs.faults;
        }
        self.lookup.add(&other.lookup);
        self.get.add(&other.get);
        self.put.add(&other.put);
    }
}

/// Two weeks; what comes later is counted in the last row, so that a wild timestamp cannot take the memory.
const MINUTES_MAX: usize = 20_160;

#[cfg(test)]
mod tests {
    use super::*;
    use perilune_protocol::FaultCode;

    #[test]
    fn sums_lose_nothing() {
        let mut a = Tally { requests: 1, late_ms: 5, ..Tally::default() };
        a.minute(0).requests = 1;
        a.fault("put", &FaultCode::NoSpace.with("full"));
        let mut b = Tally { requests: 2, late_ms: 3, ..Tally::default() };
        b.minute(61_000).requests = 2;
        b.fault("put", &FaultCode::NoSpace.with("fuller"));
        (0..9).for_each(|i| b.wrong(format!("block {i}")));
        b.minute(u64::MAX);
        a.add(&b);
        assert_eq!((a.requests, a.late_ms, a.wrong, a.wrong_examples.len()), (3, 5, 9, EXAMPLES));
        assert_eq!(a.minutes.iter().take(2).map(|m| m.requests).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(a.faults, BTreeMap::from([("put NO_AVAILABLE_HANDLE".to_owned(), 2)]));
    }
}
