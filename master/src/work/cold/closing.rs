//! Vaults that are to be dropped: nothing may come to lie there between the look at what does and the drop.

use super::lock;
use crate::engine::Engine;
use perilune_protocol::VaultId;
use std::ops::ControlFlow;

/// Vaults that are about to be dropped.
pub(crate) struct Closed {
    engine: Engine,
    vaults: Vec<VaultId>,
}

impl Drop for Closed {
    fn drop(&mut self) {
        let mut closing = lock(&self.engine.reign.cold.closing);
        for vault in &self.vaults {
            if let Some(nth) = closing.iter().position(|other| other == vault) {
                closing.swap_remove(nth);
            }
        }
    }
}

impl Engine {
    /// From now on, as long as this is kept, nothing is begun to be brought to these vaults: what was counted there is all that there is.
    pub(crate) fn close_vaults(&self, vaults: Vec<VaultId>) -> Closed {
        lock(&self.reign.cold.closing).extend(&vaults);
        Closed { engine: self.clone(), vaults }
    }

    /// Objects that have a copy in a vault, or may have one soon, and checkpoints that lie there. Walks the index.
    pub(crate) fn objects_in(&self, vault: VaultId) -> u64 {
        // First those that are being named: what is named meanwhile is in the index by then.
        let mut found = lock(&self.reign.cold.naming).values().filter(|to| **to == vault).count() as u64;
        found += self.state().checkpoints.recorded().iter().filter(|checkpoint| checkpoint.vault == vault).count() as u64;
        self.state().index.for_each(&mut |object| {
            found += u64::from(object.cold.as_ref().is_some_and(|copy| copy.vault == vault));
            ControlFlow::Continue(())
        });
        found
    }
}
