//! What this process is bringing to vaults, for a leader that ordered none of it.

use perilune_protocol::rpc::cold::AtVaults;
use perilune_protocol::{NodeId, VaultId};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const LANDS: Duration = Duration::from_millis(AtVaults::LANDS_MS);

/// The uploads of a process.
pub(super) struct Uploads {
    node: NodeId,
    /// Until when a vault may carry out a request of the process before.
    any_until: Instant,
    inner: Mutex<Inner>,
}

/// Touched twice per upload.
#[derive(Default)]
struct Inner {
    at: HashMap<u64, VaultId>,
    /// Until when a vault may carry out a request that it did not answer.
    landing: HashMap<VaultId, Instant>,
}

impl Uploads {
    /// None. `again`: another process of the node was before.
    pub(super) fn new(node: NodeId, again: bool) -> Self {
        let now = Instant::now();
        Self { node, any_until: if again { now + LANDS } else { now }, inner: Mutex::default() }
    }

    pub(super) fn begin(&self, order: u64, vault: VaultId) {
        self.lock().at.insert(order, vault);
    }

    /// One has ended, `answered` or without a word of the vault.
    pub(super) fn end(&self, order: u64, answered: bool) {
        let mut inner = self.lock();
        if let Some(vault) = inner.at.remove(&order).filter(|_| !answered) {
            inner.landing.insert(vault, Instant::now() + LANDS);
        }
    }

    pub(super) fn tell(&self) -> AtVaults {
        let (now, inner) = (Instant::now(), self.lock());
        let left = |until: Instant| u64::try_from(until.saturating_duration_since(now).as_millis()).unwrap_or(AtVaults::LANDS_MS);
        AtVaults {
            node: self.node,
            uploads: inner.at.iter().map(|(order, vault)| (*order, *vault)).collect(),
            landing: inner.landing.iter().map(|(vault, until)| (*vault, left(*until))).filter(|(_, ms)| *ms > 0).collect(),
            any_ms: left(self.any_until),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_come_to_lie_in_a_vault_is_told() {
        let (uploads, [a, b]) = (Uploads::new(NodeId::random(), false), [VaultId(1), VaultId(2)]);
        uploads.begin(7, a);
        uploads.begin(8, b);
        uploads.begin(9, b);
        uploads.end(8, true);
        let told = uploads.tell();
        assert_eq!((told.uploads.len(), told.landing, told.any_ms), (2, vec![], 0));
        uploads.end(7, true);
        uploads.end(9, false);
        let told = uploads.tell();
        assert_eq!((told.uploads, told.landing[0].0, told.any_ms), (vec![], b, 0));
        assert!(told.landing[0].1 > 0);
        assert!(Uploads::new(NodeId::random(), true).tell().any_ms > 0);
    }
}
