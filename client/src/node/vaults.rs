//! The vaults that this node has opened, each with what opens it as it was told last.

use super::lending::Lending;
use crate::master::Master;
use perilune_protocol::VaultId;
use perilune_protocol::access::Token;
use perilune_protocol::rpc::cold::ColdOutcome;
use perilune_protocol::rpc::vault::VaultKeys;
use perilune_vault::{CLAIM, Class, Limits, Vault};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What opens a vault is asked for no longer.
const ASK: Duration = Duration::from_secs(5);
/// One request to a vault takes no longer: callers wait for what is fetched.
const ATTEMPT: Duration = Duration::from_secs(10);

/// Shared by all hands.
pub(super) struct Vaults {
    master: Master,
    lending: Arc<Lending>,
    token: Option<Token>,
    /// Directories are opened below this one only.
    root: Option<PathBuf>,
    open: Mutex<HashMap<VaultId, Open>>,
}

struct Open {
    revision: u64,
    vault: Vault,
}

impl Vaults {
    pub(super) fn new(master: Master, lending: &Arc<Lending>, token: Option<Token>, root: Option<PathBuf>) -> Self {
        Self { master, lending: Arc::clone(lending), token, root, open: Mutex::default() }
    }

    /// The vault of this number, with what opened it at `revision` or later.
    pub(super) fn open(&self, id: VaultId, revision: u64, until: Instant) -> Result<Vault, ColdOutcome> {
        if let Some(open) = self.lock().get(&id).filter(|open| open.revision >= revision) {
            return Ok(open.vault.clone());
        }
        // Hands that come here together each ask: what they are told is the same.
        let question = VaultKeys { node: self.lending.node(), vault: id };
        let access =
            self.master.call(&question, until.min(Instant::now() + ASK)).map_err(|fault| ColdOutcome::Failed(fault.to_string()))?;
        let limits = Limits { attempt: ATTEMPT, ..Limits::default() };
        let vault = Vault::of_access(&access, self.token.as_ref(), self.root.as_deref(), limits);
        let vault = vault.map_err(|fault| ColdOutcome::Refused(fault.message))?;
        // A folder that nobody has claimed is not the one that was meant: what it should lie on may not be mounted.
        vault.get(CLAIM, None, until).map_err(|fault| match fault.class {
            Class::Away => ColdOutcome::Away(fault.message),
            _ => ColdOutcome::Refused(format!("it cannot be seen that this is the vault it should be: {fault}")),
        })?;
        let mut open = self.lock();
        match open.get(&id).filter(|open| open.revision >= access.revision) {
            // One of them was first. It knows whether the vault is away.
            Some(open) => Ok(open.vault.clone()),
            None => {
                open.insert(id, Open { revision: access.revision, vault: vault.clone() });
                Ok(vault)
            }
        }
    }

    /// Whether the vault is that of the cluster whose master told of it, as it lies there now.
    ///
    /// # Errors
    /// Why that cannot be seen.
    pub(super) fn is_ours(&self, vault: &Vault, until: Instant) -> Result<(), String> {
        let cluster = self.master.welcome().map(|welcome| welcome.cluster);
        match vault.owner(until).map_err(|fault| fault.to_string())? {
            Some(owner) if Some(&owner.cluster) == cluster.as_ref() => Ok(()),
            Some(owner) => Err(format!("it is that of cluster {:.100} now", owner.cluster)),
            None => Err(format!("{CLAIM} is not there")),
        }
    }

    /// What opened the vault is refused: the next asks for the newest. Requests of the present one end by themselves.
    pub(super) fn forget(&self, id: VaultId) {
        self.lock().remove(&id);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<VaultId, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
