//! Who collects garbage in the cold tier, and what has second copies.

use super::Engine;
use perilune_protocol::{Outcome, TenantId, Tso};
use perilune_state::directory::{Known, TableId};
use perilune_state::gc::GcOwner;
use perilune_state::settings::JOB_RECORD;
use perilune_state::{Effect, State};

/// Under which name it is kept who has the lease.
fn key() -> String {
    format!("{JOB_RECORD}gc_owner")
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

    /// The masters that vote and are there.
    async fn heard(&self) -> Vec<u64> {
        let members = self.list_members().await.unwrap_or_default();
        members.iter().filter(|member| member.votes && member.active).map(|member| member.id).collect()
    }

    /// The shards of a table whose second copies are in step; of a table that there is not, none.
    pub(crate) async fn in_step(&self, keyspace: u32, table: i64) -> Outcome<Vec<u64>> {
        let known = self.directory();
        let of = |tenant: TenantId| {
            let table = known.table(TableId(u64::try_from(table).ok()?))?;
            (table.tenant == tenant && !table.dropped).then_some(table)
        };
        let Some(table) = known.with_keyspace(keyspace).and_then(of) else { return Ok(Vec::new()) };
        let now = Tso::from_physical(self.wall_ms());
        let counts = self.count_shards(table.tenant, table.shards().collect()).await?;
        Ok(counts.iter().filter(|(_, count)| count.is_in_step(now)).map(|(shard, _)| shard.0).collect())
    }
}
