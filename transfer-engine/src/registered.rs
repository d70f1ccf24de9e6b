//! Registered local buffers: prepared by the families on the thread that asks, then told to every lane that wants them.

use crate::fault::{EngineError, Failure};
use crate::lane::Lane;
use crate::memory::{Region, Table};
use crate::transport::{Family, Prepared};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Default)]
pub(crate) struct Registered {
    table: Table,
    /// What the families hold of each, by its first byte.
    prepared: Mutex<HashMap<u64, Vec<Prepared>>>,
}

impl Registered {
    pub(crate) fn insert(&self, region: Region, families: &[Arc<dyn Family>], lanes: &[Arc<Lane>]) -> Result<(), EngineError> {
        self.table.insert(region)?;
        let registered = self.prepare(region, families).and_then(|()| of(lanes).try_for_each(|lane| lane.register(region)));
        registered.map_err(|failure| {
            let _ = self.remove(region.base, lanes);
            EngineError::Refused { base: region.base, len: region.len, cause: failure.cause }
        })
    }

    /// When it returns no transport knows the buffer that starts at `base`.
    pub(crate) fn remove(&self, base: u64, lanes: &[Arc<Lane>]) -> Result<(), EngineError> {
        let region = self.table.get(base)?;
        let answers: Vec<_> = of(lanes).map(|lane| lane.unregister(region)).collect();
        // Refused only by a lane that is gone, and what it knew with it.
        answers.iter().for_each(|answer| answer.recv().unwrap_or_default());
        let prepared = self.lock_prepared().remove(&base);
        drop(prepared);
        // Last: until now nobody else may register what is there.
        self.table.remove(base).map(drop)
    }

    fn prepare(&self, region: Region, families: &[Arc<dyn Family>]) -> Result<(), Failure> {
        let prepared = families.iter().filter_map(|family| family.prepare(region).transpose()).collect::<Result<_, _>>()?;
        self.lock_prepared().insert(region.base, prepared);
        Ok(())
    }

    fn lock_prepared(&self) -> MutexGuard<'_, HashMap<u64, Vec<Prepared>>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lanes with a transport that wants local memory registered.
fn of(lanes: &[Arc<Lane>]) -> impl Iterator<Item = &Arc<Lane>> {
    lanes.iter().filter(|lane| lane.registers())
}
