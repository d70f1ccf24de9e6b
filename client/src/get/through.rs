//! Reads out of a vault by way of a store node, stretch by stretch, where the object is not to come to memory: some of its bytes are wanted, or
//! there is no room for it. Several stretches, of one object or of many, are on their way at a time.

use super::{RUN_BYTES, Read};
use crate::store::Core;
use perilune_protocol::rpc::cold::{Passed, ReadThrough};
use perilune_protocol::{Fault, FaultCode, ObjectKey, ObjectPlace, Outcome, SegmentDesc, checksum};
use perilune_transfer_engine::{Job, Segment};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often one stretch is asked for: what a node has is overwritten where the reader comes too late.
const TRIES: usize = 3;

/// Before a node is asked again that has no room for what it is asked for.
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// Stretches of one batch on their way at a time, and their bytes: half of what one node has for all who read through it, as each keeps what it
/// read last until it has asked for the next.
const FLYING_MAX: usize = 16;
const FLYING_BYTES: u64 = 4 * Passed::BYTES_MAX;

/// Some bytes of an object that are yet to be read.
struct Stretch<'a> {
    /// Which object of the batch.
    nth: usize,
    key: &'a ObjectKey,
    place: &'a ObjectPlace,
    at: u64,
    into: &'a mut [u8],
}

/// What is left to be read, and what went wrong with each object.
struct Work<'a> {
    left: std::vec::IntoIter<Stretch<'a>>,
    faults: Vec<Option<Fault>>,
}

/// Reads what is wanted of each object; `places` are what the master said of them. The deadline is set anew as bytes come.
pub(super) fn read_all(core: &Core, reads: &mut [&mut Read<'_>], places: &[ObjectPlace], deadline: &mut Instant) -> Vec<Outcome<usize>> {
    let (mut stretches, mut faults) = (Vec::new(), Vec::new());
    for (nth, (read, place)) in reads.iter_mut().zip(places).enumerate() {
        core.metrics.throughs.inc();
        let (key, found) = (read.key, read.target.stretch(read.key, place.size));
        faults.push(found.as_ref().err().cloned());
        let Ok((from, into)) = found else { continue };
        let each = into.chunks_mut(Passed::BYTES_MAX as usize).zip((from..).step_by(Passed::BYTES_MAX as usize));
        stretches.extend(each.map(|(into, at)| Stretch { nth, key, place, at, into }));
    }
    let longest = stretches.iter().map(|stretch| stretch.into.len() as u64).max().unwrap_or(1);
    let readers = stretches.len().min(FLYING_MAX).min((FLYING_BYTES / longest) as usize);
    let work = Mutex::new(Work { left: stretches.into_iter(), faults });
    let (began, shared) = (*deadline, &work);
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..readers).map(|_| scope.spawn(move || Through::new(core, began).run(shared))).collect();
        *deadline = Through::new(core, began).run(shared);
        for other in others {
            *deadline = (*deadline).max(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
    });
    let faults = work.into_inner().unwrap_or_else(PoisonError::into_inner).faults;
    let outcomes = reads.iter_mut().zip(places).zip(faults);
    outcomes.map(|((read, place), fault)| fault.map_or_else(|| whole(core, read, place), Err)).collect()
}

/// All stretches of an object are there. They were right; so is what they make, if none of them is of another version.
fn whole(core: &Core, read: &mut Read<'_>, place: &ObjectPlace) -> Outcome<usize> {
    let (_, bytes) = read.target.stretch(read.key, place.size)?;
    if bytes.len() as u64 == place.size && checksum(&[bytes]) != place.checksum {
        core.metrics.mismatches.inc();
        return Err(FaultCode::ChecksumMismatch.with(format!("the {} bytes of {} out of its vault are others", place.size, read.key)));
    }
    Ok(bytes.len())
}

/// One reader on its way through the stretches of a batch.
struct Through<'a> {
    core: &'a Core,
    deadline: Instant,
    /// Bytes since the deadline was set.
    moved: u64,
    /// Where bytes were taken last.
    reached: Option<(SegmentDesc, Segment)>,
    taken: u64,
}

impl<'a> Through<'a> {
    fn new(core: &'a Core, deadline: Instant) -> Self {
        Self { core, deadline, moved: 0, reached: None, taken: 0 }
    }

    /// Reads stretches until none is left; gives the deadline as it was set last.
    fn run(mut self, work: &Mutex<Work<'_>>) -> Instant {
        loop {
            let Some(next) = following(&mut lock(work)) else { return self.deadline };
            if self.moved >= RUN_BYTES {
                (self.deadline, self.moved) = (self.core.deadline(), 0);
            }
            self.moved += next.into.len() as u64;
            let nth = next.nth;
            if let Err(fault) = self.stretch(next) {
                lock(work).faults[nth].get_or_insert(fault);
            }
        }
    }

    fn stretch(&mut self, Stretch { key, place, at, into, .. }: Stretch<'_>) -> Outcome<()> {
        let mut tries = 1;
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            let (len, wait_ms) = (into.len() as u64, left.as_millis() as u64);
            let question = ReadThrough { key: key.clone(), offset: at, len, taken: self.taken, wait_ms };
            let found = match self.core.master.call(&question, self.deadline) {
                // Others are at it.
                Err(fault) if fault.code == FaultCode::NoSpace && Instant::now() + BUSY_PAUSE < self.deadline => {
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
                Err(_) if tries < TRIES && Instant::now() < self.deadline => tries += 1,
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

/// The next stretch of an object with which nothing is wrong so far.
fn following<'a>(work: &mut Work<'a>) -> Option<Stretch<'a>> {
    let Work { left, faults } = work;
    left.find(|stretch| faults[stretch.nth].is_none())
}

fn lock<'w, 'a>(work: &'w Mutex<Work<'a>>) -> MutexGuard<'w, Work<'a>> {
    work.lock().unwrap_or_else(PoisonError::into_inner)
}
