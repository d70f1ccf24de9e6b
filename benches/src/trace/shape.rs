//! What kind of load a trace is, in a few numbers.

use super::Request;
use serde::Serialize;
use std::collections::HashMap;

/// The shape of a trace.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Shape {
    /// Requests.
    pub requests: u64,
    /// References to blocks.
    pub blocks: u64,
    /// Different blocks.
    pub unique: u64,
    /// Blocks of a request, on average.
    pub blocks_per_request: f64,
    /// The share of the different blocks that occur once.
    pub seen_once: f64,
    /// The share of references that a cache without limits would answer, counting only unbroken prefixes.
    pub best_hit: f64,
    /// Seconds from the first request to the last.
    pub seconds: f64,
}

impl Shape {
    /// The shape of these requests.
    pub fn of(requests: &[Request]) -> Self {
        let mut times: HashMap<u64, u64> = HashMap::new();
        let (mut blocks, mut hits) = (0, 0);
        for request in requests {
            blocks += request.hash_ids.len() as u64;
            hits += request.hash_ids.iter().take_while(|id| times.contains_key(id)).count() as u64;
            for id in &request.hash_ids {
                *times.entry(*id).or_default() += 1;
            }
        }
        let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        let unique = times.len() as u64;
        Self {
            requests: requests.len() as u64,
            blocks,
            unique,
            blocks_per_request: share(blocks, requests.len() as u64),
            seen_once: share(times.values().filter(|n| **n == 1).count() as u64, unique),
            best_hit: share(hits, blocks),
            seconds: requests.last().map_or(0.0, |last| last.timestamp.saturating_sub(requests[0].timestamp) as f64 / 1000.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unbroken_prefixes_count_as_hits() {
        let request = |timestamp, ids: &[u64]| Request { timestamp, input_length: 1, output_length: 1, hash_ids: ids.into() };
        let shape = Shape::of(&[request(0, &[0, 1, 2]), request(500, &[0, 9, 2]), request(2000, &[0, 1, 2])]);
        assert_eq!((shape.requests, shape.blocks, shape.unique, shape.seconds), (3, 9, 4, 2.0));
        assert_eq!((shape.best_hit, shape.seen_once), (4.0 / 9.0, 0.25));
    }
}
