//! What is recorded of each tenant, as it is stored.

use perilune_protocol::{TenantId, tenant};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// All records. Cloned for each change, of which there are few.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// How many changes there were.
    pub revision: u64,
    /// Every tenant there ever was.
    tenants: BTreeMap<TenantId, TenantRecord>,
}

/// A key space and what there is to say of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantRecord {
    /// Its number, never given twice.
    pub id: TenantId,
    /// Its name, never given twice. Programs know it by this; [`tenant::check_name`].
    pub name: String,
    /// What people call it.
    pub shown: String,
    /// Who asked for it.
    pub user_id: String,
    /// Where it is in its life.
    pub status: TenantStatus,
    /// Once it is dropped: the recycler waits for no retention.
    pub recycle_now: bool,
    /// How much it may have in memory.
    pub quota: tenant::Quota,
    /// When it was created, in milliseconds of the one clock.
    pub ctime_ms: u64,
    /// When it was last changed.
    pub mtime_ms: u64,
}

/// Where a tenant is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TenantStatus {
    /// Served.
    Normal,
    /// What it has is served, nothing is added.
    Overdue,
    /// Nothing is served, and the recycler takes back what it has once the retention is over.
    Deleted,
    /// Nothing of it is left but its number and name.
    Gone,
}

/// A whole record that takes the place of the one before. A record that grows gets a variant behind the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Of a tenant.
    Tenant(TenantRecord),
}

impl Default for Known {
    fn default() -> Self {
        let default = TenantRecord {
            id: TenantId::default(),
            name: tenant::DEFAULT.into(),
            shown: tenant::DEFAULT.into(),
            user_id: String::new(),
            status: TenantStatus::Normal,
            recycle_now: false,
            quota: tenant::Quota::default(),
            ctime_ms: 0,
            mtime_ms: 0,
        };
        Self { revision: 0, tenants: BTreeMap::from([(default.id, default)]) }
    }
}

impl Known {
    /// The tenant of this number, whatever became of it.
    pub fn tenant(&self, id: TenantId) -> Option<&TenantRecord> {
        self.tenants.get(&id)
    }

    /// The tenant of this name, whatever became of it. A walk: nobody asks on the way to bytes.
    pub fn named(&self, name: &str) -> Option<&TenantRecord> {
        self.tenants.values().find(|t| t.name == name)
    }

    /// Every tenant there ever was, by number.
    pub fn tenants(&self) -> impl Iterator<Item = &TenantRecord> {
        self.tenants.values()
    }

    /// A number that nobody had.
    pub(super) fn fresh(&self) -> TenantId {
        TenantId(self.tenants.last_key_value().map_or(0, |(id, _)| id.0 + 1))
    }

    pub(super) fn enter(&mut self, change: Change) {
        match change {
            Change::Tenant(record) => self.tenants.insert(record.id, record),
        };
    }
}
