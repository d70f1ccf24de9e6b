//! The memory this process lends, and the checks before any of its bytes moves.

use crate::fault::{EngineError, Failure, TransferErrorKind};
use crate::memory::Memory;
use crate::notice::Mailbox;
use perilune_protocol::{Capability, Extent, SegmentId};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

/// A segment lent to others.
pub(crate) struct Export {
    pub(crate) memory: Arc<Memory>,
    pub(crate) capability: Capability,
    /// True while lent. Whoever moves bytes holds it for reading; [`Exports::withdraw`] writes false and so waits for them.
    gate: RwLock<bool>,
}

/// The right to move bytes of an export now. Kept only as long as one system call or copy.
pub(crate) struct Passage<'a> {
    _gate: RwLockReadGuard<'a, bool>,
}

impl Export {
    /// Refuses a wrong capability and a range outside the segment.
    pub(crate) fn check(&self, capability: Capability, extents: &[Extent]) -> Result<(), Failure> {
        check_capability(self, capability)?;
        check_bounds(extents, self.memory.len())
    }

    /// `None` once the segment is withdrawn.
    pub(crate) fn enter(&self) -> Option<Passage<'_>> {
        let gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        gate.then_some(Passage { _gate: gate })
    }
}

pub(crate) fn check_capability(export: &Export, capability: Capability) -> Result<(), Failure> {
    if export.capability == capability {
        Ok(())
    } else {
        Err(Failure::new(TransferErrorKind::Denied, "the capability is not that of the segment"))
    }
}

/// Refuses extents that leave a segment of `size` bytes.
pub(crate) fn check_bounds(extents: &[Extent], size: u64) -> Result<(), Failure> {
    match extents.iter().find(|extent| !extent.fits(size)) {
        None => Ok(()),
        Some(Extent { offset, len }) => Err(Failure::new(
            TransferErrorKind::Denied,
            format!("{len} bytes from offset {offset} do not lie in the segment, which has {size} bytes"),
        )),
    }
}

/// All segments this process lends, and what who may reach them may tell it.
#[derive(Default)]
pub(crate) struct Exports {
    pub(crate) mailbox: Arc<Mailbox>,
    table: RwLock<HashMap<SegmentId, Arc<Export>>>,
}

impl Exports {
    pub(crate) fn insert(&self, id: SegmentId, memory: Arc<Memory>, capability: Capability) -> Result<(), EngineError> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if table.contains_key(&id) {
            return Err(EngineError::AlreadyExported(id));
        }
        table.insert(id, Arc::new(Export { memory, capability, gate: RwLock::new(true) }));
        Ok(())
    }

    pub(crate) fn find(&self, id: SegmentId) -> Result<Arc<Export>, Failure> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.get(&id).cloned().ok_or_else(|| Failure::new(TransferErrorKind::UnknownSegment, "the peer does not lend this segment"))
    }

    /// Closes the gate and waits for whoever is inside.
    pub(crate) fn withdraw(&self, id: SegmentId) -> bool {
        let Some(export) = self.table.write().unwrap_or_else(PoisonError::into_inner).remove(&id) else {
            return false;
        };
        *export.gate.write().unwrap_or_else(PoisonError::into_inner) = false;
        true
    }
}
