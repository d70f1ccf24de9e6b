//! Empties the vaults of a dropped tenant, and one that is to be dropped by itself, as the last step before it is forgotten what opens them.

use super::claims::Standing;
use super::collect::LOOK;
use super::{claim, errand, lock, soon};
use crate::engine::Engine;
use crate::work::aside;
use perilune_protocol::vault::VaultTarget;
use perilune_protocol::{ColdName, FaultCode, Outcome, TenantId, VaultId};
use perilune_state::directory::VaultsRecord;
use perilune_vault::{Class, ColdObject, Limits, Vault, VaultFault, Vaulted};
use std::time::Duration;
use tokio::time::Instant;

/// One request takes no longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// So long it goes on with one vault before others have their turn.
const TURN: Duration = Duration::from_secs(5);
/// So long whoever drops a vault waits for it to be emptied; and between two looks at whether somebody is about to claim it.
const CLEARING: Duration = Duration::from_secs(20);
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// Vaults that could not be emptied are tried again so much later.
const AGAIN: Duration = Duration::from_secs(5);

/// What may go of a vault that is emptied.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Going {
    /// What no object refers to, whatever checkpoints say: it was a dropped tenant's alone. The claim goes as well.
    All,
    /// What no checkpoint names either, as it may be another tenant's; and the claim, unless somebody else has a vault in the same folder.
    Spare { claim: bool },
}

/// A look at all of a vault, page by page.
#[derive(Clone)]
pub(super) struct Pass {
    /// Behind which name it goes on.
    after: Option<String>,
    /// Whether nothing was found so far.
    is_clean: bool,
}

impl Default for Pass {
    fn default() -> Self {
        Self { after: None, is_clean: true }
    }
}

impl Engine {
    /// Deletes what a dropped tenant, of which there is no object any more, has in its vaults; `false`: not all of it yet, to be asked again.
    ///
    /// # Errors
    /// A vault does not do it. It is left alone for a while.
    pub(crate) async fn empty_vaults(&self, tenant: TenantId) -> Outcome<bool> {
        let known = self.directory();
        let Some(all) = known.vaults_of(tenant).filter(|all| !all.vaults.is_empty()) else { return Ok(true) };
        let cold = &self.reign.cold;
        if self.uploads_may_land(tenant) {
            return Ok(false);
        }
        let mut whole = true;
        for vault in all.vaults.iter().filter(|vault| vault.target.is_usable()) {
            let (id, is_bucket, standing) = (vault.id, matches!(vault.target, VaultTarget::S3(_)), self.standing_of(vault.id));
            let going = if self.is_shared(id) { Going::Spare { claim: false } } else { Going::All };
            match self.empty(all, id, going).await? {
                Ok(is_empty) => whole &= is_empty,
                // Nobody claimed it, or it was emptied before.
                Err(fault) if fault.class == Class::NoObject && standing != Standing::Claimed => {}
                Err(fault) if fault.class == Class::NoBucket && standing == Standing::GivenUp => {}
                Err(fault) if is_bucket && has_nothing_of_ours(&fault) => {
                    tracing::warn!(vault = %id, "the vault of a dropped tenant is left as it is: {fault}");
                }
                Err(fault) => {
                    lock(&cold.emptied_later).insert(tenant, Instant::now() + AGAIN);
                    return Err(FaultCode::WrongState.with(format!("vault {id}: {fault}")));
                }
            }
        }
        Ok(whole)
    }

    /// Whether the vaults of a dropped tenant are left alone for a while.
    pub(crate) fn empties_later(&self, tenant: TenantId) -> bool {
        lock(&self.reign.cold.emptied_later).get(&tenant).is_some_and(|later| *later > Instant::now())
    }

