//! What is recorded of the cold tier of each tenant, as it is stored. No secret is here but sealed.

use perilune_protocol::sealed::Sealed;
use perilune_protocol::vault::VaultTarget;
use perilune_protocol::{TenantId, VaultId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a tenant has in the cold tier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultsRecord {
    /// Whose.
    pub tenant: TenantId,
    /// With what objects in directories are encrypted. It never changes, so that all of them can be read.
    pub key: Sealed,
    /// Whether what is written from now on is encrypted.
    pub sse: bool,
    /// Whether its vaults have names; the page calls the others `obj_info`.
    pub named: bool,
    /// Credentials for buckets of others. Kept for those who ask.
    pub ram_user: Option<Secret>,
    /// Oldest first.
    pub vaults: Vec<VaultRecord>,
}

/// One place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultRecord {
    /// Its number.
    pub id: VaultId,
    /// Whose.
    pub tenant: TenantId,
    /// Its number among those of the tenant, from 1.
    pub number: u32,
    /// Its name; empty where they have none.
    pub name: String,
    /// Where it is.
    pub target: VaultTarget,
    /// What requests are signed with.
    pub secret: Option<Secret>,
    /// Rises with every change of what it takes to open it.
    pub revision: u64,
    /// When it was added, in milliseconds of the one clock.
    pub ctime_ms: u64,
    /// When it was last changed.
    pub mtime_ms: u64,
}

/// An access key with its secret key, and whose they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    /// By this the pair is found when it is to be changed; may be empty.
    pub user_id: String,
    /// The access key's name.
    pub ak: Sealed,
    /// The secret key.
    pub sk: Sealed,
}

impl VaultsRecord {
    /// The newest that can be used, else the newest.
    pub fn newest(&self) -> Option<&VaultRecord> {
        self.vaults.iter().rev().find(|vault| vault.target.is_usable()).or(self.vaults.last())
    }
}

/// All of them. `owners` follows from `records`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Vaults {
    /// The last number that was given.
    last: u64,
    records: BTreeMap<TenantId, VaultsRecord>,
    owners: BTreeMap<VaultId, TenantId>,
}

/// How snapshots keep them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredVaults {
    last: u64,
    records: Vec<VaultsRecord>,
}

impl From<StoredVaults> for Vaults {
    fn from(stored: StoredVaults) -> Self {
        let mut vaults = Self { last: stored.last, ..Self::default() };
        stored.records.into_iter().for_each(|record| vaults.enter(record));
        vaults
    }
}

impl Vaults {
    /// `None` where nothing was ever said of any.
    pub(super) fn stored(&self) -> Option<StoredVaults> {
        let records: Vec<_> = self.records.values().cloned().collect();
        (self.last > 0 || !records.is_empty()).then_some(StoredVaults { last: self.last, records })
    }

    pub(super) fn enter(&mut self, record: VaultsRecord) {
        self.leave(record.tenant);
        for vault in &record.vaults {
            self.last = self.last.max(vault.id.0);
            self.owners.insert(vault.id, record.tenant);
        }
        self.records.insert(record.tenant, record);
    }

    pub(super) fn leave(&mut self, tenant: TenantId) {
        self.owners.retain(|_, owner| *owner != tenant);
        self.records.remove(&tenant);
    }

    /// A number that none had.
    pub(super) fn fresh(&self) -> VaultId {
        VaultId(self.last + 1)
    }

    pub(super) fn of(&self, tenant: TenantId) -> Option<&VaultsRecord> {
        self.records.get(&tenant)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &VaultRecord> {
        self.records.values().flat_map(|all| &all.vaults)
    }

    pub(super) fn get(&self, id: VaultId) -> Option<&VaultRecord> {
        self.of(*self.owners.get(&id)?)?.vaults.iter().find(|vault| vault.id == id)
    }
}
