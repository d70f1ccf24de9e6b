//! Which uploads may be deleted: what nothing refers to any more, neither an object nor a checkpoint. The leader says so.
//!
//! A name that nothing refers to is never referred to again: only an order of this reign that is still open could, and those are known. So
//! what was found to be such may be deleted at any time after, by anybody.

use super::lock;
use crate::engine::Engine;
use crate::planted::{self, Defect};
use perilune_protocol::{ColdName, FaultCode, Outcome, VaultId};
use perilune_state::effect::ColdCopy;
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

/// What a checkpoint names, in the order of names, and where each lies.
pub(crate) type Named = Arc<[(ColdName, VaultId)]>;

impl Engine {
    /// Some of what is known to be garbage.
    pub(crate) fn take_garbage(&self, max: usize) -> Vec<ColdCopy> {
        let garbage = &self.state().garbage;
        let taken: Vec<ColdCopy> = std::iter::from_fn(|| garbage.take()).take(max).collect();
        // After it was taken out: who names it now was begun before it was put there.
        match self.kept() {
            // What a checkpoint names is garbage again once that is gone.
            Ok(kept) => taken.into_iter().filter(|copy| !is_named(&kept, copy.name)).collect(),
            Err(_) => {
                taken.into_iter().for_each(|copy| garbage.add(copy));
                Vec::new()
            }
        }
    }

    /// Those of the uploads that were found in a vault which may go.
    ///
    /// # Errors
    /// None may at present; this master does not lead.
    pub(crate) async fn may_go(&self, listed: Vec<ColdName>) -> Outcome<Vec<ColdName>> {
        let engine = self.clone();
        let found = self.inner.walks.run(move || -> Outcome<Vec<ColdName>> {
            let found = engine.unreferred(listed);
            // Later than the walk: what a checkpoint names was seen, or it was begun before this.
            let kept = engine.kept()?;
            Ok(found.into_iter().filter(|name| !is_named(&kept, *name)).collect())
        });
        let found = found.await??;
        // What another leader has named meanwhile, this one does not know.
        self.vouch().await.map(|()| found)
    }

    /// Those that no object refers to nor may yet. They were listed before: what was being uploaded then is being named now, or named.
    pub(super) fn unreferred(&self, mut listed: Vec<ColdName>) -> Vec<ColdName> {
        let mut left: HashSet<ColdName> = listed.iter().copied().collect();
        // First what may be named yet: what is named meanwhile is in the index by then.
        for name in lock(&self.reign.cold.naming).keys() {
            left.remove(name);
        }
        self.state().index.for_each(&mut |object| {
            if let Some(copy) = object.cold.as_ref().filter(|_| !planted::is(Defect::CarelessSweep)) {
                left.remove(&copy.name);
            }
            if left.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        listed.retain(|name| left.contains(name));
        listed
    }

    /// How many of these uploads nothing refers to, as far as is known. Walks the index.
    pub(super) fn spare(&self, listed: Vec<ColdName>) -> u64 {
        let found = self.unreferred(listed);
        let kept: Vec<Named> = lock(&self.reign.cold.kept).values().cloned().collect();
        found.into_iter().filter(|name| !is_named(&kept, *name)).count() as u64
    }

    /// What the checkpoints name.
    ///
    /// # Errors
    /// It is not known yet; or one is being written, which may name anything.
    fn kept(&self) -> Outcome<Vec<Named>> {
        let recorded = self.state().checkpoints.recorded();
        if planted::is(Defect::ForgottenCheckpoint) {
            return Ok(Vec::new());
        }
        if let Some(begun) = recorded.begun() {
            return Err(FaultCode::WrongState.with(format!("checkpoint {} is being written, and may name any upload", begun.number)));
        }
        let loaded = lock(&self.reign.cold.kept);
        let named = |number| loaded.get(&number).cloned();
        let unknown = |number| FaultCode::WrongState.with(format!("what checkpoint {number} names is not known yet"));
        recorded.kept().map(|one| named(one.number).ok_or_else(|| unknown(one.number))).collect()
    }

    /// What only a checkpoint named that is gone is garbage from now on. Walks the index.
    pub(super) fn unkeep(&self, number: u64) {
        let Some(named) = lock(&self.reign.cold.kept).remove(&number) else { return };
        let left: HashSet<ColdName> = self.unreferred(named.iter().map(|(name, _)| *name).collect()).into_iter().collect();
        let garbage = &self.state().garbage;
        // Those that another one names are left out when they are taken.
        named.iter().filter(|(name, _)| left.contains(name)).for_each(|(name, vault)| {
            garbage.add(ColdCopy { vault: *vault, name: *name, stored: 0 });
        });
    }
}

fn is_named(kept: &[Named], name: ColdName) -> bool {
    kept.iter().any(|named| named.binary_search_by_key(&name, |(name, _)| *name).is_ok())
}
