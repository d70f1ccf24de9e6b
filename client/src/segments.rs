//! Handles of the segments this client has read or written, by id; asked for once and again after a failure.

use crate::master::Master;
use perilune_protocol::rpc::segment::Describe;
use perilune_protocol::{Endpoint, FaultCode, Outcome, SegmentId};
use perilune_transfer_engine::{Engine, Segment, host_id};
use std::collections::HashMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::Instant;

/// A segment and whether its memory can be mapped here.
#[derive(Clone)]
pub(crate) struct Known {
    pub(crate) segment: Segment,
    pub(crate) same_host: bool,
}

/// The segments known so far. A handle is dropped when a transfer over it fails: the node may have come back
/// with other ports and capabilities.
#[derive(Default)]
pub(crate) struct Segments {
    known: RwLock<HashMap<SegmentId, Known>>,
}

impl Segments {
    /// Makes sure that `wanted` are known, with one question for those that are not.
    /// Segments that the master does not know (any more) stay unknown.
    pub(crate) fn learn(
        &self,
        wanted: impl Iterator<Item = SegmentId>,
        master: &Master,
        engine: &Engine,
        deadline: Instant,
    ) -> Outcome<()> {
        let mut missing: Vec<SegmentId> = {
            let known = self.read();
            wanted.filter(|id| !known.contains_key(id)).collect()
        };
        if missing.is_empty() {
            return Ok(());
        }
        missing.sort_unstable();
        missing.dedup();
        let answers = master.call(&Describe { segments: missing }, deadline)?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        for desc in answers.into_iter().flatten() {
            let same_host = desc.endpoints.iter().any(|e| matches!(e, Endpoint::Shm { host, .. } if host == host_id()));
            known.insert(desc.id, Known { segment: engine.connect(&desc), same_host });
        }
        Ok(())
    }

    /// The handle of a segment.
    pub(crate) fn get(&self, id: SegmentId) -> Outcome<Segment> {
        let known = self.read();
        let known = known.get(&id).ok_or_else(|| FaultCode::SegmentNotFound.with(format!("segment {id} is not mounted any more")))?;
        Ok(known.segment.clone())
    }

    /// Whether a segment's memory can be mapped here.
    pub(crate) fn is_near(&self, id: SegmentId) -> bool {
        self.read().get(&id).is_some_and(|known| known.same_host)
    }

    /// Forgets a handle.
    pub(crate) fn forget(&self, id: SegmentId) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<SegmentId, Known>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }
}
