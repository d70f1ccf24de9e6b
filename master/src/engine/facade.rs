//! The engine as faces and pages see it: that of the reign that is.

use super::{Engine, Throne, gc};
use super::{NotAborted, OpenPut, Unchanged};
use crate::api::{Boxed, Decide, Facade};
use crate::events::Lag;
use crate::log::LogStatus;
use crate::observe::{FeedUse, Metrics, Observed, PoolUse, TenantUse, VaultUse};
use crate::secrets::Safe;
use crate::work::cold::Finding;
use crate::work::recycle::Recycled;
use perilune_protocol::principal::Principal;
use perilune_protocol::rpc::cluster::{ClusterStat, NodeState};
use perilune_protocol::rpc::cold::Recall;
use perilune_protocol::rpc::job::JobState;
use perilune_protocol::rpc::segment::SegmentState;
use perilune_protocol::{FaultCode, ObjectKey, ObjectPlace, Outcome, SegmentDesc, SegmentId, TenantId, VaultId};
use perilune_state::directory::{Known, Lies, ShardId};
use perilune_state::effect::ObjectRecord;
use perilune_state::gc::GcOwner;
use perilune_state::segments::nodes::Seen;
use perilune_state::shards::{NoJob, Passes, ShardCount};
use perilune_state::txn::Txn;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

/// How long an HTTP request waits for an object that is in its vault only, in milliseconds.
const RECALL_WAIT_MS: u64 = 10_000;

impl Observed for Throne {
    fn stat(&self) -> ClusterStat {
        self.engine().stat()
    }

    fn segments(&self) -> Vec<SegmentState> {
        self.engine().segments()
    }

    fn nodes(&self) -> Vec<NodeState> {
        self.engine().nodes()
    }

    fn soft_pins(&self) -> u64 {
        self.engine().state().soft_pins()
    }

    fn tenants(&self) -> Vec<TenantUse> {
        self.engine().tenants()
    }

    fn pools(&self) -> Vec<PoolUse> {
        self.engine().pools()
    }

    fn vaults(&self) -> Vec<VaultUse> {
        self.engine().vaults()
    }

    fn jobs(&self) -> Vec<JobState> {
        self.engine().jobs()
    }

    fn feeds(&self) -> Vec<FeedUse> {
        self.engine().feed_uses()
    }

    fn log(&self) -> LogStatus {
        self.inner.log.status()
    }

    fn consumers(&self) -> Vec<Lag> {
        self.engine().events().lags()
    }
}

impl Facade for Throne {
    fn locate(&self, tenant: TenantId, keys: &[ObjectKey]) -> Vec<Outcome<ObjectPlace>> {
        self.engine().locate(tenant, keys)
    }

    fn peek(&self, tenant: TenantId, key: &ObjectKey) -> Outcome<ObjectPlace> {
        self.engine().state().peek(tenant, key)
    }

    fn object(&self, tenant: TenantId, key: &ObjectKey) -> Option<ObjectRecord> {
        self.engine().state().record(tenant, key)
    }

    fn for_each_key(&self, tenant: TenantId, visit: &mut dyn FnMut(&ObjectKey, u64) -> ControlFlow<()>) {
        self.engine().for_each_key(tenant, visit);
    }

    fn describe(&self, tenant: TenantId, id: SegmentId) -> Option<Arc<SegmentDesc>> {
        self.engine().describe(tenant, id).ok()
    }

    fn tenant(&self, name: &str) -> Outcome<TenantId> {
        self.engine().tenant(name)
    }

    fn recall<'a>(&'a self, tenant: TenantId, key: &'a ObjectKey) -> Boxed<'a, Outcome<()>> {
        let engine = self.engine();
        let question = Recall { keys: vec![key.clone()], wait_ms: RECALL_WAIT_MS };
        Box::pin(async move { engine.recall(tenant, question).await.into_iter().collect() })
    }

    fn close_vaults(&self, vaults: Vec<VaultId>) -> Box<dyn Send + Sync> {
        Box::new(self.engine().close_vaults(vaults))
    }

