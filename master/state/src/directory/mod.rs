//! Who the tenants are, what pools and vaults they have and who is registered there, how their keys are told apart: small records, changed one
//! at a time through the log.
//!
//! ```text
//!   create ──► NORMAL ◄──► OVERDUE            a number is never given twice, and a name never again:
//!                 └──────────┴─► DELETED ─► GONE       what is gone stays as a tombstone
//!                       drop        recycler, after the retention
//!
//!   pool   NORMAL ─► SUSPENDED ─► TO_RESUME ─► NORMAL         only a normal one takes new bytes; a tenant with pools is not dropped
//!   node   registered ─► decommissioning ─► decommissioned    only a registered one lends; what others lend is emptied (`belonging`)
//! ```
//!
//! Each change names the revision it was decided upon and makes the next one, so of two that were decided at one time only one takes effect.
//! The map is replaced whole by the apply loop, its only writer; readers take the present one and never wait.

mod asked;
mod decide;
mod declare;
mod deliver;
mod feed;
mod pool;
mod provide;
mod record;
mod register;
mod table;
mod vault;

pub use asked::{Described, Keeper, Lies, Meant, NewVault, Pair, PoolRefused, VaultRefused};
pub use decide::{Decision, Refused, is_unshown};
pub use declare::DEFAULT_KEYSPACE;
pub use deliver::{FEED_NAME_BYTES_MAX, FeedRefused, NewFeed, is_feed_name};
pub(crate) use feed::StoredFeeds;
pub use feed::{FeedEvent, FeedId, FeedRecord, FeedState, Trouble};
pub(crate) use pool::StoredPools;
pub use pool::{NodeKind, NodeRecord, NodeStatus, PoolId, PoolKind, PoolRecord, PoolStatus};
pub use record::{Change, Known, TenantRecord, TenantStatus, named_in};
pub(crate) use table::StoredTables;
pub use table::{DEFAULT_NAME, SHARDS_DEFAULT, ShardId, TableId, TableRecord};
pub(crate) use vault::StoredVaults;
pub use vault::{Secret, VaultRecord, VaultsRecord};

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

    /// Who calls itself `name` and presents `unique_id`, either of which may be empty: which tenant that is.
    ///
    /// # Errors
    /// As [`Directory::tenant`]; [`FaultCode::Forbidden`] where the two are not of one tenant.
    pub fn caller(&self, name: &str, unique_id: &str) -> Outcome<TenantId> {
        if unique_id.is_empty() {
            return self.tenant(name);
        }
        let known = self.known();
        let Some(owner) = known.owner(unique_id) else {
            let how = "it is neither registered nor of the form 1:TENANT:NAME with a tenant that there is";
            return Err(FaultCode::TenantNotFound.with(format!("unique id {unique_id:.200?}: {how}")));
        };
        if !name.is_empty() && name != owner.name {
            let why = format!("unique id {unique_id:.200?} is of tenant {}, not of {name:.200?}: present one of them", owner.name);
            return Err(FaultCode::Forbidden.with(why));
        }
        self.tenant(&owner.name)
    }

    /// Whether who presents `unique_id` (nothing: it may be empty) may lend memory at `endpoint` to this tenant. `strict`: only who presents
    /// something.
    ///
    /// # Errors
    /// [`FaultCode::Forbidden`]: it is not registered, leaves, or is another's.
    pub fn may_lend(&self, id: TenantId, unique_id: &str, endpoint: &str, strict: bool) -> Outcome<()> {
        let known = self.known();
        let why = match known.member(unique_id, endpoint) {
            None if unique_id.is_empty() && !strict => return Ok(()),
            None if unique_id.is_empty() => {
                "strict_membership is set: start the node with --unique-id, and register it with `perilune pools add-node`".into()
            }
            None => format!("{unique_id:.200?} is not registered: do that first, with `perilune pools add-node`"),
            Some((pool, _)) if pool.tenant != id => format!("{unique_id:.200?} is registered for another tenant"),
            Some((pool, node)) if pool.kind != PoolKind::Compute || node.kind != NodeKind::Compute => {
                format!("{unique_id:.200?} is registered as a frontend, which lends nothing")
            }
            Some((_, node)) if !node.lends() => format!("{unique_id:.200?} is being decommissioned, or was: it lends nothing more"),
            Some(_) => return Ok(()),
        };
        Err(FaultCode::Forbidden.with(why))
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

    /// Apply: these vaults and no others.
    pub(crate) fn replace_vaults(&self, stored: StoredVaults) {
        let next = self.known().with_vaults(stored);
        self.known.store(Arc::new(next));
    }

    /// Apply: these changefeeds and no others.
    pub(crate) fn replace_feeds(&self, stored: StoredFeeds) {
        let next = self.known().with_feeds(stored);
        self.known.store(Arc::new(next));
    }

    /// Apply: these pools and no others.
    pub(crate) fn replace_pools(&self, stored: StoredPools) {
        let next = self.known().with_pools(stored);
        self.known.store(Arc::new(next));
    }

    /// Apply: these tables and no others.
    pub(crate) fn replace_tables(&self, stored: StoredTables) {
        let next = self.known().with_tables(stored);
        self.known.store(Arc::new(next));
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
