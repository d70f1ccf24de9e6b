//! Ask where, move the bytes, check them. No byte leaves here unless the checksum of the whole value is right, or those of
//! the pieces that some of it is taken from.

mod target;
mod through;

pub use target::Part;
pub(crate) use target::Target;

use crate::batch::{self, Limits};
use crate::store::Core;
use perilune_protocol::rpc::cold::Recall;
use perilune_protocol::rpc::object::Locate;
use perilune_protocol::{Fault, FaultCode, ObjectKey, ObjectPlace, Outcome, SegmentId, checksum};
use perilune_transfer_engine::{Job, Segment, TransferErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::warn;

/// Bytes that one run of the engine moves; a batch beyond that gets its deadline anew for every run.
pub(crate) const RUN_BYTES: u64 = 256 << 20;
/// Questions to the master about one key in one read: the second follows when every copy of the first answer failed.
const QUESTIONS_MAX: u8 = 2;
/// The same when a node answered that it does not lend the segment, or not on these terms: it has just restarted, and the master
/// learns the new terms within moments.
const QUESTIONS_RETURNING: u8 = 6;
/// How often one read has its object fetched from a vault: it may leave memory again before it is read. After that it is read through a node.
const RECALLS_MAX: u8 = 3;
/// What is left of a read's time when an object is to be there that is fetched: it has to be located and read.
const RECALL_REST: Duration = Duration::from_millis(300);
/// Between those.
pub(crate) const RETURNING_PAUSE: Duration = Duration::from_millis(50);

/// One key being read.
pub(crate) struct Read<'a> {
    key: &'a ObjectKey,
    target: Target<'a>,
    place: Option<Arc<ObjectPlace>>,
    questions: u8,
    /// What the last answer said, if it is in its vault only; and how often it was fetched.
    cold: Option<ObjectPlace>,
    recalls: u8,
    /// No copy in memory that it was told of could be read: there may be one in a vault.
    stranded: bool,
    /// A node that holds a copy seems to be coming back.
    returning: bool,
    /// Copies of this place that did not work.
    failed: Vec<SegmentId>,
    last: Option<Fault>,
    outcome: Option<Outcome<usize>>,
}

impl<'a> Read<'a> {
    pub(crate) fn new(key: &'a ObjectKey, target: Target<'a>) -> Self {
        Self {
            key,
            target,
            place: None,
            questions: 0,
            cold: None,
            recalls: 0,
            stranded: false,
            returning: false,
            failed: Vec::new(),
            last: None,
            outcome: None,
        }
    }

    /// Bytes read.
    pub(crate) fn finish(self) -> Outcome<usize> {
        self.outcome.unwrap_or_else(|| Err(never_tried(self.key)))
    }

    /// The bytes of a read into [`Target::Fresh`].
    pub(crate) fn finish_fresh(self) -> Outcome<Vec<u8>> {
        match (self.outcome, self.target) {
            (Some(Ok(_)), Target::Fresh(bytes)) => Ok(bytes),
            (Some(Err(fault)), _) => Err(fault),
            _ => Err(never_tried(self.key)),
        }
    }

    /// The bytes of a read into [`Target::Part`].
    pub(crate) fn finish_part(self) -> Outcome<Part> {
        match (self.outcome, self.target) {
            (Some(Ok(_)), Target::Part { bytes, size, .. }) => Ok(Part { bytes, size }),
            (Some(Err(fault)), _) => Err(fault),
            _ => Err(never_tried(self.key)),
        }
    }

    /// What went wrong in memory; and out of the vault, if it is in one.
    fn stranded_by(&mut self, fault: &Fault) -> Fault {
        let unreadable = || FaultCode::NoReadableReplica.with(format!("no copy of {} can be read at the moment", self.key));
        let last = self.last.take().unwrap_or_else(unreadable);
        if fault.code == FaultCode::WrongState {
            last
        } else {
            last.code.with(format!("{}; out of its vault: {}", last.message, fault.message))
        }
    }

    fn failed_on(&mut self, segment: SegmentId, fault: Fault) {
        self.failed.push(segment);
        self.last = Some(fault);
    }

    /// The copy to read next: same host first, then the master's order. `None` when all failed.
    fn choose(&mut self, place: &ObjectPlace, core: &Core) -> Option<(Segment, usize)> {
        loop {
            let untried = || place.replicas.iter().enumerate().filter(|(_, r)| !self.failed.contains(&r.segment));
            let (at, replica) = untried().find(|(_, r)| core.segments.is_near(r.segment)).or_else(|| untried().next())?;
            match core.segments.get(replica.segment) {
                Ok(segment) => return Some((segment, at)),
                Err(fault) => self.failed_on(replica.segment, fault),
            }
        }
    }
}

