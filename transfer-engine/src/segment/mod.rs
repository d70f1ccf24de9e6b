//! What we know of memory on other nodes, and the memory we lend to them.

mod export;

pub(crate) use export::{Export, Exports, Passage, check_bounds};

use crate::transport::{Address, Family};
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
    /// The ways to it, best first: the number of the family in the engine, and the address there.
    pub(crate) paths: Vec<(usize, Address)>,
}

impl Segment {
    pub(crate) fn new(desc: SegmentDesc, families: &[Arc<dyn Family>]) -> Self {
        let to = |(number, family): (usize, &Arc<dyn Family>)| {
            desc.endpoints.iter().filter_map(|endpoint| Some((number, family.address(endpoint)?))).collect::<Vec<_>>()
        };
        let paths = families.iter().enumerate().flat_map(to).collect();
        Self { inner: Arc::new(Inner { desc, paths }) }
    }

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
