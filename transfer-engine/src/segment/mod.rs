//! What we know of memory on other nodes, and the memory we lend to them.

use perilune_protocol::{SegmentDesc, SegmentId};
use std::fmt;
use std::sync::Arc;

/// A remote segment: a cheap handle. Connections are made on first use and again after they were lost.
#[derive(Clone)]
pub struct Segment {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) desc: SegmentDesc,
}

impl Segment {
    /// The segment's id.
    pub fn id(&self) -> SegmentId {
        self.inner.desc.id
    }

    /// What this handle was made from.
    pub fn desc(&self) -> &SegmentDesc {
        &self.inner.desc
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment").field("id", &self.id()).field("size", &self.desc().size).finish_non_exhaustive()
    }
}