    fn clear_vault(&self, tenant: TenantId, vault: VaultId) -> Boxed<'_, Outcome<()>> {
        let engine = self.engine();
        Box::pin(async move { engine.clear_vault(tenant, vault).await })
    }

    fn vault_finding(&self, vault: VaultId) -> Option<Finding> {
        self.engine().reign.cold.finding(vault, self.engine().wall_ms())
    }

    fn evicted_unsaved(&self, vault: VaultId) -> u64 {
        self.engine().reign.evictor.unsaved(vault)
    }

    fn lies_in(&self, vaults: Vec<VaultId>) -> Boxed<'_, Outcome<HashMap<VaultId, Lies>>> {
        let engine = self.engine();
        Box::pin(async move { engine.lies_in(vaults).await })
    }

    fn seen(&self) -> Vec<Seen> {
        self.engine().seen()
    }

    fn recycled(&self, tenant: TenantId) -> Recycled {
        self.engine().reign.recycled.of(tenant)
    }

    fn count_shards(&self, tenant: TenantId, shards: BTreeSet<ShardId>) -> Boxed<'_, Outcome<BTreeMap<ShardId, ShardCount>>> {
        let engine = self.engine();
        Box::pin(async move { engine.count_shards(tenant, shards).await })
    }

    fn shard_passes(&self, shard: ShardId) -> Passes {
        self.engine().reign.shard_jobs.passes(shard)
    }

    fn shard_jobs(&self) -> Vec<(ShardId, u64)> {
        self.engine().reign.shard_jobs.running()
    }

    fn stop_shard_job(&self, shard: ShardId, id: &str) -> Result<(), NoJob> {
        self.engine().reign.shard_jobs.stop(shard, id)
    }

    fn open_puts(&self, tenant: TenantId) -> Vec<OpenPut> {
        self.engine().open_puts(tenant)
    }

    fn abort(&self, tenant: TenantId, txn: Txn, db: Option<u64>, writer_gone: bool) -> Boxed<'_, Result<u64, NotAborted>> {
        let engine = self.engine();
        Box::pin(async move { engine.abort(tenant, txn, db, writer_gone).await })
    }

    fn in_step(&self, keyspace: u32, table: i64) -> Boxed<'_, Outcome<Vec<u64>>> {
        let engine = self.engine();
        Box::pin(async move { engine.in_step(keyspace, table).await })
    }

    fn has_vaults(&self) -> bool {
        gc::has_vaults(&self.engine().directory())
    }

    fn gc_owner(&self) -> Option<GcOwner> {
        gc::owner(self.engine().state()).filter(|owner| owner.holds(self.inner.clock.wall_ms()))
    }

    fn resign_gc(&self, member: u64) -> Boxed<'_, Outcome<bool>> {
        let engine = self.engine();
        Box::pin(async move { engine.resign_gc(member).await })
    }

    fn wall_ms(&self) -> u64 {
        self.inner.clock.wall_ms()
    }

    fn directory(&self) -> Arc<Known> {
        self.engine().directory()
    }

    fn decide<'a>(&'a self, decide: &'a Decide<'a>) -> Boxed<'a, Result<(), Unchanged>> {
        let engine = self.engine();
        Box::pin(async move { engine.decide(decide).await })
    }

    fn is_current(&self, principal: &Principal) -> Outcome<()> {
        self.engine().is_current(principal)
    }

    fn safe(&self) -> Outcome<Safe> {
        self.engine().safe()
    }

    fn setting(&self, key: &str) -> Option<String> {
        self.engine().setting(key)
    }

    fn remove_matching<'a>(&'a self, tenant: TenantId, pattern: &'a str, force: bool) -> Boxed<'a, Outcome<u64>> {
        let (engine, pattern) = (self.engine(), pattern.to_owned());
        Box::pin(async move {
            let work = tokio::task::spawn_blocking(move || Engine::remove_matching(&engine, tenant, &pattern, force));
            work.await.unwrap_or_else(|e| Err(FaultCode::Internal.with(format!("the removal stopped: {e}"))))
        })
    }

    fn leader(&self) -> Option<String> {
        let leader = self.inner.log.watch().borrow().leader.clone()?;
        // Where the card says that this one is reached, the group may not know it yet.
        let service = if leader.id == self.inner.config.member { self.inner.card.service.clone() } else { leader.service };
        Some(service).filter(|service| !service.is_empty())
    }

    fn term(&self) -> u64 {
        Throne::term(self)
    }

    fn vouch(&self, term: u64) -> Boxed<'_, Outcome<()>> {
        Box::pin(async move {
            let (engine, _) = self.served();
            if term > 0 && engine.reign.term == term { engine.vouch().await } else { Err(self.inner.not_leader()) }
        })
    }

    fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }
}
