//! Takes back what dropped tenants had, once their retention is over: objects, then memory, then what is in vaults; then the name stays as a
//! tombstone.
//!
//! Every step is an effect of its own and looks at what there is, so it is taken up where it was left, by whoever leads.

use crate::engine::Engine;
use perilune_protocol::{FaultCode, Outcome, TenantId};
use perilune_state::directory::{TenantRecord, TenantStatus};
use perilune_state::segments::Segment;
use std::sync::Arc;
use std::time::Duration;

/// How often it is looked whether a retention is over.
pub(crate) const EVERY: Duration = Duration::from_secs(1);

/// Does what is due for each dropped tenant whose retention is over.
pub(crate) async fn round(engine: &Engine) {
    let retention = engine.state().settings.tenant_retention_ms();
    let now = engine.wall_ms();
    let known = engine.directory();
    let over = |t: &&TenantRecord| t.status == TenantStatus::Deleted && (t.recycle_now || t.mtime_ms.saturating_add(retention) <= now);
    for tenant in known.tenants().filter(over) {
        if let Err(fault) = step(engine, tenant).await {
            tracing::warn!(tenant = tenant.name, "what the dropped tenant had is not taken back yet: {fault}");
        }
    }
}

async fn step(engine: &Engine, tenant: &TenantRecord) -> Outcome<()> {
    let meter = engine.state().meters.of(tenant.id);
    if meter.objects() > 0 {
        let (walker, id) = (engine.clone(), tenant.id);
        // Off the threads that serve connections: it looks at every object.
        let walked = tokio::task::spawn_blocking(move || walker.recycle(id)).await;
        walked.unwrap_or_else(|e| Err(FaultCode::Internal.with(format!("the walk stopped: {e}"))))?;
    }
    // A put in progress ends as any other whose writer has gone.
    if meter.objects() > 0 {
        return Ok(());
    }
    for segment in lent(engine, tenant.id) {
        engine.unmount_now(segment.id()).await?;
    }
    if !engine.empty_vaults(tenant.id).await? {
        return Ok(());
    }
    tracing::info!(tenant = tenant.name, "nothing is left of the dropped tenant");
    let gone = engine.decide(&|known, now_ms| known.gone(&tenant.name, now_ms)).await;
    gone.map_err(Into::into)
}

fn lent(engine: &Engine, tenant: TenantId) -> Vec<Arc<Segment>> {
    engine.state().segments.table().iter().filter(|s| s.tenant() == tenant).cloned().collect()
}