    /// Makes ready to be dropped a vault of a tenant that is closed, and in which nothing was counted: deletes what nothing refers to, and gives it
    /// up. As long as it is not dropped after that, it is claimed anew when it is closed no longer.
    ///
    /// # Errors
    /// Why it has to wait.
    pub(crate) async fn clear_vault(&self, tenant: TenantId, id: VaultId) -> Outcome<()> {
        let (known, cold) = (self.directory(), &self.reign.cold);
        let Some(all) = known.vaults_of(tenant) else { return Ok(()) };
        let Some(vault) = all.vaults.iter().find(|vault| vault.id == id && vault.target.is_usable()) else { return Ok(()) };
        let until = Instant::now() + CLEARING;
        // It may be claimed just now.
        while lock(&cold.looking).contains(&id) {
            if Instant::now() >= until {
                return Err(FaultCode::WrongState.with("the vault takes long to answer whose it is: ask again"));
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        let standing = self.standing_of(id);
        if standing == Standing::New {
            return Ok(());
        }
        if let Some(wait) = self.upload_may_land_for(id) {
            let why = format!("uploads that were ordered before may still come to lie there: ask again in {} s", wait.as_secs() + 1);
            return Err(FaultCode::WrongState.with(why));
        }
        // What an earlier attempt has seen may be other things by now.
        lock(&cold.emptying).remove(&id);
        let going = Going::Spare { claim: !self.is_shared(id) };
        let cleared = loop {
            match self.empty(all, id, going).await? {
                Ok(true) => break Ok(()),
                Ok(false) if Instant::now() < until => {}
                Ok(false) => break Err("what nothing refers to is being deleted there: ask again".to_owned()),
                // An earlier attempt gave it up, and nothing came there since.
                Err(fault) if standing == Standing::GivenUp && fault.class == Class::NoObject => break Ok(()),
                Err(fault) if matches!(vault.target, VaultTarget::S3(_)) && has_nothing_of_ours(&fault) => break Ok(()),
                Err(fault) => {
                    break Err(format!(
                        "what nothing refers to cannot be deleted there: {fault}; `force` drops the vault and leaves what lies there"
                    ));
                }
            }
        };
        cleared.map_err(|why| FaultCode::WrongState.with(why))
    }

    /// Whether another vault lies in the folder of this one. By another name of the same endpoint it may be the same.
    fn is_shared(&self, id: VaultId) -> bool {
        let known = self.directory();
        known.vault(id).is_some_and(|ours| known.all_vaults().any(|v| v.id != id && is_one_folder(&v.target, &ours.target)))
    }

    /// Goes on with one vault for a while. Whether all of it was looked at, and nothing was there that is to go.
    async fn empty(&self, all: &VaultsRecord, id: VaultId, going: Going) -> Outcome<Vaulted<bool>> {
        let until = Instant::now() + TURN;
        let (engine, all) = (self.clone(), all.clone());
        let vault = match aside(move || engine.open_to_empty(&all, id)).await? {
            Ok(vault) => vault,
            Err(fault) => return Ok(Err(fault)),
        };
        loop {
            let Pass { after, is_clean } = lock(&self.reign.cold.emptying).get(&id).cloned().unwrap_or_default();
            let (engine, asked) = (self.clone(), vault.clone());
            let looked = aside(move || -> Vaulted<_> {
                // Others may use the same folder: what their objects refer to stays.
                claim::check(&asked, &engine.welcome().cluster)?;
                let begun = if after.is_none() { errand::begun(&asked)? } else { Vec::new() };
                let listed = errand::list(&asked, after)?;
                Ok((engine.unreferred(begun), engine.unreferred(listed.names), listed.after))
            });
            // What another leader has named meanwhile, this one does not know.
            let (looked, ()) = (looked.await?, self.vouch().await?);
            let (mut begun, mut left, next) = match looked {
                Ok(looked) => looked,
                Err(fault) => return Ok(Err(fault)),
            };
            if going != Going::All {
                (begun, left) = (self.may_go(begun).await?, self.may_go(left).await?);
            }
            let (is_clean, is_last) = (is_clean && begun.is_empty() && left.is_empty(), next.is_none());
            let (engine, asked) = (self.clone(), vault.clone());
            let deleted = aside(move || {
                errand::abandon(&asked, &begun)?;
                delete(&engine, &asked, left, until)
            });
            match deleted.await? {
                Ok(true) => {}
                Ok(false) => return Ok(Ok(false)),
                Err(fault) => return Ok(Err(fault)),
            }
            // After the last page all is looked at once more, if anything was found.
            let pass = if is_last { Pass::default() } else { Pass { after: next, is_clean } };
            lock(&self.reign.cold.emptying).insert(id, pass);
            if is_last && is_clean {
                return self.give_up_emptied(vault, id, going).await;
            }
            if Instant::now() >= until {
                return Ok(Ok(false));
            }
        }
    }

    fn open_to_empty(&self, all: &VaultsRecord, id: VaultId) -> Vaulted<Vault> {
        let record = all.vaults.iter().find(|vault| vault.id == id).ok_or_else(|| Class::NoBucket.with("it was dropped"))?;
        let safe = self.safe().map_err(|fault| Class::Refused.with(fault.message))?;
        // Without the key it can wait for it.
        safe.secrets(all, record).map_err(|fault| Class::Refused.with(fault.message))?;
        safe.vault(all, record, Limits { attempt: PATIENCE, ..Limits::default() })
    }

    async fn give_up_emptied(&self, vault: Vault, id: VaultId, going: Going) -> Outcome<Vaulted<bool>> {
        if going != (Going::Spare { claim: false }) {
            self.record_given_up(id).await?;
            // Nothing is brought there before it is claimed anew.
            lock(&self.reign.cold.claims).remove(&id);
            let cluster = self.welcome().cluster;
            if let Err(fault) = aside(move || vault.tidy(soon()).and_then(|()| claim::give_up(&vault, &cluster))).await? {
                return Ok(Err(fault));
            }
        }
        Ok(Ok(true))
    }
}

/// Whether all of them were deleted by then.
fn delete(engine: &Engine, vault: &Vault, left: Vec<ColdName>, until: Instant) -> Vaulted<bool> {
    for some in left.chunks(LOOK) {
        if Instant::now() >= until {
            return Ok(false);
        }
        claim::check(vault, &engine.welcome().cluster)?;
        some.iter().try_for_each(|name| vault.delete(&ColdObject::path(name.0), soon()))?;
    }
    Ok(true)
}

/// No bucket, or that of another cluster, or one that was cleared: nothing is there of ours. A directory may be allowed or mounted later.
fn has_nothing_of_ours(fault: &VaultFault) -> bool {
    [Class::NoBucket, Class::Invalid, Class::NoObject].contains(&fault.class)
}

fn is_one_folder(a: &VaultTarget, b: &VaultTarget) -> bool {
    a == b || a.bucket().is_some() && a.bucket() == b.bucket()
}
