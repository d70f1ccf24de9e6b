//! Empties the vaults of a dropped tenant, as the last step before it is forgotten what opens them.

use super::{claim, collect, lock, soon};
use crate::engine::Engine;
use crate::work::aside;
use perilune_protocol::vault::VaultTarget;
use perilune_protocol::{ColdName, FaultCode, Outcome, TenantId, VaultId};
use perilune_state::directory::VaultsRecord;
use perilune_vault::{Class, ColdObject, Limits, Vault, Vaulted};
use std::time::Duration;
use tokio::time::Instant;

/// One request takes no longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Uploads that are deleted at a time.
const AT_ONCE: usize = 256;
/// Vaults that could not be emptied are tried again so much later.
const AGAIN: Duration = Duration::from_secs(5);

impl Engine {
    /// Deletes what a dropped tenant, of which there is no object any more, has in its vaults; `false`: not all of it yet, to be asked again.
    ///
    /// # Errors
    /// A vault does not do it. It is left alone for a while.
    pub(crate) async fn empty_vaults(&self, tenant: TenantId) -> Outcome<bool> {
        let known = self.directory();
        let Some(all) = known.vaults_of(tenant).filter(|all| !all.vaults.is_empty()) else { return Ok(true) };
        let cold = &self.reign.cold;
        let uploading = lock(&cold.naming).values().any(|vault| all.vaults.iter().any(|ours| ours.id == *vault));
        if uploading || lock(&cold.emptied_later).get(&tenant).is_some_and(|later| *later > Instant::now()) {
            return Ok(false);
        }
        let failed = |why: String| {
            lock(&cold.emptied_later).insert(tenant, Instant::now() + AGAIN);
            FaultCode::WrongState.with(why)
        };
        // By another name of the same endpoint it may be the same folder.
        let shared = |id: VaultId| {
            known.vault(id).is_some_and(|ours| known.all_vaults().any(|v| v.id != id && is_one_folder(&v.target, &ours.target)))
        };
        let mut whole = true;
        for vault in all.vaults.iter().filter(|vault| vault.target.is_usable()) {
            let (engine, all, id, shared) = (self.clone(), all.clone(), vault.id, shared(vault.id));
            let mut looked = aside(move || engine.left_in(&all, id)).await?;
            // What another leader has named meanwhile, this one does not know.
            self.vouch().await?;
            if let Ok(Some((_, left))) = &mut looked
                && shared
            {
                // There it may be another tenant's that a checkpoint names. What was this one's alone goes, whatever checkpoints say.
                *left = self.may_go(std::mem::take(left)).await?;
            }
            let emptied = match looked {
                Ok(None) => continue,
                Ok(Some((vault, left))) => aside(move || empty(&vault, left, shared)).await?,
                Err(fault) => Err(fault),
            };
            match emptied {
                Ok(is_empty) => whole &= is_empty,
                // A directory that is not there may not be mounted.
                Err(fault) if fault.class == Class::NoBucket && matches!(vault.target, VaultTarget::S3(_)) => {}
                // No bucket, or that of another cluster: nothing of the tenant can have come there. A directory may be allowed later.
                Err(fault) if fault.class == Class::Invalid && matches!(vault.target, VaultTarget::S3(_)) => {
                    tracing::warn!(vault = %id, "the vault of a dropped tenant is left as it is: {fault}");
                }
                Err(fault) => return Err(failed(format!("vault {id}: {fault}"))),
            }
        }
        Ok(whole)
    }

    /// What of a vault is to go.
    fn left_in(&self, all: &VaultsRecord, id: VaultId) -> Vaulted<Option<(Vault, Vec<ColdName>)>> {
        let Some(record) = all.vaults.iter().find(|vault| vault.id == id) else { return Ok(None) };
        let safe = self.safe().map_err(|fault| Class::Refused.with(fault.message))?;
        // Without the key it can wait for it.
        safe.secrets(all, record).map_err(|fault| Class::Refused.with(fault.message))?;
        let vault: Vault = safe.vault(all, record, Limits { attempt: PATIENCE, ..Limits::default() })?;
        // Others may use the same folder: what their objects refer to stays.
        claim::claim(&vault, &self.welcome().cluster)?;
        let mut names = Vec::new();
        collect::for_each(&vault, &mut |name, _| names.push(name))?;
        let left = self.unreferred(names);
        Ok(Some((vault, left)))
    }
}

/// Whether nothing was there that is to go. So many go at a time: the lead may be lost, and others wait for their turn.
fn empty(vault: &Vault, left: Vec<ColdName>, shared: bool) -> Vaulted<bool> {
    let is_empty = left.is_empty();
    left.into_iter().take(AT_ONCE).try_for_each(|name| vault.delete(&ColdObject::path(name.0), soon()))?;
    if is_empty && !shared {
        claim::give_up(vault)?;
    }
    Ok(is_empty)
}

fn is_one_folder(a: &VaultTarget, b: &VaultTarget) -> bool {
    match (a, b) {
        (VaultTarget::S3(a), VaultTarget::S3(b)) => (&a.bucket, &a.prefix) == (&b.bucket, &b.prefix),
        (a, b) => a == b,
    }
}
