//! Who collects garbage in the cold tier, whether everything is to be brought there, and what has second copies.

use super::Engine;
use crate::work::cold::vault_for;
use perilune_protocol::rpc::cold::{Remote, RemoteAnswer};
use perilune_protocol::{FaultCode, Outcome, TenantId, Tso};
use perilune_state::directory::{Known, ShardId, TableId};
use perilune_state::gc::GcOwner;
use perilune_state::settings::JOB_RECORD;
use perilune_state::{Effect, State};

/// Under which name it is kept who has the lease.
fn key() -> String {
    format!("{JOB_RECORD}gc_owner")
}

/// Under which name it is kept that a checkpoint of everything is asked for: a number, another one each time.
fn flag() -> String {
    format!("{JOB_RECORD}upload")
}

/// Whether anything is to be collected: some tenant has a vault.
pub(super) fn has_vaults(known: &Known) -> bool {
    known.tenants().any(|tenant| known.vaults_of(tenant.id).is_some_and(|all| !all.vaults.is_empty()))
}

/// Whoever has the lease.
pub(super) fn owner(state: &State) -> Option<GcOwner> {
    GcOwner::read(&state.settings.get(&key())?)
}

impl Engine {
    /// The leader's care for the lease: it is renewed while its owner is heard, and goes to another when it has lapsed.
    pub(crate) async fn tend_gc(&self) {
        if !has_vaults(&self.directory()) {
            return;
        }
        let _one = self.inner.directory.lock().await;
        let (present, heard) = (owner(self.state()), self.heard().await);
        let Some(next) = GcOwner::next(present, &heard, self.wall_ms()) else { return };
        if present.is_none_or(|owner| owner.member != next.member) {
            tracing::info!(member = next.member, "collects garbage in the cold tier from now on");
        }
        if let Err(fault) = self.commit(&Effect::Setting { key: key(), value: Some(next.record()) }).await {
            tracing::warn!("who collects garbage in the cold tier is not written down: {fault}");
        }
    }

    /// A master gives the lease up. False where it has it no more.
    pub(crate) async fn resign_gc(&self, member: u64) -> Outcome<bool> {
        let _one = self.inner.directory.lock().await;
        let Some(present) = owner(self.state()).filter(|owner| owner.member == member) else { return Ok(false) };
        let next = present.resigned(&self.heard().await, self.wall_ms());
        tracing::info!(from = member, to = next.member, "the collecting of garbage in the cold tier was given up");
        self.commit(&Effect::Setting { key: key(), value: Some(next.record()) }).await.map(|()| true)
    }

    /// What a store node is told for its page.
    pub(crate) async fn remote(&self, question: Remote) -> Outcome<RemoteAnswer> {
        if !has_vaults(&self.directory()) {
            return Ok(RemoteAnswer::None);
        }
        match question {
            Remote::Owner => {
                let owner = owner(self.state()).filter(|owner| owner.holds(self.wall_ms()));
                let service = owner.map(|owner| self.inner.service_of(owner.member)).unwrap_or_default();
                self.vouch().await.map(|()| RemoteAnswer::Owner(service))
            }
            Remote::Upload => self.set_upload_flag().await.map(RemoteAnswer::Upload),
            Remote::Info(ids) => {
                let stores = serde_json::to_string(&self.store_info(ids).await?);
                stores.map(RemoteAnswer::Info).map_err(|e| FaultCode::Internal.with(e.to_string()))
            }
        }
    }

    /// Asks for a checkpoint of all that there is now. False: there is no vault for it.
    pub(crate) async fn set_upload_flag(&self) -> Outcome<bool> {
        if vault_for(self.state()).is_none() {
            return Ok(false);
        }
        let _one = self.inner.directory.lock().await;
        let next = self.upload_flag().unwrap_or(0) + 1;
        self.commit(&Effect::Setting { key: flag(), value: Some(next.to_string()) }).await.map(|()| true)
    }

    /// Whether one was asked for, and which.
    pub(crate) fn upload_flag(&self) -> Option<u64> {
        self.state().settings.get(&flag())?.parse().ok()
    }

    /// That one is made. Who asked since then is not answered yet.
    pub(crate) async fn drop_upload_flag(&self, answered: u64) -> Outcome<()> {
        let _one = self.inner.directory.lock().await;
        if self.upload_flag() != Some(answered) {
            return Ok(());
        }
        self.commit(&Effect::Setting { key: flag(), value: None }).await
    }

    /// The masters that vote and are there.
    async fn heard(&self) -> Vec<u64> {
        let members = self.list_members().await.unwrap_or_default();
        members.iter().filter(|member| member.votes && member.active).map(|member| member.id).collect()
    }

    /// The shards of a table whose second copies are in step; of a table that there is not, none. One that is empty is, where others have second
    /// copies or a checkpoint passed over it.
    pub(crate) async fn in_step(&self, keyspace: u32, table: i64) -> Outcome<Vec<u64>> {
        let known = self.directory();
        let of = |tenant: TenantId| {
            let table = known.table(TableId(u64::try_from(table).ok()?))?;
            (table.tenant == tenant && !table.dropped).then_some(table)
        };
        let Some(table) = known.with_keyspace(keyspace).and_then(of) else { return Ok(Vec::new()) };
        let now = Tso::from_physical(self.wall_ms());
        let counts = self.count_shards(table.tenant, table.shards().collect()).await?;
        let doubled = counts.values().any(|count| count.doubled > 0) || self.state().checkpoints.recorded().kept().next().is_some();
        let is_in_step = |shard: &ShardId| counts.get(shard).map_or(doubled, |count| count.is_in_step(now, doubled));
        Ok(table.shards().filter(is_in_step).map(|shard| shard.0).collect())
    }
}
