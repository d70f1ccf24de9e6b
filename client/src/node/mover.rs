//! Moves bytes between this process and segments, piece by piece, for orders of the master.
//!
//! Bytes go through the transfer engine at both ends, so what it promises holds: no byte of a segment moves after it was withdrawn,
//! none is written after the deadline. What is only read, of this process' own memory, need not.

use super::lending::Lending;
use perilune_protocol::{Checksum, Extent, SegmentDesc, SegmentId};
use perilune_transfer_engine::{Engine, Job, Memory, Segment};
use perilune_vault::Source;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Bytes moved and compared at a time.
const PIECE_BYTES: u64 = 4 << 20;
/// One piece takes no longer, so that a peer that was stopped does not hold up the others, nor this node's end.
const PIECE_PATIENCE: Duration = Duration::from_secs(3);
/// Segments that one hand remembers how to reach.
const REACHED_MAX: usize = 256;

/// One hand's way to move bytes.
pub(super) struct Mover {
    engine: Engine,
    lending: Arc<Lending>,
    /// No piece is begun any more. Relaxed: one more does no harm.
    stopping: Arc<AtomicBool>,
    /// Segments as they were reached last.
    reached: HashMap<SegmentId, (SegmentDesc, Segment)>,
}

impl Mover {
    pub(super) fn new(engine: &Engine, lending: &Arc<Lending>, stopping: &Arc<AtomicBool>) -> Self {
        let (engine, lending, stopping) = (engine.clone(), Arc::clone(lending), Arc::clone(stopping));
        Self { engine, lending, stopping, reached: HashMap::new() }
    }

    /// A segment that this node lends.
    pub(super) fn own(&mut self, segment: SegmentId) -> Result<Segment, String> {
        self.lending.desc(segment).map(|desc| self.reach(&desc)).ok_or_else(|| not_lent(segment))
    }

    /// What copies bytes of a value that lies in `extents` of a segment that this node lends, straight from there. For who compares a checksum
    /// of what was copied: it may have been withdrawn meanwhile, and be somebody else's.
    pub(super) fn source(&self, segment: SegmentId, extents: Vec<Extent>) -> Result<Source, String> {
        let memory = self.lending.memory(segment).ok_or_else(|| not_lent(segment))?;
        let stopping = Arc::clone(&self.stopping);
        Ok(Box::new(move |at, into| {
            may_go_on(&stopping)?;
            copy(&memory, &extents, at, into)
        }))
    }

    pub(super) fn reach(&mut self, desc: &SegmentDesc) -> Segment {
        if let Some((known, segment)) = self.reached.get(&desc.id)
            && known == desc
        {
            return segment.clone();
        }
        let segment = self.engine.connect(desc);
        remember(&mut self.reached, desc.id, (desc.clone(), segment.clone()));
        segment
    }

    /// Reads the bytes from `at` on, as many as `into` has room for, of a value that lies in `extents`.
    pub(super) fn read(&mut self, from: &Segment, extents: &[Extent], at: u64, into: &mut [u8], until: Instant) -> Result<(), String> {
        let extents = cut(extents, (at, at + into.len() as u64));
        self.run(Job::read(from, extents, into), from.id(), until)
    }

    /// Writes bytes of a value that is to lie in `extents`, from `at` on.
    pub(super) fn write(&mut self, to: &Segment, extents: &[Extent], at: u64, bytes: &[u8], until: Instant) -> Result<(), String> {
        let extents = cut(extents, (at, at + bytes.len() as u64));
        self.run(Job::write(to, extents, bytes), to.id(), until)
    }

    /// [`perilune_protocol::checksum`] of the value of `size` bytes that lies in `extents`, read by way of `buffer`.
    pub(super) fn checksum(
        &mut self,
        from: &Segment,
        extents: &[Extent],
        size: u64,
        buffer: &mut Vec<u8>,
        until: Instant,
    ) -> Result<u64, String> {
        let mut checksum = Checksum::default();
        for (at, end) in pieces(size) {
            let piece = room(buffer, end - at);
            self.read(from, extents, at, piece, until)?;
            checksum.update(piece);
        }
        Ok(checksum.finish())
    }

    fn run(&mut self, job: Job<'_>, id: SegmentId, until: Instant) -> Result<(), String> {
        may_go_on(&self.stopping)?;
        let left = until.saturating_duration_since(Instant::now()).min(PIECE_PATIENCE);
        if left.is_zero() {
            return Err("the time for it is over".into());
        }
        let moved: Result<Vec<()>, _> = self.engine.run(&mut [job], left).into_iter().collect();
        if let Err(error) = moved {
            self.reached.remove(&id);
            return Err(error.to_string());
        }
        Ok(())
    }
}

fn may_go_on(stopping: &AtomicBool) -> Result<(), String> {
    if stopping.load(Ordering::Relaxed) { Err("this node stops".into()) } else { Ok(()) }
}

/// Copies bytes of a value that lies in `extents` of memory of this process, from `at` on.
fn copy(memory: &Memory, extents: &[Extent], at: u64, into: &mut [u8]) -> Result<(), String> {
    if !memory.intact() {
        return Err("the memory was cut short".into());
    }
    let mut rest = into;
    for Extent { offset, len } in cut(extents, (at, at + rest.len() as u64)) {
        let (piece, behind) = rest.split_at_mut(len as usize);
        if !memory.read_at(offset, piece) {
            return Err(format!("{len} bytes from offset {offset} do not lie in the segment"));
        }
        rest = behind;
    }
    if rest.is_empty() { Ok(()) } else { Err("the value is longer than where it lies".into()) }
}

fn not_lent(segment: SegmentId) -> String {
    format!("segment {segment} is not lent by this node")
}

/// Segments come and go, and nobody tells which are gone: now and then those that are still there are reached anew.
fn remember<V>(reached: &mut HashMap<SegmentId, V>, id: SegmentId, segment: V) {
    if reached.len() >= REACHED_MAX {
        reached.clear();
    }
    reached.insert(id, segment);
}

/// Room for a piece.
pub(super) fn room(buffer: &mut Vec<u8>, len: u64) -> &mut [u8] {
    buffer.resize(usize::try_from(len.min(PIECE_BYTES)).unwrap_or(0), 0);
    buffer
}

/// Where the pieces of a value begin and end.
pub(super) fn pieces(size: u64) -> impl Iterator<Item = (u64, u64)> {
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
