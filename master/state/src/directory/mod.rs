//! Who the tenants are and whose a node is: small records, changed one at a time through the log.
//!
//! ```text
//!   create ──► NORMAL ◄──► OVERDUE            a number is never given twice, and a name never again:
//!                 └──────────┴─► DELETED ─► GONE       what is gone stays as a tombstone
//!                       drop        recycler, after the retention
//! ```
//!
//! Each change names the revision it was decided upon and makes the next one, so of two that were decided at one time only one takes effect.
//! The map is replaced whole by the apply loop, its only writer; readers take the present one and never wait.

mod decide;
mod record;

pub use decide::{Decision, Refused};
pub use record::{Change, Known, TenantRecord, TenantStatus};

use arc_swap::{ArcSwap, Guard};
use perilune_protocol::{FaultCode, Outcome, TenantId, tenant};
use std::sync::Arc;

/// The room.
#[derive(Default)]
pub struct Directory {
    known: ArcSwap<Known>,
}

impl Directory {
    /// What is known now.
    pub fn known(&self) -> Guard<Arc<Known>> {
        self.known.load()
    }

    /// The tenant of this name; empty means `default`.
    ///
    /// # Errors
    /// [`FaultCode::TenantNotFound`], [`FaultCode::TenantDeleted`].
    pub fn tenant(&self, name: &str) -> Outcome<TenantId> {
        let name = if name.is_empty() { tenant::DEFAULT } else { name };
        let known = self.known();
        let found = known.named(name).filter(|t| t.status != TenantStatus::Gone);
        let Some(found) = found else {
            return Err(FaultCode::TenantNotFound.with("there is no such tenant: create it first, with `perilune tenants create`"));
        };
        may_be_used(found).map(|()| found.id)
    }

    /// Whether what a tenant has can be read and removed.
    ///
    /// # Errors
    /// [`FaultCode::TenantDeleted`], [`FaultCode::TenantNotFound`].
    pub fn may_use(&self, id: TenantId) -> Outcome<()> {
        let known = self.known();
        known.tenant(id).map_or_else(|| Err(unknown(id)), may_be_used)
    }

    /// Whether a tenant may add something, objects or memory, and how much it may have.
    ///
    /// # Errors
    /// As [`Directory::may_use`], and [`FaultCode::TenantOverdue`].
    pub fn may_add(&self, id: TenantId) -> Outcome<tenant::Quota> {
        let known = self.known();
        let tenant = known.tenant(id).ok_or_else(|| unknown(id))?;
        may_be_used(tenant)?;
        if tenant.status == TenantStatus::Overdue {
            let why = format!("tenant {} is over its budget: what it has can be read and removed, nothing is added", tenant.name);
            return Err(FaultCode::TenantOverdue.with(why));
        }
        Ok(tenant.quota)
    }

    /// Apply: the change that follows the last one. Any other was decided upon what is not so any more.
    pub(crate) fn apply(&self, revision: u64, change: Change) -> Outcome<()> {
        let known = self.known();
        if revision != known.revision + 1 {
            let why = format!("the directory has changed meanwhile: change {revision} was to follow {}", known.revision);
            return Err(FaultCode::WrongState.with(why));
        }
        let mut next = Known::clone(&known);
        next.revision = revision;
        next.enter(change);
        self.known.store(Arc::new(next));
        Ok(())
    }

    /// Apply: this and nothing else.
    pub(crate) fn replace(&self, known: Known) {
        self.known.store(Arc::new(known));
    }
}

fn may_be_used(tenant: &TenantRecord) -> Outcome<()> {
    match tenant.status {
        TenantStatus::Normal | TenantStatus::Overdue => Ok(()),
        TenantStatus::Deleted | TenantStatus::Gone => Err(FaultCode::TenantDeleted.with(format!("tenant {} was dropped", tenant.name))),
    }
}

fn unknown(id: TenantId) -> perilune_protocol::Fault {
    FaultCode::TenantNotFound.with(format!("there is no tenant {}", id.0))
}
