//! One piece of a request on its way through a lane and a transport.

use crate::completion::Tally;
use crate::fault::{Failure, TransferError, TransferErrorKind};
use crate::request::{LocalSlice, Op, plan::Parts, plan::Piece};
use crate::segment::Segment;
use crate::transport::{Address, Peer};
use perilune_protocol::{Capability, Extent, SegmentId};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

/// A piece of a request. Whoever owns it, and nobody else, may touch its local buffers.
pub struct Work {
    /// Unique in its lane.
    pub id: u64,
    /// Which way.
    pub op: Op,
    /// The peer, as the transport numbered it.
    pub peer: Peer,
    /// The bytes of the segment, in order; none is empty, all lie in the segment as its description knows it.
    pub extents: Parts<Extent>,
    /// The local bytes, in order; none is empty.
    pub local: Parts<LocalSlice>,
    /// Their number.
    pub bytes: u64,
    /// When it is too late.
    pub deadline: Instant,
    pub(crate) started: Instant,
    pub(crate) segment: Segment,
    /// Which of the segment's paths is being tried.
    pub(crate) path: usize,
    /// What went wrong on earlier paths.
    pub(crate) earlier: Vec<Failure>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) slot: usize,
}

impl Work {
    /// Whether the segment can be reached otherwise, should this path fail.
    pub(crate) fn has_other_path(&self) -> bool {
        self.path + 1 < self.segment.inner.paths.len()
    }

    pub(crate) fn new(
        op: Op,
        segment: Segment,
        piece: Piece,
        tally: Arc<Tally>,
        slot: usize,
        started: Instant,
        deadline: Instant,
    ) -> Box<Self> {
        let Piece { extents, local, bytes } = piece;
        let (id, peer, path, earlier) = (0, Peer::default(), 0, Vec::new());
        Box::new(Self { id, op, peer, extents, local, bytes, deadline, started, segment, path, earlier, tally, slot })
    }

    /// The segment.
    pub fn segment_id(&self) -> SegmentId {
        self.segment.id()
    }

    /// The right to move its bytes.
    pub fn capability(&self) -> Capability {
        self.segment.desc().capability
    }

    /// Refuses once it is too late: from then on the space on the other side may be somebody else's. For use right before bytes move.
    ///
    /// # Errors
    /// `Timeout`, when the deadline has passed.
    pub fn in_time(&self) -> Result<(), Failure> {
        if Instant::now() < self.deadline { Ok(()) } else { Err(self.too_late("its turn had not come")) }
    }

    /// What is said of work whose deadline passed, with a phrase on how far it came.
    pub(crate) fn too_late(&self, progress: &str) -> Failure {
        let waited = self.started.elapsed().as_millis();
        Failure::new(TransferErrorKind::Timeout, format!("the deadline passed after {waited} ms, {progress}"))
    }

    pub(crate) fn route(&self) -> Option<&(usize, Address)> {
        self.segment.inner.paths.get(self.path)
    }

    /// Hands the outcome to the ticket. The buffers are the caller's again.
    #[expect(clippy::boxed_local, reason = "it comes in a box, and is not moved out of it to be dropped")]
    pub(crate) fn report(self: Box<Self>, outcome: Result<(), Failure>) {
        let outcome = outcome.map_err(|last| self.error(last));
        self.tally.report(self.slot, outcome);
    }

    fn error(&self, last: Failure) -> TransferError {
        // That a peer was there and died says more than that it cannot be reached since.
        let gone = self.earlier.iter().find(|f| f.kind == TransferErrorKind::PeerGone);
        let kind = match last.kind {
            TransferErrorKind::PeerUnreachable => gone.map_or(last.kind, |f| f.kind),
            kind => kind,
        };
        let mut causes: Vec<&str> = self.earlier.iter().map(|f| f.cause.as_str()).collect();
        causes.push(&last.cause);
        error(self.op, &self.segment, &self.extents, Failure::new(kind, causes.join("; then ")), self.route())
    }
}

/// A failure, told with peer, operation and range.
pub(crate) fn error(op: Op, segment: &Segment, extents: &[Extent], failure: Failure, route: Option<&(usize, Address)>) -> TransferError {
    let peer = match route.or(segment.inner.paths.last()) {
        Some((_, address)) => address.display().into_owned(),
        None => segment.desc().name.clone(),
    };
    let from = extents.iter().map(|e| e.offset).min().unwrap_or(0);
    let to = extents.iter().map(|e| e.offset.saturating_add(e.len)).max().unwrap_or(0);
    TransferError { kind: failure.kind, op, segment: segment.id(), peer, range: (from, to), cause: failure.cause }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, op, bytes, .. } = self;
        f.debug_struct("Work").field("id", id).field("op", op).field("bytes", bytes).finish_non_exhaustive()
    }
}
