//! Reads out of a vault by way of a store node, stretch by stretch, where the object is not to come to memory: some of its bytes are wanted, or
//! there is no room for it.

use super::{RUN_BYTES, Read};
use crate::store::Core;
use perilune_protocol::rpc::cold::{Passed, ReadThrough};
use perilune_protocol::{FaultCode, ObjectKey, ObjectPlace, Outcome, SegmentDesc, checksum};
use perilune_transfer_engine::{Job, Segment};
use std::time::{Duration, Instant};

/// How often one stretch is asked for: what a node has is overwritten where the reader comes too late.
const TRIES: usize = 3;

/// Before a node is asked again that has no room for what it is asked for.
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// One reader on its way through the objects of a batch.
pub(super) struct Through<'a> {
    core: &'a Core,
    deadline: &'a mut Instant,
    /// Bytes since the deadline was set.
    moved: u64,
    /// Where bytes were taken last.
    reached: Option<(SegmentDesc, Segment)>,
    taken: u64,
}

impl<'a> Through<'a> {
    pub(super) fn new(core: &'a Core, deadline: &'a mut Instant) -> Self {
        Self { core, deadline, moved: 0, reached: None, taken: 0 }
    }

    /// Reads what is wanted of an object; `place` is what the master said of it.
    pub(super) fn read(&mut self, read: &mut Read<'_>, place: &ObjectPlace) -> Outcome<usize> {
        let (from, into) = read.target.stretch(read.key, place.size)?;
        self.core.metrics.throughs.inc();
        let mut at = from;
        for stretch in into.chunks_mut(Passed::BYTES_MAX as usize) {
            if self.moved >= RUN_BYTES {
                (*self.deadline, self.moved) = (self.core.deadline(), 0);
            }
            self.stretch(read.key, place, at, stretch)?;
            at += stretch.len() as u64;
            self.moved += stretch.len() as u64;
        }
        // The parts were right; so is what they make, if none of them is of another version.
        if into.len() as u64 == place.size && checksum(&[into]) != place.checksum {
            self.core.metrics.mismatches.inc();
            return Err(FaultCode::ChecksumMismatch.with(format!("the {} bytes of {} out of its vault are others", place.size, read.key)));
        }
        Ok(into.len())
    }

    fn stretch(&mut self, key: &ObjectKey, place: &ObjectPlace, at: u64, into: &mut [u8]) -> Outcome<()> {
        let mut tries = 1;
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            let (len, wait_ms) = (into.len() as u64, left.as_millis() as u64);
            let question = ReadThrough { key: key.clone(), offset: at, len, taken: self.taken, wait_ms };
            let found = match self.core.master.call(&question, *self.deadline) {
                // Others are at it.
                Err(fault) if fault.code == FaultCode::NoSpace && Instant::now() + BUSY_PAUSE < *self.deadline => {
                    std::thread::sleep(BUSY_PAUSE);
                    continue;
                }
                found => found?,
            };
            if (found.size, found.checksum) != (place.size, place.checksum) {
                return Err(FaultCode::WrongState.with(format!("{key} was replaced while it was read")));
            }
            let took = self.take(&found.passed, into);
            self.taken = found.passed.ticket;
            match took {
                Err(_) if tries < TRIES && Instant::now() < *self.deadline => tries += 1,
                took => return took,
            }
        }
    }

    fn take(&mut self, passed: &Passed, into: &mut [u8]) -> Outcome<()> {
        let core = self.core;
        if passed.extent.len != into.len() as u64 {
            let told = format!("{} bytes were passed where {} were asked for", passed.extent.len, into.len());
            return Err(FaultCode::Internal.with(told));
        }
        let segment = match &self.reached {
            Some((desc, segment)) if *desc == passed.segment => segment,
            _ => &self.reached.insert((passed.segment.clone(), core.engine.connect(&passed.segment))).1,
        };
        let valid = Duration::from_millis(Passed::VALID_MS);
        let left = self.deadline.saturating_duration_since(Instant::now()).min(valid);
        let moved: Result<Vec<()>, _> = core.engine.run(&mut [Job::read(segment, vec![passed.extent], into)], left).into_iter().collect();
        if let Err(error) = moved {
            self.reached = None;
            return Err(FaultCode::TransferFailed.with(error.to_string()));
        }
        if checksum(&[into]) != passed.checksum {
            core.metrics.mismatches.inc();
            return Err(FaultCode::ChecksumMismatch.with("the bytes that a node passed on out of a vault are not those that it read"));
        }
        Ok(())
    }
}
