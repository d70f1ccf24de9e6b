//! Works for the master on the memory this node lends: fetches copies from other nodes and compares copies with their checksums.
//!
//! Bytes go through the transfer engine at both ends, so what it promises holds: no byte of a segment moves after it was withdrawn,
//! none is written after the deadline.

use super::lending::Lending;
use crate::master::Master;
use perilune_protocol::rpc::work::{TakeWork, WorkDone, WorkOrder, WorkOutcome};
use perilune_protocol::{Checksum, Extent, FaultCode, Outcome, SegmentDesc, SegmentId};
use perilune_transfer_engine::{Engine, Job, Segment};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};
use tracing::{debug, warn};

/// Orders that a node has at a time, so that none waits here while its time runs; each has a buffer of [`PIECE_BYTES`].
const HANDS: usize = 4;
/// Bytes moved and compared at a time.
const PIECE_BYTES: u64 = 4 << 20;
/// One piece takes no longer, so that a peer that was stopped does not hold up the others, nor this node's end.
const PIECE_PATIENCE: Duration = Duration::from_secs(3);
/// Segments that one hand remembers how to reach.
const REACHED_MAX: usize = 256;
/// How long the master lets this node wait when there is nothing to do.
const WAIT: Duration = Duration::from_millis(300);
/// One question takes no longer.
const ASK: Duration = Duration::from_secs(2);
/// The pause before the next question when no master answers, and when it does not know this one.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_UNKNOWN: Duration = Duration::from_secs(30);

/// The threads that work. Stops them when dropped; what they are at is then left unfinished.
pub(super) struct Work {
    stop: Option<Sender<()>>,
    stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Work {
    /// Begins. `master` is a connection of its own, so that heartbeats never wait for work.
    pub(super) fn begin(master: Master, engine: &Engine, lending: &Arc<Lending>) -> Outcome<Self> {
        let failed = |e: std::io::Error| FaultCode::Internal.with(format!("cannot start a thread that works for the master: {e}"));
        let (give, given) = channel::<(WorkOrder, Instant)>();
        let (tell, told) = channel();
        let given = Arc::new(Mutex::new(given));
        let stopping = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for _ in 0..HANDS {
            let (engine, lending, stopping) = (engine.clone(), Arc::clone(lending), Arc::clone(&stopping));
            let hand = Hand { engine, lending, stopping, reached: HashMap::new(), buffer: Vec::new() };
            let (given, tell) = (Arc::clone(&given), tell.clone());
            let run = move || hand.run(&given, &tell);
            threads.push(Builder::new().name("work".into()).spawn(run).map_err(failed)?);
        }
        let (stop, stopped) = channel();
        let lending = Arc::clone(lending);
        let ask = move || Asker { master, lending, give, told, stopped, under_way: 0 }.run();
        threads.push(Builder::new().name("take-work".into()).spawn(ask).map_err(failed)?);
        Ok(Self { stop: Some(stop), stopping, threads })
    }

    /// Tells the threads to end, and does not wait for it.
    pub(super) fn stop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.stop = None;
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.stop();
        for thread in self.threads.drain(..) {
            // One that panicked has said so already.
            let _ = thread.join();
        }
    }
}

/// Asks for work, hands it out, and tells what came of it.
struct Asker {
    master: Master,
    lending: Arc<Lending>,
    give: Sender<(WorkOrder, Instant)>,
    told: Receiver<WorkDone>,
    stopped: Receiver<()>,
    under_way: usize,
}

impl Asker {
    fn run(mut self) {
        let mut done = Vec::new();
        let mut unheard = false;
        loop {
            // While there is work, the next question waits for some of it to be done; the master need not hold it then.
            let wait = if self.under_way == 0 { WAIT } else { Duration::ZERO };
            if self.under_way > 0
                && done.is_empty()
                && let Ok(first) = self.told.recv_timeout(WAIT)
            {
                done.push(first);
            }
            done.extend(self.told.try_iter());
            self.under_way -= done.len().min(self.under_way);
            let asked = Instant::now();
            let room = u32::try_from(HANDS - self.under_way.min(HANDS)).unwrap_or(0);
            let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(0);
            let question = TakeWork { node: self.lending.node(), done: std::mem::take(&mut done), room, wait_ms };
            let pause = match self.master.call(&question, asked + ASK) {
                Ok(orders) => {
                    unheard = false;
                    self.under_way += orders.len();
                    for order in orders {
                        let until = asked + Duration::from_millis(order.limit_ms);
                        // The hands end after this does.
                        let _ = self.give.send((order, until));
                    }
                    Duration::ZERO
                }
                Err(fault) => {
                    // Told again; what another leader ordered, this one ignores.
                    done = question.done;
                    if !unheard {
                        debug!("no work can be asked for: {fault}");
                    }
                    unheard = true;
                    if fault.code == FaultCode::NotSupported { PAUSE_UNKNOWN } else { PAUSE }
                }
            };
            if self.stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }
}

/// One thread that moves and compares bytes.
struct Hand {
    engine: Engine,
    lending: Arc<Lending>,
    /// No piece is begun any more. Relaxed: one more does no harm.
    stopping: Arc<AtomicBool>,
    /// Segments as they were reached last.
    reached: HashMap<SegmentId, (SegmentDesc, Segment)>,
    buffer: Vec<u8>,
}

impl Hand {
    fn run(mut self, given: &Mutex<Receiver<(WorkOrder, Instant)>>, tell: &Sender<WorkDone>) {
        loop {
            let next = given.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok((order, until)) = next else { return };
            let outcome = self.work(&order, until).unwrap_or_else(|stopped| stopped);
            if outcome != WorkOutcome::Right {
                warn!(order = order.id, segment = %order.place.segment, "work for the master: {outcome:?}");
            }
            if tell.send(WorkDone { id: order.id, outcome }).is_err() {
                return;
            }
        }
    }

