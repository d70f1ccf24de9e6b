//! One stretch of a segment from or into one stretch of memory: what a transport can do without any bookkeeping, if all is well.

use crate::completion::Tally;
use crate::lane::work::Work;
use crate::request::plan::{BYTES_MAX, Parts, Piece};
use crate::request::{LocalSlice, Op, Request};
use crate::segment::Segment;
use perilune_protocol::Extent;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A request that is one piece as it stands, of a caller who waits for it.
#[derive(Clone, Copy, Debug)]
pub struct Single<'a> {
    /// Read or write.
    pub op: Op,
    /// The remote side.
    pub segment: &'a Segment,
    /// The bytes of the segment: at least one, and inside of it as its description knows it.
    pub extent: Extent,
    /// As many local bytes.
    pub local: LocalSlice,
    /// How long it may take, more than nothing.
    pub limit: Duration,
}

impl<'a> Single<'a> {
    /// `None` for what takes more than this, or is to be refused: that goes through the plan.
    pub(crate) fn of(request: &'a Request, limit: Duration) -> Option<Self> {
        let Request { op, segment, extents, local } = request;
        let (&[extent], &[local]) = (&extents[..], &local[..]) else { return None };
        let moves = matches!(op, Op::Read | Op::Write) && (1..=BYTES_MAX).contains(&extent.len) && extent.len == local.len;
        let fits = moves && extent.fits(segment.desc().size) && !limit.is_zero();
        fits.then_some(Self { op: *op, segment, extent, local, limit })
    }

    /// The same as a piece of work, for all cases in which that is needed. Its time began at `started`.
    pub(crate) fn work(&self, tally: Arc<Tally>, started: Instant) -> Box<Work> {
        let Self { op, segment, extent, local, limit } = *self;
        let piece = Piece { extents: Parts::from_buf([extent]), local: Parts::from_buf([local]), bytes: extent.len };
        Work::new(op, segment.clone(), piece, tally, 0, started, started + limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use perilune_protocol::{Capability, NodeId, Protocol, SegmentDesc, SegmentId};

    #[test]
    fn only_what_the_plan_would_take_as_one_piece_is_single() {
        let (name, location, endpoints, capability) = (String::new(), String::new(), Vec::new(), Capability::random());
        let (id, node, size) = (SegmentId::random(), NodeId::random(), 100);
        let desc = SegmentDesc { id, name, node, base: 0, size, protocol: Protocol::Tcp, location, endpoints, capability };
        let segment = Segment::new(desc, &[]);
        let is = |op, extents: &[(u64, u64)], local: &[u64], limit| {
            let extents = extents.iter().map(|&(offset, len)| Extent { offset, len }).collect();
            let local = local.iter().map(|&len| LocalSlice { base: 4096, len }).collect();
            Single::of(&Request { op, segment: segment.clone(), extents, local }, limit).is_some()
        };
        let second = Duration::from_secs(1);
        assert!(is(Op::Read, &[(90, 10)], &[10], second) && is(Op::Write, &[(0, 1)], &[1], second));
        assert!(!is(Op::Read, &[(91, 10)], &[10], second), "outside");
        assert!(!is(Op::Read, &[(u64::MAX, 10)], &[10], second), "far outside");
        assert!(!is(Op::Read, &[(0, 10)], &[9], second) && !is(Op::Read, &[(0, 0)], &[0], second), "lengths");
        assert!(!is(Op::Read, &[(0, 5), (5, 5)], &[10], second) && !is(Op::Read, &[(0, 10)], &[5, 5], second), "several");
        assert!(!is(Op::Notify(1), &[], &[], second), "a notice");
        assert!(!is(Op::Read, &[(0, 1)], &[1], Duration::ZERO), "no time");
    }
}
