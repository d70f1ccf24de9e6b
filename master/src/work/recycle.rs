//! Takes back what dropped tenants had, once their retention is over: objects, then memory, then what is in vaults; then the name stays as a
//! tombstone.
//!
//! Every step is an effect of its own and looks at what there is, so it is taken up where it was left, by whoever leads.

use crate::engine::Engine;
use crate::planted::{self, Defect};
use perilune_protocol::{Outcome, TenantId, Tso};
use perilune_state::directory::{FeedRecord, FeedState, TenantRecord, TenantStatus};
use perilune_state::segments::Segment;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What was done for one dropped tenant, in milliseconds of the time of day; 0 is never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recycled {
    /// When a step was begun last.
    pub begun_ms: u64,
    /// When one was ended last.
    pub ended_ms: u64,
    /// When one was ended last that met no fault.
    pub succeeded_ms: u64,
    /// Whether one is under way.
    pub busy: bool,
}

/// What was done in this reign.
#[derive(Default)]
pub(crate) struct RecycleLog {
    /// Touched twice for each step.
    by_tenant: Mutex<BTreeMap<TenantId, Recycled>>,
    /// Of those that have nothing any more: all that happened to them has a lower stamp.
    empty: Mutex<BTreeMap<TenantId, Tso>>,
}

impl RecycleLog {
    pub(crate) fn of(&self, tenant: TenantId) -> Recycled {
        self.lock().get(&tenant).copied().unwrap_or_default()
    }

    /// The stamp by which a tenant was found to have nothing; the first counts.
    fn empty(&self, tenant: TenantId, now: Tso) -> Tso {
        *self.empty.lock().unwrap_or_else(PoisonError::into_inner).entry(tenant).or_insert(now)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TenantId, Recycled>> {
        self.by_tenant.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, tenant: TenantId, now_ms: u64) {
        let mut all = self.lock();
        let one = all.entry(tenant).or_default();
        (one.begun_ms, one.busy) = (now_ms, true);
    }

    fn end(&self, tenant: TenantId, well: bool, now_ms: u64) {
        let mut all = self.lock();
        let one = all.entry(tenant).or_default();
        (one.ended_ms, one.busy) = (now_ms, false);
        if well {
            one.succeeded_ms = now_ms;
        }
    }
}

/// So long the changefeeds of a tenant that has nothing any more may take to tell so.
const TELLING_MS: u64 = 60_000;
/// How often it is looked whether a retention is over.
pub(crate) const EVERY: Duration = Duration::from_secs(1);

/// Does what is due for each dropped tenant whose retention is over.
pub(crate) async fn round(engine: &Engine) {
    let retention = engine.state().settings.tenant_retention_ms();
    let now = engine.wall_ms();
    let known = engine.directory();
    let over = |t: &&TenantRecord| t.status == TenantStatus::Deleted && (t.recycle_now || t.mtime_ms.saturating_add(retention) <= now);
    for tenant in known.tenants().filter(over).filter(|tenant| !engine.empties_later(tenant.id)) {
        let log = &engine.reign.recycled;
        log.begin(tenant.id, engine.wall_ms());
        let stepped = step(engine, tenant).await;
        log.end(tenant.id, stepped.is_ok(), engine.wall_ms());
        if let Err(fault) = stepped {
            tracing::warn!(tenant = tenant.name, "what the dropped tenant had is not taken back yet: {fault}");
        }
    }
}

async fn step(engine: &Engine, tenant: &TenantRecord) -> Outcome<()> {
    let meter = engine.state().meters.of(tenant.id);
    if meter.objects() > 0 {
        engine.recycle(tenant.id).await?;
    }
    // A put in progress ends as any other whose writer has gone.
    if meter.objects() > 0 {
        return Ok(());
    }
    for segment in lent(engine, tenant.id) {
        engine.unmount_now(segment.id()).await?;
    }
    if !planted::is(Defect::EarlyEnd) && !engine.empty_vaults(tenant.id).await? {
        return Ok(());
    }
    if !have_told(engine, tenant.id).await? {
        return Ok(());
    }
    tracing::info!(tenant = tenant.name, "nothing is left of the dropped tenant");
    let gone = engine.decide(&|known, now_ms| known.gone(&tenant.name, now_ms)).await;
    gone.map_err(Into::into)
}

/// Whether its changefeeds that deliver have told that nothing is left: they go with the tenant. Sinks that do not take it are not waited for longer.
async fn have_told(engine: &Engine, tenant: TenantId) -> Outcome<bool> {
    let known = engine.directory();
    let delivers = |feed: &&FeedRecord| feed.tenant == tenant && (feed.state.runs() || feed.state == FeedState::Pending);
    if !known.feeds().any(|feed| delivers(&feed)) {
        return Ok(true);
    }
    let empty = engine.reign.recycled.empty(tenant, engine.feed_clock().await?);
    let have = known.feeds().filter(delivers).all(|feed| engine.feed_progress(feed).checkpoint >= empty);
    Ok(have || engine.wall_ms().saturating_sub(empty.physical_ms()) > TELLING_MS)
}

fn lent(engine: &Engine, tenant: TenantId) -> Vec<Arc<Segment>> {
    engine.state().segments.table().iter().filter(|s| s.tenant() == tenant).cloned().collect()
}