    fn work(&mut self, order: &WorkOrder, until: Instant) -> Result<WorkOutcome, WorkOutcome> {
        let segment = order.place.segment;
        let own = self.lending.descs().into_iter().find(|desc| desc.id == segment);
        let own = own.ok_or_else(|| WorkOutcome::Failed(format!("segment {segment} is not lent by this node")))?;
        let own = self.reach(&own);
        if let Some(source) = &order.source {
            let from = self.reach(&source.segment);
            for at in pieces(order.size) {
                self.read(&from, cut(&source.extents, at), until).map_err(WorkOutcome::Unread)?;
                self.write(&own, cut(&order.place.extents, at), until).map_err(WorkOutcome::Failed)?;
            }
        }
        let mut checksum = Checksum::default();
        for at in pieces(order.size) {
            self.read(&own, cut(&order.place.extents, at), until).map_err(WorkOutcome::Failed)?;
            checksum.update(&self.buffer);
        }
        let found = checksum.finish();
        Ok(if found == order.checksum { WorkOutcome::Right } else { WorkOutcome::Wrong { found } })
    }

    fn reach(&mut self, desc: &SegmentDesc) -> Segment {
        if let Some((known, segment)) = self.reached.get(&desc.id)
            && known == desc
        {
            return segment.clone();
        }
        let segment = self.engine.connect(desc);
        remember(&mut self.reached, desc.id, (desc.clone(), segment.clone()));
        segment
    }

    fn read(&mut self, from: &Segment, extents: Vec<Extent>, until: Instant) -> Result<(), String> {
        let len = extents.iter().map(|e| e.len).sum::<u64>();
        self.buffer.resize(usize::try_from(len).unwrap_or(0), 0);
        self.move_piece(from, until, |segment, buffer| Job::read(segment, extents, buffer))
    }

    fn write(&mut self, to: &Segment, extents: Vec<Extent>, until: Instant) -> Result<(), String> {
        self.move_piece(to, until, |segment, buffer| Job::write(segment, extents, buffer))
    }

    fn move_piece<'a>(
        &'a mut self,
        segment: &Segment,
        until: Instant,
        job: impl FnOnce(&Segment, &'a mut [u8]) -> Job<'a>,
    ) -> Result<(), String> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err("this node stops".into());
        }
        let left = until.saturating_duration_since(Instant::now()).min(PIECE_PATIENCE);
        if left.is_zero() {
            return Err("the time for it is over".into());
        }
        let (engine, id) = (self.engine.clone(), segment.id());
        let moved: Result<Vec<()>, _> = engine.run(&mut [job(segment, &mut self.buffer)], left).into_iter().collect();
        if let Err(error) = moved {
            self.reached.remove(&id);
            return Err(error.to_string());
        }
        Ok(())
    }
}

/// Segments come and go, and nobody tells which are gone: now and then those that are still there are reached anew.
fn remember<V>(reached: &mut HashMap<SegmentId, V>, id: SegmentId, segment: V) {
    if reached.len() >= REACHED_MAX {
        reached.clear();
    }
    reached.insert(id, segment);
}

/// Where the pieces of a value begin and end.
fn pieces(size: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..size.div_ceil(PIECE_BYTES)).map(move |n| (n * PIECE_BYTES, size.min((n + 1) * PIECE_BYTES)))
}

/// The extents that hold the bytes `from..to` of a value that lies in `extents`.
fn cut(extents: &[Extent], (from, to): (u64, u64)) -> Vec<Extent> {
    let (mut found, mut at) = (Vec::new(), 0);
    for extent in extents {
        let (start, end) = (from.max(at), to.min(at + extent.len));
        if start < end {
            found.push(Extent { offset: extent.offset + (start - at), len: end - start });
        }
        at += extent.len;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut reached = HashMap::new();
        for n in 0..3 * REACHED_MAX {
            let id = SegmentId::random();
            remember(&mut reached, id, n);
            assert!(reached.len() <= REACHED_MAX && reached[&id] == n);
        }
    }

    #[test]
    fn pieces_and_cuts_cover_a_value_once_and_in_order() {
        let sizes = [1, PIECE_BYTES - 1, PIECE_BYTES, 2 * PIECE_BYTES + 7];
        for size in sizes {
            let extents = [(1 << 30, size / 3), (0, size / 2), (1 << 40, size - size / 3 - size / 2)];
            let extents = extents.map(|(offset, len)| Extent { offset, len });
            let mut bytes = Vec::new();
            for piece in pieces(size) {
                let found = cut(&extents, piece);
                assert_eq!(found.iter().map(|e| e.len).sum::<u64>(), piece.1 - piece.0);
                bytes.extend(found);
            }
            // Put together again, neighbours joined, it is what it was.
            let mut joined: Vec<Extent> = Vec::new();
            for extent in bytes {
                match joined.last_mut() {
                    Some(last) if last.offset + last.len == extent.offset => last.len += extent.len,
                    _ => joined.push(extent),
                }
            }
            assert_eq!(joined, extents.iter().filter(|e| e.len > 0).copied().collect::<Vec<_>>(), "{size}");
        }
    }
}
