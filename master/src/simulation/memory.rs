//! The memory that store nodes lend: who wrote what where last. No bytes, only who they are of.

use perilune_protocol::{Extent, NodeId, SegmentId};
use std::collections::BTreeMap;

/// Whose bytes: a number of the key, and a version.
pub(super) type Owner = (u64, u64);

/// One segment.
pub(super) struct Lent {
    pub(super) node: NodeId,
    /// Begin -> end and owner, without overlaps.
    written: BTreeMap<u64, (u64, Owner)>,
}

/// Every segment that exists at the moment. A node that loses its memory loses its segments.
#[derive(Default)]
pub(super) struct Memory {
    segments: BTreeMap<SegmentId, Lent>,
}

impl Memory {
    pub(super) fn lend(&mut self, id: SegmentId, node: NodeId) {
        self.segments.insert(id, Lent { node, written: BTreeMap::new() });
    }

    pub(super) fn lose(&mut self, node: NodeId) {
        self.segments.retain(|_, lent| lent.node != node);
    }

    pub(super) fn node(&self, id: SegmentId) -> Option<NodeId> {
        self.segments.get(&id).map(|lent| lent.node)
    }

    pub(super) fn write(&mut self, id: SegmentId, Extent { offset, len }: Extent, owner: Owner) {
        let Some(Lent { written, .. }) = self.segments.get_mut(&id) else { return };
        let end = offset + len;
        let touched: Vec<u64> = written.range(..end).rev().take_while(|(_, (until, _))| *until > offset).map(|(at, _)| *at).collect();
        for at in touched {
            let Some((until, other)) = written.remove(&at) else { continue };
            if at < offset {
                written.insert(at, (offset, other));
            }
            if until > end {
                written.insert(end, (until, other));
            }
        }
        written.insert(offset, (end, owner));
    }

    /// Whose bytes, other than `owner`'s, are found there; `None` when all are its own or the segment is gone.
    pub(super) fn stranger(&self, id: SegmentId, Extent { offset, len }: Extent, owner: Owner) -> Option<Option<Owner>> {
        let written = &self.segments.get(&id)?.written;
        let (mut at, end) = (offset, offset + len);
        while at < end {
            match written.range(..=at).next_back() {
                Some((_, (until, who))) if *until > at && *who == owner => at = *until,
                Some((_, (until, who))) if *until > at => return Some(Some(*who)),
                _ => return Some(None),
            }
        }
        None
    }
}
