//! Makes a trace of the same shape as a production hour of a chat service, from a seed, for machines that have no trace.

use super::{BLOCK_TOKENS, Request};
use crate::random::Random;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// How the generator works, for help texts and documents.
pub const GENERATOR: &str = "\
Conversations begin at random (3.4 requests a second in all once conversations overlap). Each opens with the one \
system-prompt block that all share, then blocks of its own: the first input is log-normal (median 5400 tokens, \
sigma 1.2, 891 to 126195 tokens). After the k-th turn another follows with probability min(0.18 + 0.11 k, 0.7), \
after a log-normal pause (median 123 s, sigma 1.06); it keeps the full blocks of the turn before and adds a \
log-normal number of tokens (median 500, sigma 1.4). The last block of a turn is seldom full, so it is not reused. \
Timestamps are rounded down to 3 s, as in the published traces.";

const REQUESTS_PER_SECOND: f64 = 3.4;
const INPUT_TOKENS: std::ops::RangeInclusive<f64> = 891.0..=126_195.0;
const TICK_MS: u64 = 3000;

/// A conversation between two of its turns.
struct Conversation {
    turn: u32,
    tokens: f64,
    /// Blocks of the turn before, head first.
    blocks: Vec<u64>,
}

/// Generates `count` requests.
pub fn generate(count: usize, seed: u64) -> Vec<Request> {
    let mut random = Random::new(seed);
    let mut waiting: Vec<Option<Conversation>> = Vec::new();
    // When the next turn of which conversation is due, in microseconds, so that times have an order.
    let mut due: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
    let mut next_start = 0.0;
    let mut next_id = 1;
    let mut requests = Vec::new();
    while requests.len() < count {
        let start_us = (next_start * 1e6) as u64;
        let (now_us, conversation) = match due.peek() {
            Some(Reverse((at, index))) if *at <= start_us => {
                let (at, index) = (*at, *index);
                due.pop();
                let Some(before) = waiting[index].take() else { continue };
                (at, next_turn(&mut random, before))
            }
            _ => {
                next_start += random.exponential(TURNS_PER_CONVERSATION / REQUESTS_PER_SECOND);
                (start_us, Conversation { turn: 1, tokens: random.log_normal(5400.0, 1.2), blocks: vec![0] })
            }
        };
        let request = say(&mut random, conversation.tokens, conversation.blocks, now_us / 1000, &mut next_id);
        if random.unit() < (0.18 + 0.11 * f64::from(conversation.turn)).min(0.7) {
            let pause = random.log_normal(123.0, 1.06);
            due.push(Reverse((now_us + (pause * 1e6) as u64, waiting.len())));
            waiting.push(Some(Conversation {
                turn: conversation.turn,
                tokens: request.input_length as f64,
                blocks: request.hash_ids.clone(),
            }));
        }
        requests.push(request);
    }
    requests
}

/// Turns of a conversation on average, with the probabilities above.
const TURNS_PER_CONVERSATION: f64 = 1.7;

fn next_turn(random: &mut Random, before: Conversation) -> Conversation {
    let full = (before.tokens / BLOCK_TOKENS as f64) as usize;
    let blocks = before.blocks.into_iter().take(full.max(1)).collect();
    Conversation { turn: before.turn + 1, tokens: before.tokens + random.log_normal(500.0, 1.4), blocks }
}

/// A request that keeps `blocks` and adds new ones until `tokens` have room.
fn say(random: &mut Random, tokens: f64, mut blocks: Vec<u64>, at_ms: u64, next_id: &mut u64) -> Request {
    let input_length = tokens.clamp(*INPUT_TOKENS.start(), *INPUT_TOKENS.end()) as u64;
    while (blocks.len() as u64) < input_length.div_ceil(BLOCK_TOKENS) {
        blocks.push(*next_id);
        *next_id += 1;
    }
    let output_length = random.log_normal(280.0, 1.1).clamp(1.0, 2000.0) as u64;
    Request { timestamp: at_ms / TICK_MS * TICK_MS, input_length, output_length, hash_ids: blocks }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Shape;

    #[test]
    fn the_shape_is_that_of_the_production_hour() {
        for seed in [7, 8, 9] {
            let shape = Shape::of(&generate(12_031, seed));
            let near = |value: f64, want: f64, slack: f64| {
                assert!((value - want).abs() <= slack, "seed {seed}: {value} is not near {want}: {shape:?}")
            };
            near(shape.blocks_per_request, 24.0, 3.0);
            near(shape.seen_once, 0.758, 0.04);
            near(shape.best_hit, 0.366, 0.04);
            near(shape.requests as f64 / shape.seconds, 3.4, 0.4);
        }
    }

    #[test]
    fn a_seed_names_a_trace_and_prefixes_stay_prefixes() {
        let trace = generate(2000, 7);
        assert_eq!(trace, generate(2000, 7));
        assert_ne!(trace, generate(2000, 8));
        assert_eq!(trace[..1000], generate(1000, 7), "a longer trace begins as the shorter one");
        assert!(trace.iter().all(|r| r.hash_ids[0] == 0 && r.hash_ids.len() as u64 >= r.input_length.div_ceil(BLOCK_TOKENS)));
        assert!(trace.is_sorted_by_key(|r| r.timestamp));
        let mut before = std::collections::HashMap::new();
        for request in &trace {
            for pair in request.hash_ids.windows(2) {
                assert_eq!(*before.entry(pair[1]).or_insert(pair[0]), pair[0], "a block has one predecessor");
            }
        }
    }
}