fn never_tried(key: &ObjectKey) -> Fault {
    FaultCode::Internal.with(format!("{key} was not read"))
}

/// Reads every key; each ends with an outcome.
pub(crate) fn read_all(core: &Core, reads: &mut [Read<'_>]) {
    for piece in batch::pieces(reads.iter().map(|r| batch::weight(r.key)), Limits::PLACES) {
        let reads = &mut reads[piece];
        let mut deadline = core.deadline();
        while reads.iter().any(|read| read.outcome.is_none()) {
            locate(core, reads, deadline);
            transfer(core, reads, &mut deadline);
            recall(core, reads, &mut deadline);
            if reads.iter().any(|read| read.outcome.is_none() && read.returning && read.place.is_none()) {
                std::thread::sleep(RETURNING_PAUSE.min(deadline.saturating_duration_since(Instant::now())));
            }
        }
    }
}

/// Gives every unfinished read a place, with one question for those that have none.
fn locate(core: &Core, reads: &mut [Read<'_>], deadline: Instant) {
    let asked = Instant::now();
    for read in reads.iter_mut().filter(|r| r.outcome.is_none() && r.place.is_none() && r.questions == 0) {
        read.place = core.places.get(read.key, asked);
        if read.place.is_some() {
            core.metrics.places_known.inc();
        }
    }
    let mut unknown: Vec<&mut Read<'_>> = reads.iter_mut().filter(|r| r.outcome.is_none() && r.place.is_none()).collect();
    if unknown.is_empty() {
        return;
    }
    let keys: Vec<ObjectKey> = unknown.iter().map(|r| r.key.clone()).collect();
    let places = match core.ask(&Locate { keys }, unknown.len(), deadline) {
        Ok(places) => places,
        Err(fault) => return unknown.iter_mut().for_each(|read| read.outcome = Some(Err(fault.clone()))),
    };
    for (read, place) in unknown.into_iter().zip(places) {
        read.questions += 1;
        match place {
            Ok(place) if place.replicas.is_empty() => read.cold = Some(place),
            Ok(place) => {
                let place = Arc::new(place);
                core.places.learn(read.key, &place, asked);
                read.place = Some(place);
            }
            Err(fault) => {
                core.places.forget(read.key);
                read.outcome = Some(Err(fault));
            }
        }
    }
}

/// Has fetched what is in vaults only, after all else was read: that waits for no vault. Then it is located as ever. What does not come to
/// memory or does not stay there, is wanted in part, or is there where it cannot be read, is read through a node.
fn recall(core: &Core, reads: &mut [Read<'_>], deadline: &mut Instant) {
    let cold = reads.iter_mut().filter(|r| r.outcome.is_none() && r.cold.is_some());
    let (mut through, mut cold): (Vec<_>, Vec<_>) =
        cold.partition(|read| read.stranded || read.recalls >= RECALLS_MAX || matches!(read.target, Target::Part { .. }));
    if !cold.is_empty() {
        fetch(core, &mut cold, *deadline);
        through.extend(cold.into_iter().filter(|r| r.outcome.is_none() && r.cold.is_some()));
    }
    let places: Vec<_> = through.iter_mut().filter_map(|read| read.cold.take()).collect();
    let outcomes = through::read_all(core, &mut through, &places, deadline);
    for (read, outcome) in through.into_iter().zip(outcomes) {
        read.outcome = match outcome {
            Err(fault) if read.stranded => Some(Err(read.stranded_by(&fault))),
            // It is another one by now.
            Err(fault) if fault.code == FaultCode::WrongState && read.recalls < RECALLS_MAX => {
                (read.questions, read.recalls) = (0, read.recalls + 1);
                None
            }
            outcome => Some(outcome),
        };
    }
}

/// Has objects fetched. What finds no room in memory stays cold.
fn fetch(core: &Core, cold: &mut [&mut Read<'_>], deadline: Instant) {
    let keys = cold.iter().map(|r| r.key.clone()).collect();
    let left = deadline.saturating_duration_since(Instant::now());
    let wait = left.saturating_sub(RECALL_REST).max(left / 2);
    let question = Recall { keys, wait_ms: wait.as_millis().try_into().unwrap_or(u64::MAX) };
    let answers = match core.ask(&question, cold.len(), deadline) {
        Ok(answers) => answers,
        Err(fault) => return cold.iter_mut().for_each(|read| read.outcome = Some(Err(fault.clone()))),
    };
    for (read, answer) in cold.iter_mut().zip(answers) {
        if matches!(&answer, Err(fault) if fault.code == FaultCode::NoSpace) {
            continue;
        }
        (read.cold, read.questions) = (None, 0);
        read.recalls += 1;
        match answer {
            Ok(()) => core.metrics.recalls.inc(),
            Err(fault) => read.outcome = Some(Err(fault)),
        }
    }
}

/// Moves the bytes of every unfinished read from one copy, and checks them.
fn transfer(core: &Core, reads: &mut [Read<'_>], deadline: &mut Instant) {
    let wanted = reads.iter().filter(|r| r.outcome.is_none()).filter_map(|r| r.place.as_ref());
    let wanted = wanted.flat_map(|place| place.replicas.iter().map(|r| r.segment));
    if let Err(fault) = core.segments.learn(wanted, &core.master, &core.engine, *deadline) {
        return reads.iter_mut().filter(|r| r.outcome.is_none()).for_each(|read| read.outcome = Some(Err(fault.clone())));
    }
    let (mut jobs, mut running, mut bytes, mut runs) = (Vec::new(), Vec::new(), 0, 0);
    let mut finished = Vec::new();
    let mut run = |jobs: &mut Vec<Job<'_>>, running: &mut Vec<(usize, SegmentId)>| {
        if runs > 0 {
            *deadline = core.deadline();
        }
        runs += 1;
        let outcomes = core.engine.run(jobs, deadline.saturating_duration_since(Instant::now()));
        jobs.clear();
        finished.extend(running.drain(..).zip(outcomes));
    };
    for (at, read) in reads.iter_mut().enumerate().filter(|(_, r)| r.outcome.is_none()) {
        let Some(place) = read.place.clone() else { continue };
        let Some((segment, copy)) = read.choose(&place, core) else {
            give_up_place(core, read);
            continue;
        };
        if let Err(fault) = read.target.make_room(read.key, place.size) {
            read.outcome = Some(Err(fault));
            continue;
        }
        running.push((at, segment.id()));
        jobs.push(Job::read(&segment, place.replicas[copy].extents.clone(), read.target.slice(place.size)));
        bytes += place.size;
        if bytes >= RUN_BYTES {
            run(&mut jobs, &mut running);
            bytes = 0;
        }
    }
    if !jobs.is_empty() {
        run(&mut jobs, &mut running);
    }
    drop(jobs);
    let late = Instant::now() >= *deadline;
    let mut failures = Failures::default();
    for ((at, segment), moved) in finished {
        let read = &mut reads[at];
        let moved = moved.map_err(|error| {
            core.segments.forget(segment);
            read.returning |= matches!(error.kind, TransferErrorKind::UnknownSegment | TransferErrorKind::Denied);
            FaultCode::TransferFailed.with(error.to_string())
        });
        match moved.and_then(|()| check(core, read, segment)) {
            Ok(size) => read.outcome = Some(Ok(read.target.trim(size))),
            Err(fault) => {
                core.places.forget(read.key);
                core.metrics.failovers.inc();
                failures.note(&fault);
                if late {
                    read.outcome = Some(Err(fault));
                } else {
                    read.failed_on(segment, fault);
                }
            }
        }
    }
    failures.tell();
}

/// Every copy of this place failed: ask once more, since the object may have moved or its node come back; then it is read out of its vault, if
/// it is in one.
fn give_up_place(core: &Core, read: &mut Read<'_>) {
    core.places.forget(read.key);
    if read.questions < if read.returning { QUESTIONS_RETURNING } else { QUESTIONS_MAX } {
        read.place = None;
        read.failed.clear();
    } else {
        read.stranded = true;
        read.cold = read.place.take().map(|place| ObjectPlace { replicas: Vec::new(), ..ObjectPlace::clone(&place) });
    }
}

fn check(core: &Core, read: &mut Read<'_>, segment: SegmentId) -> Outcome<usize> {
    let Some(place) = &read.place else { return Err(never_tried(read.key)) };
    let bytes = read.target.slice(place.size);
    let found = checksum(&[bytes]);
    if found == place.checksum {
        return Ok(bytes.len());
    }
    core.metrics.mismatches.inc();
    let (key, size, wanted) = (read.key, place.size, place.checksum);
    let told = format!("the {size} bytes of {key} on segment {segment} have checksum {found:016x}, put with {wanted:016x}");
    Err(FaultCode::ChecksumMismatch.with(told))
}

/// Failures of one round, told together: a node that dies under a large batch is one event.
#[derive(Default)]
pub(crate) struct Failures {
    count: usize,
    first: Option<Fault>,
}

impl Failures {
    pub(crate) fn note(&mut self, fault: &Fault) {
        self.count += 1;
        self.first.get_or_insert_with(|| fault.clone());
    }

    pub(crate) fn tell(self) {
        if let Some(first) = self.first {
            warn!(failed = self.count, "transfers failed, the first: {first}");
        }
    }
}
