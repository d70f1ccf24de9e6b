//! Vaults that are to be dropped: nothing may come to lie there between the look at what does and the drop.

use super::lock;
use crate::engine::Engine;
use perilune_protocol::{Outcome, VaultId};
use perilune_state::directory::Lies;
use std::collections::HashMap;
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

    /// Objects that have a copy in these vaults, or may have one soon, checkpoints that lie there, and uploads that others name.
    pub(crate) async fn lies_in(&self, vaults: Vec<VaultId>) -> Outcome<HashMap<VaultId, Lies>> {
        let engine = self.clone();
        self.inner.walks.run(move || engine.count_in(&vaults)).await
    }

    fn count_in(&self, vaults: &[VaultId]) -> HashMap<VaultId, Lies> {
        let mut found: HashMap<VaultId, Lies> = vaults.iter().map(|vault| (*vault, Lies::default())).collect();
        let mut count = |vault: VaultId| found.get_mut(&vault).into_iter().for_each(|lies| lies.objects += 1);
        // First those that are being named: what is named meanwhile is in the index by then.
        lock(&self.reign.cold.naming).values().for_each(|(vault, _)| count(*vault));
        self.state().index.for_each(&mut |object| {
            object.cold.as_ref().into_iter().for_each(|copy| count(copy.vault));
            ControlFlow::Continue(())
        });
        let mut count = |vault: VaultId| found.get_mut(&vault).into_iter().for_each(|lies| lies.checkpoints += 1);
        // After that: one that begins later names what was met, since nothing more comes to lie there.
        let recorded = self.state().checkpoints.recorded().clone();
        let kept = lock(&self.reign.cold.kept).clone();
        for checkpoint in recorded.iter() {
            count(checkpoint.vault);
            match kept.get(&checkpoint.number) {
                Some(named) => named.iter().for_each(|(_, vault)| count(*vault)),
                // One that is begun, or whose names are not known yet, may name what lies anywhere.
                None => vaults.iter().copied().for_each(&mut count),
            }
        }
        found
    }
}
