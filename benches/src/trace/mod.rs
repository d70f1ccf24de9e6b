//! A trace: the requests of a KV cache, as the blocks whose cache they look for.
//!
//! The format is one JSON object a line: `{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, 2353]}`.
//! `timestamp` counts milliseconds from the start; a hash id stands for a block of 512 tokens *and all before it*,
//! so equal ids mean equal prefixes.

mod generate;
mod read;
mod shape;

pub use generate::{GENERATOR, generate};
pub use read::{TraceError, read, write};
pub use shape::Shape;

use serde::{Deserialize, Serialize};

/// Tokens that one hash id stands for.
pub const BLOCK_TOKENS: u64 = 512;

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Milliseconds since the trace began.
    pub timestamp: u64,
    /// Tokens of the prompt.
    pub input_length: u64,
    /// Tokens of the answer.
    pub output_length: u64,
    /// Blocks of the prompt, head first.
    pub hash_ids: Vec<u64>,
}
