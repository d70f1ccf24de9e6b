//! Requests about tenants: one change of the directory at a time, each decided upon the one before.

use super::Engine;
use crate::api::Decide;
use crate::observe::{PoolUse, TenantUse};
use perilune_protocol::principal::Principal;
use perilune_protocol::{Fault, FaultCode, Outcome, TenantId};
use perilune_state::Effect;
use perilune_state::directory::{Known, PoolId, Refused, TenantStatus};
use std::sync::Arc;

/// Who speaks on a connection, as it said itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Speaker {
    /// Whose keys and memory.
    pub tenant: TenantId,
    /// On whose behalf; may be empty.
    pub user: String,
    /// What it is registered by; may be empty.
    pub unique_id: String,
}

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
            tracing::info!(revision, key = %change.key(&known), ?change, "the directory changes");
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

    /// Each pool with what its nodes lend.
    pub(crate) fn pools(&self) -> Vec<PoolUse> {
        let (known, table) = (self.directory(), self.state().segments.table());
        let used = |pool: PoolId| {
            let ours = table.iter().filter(|s| s.pool() == Some(pool));
            ours.fold((0, 0, 0), |(n, used, capacity), s| (n + 1, used + s.space().used(), capacity + s.space().capacity()))
        };
        let pools = known.pools().map(|pool| {
            let (segments, used, capacity) = used(pool.id);
            let tenant = known.tenant(pool.tenant).map_or_else(String::new, |t| t.name.clone());
            PoolUse { tenant, name: pool.name.clone(), segments, used, capacity }
        });
        pools.collect()
    }

    /// Whether the tokens of the generation of this one are still good.
    pub(crate) fn is_current(&self, principal: &Principal) -> Outcome<()> {
        let least = self.state().settings.token_generation(&principal.tenant);
        if principal.generation >= least {
            return Ok(());
        }
        let how = "ask for another one, made with `perilune tenants token`";
        Err(FaultCode::Unauthorized.with(format!("tokens of tenant {} before generation {least} are refused: {how}", principal.tenant)))
    }

    /// Where the puts of a caller go, if there is room.
    pub(crate) fn preferred(&self, speaker: &Speaker) -> Option<PoolId> {
        if speaker.user.is_empty() && speaker.unique_id.is_empty() {
            return None;
        }
        self.state().directory.known().preferred(speaker.tenant, &speaker.user, &speaker.unique_id)
    }

    /// The tenant of this name.
    pub(crate) fn tenant(&self, name: &str) -> Outcome<TenantId> {
        self.state().directory.tenant(name)
    }
}
