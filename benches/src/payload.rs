//! The bytes of a block: fully decided by a seed and the block's number, so that every byte read can be verified.

use crate::random::{Random, mix};

/// Blocks of one size under one seed.
#[derive(Clone, Debug)]
pub struct Payload {
    seed: u64,
    size: usize,
    /// Random words shared by all blocks; a block is these, each xored with a word of its own.
    base: Vec<u64>,
}

impl Payload {
    /// Blocks of `size` bytes.
    pub fn new(seed: u64, size: usize) -> Self {
        let mut random = Random::new(seed);
        Self { seed, size, base: (0..size.div_ceil(8)).map(|_| random.bits()).collect() }
    }

    /// Bytes of a block.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Writes block `id` into `into`, which has [`Payload::size`] bytes.
    pub fn fill(&self, id: u64, into: &mut [u8]) {
        let key = self.key(id);
        for (chunk, word) in into.chunks_mut(8).zip(&self.base) {
            chunk.copy_from_slice(&(word ^ key).to_le_bytes()[..chunk.len()]);
        }
    }

    /// The first byte of `bytes` that is not that of block `id`; `None` when every byte is right.
    pub fn first_wrong(&self, id: u64, bytes: &[u8]) -> Option<usize> {
        if bytes.len() != self.size {
            return Some(bytes.len().min(self.size));
        }
        let key = self.key(id);
        let (words, tail) = bytes.as_chunks::<8>();
        // Summing differences first keeps the loop free of branches; the place is looked for only when there is one.
        let difference = words.iter().zip(&self.base).fold(0, |sum, (got, word)| sum | (u64::from_le_bytes(*got) ^ word ^ key));
        let tail_is_wrong = self.base.get(words.len()).is_some_and(|word| (word ^ key).to_le_bytes()[..tail.len()] != *tail);
        if difference == 0 && !tail_is_wrong {
            return None;
        }
        let mut expected = vec![0; self.size];
        self.fill(id, &mut expected);
        bytes.iter().zip(&expected).position(|(got, want)| got != want)
    }

    fn key(&self, id: u64) -> u64 {
        mix(mix(self.seed) ^ id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_byte_is_found_where_it_is() {
        for size in [1, 7, 8, 9, 64, 1001] {
            let payload = Payload::new(7, size);
            let mut block = vec![0; size];
            payload.fill(42, &mut block);
            assert_eq!(payload.first_wrong(42, &block), None);
            for at in 0..size {
                block[at] ^= 1;
                assert_eq!(payload.first_wrong(42, &block), Some(at), "size {size}");
                block[at] ^= 1;
            }
            assert_eq!(payload.first_wrong(42, &block[..size - 1]), Some(size - 1));
        }
    }

    #[test]
    fn blocks_and_seeds_differ() {
        let mut blocks = Vec::new();
        for (seed, id) in [(1, 1), (1, 2), (2, 1)] {
            let mut block = vec![0; 64];
            Payload::new(seed, 64).fill(id, &mut block);
            blocks.push(block);
        }
        assert!(blocks[0] != blocks[1] && blocks[0] != blocks[2] && blocks[1] != blocks[2]);
    }
}
