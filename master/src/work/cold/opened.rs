//! Vaults as a master opens them for itself.

use crate::engine::Engine;
use perilune_protocol::VaultId;
use perilune_vault::{Class, Limits, Vault, Vaulted};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// One request takes no longer.
const ATTEMPT: Duration = Duration::from_secs(5);
/// One that carries a piece of a checkpoint takes no longer.
const LONG_ATTEMPT: Duration = Duration::from_secs(30);

/// Those that were opened, each with the revision of what opened it. Clones are the same ones.
#[derive(Clone)]
pub(super) struct Opened {
    attempt: Duration,
    all: Arc<Mutex<HashMap<VaultId, (u64, Vault)>>>,
}

impl Default for Opened {
    fn default() -> Self {
        Self { attempt: ATTEMPT, all: Arc::default() }
    }
}

impl Opened {
    /// For long objects.
    pub(super) fn for_long() -> Self {
        Self { attempt: LONG_ATTEMPT, ..Self::default() }
    }

    /// The vault, unless it was dropped: then nobody knows what opens it. May look at a directory, so not for threads that serve.
    pub(super) fn open(&self, engine: &Engine, id: VaultId) -> Option<Vaulted<Vault>> {
        let known = engine.state().directory.known();
        let record = known.vault(id)?;
        if let Some((_, vault)) = super::lock(&self.all).get(&id).filter(|(revision, _)| *revision == record.revision) {
            return Some(Ok(vault.clone()));
        }
        let all = known.vaults_of(record.tenant)?;
        let limits = Limits { attempt: self.attempt, ..Limits::default() };
        let vault = engine.safe().map_err(|fault| Class::Refused.with(fault.message)).and_then(|safe| safe.vault(all, record, limits));
        if let Ok(vault) = &vault {
            let mut all = super::lock(&self.all);
            // Nobody asks for those again, and they hold what opens them.
            all.retain(|id, _| known.vault(*id).is_some());
            all.insert(id, (record.revision, vault.clone()));
        }
        Some(vault)
    }
}
