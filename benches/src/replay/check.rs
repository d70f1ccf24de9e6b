//! Reads acknowledged blocks back: each must hold the bytes that were put, or be gone by eviction.

use super::{AckedHeader, blocks_per_call, key_of, progress};
use crate::payload::Payload;
use perilune_client::Store;
use perilune_protocol::{Fault, FaultCode, ObjectKey};
use serde::Serialize;
use std::collections::BTreeSet;

/// What became of acknowledged blocks.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Check {
    /// Blocks that were acknowledged.
    pub acknowledged: u64,
    /// Blocks that are there with the right bytes.
    pub verified: u64,
    /// Blocks that the store says do not exist: evicted, removed, or forgotten.
    pub missing: u64,
    /// Blocks with a wrong byte.
    pub wrong: u64,
    /// Blocks that exist and cannot be read.
    pub unreadable: u64,
    /// One sentence for each kind of trouble.
    pub examples: Vec<String>,
}

const EXAMPLES: usize = 5;

impl Check {
    /// Reads back and verifies.
    pub fn run(store: &Store, header: &AckedHeader, ids: &BTreeSet<u64>) -> Result<Self, Fault> {
        let payload = Payload::new(header.seed, header.block_size);
        let mut check = Self { acknowledged: ids.len() as u64, ..Self::default() };
        let ids: Vec<u64> = ids.iter().copied().collect();
        let bar = progress(ids.len(), "blocks verified");
        let mut buffer = Vec::new();
        for ids in ids.chunks(blocks_per_call(header.block_size)) {
            let keys: Vec<ObjectKey> = ids.iter().map(|id| key_of(&header.prefix, *id)).collect();
            let exist = store.exists(&keys)?;
            let present: Vec<u64> = ids.iter().zip(exist).filter(|(_, exists)| *exists).map(|(id, _)| *id).collect();
            check.missing += (ids.len() - present.len()) as u64;
            check.read(store, header, &payload, &present, &mut buffer);
            bar.inc(ids.len() as u64);
        }
        bar.finish_and_clear();
        Ok(check)
    }

    fn read(&mut self, store: &Store, header: &AckedHeader, payload: &Payload, ids: &[u64], buffer: &mut Vec<u8>) {
        buffer.resize(ids.len() * header.block_size, 0);
        let mut items: Vec<(ObjectKey, &mut [u8])> =
            ids.iter().map(|id| key_of(&header.prefix, *id)).zip(buffer.chunks_exact_mut(header.block_size)).collect();
        let outcomes = store.get_batch_into(&mut items);
        for ((id, (key, bytes)), outcome) in ids.iter().zip(&items).zip(outcomes) {
            match outcome {
                Ok(len) if len == bytes.len() => match payload.first_wrong(*id, bytes) {
                    None => self.verified += 1,
                    Some(at) => self.blame(|c| &mut c.wrong, format!("{key} is wrong from byte {at}")),
                },
                Ok(len) => self.blame(|c| &mut c.wrong, format!("{key} has {len} bytes, {} were put", bytes.len())),
                Err(fault) if fault.code == FaultCode::ObjectNotFound => self.missing += 1,
                Err(fault) => self.blame(|c| &mut c.unreadable, format!("{key}: {fault}")),
            }
        }
    }

    fn blame(&mut self, count: impl Fn(&mut Self) -> &mut u64, example: String) {
        *count(self) += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(example);
        }
    }

    /// Whether every block that exists was read and is right.
    pub fn is_clean(&self) -> bool {
        self.wrong == 0 && self.unreadable == 0
    }
}

impl std::fmt::Display for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{} blocks were acknowledged: {} are there and every byte is right, {} are gone, {} are wrong, {} cannot be read",
            self.acknowledged, self.verified, self.missing, self.wrong, self.unreadable
        )?;
        self.examples.iter().try_for_each(|example| writeln!(f, "  {example}"))
    }
}
