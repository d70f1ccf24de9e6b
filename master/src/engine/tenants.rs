//! Requests about tenants: one change of the directory at a time, each decided upon the one before.

use super::Engine;
use crate::api::Decide;
use crate::observe::TenantUse;
use perilune_protocol::{Fault, FaultCode, Outcome, TenantId};
use perilune_state::Effect;
use perilune_state::directory::{Known, Refused, TenantStatus};
use std::sync::Arc;

/// Why the directory is as it was.
#[derive(Debug)]
pub enum Unchanged {
    /// It cannot be changed so.
    Refused(Refused),
    /// It could not be logged, or not by this master.
    Fault(Fault),
}

impl From<Unchanged> for Fault {
    fn from(unchanged: Unchanged) -> Self {
        match unchanged {
            Unchanged::Refused(refused) => refused.into(),
            Unchanged::Fault(fault) => fault,
        }
    }
}

impl From<Fault> for Unchanged {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Engine {
    /// Decides and logs a change. `decide` is given what is known and the time in milliseconds, and may be asked again.
    pub(crate) async fn decide(&self, decide: &Decide<'_>) -> Result<(), Unchanged> {
        let _one = self.inner.directory.lock().await;
        self.writable()?;
        let now_ms = self.stamps(1).await?.physical_ms();
        loop {
            let known = self.directory();
            let Some(change) = decide(&known, now_ms).map_err(Unchanged::Refused)? else { return Ok(()) };
            let revision = known.revision + 1;
            tracing::info!(revision, ?change, "the directory changes");
            match self.commit(&Effect::Directory { revision, change: Box::new(change) }).await {
                // What was proposed before, and came to be after its caller had given up, is known by now.
                Err(fault) if fault.code == FaultCode::WrongState && self.directory().revision >= revision => {}
                outcome => return Ok(outcome?),
            }
        }
    }

    /// The time of day, in milliseconds.
    pub(crate) fn wall_ms(&self) -> u64 {
        self.inner.clock.wall_ms()
    }

    /// All tenants.
    pub(crate) fn directory(&self) -> Arc<Known> {
        Arc::clone(&self.state().directory.known())
    }

    /// What those have that are not gone.
    pub(crate) fn tenants(&self) -> Vec<TenantUse> {
        let known = self.directory();
        let alive = known.tenants().filter(|t| t.status != TenantStatus::Gone);
        alive
            .map(|t| {
                let meter = self.state().meters.of(t.id);
                TenantUse { id: t.id, name: t.name.clone(), bytes: meter.bytes(), objects: meter.objects() }
            })
            .collect()
    }

    /// The tenant of this name.
    pub(crate) fn tenant(&self, name: &str) -> Outcome<TenantId> {
        self.state().directory.tenant(name)
    }
}
