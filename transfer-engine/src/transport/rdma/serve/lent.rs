//! The memory that peers reach by RDMA: registered with every device, in pieces, and unregistered before a withdrawal returns.

use crate::fault::EngineError;
use crate::segment::Export;
use crate::transport::rdma::device::Device;
use crate::transport::rdma::registry::{in_pieces, piece_for};
use crate::transport::rdma::sys::{Access, MemoryRegion};
use crate::transport::rdma::wire::Grant;
use perilune_protocol::SegmentId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// So many keys fit a frame with room to spare.
const KEYS_MAX: u64 = 200_000;

/// One segment. The regions hold its memory, so it is not unmapped while a device may touch it.
struct Entry {
    export: Arc<Export>,
    grant: Grant,
    regions: Regions,
}

/// Of each device, a region for each piece.
pub(super) type Regions = Vec<Vec<MemoryRegion>>;

/// Unregisters what is there. A device may refuse while bytes move; what it refused stays in `regions`.
pub(super) fn unregister(regions: &mut Vec<MemoryRegion>) -> std::io::Result<()> {
    while let Some(region) = regions.pop() {
        if let Err((region, cause)) = region.deregister() {
            regions.push(region);
            return Err(cause);
        }
    }
    Ok(())
}

/// All of them.
pub(super) struct Lent {
    devices: Vec<Arc<Device>>,
    /// The most bytes of a region.
    region: u64,
    table: Mutex<HashMap<SegmentId, Entry>>,
    /// Regions of withdrawn segments that a device holds on to. They keep their memory mapped.
    stuck: Mutex<Regions>,
}

impl Lent {
    pub(super) fn new(devices: Vec<Arc<Device>>, region: u64) -> Self {
        Self { devices, region, table: Mutex::default(), stuck: Mutex::default() }
    }

    /// Registers the memory of an export. That takes long and happens outside the lock; nobody knows the keys before they are in the table.
    pub(super) fn lend(&self, id: SegmentId, export: &Arc<Export>) -> Result<(), EngineError> {
        if Self::known(&self.table(), id, export)? {
            return Ok(());
        }
        let memory = &export.memory;
        let (base, size) = (memory.base(), memory.len());
        let refused = |cause| EngineError::Refused { base, len: size, cause };
        let piece = piece_for(&self.devices, self.region);
        told(size, piece, self.devices.len()).map_err(refused)?;
        let register = |device: &Arc<Device>, at, len| MemoryRegion::of_memory(&device.domain, memory, at, len, Access::Remote);
        let regions = in_pieces(&self.devices, size, piece, register).map_err(|e| refused(e.to_string()))?;
        let keys = regions.iter().map(|of_device| of_device.iter().map(MemoryRegion::rkey).collect()).collect();
        let entry = Entry { export: Arc::clone(export), grant: Grant { base, size, piece, keys }, regions };
        let mut table = self.table();
        // Asked under the lock: a withdrawal closes the gate first, so either we see it closed or it finds our entry.
        if export.enter().is_none() {
            return Err(EngineError::NotExported(id));
        }
        if !Self::known(&table, id, export)? {
            table.insert(id, entry);
        }
        Ok(())
    }

    /// Whether this export is lent already. An earlier one of the same id must be withdrawn first.
    fn known(table: &HashMap<SegmentId, Entry>, id: SegmentId, export: &Arc<Export>) -> Result<bool, EngineError> {
        match table.get(&id) {
            None => Ok(false),
            Some(entry) if Arc::ptr_eq(&entry.export, export) => Ok(true),
            Some(_) => Err(EngineError::AlreadyExported(id)),
        }
    }

    /// The keys of a segment, if it is lent by this export.
    pub(super) fn grant(&self, id: SegmentId, export: &Arc<Export>) -> Option<Grant> {
        self.table().get(&id).filter(|entry| Arc::ptr_eq(&entry.export, export)).map(|entry| entry.grant.clone())
    }

    /// Takes a withdrawn segment out, so that nobody is given its keys any more. Its regions are the caller's to unregister: outside the
    /// lock, as that waits for bytes that move.
    pub(super) fn take(&self, id: SegmentId) -> Option<Regions> {
        // An open gate is that of a successor which was lent meanwhile.
        let mut table = self.table();
        table.get(&id).filter(|entry| entry.export.enter().is_none())?;
        table.remove(&id).map(|entry| entry.regions)
    }

    /// Keeps what could not be unregistered.
    pub(super) fn keep(&self, regions: Regions) {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner).extend(regions.into_iter().filter(|of_device| !of_device.is_empty()));
    }

    fn table(&self) -> MutexGuard<'_, HashMap<SegmentId, Entry>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether peers can be told the keys of all pieces.
fn told(size: u64, piece: u64, devices: usize) -> Result<(), String> {
    let keys = size.div_ceil(piece).saturating_mul(devices as u64);
    if keys <= KEYS_MAX {
        return Ok(());
    }
    Err(format!(
        "{keys} memory regions of {piece} bytes are more than the {KEYS_MAX} that peers can be told of: allow larger ones (RdmaSettings::region, --rdma-region)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::rdma::wire::{self, Tell};

    #[test]
    fn all_keys_fit_one_frame() {
        assert_eq!(told(KEYS_MAX * 4096 / 2, 4096, 2), Ok(()));
        let refused = told(KEYS_MAX * 4096 / 2 + 1, 4096, 2).unwrap_err();
        assert!(refused.contains("200002 memory regions of 4096 bytes"), "{refused}");
        let keys = vec![vec![u32::MAX; KEYS_MAX as usize / 2]; 2];
        let tell = Tell::Key { id: u64::MAX, grant: Ok(Grant { base: u64::MAX, size: u64::MAX, piece: u64::MAX, keys }) };
        assert_eq!(wire::receive::<Tell>(&wire::encode(&tell)[..]).unwrap(), tell);
    }
}
