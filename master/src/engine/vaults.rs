//! Requests about the cold tier.

use super::Engine;
use crate::observe::VaultUse;
use crate::secrets::Safe;
use perilune_protocol::access::Token;
use perilune_protocol::rpc::cold::SavedCopy;
use perilune_protocol::rpc::vault::{VaultAccess, VaultKeys};
use perilune_protocol::{FaultCode, ObjectKey, Outcome, TenantId};
use perilune_state::effect::ColdCopy;
use perilune_state::objects::KeyRef;

impl Engine {
    /// What seals and opens the secrets of the directory.
    pub(crate) fn safe(&self) -> Outcome<Safe> {
        self.inner.secrets.safe(self.inner.log.members().iter().count() <= 1)
    }

    /// How those vaults are of which it is known.
    pub(crate) fn vaults(&self) -> Vec<VaultUse> {
        let known = self.directory();
        let found = known.all_vaults().filter_map(|vault| Some((vault, self.reign.cold.finding(vault.id, self.wall_ms())?)));
        let mut found: Vec<_> = found
            .map(|(vault, found)| VaultUse {
                tenant: known.tenant(vault.tenant).map_or_else(String::new, |tenant| tenant.name.clone()),
                id: vault.id,
                name: vault.name.clone(),
                condition: found.condition.as_str(),
                up: found.condition.is_up(),
                since_ms: found.since_ms,
            })
            .collect();
        found.sort_unstable_by_key(|vault| vault.id);
        found
    }

    /// The copies that objects of a tenant have in vaults.
    pub(crate) fn saved(&self, tenant: TenantId, keys: &[ObjectKey]) -> Vec<Option<SavedCopy>> {
        let known = self.directory();
        let saved = |key: &ObjectKey| {
            let ColdCopy { vault, name, stored } = *self.state().cold(KeyRef::new(tenant, key))?.cold.clone()?;
            let vault_name = known.vault(vault).map_or_else(String::new, |record| record.name.clone());
            Some(SavedCopy { vault, vault_name, name, stored })
        };
        keys.iter().map(saved).collect()
    }

    /// What opens a vault, for a node that lends memory to its tenant or would, and that presented `token` if it was asked for one.
    pub(crate) fn vault_keys(&self, tenant: TenantId, question: &VaultKeys, token: Option<&Token>) -> Outcome<VaultAccess> {
        let VaultKeys { node, vault } = *question;
        let known = self.directory();
        let found = known.vault(vault).filter(|found| found.tenant == tenant).zip(known.vaults_of(tenant));
        let (found, all) = found.ok_or_else(|| FaultCode::WrongState.with(format!("the tenant has no vault {vault} any more")))?;
        let lends = self.state().segments.table().iter().any(|s| s.node() == node && s.tenant() == tenant);
        if !lends && !self.state().willing(tenant).contains(&node) {
            let why = format!("vault {vault} is opened by the nodes that lend memory to its tenant, and this one may lend it none");
            return Err(FaultCode::Forbidden.with(why));
        }
        let told = |fault: perilune_vault::VaultFault| FaultCode::WrongState.with(fault.message);
        let secrets = self.safe()?.secrets(all, found).map_err(told)?;
        let secrets = secrets.pass((tenant, vault, found.revision), token).map_err(told)?;
        Ok(VaultAccess { vault, tenant, revision: found.revision, target: found.target.clone(), sse: all.sse, secrets })
    }
}
