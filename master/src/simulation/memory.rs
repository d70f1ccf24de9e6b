//! The memory that store nodes lend: which bytes of which value were written where last. No bytes, only what they are of.

use perilune_protocol::{Extent, NodeId, ReplicaPlace, SegmentId, checksum};
use std::collections::BTreeMap;

/// Whose bytes: a number of the key, and a version.
pub(super) type Owner = (u64, u64);

/// Of bytes that nobody wrote, or that changed by themselves.
const NOBODY: u64 = u64::MAX;

/// Bytes that lie together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    len: u64,
    owner: Owner,
    /// Where in the value the first of them belongs.
    at: u64,
}

impl Run {
    /// Leaves the first `len` bytes in `runs` and gives the others.
    pub(super) fn split(runs: &mut Vec<Self>, len: u64) -> Vec<Self> {
        let mut left = len;
        let nth = runs.iter().position(|run| {
            let ends = run.len > left;
            left -= if ends { 0 } else { run.len };
            ends
        });
        let Some(nth) = nth else { return Vec::new() };
        let mut rest = runs.split_off(nth);
        if left > 0 {
            runs.push(Self { len: left, ..rest[0] });
            rest[0] = Self { len: rest[0].len - left, at: rest[0].at + left, ..rest[0] };
        }
        rest
    }
}

/// The checksum of a value, as whoever puts it says.
pub(super) fn sum_of((key, version): Owner) -> u64 {
    checksum(&[&key.to_le_bytes(), &version.to_le_bytes()])
}

/// The checksum of what was found, in the order of the value.
pub(super) fn sum_found(runs: &[Run]) -> u64 {
    match runs.first().map(|run| run.owner) {
        Some(owner) if are_of(runs, owner) => sum_of(owner),
        _ => runs.iter().fold(1, |sum, run| sum_of((sum ^ run.owner.0, run.owner.1 ^ run.at ^ run.len))),
    }
}

/// Whether these are the bytes of a value from its beginning on, in order.
fn are_of(runs: &[Run], owner: Owner) -> bool {
    let mut at = 0;
    runs.iter().all(|run| {
        let fits = run.owner == owner && run.at == at;
        at += run.len;
        fits
    })
}

/// What a copy is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Right,
    /// Right but for bytes that changed by themselves.
    Rotten,
    /// Somebody wrote something else there, or nothing.
    Wrong(Owner),
    /// Its memory is gone since then, in milliseconds.
    Gone(u64),
}

/// One segment.
struct Lent {
    node: NodeId,
    /// Begin -> what lies there, without overlaps.
    written: BTreeMap<u64, Run>,
}

/// Every segment that exists at the moment. A node that loses its memory loses its segments.
#[derive(Default)]
pub(super) struct Memory {
    segments: BTreeMap<SegmentId, Lent>,
    /// Those that were, and until when.
    gone: BTreeMap<SegmentId, u64>,
}

impl Memory {
    pub(super) fn lend(&mut self, id: SegmentId, node: NodeId) {
        self.segments.insert(id, Lent { node, written: BTreeMap::new() });
    }

    pub(super) fn lose(&mut self, id: SegmentId, now: u64) {
        self.segments.remove(&id);
        self.gone.insert(id, now);
    }

    pub(super) fn node(&self, id: SegmentId) -> Option<NodeId> {
        self.segments.get(&id).map(|lent| lent.node)
    }

    /// The bytes of a value from `at` on; false when the segment is gone.
    pub(super) fn write(&mut self, id: SegmentId, extent: Extent, owner: Owner, at: u64) -> bool {
        self.put(id, extent.offset, &[Run { len: extent.len, owner, at }])
    }

    /// What was read elsewhere; false when the segment is gone.
    pub(super) fn put(&mut self, id: SegmentId, offset: u64, runs: &[Run]) -> bool {
        let Some(Lent { written, .. }) = self.segments.get_mut(&id) else { return false };
        let end = offset + runs.iter().map(|run| run.len).sum::<u64>();
        let touched: Vec<u64> = written.range(..end).rev().take_while(|(at, run)| *at + run.len > offset).map(|(at, _)| *at).collect();
        for begin in touched {
            let Some(run) = written.remove(&begin) else { continue };
            if begin < offset {
                written.insert(begin, Run { len: offset - begin, ..run });
            }
            if begin + run.len > end {
                written.insert(end, Run { len: begin + run.len - end, at: run.at + (end - begin), ..run });
            }
        }
        let mut begin = offset;
        for run in runs {
            written.insert(begin, *run);
            begin += run.len;
        }
        true
    }

    /// What lies there; `None` when the segment is gone.
    pub(super) fn read(&self, id: SegmentId, Extent { offset, len }: Extent) -> Option<Vec<Run>> {
        let written = &self.segments.get(&id)?.written;
        let (mut found, mut begin, end) = (Vec::new(), offset, offset + len);
        while begin < end {
            let known = written.range(..=begin).next_back().filter(|(at, run)| **at + run.len > begin);
            let run = match known {
                Some((at, run)) => Run { len: (at + run.len).min(end) - begin, at: run.at + (begin - at), ..*run },
                None => {
                    let next = written.range(begin..end).next().map_or(end, |(at, _)| *at);
                    Run { len: next - begin, owner: (NOBODY, NOBODY), at: 0 }
                }
            };
            begin += run.len;
            found.push(run);
        }
        Some(found)
    }

    /// One byte changes by itself.
    pub(super) fn rot(&mut self, id: SegmentId, offset: u64) {
        self.put(id, offset, &[Run { len: 1, owner: (NOBODY, 0), at: 0 }]);
    }

    pub(super) fn look(&self, place: &ReplicaPlace, owner: Owner) -> Condition {
        if !self.segments.contains_key(&place.segment) {
            return Condition::Gone(self.gone.get(&place.segment).copied().unwrap_or(0));
        }
        let (mut at, mut rotten) = (0, false);
        for run in place.extents.iter().filter_map(|extent| self.read(place.segment, *extent)).flatten() {
            if run.owner == (NOBODY, 0) {
                rotten = true;
            } else if run.owner != owner || run.at != at {
                return Condition::Wrong(run.owner);
            }
            at += run.len;
        }
        if rotten { Condition::Rotten } else { Condition::Right }
    }
}
