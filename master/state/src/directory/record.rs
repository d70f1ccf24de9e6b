//! What is recorded of each tenant, as it is stored.

use super::feed::{FeedId, FeedRecord, Feeds, StoredFeeds};
use super::pool::{NodeRecord, PoolId, PoolRecord, Pools, StoredPools};
use super::table::{ShardId, StoredTables, TableId, TableRecord, Tables};
use super::vault::{StoredVaults, VaultRecord, Vaults, VaultsRecord};
use perilune_protocol::metakey::MetaKey;
use perilune_protocol::{TenantId, Tso, VaultId, tenant};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// All records. Cloned for each change, of which there are few.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// How many changes there were.
    pub revision: u64,
    /// Every tenant there ever was.
    tenants: BTreeMap<TenantId, TenantRecord>,
    /// Stored apart, so that releases that know no pools read the rest.
    #[serde(skip)]
    pools: Pools,
    /// The same.
    #[serde(skip)]
    vaults: Vaults,
    /// The same.
    #[serde(skip)]
    tables: Tables,
    /// The same.
    #[serde(skip)]
    feeds: Feeds,
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
    /// Of a pool, with its nodes.
    Pool(PoolRecord),
    /// There is no such pool any more.
    PoolGone(PoolId),
    /// Of what a tenant has in the cold tier.
    Vaults(VaultsRecord),
    /// Of both, when a tenant begins with a vault.
    TenantVaults(TenantRecord, VaultsRecord),
    /// Of a table.
    Table(TableRecord),
    /// Of a changefeed.
    Feed(FeedRecord),
    /// There is no such changefeed any more.
    FeedGone(FeedId),
    /// Of a pool, whose users leave the other pools of its tenant.
    PoolUsers(PoolRecord),
}

impl Change {
    /// The name of the record that changes.
    pub fn key(&self, known: &Known) -> MetaKey {
        let named = |id| known.tenant(id).map_or_else(String::new, |tenant| tenant.name.clone());
        let feed = |feed: &FeedRecord| MetaKey::Changefeed(named(feed.tenant), feed.name.clone());
        let cluster = |pool: &PoolRecord| MetaKey::Cluster(named(pool.tenant), pool.cluster_id.clone());
        match self {
            Self::Tenant(record) => MetaKey::Instance(record.name.clone()),
            Self::Pool(record) | Self::PoolUsers(record) => cluster(record),
            Self::Vaults(record) => MetaKey::Vaults(named(record.tenant)),
            Self::TenantVaults(tenant, _) => MetaKey::Vaults(tenant.name.clone()),
            Self::Table(record) => MetaKey::Table(named(record.tenant), record.id.0 as i64),
            Self::Feed(record) => feed(record),
            Self::FeedGone(id) => known.feed(*id).map_or_else(|| MetaKey::Changefeed(String::new(), String::new()), feed),
            Self::PoolGone(id) => known.pool(*id).map_or_else(|| MetaKey::Cluster(String::new(), String::new()), cluster),
        }
    }
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
        let (tenants, pools) = (BTreeMap::from([(default.id, default)]), Pools::default());
        Self { revision: 0, tenants, pools, vaults: Vaults::default(), tables: Tables::default(), feeds: Feeds::default() }
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

    /// Every pool, by number.
    pub fn pools(&self) -> impl Iterator<Item = &PoolRecord> {
        self.pools.iter()
    }

    /// The pools of a tenant, by number.
    pub fn pools_of(&self, tenant: TenantId) -> impl Iterator<Item = &PoolRecord> {
        self.pools.iter().filter(move |pool| pool.tenant == tenant)
    }

    /// The pool of this number.
    pub fn pool(&self, id: PoolId) -> Option<&PoolRecord> {
        self.pools.get(id)
    }

    /// The node that presents `unique_id` from `endpoint` (`host:port`), and its pool. Where several present the same and none is registered
    /// there, the first.
    pub fn member(&self, unique_id: &str, endpoint: &str) -> Option<(&PoolRecord, &NodeRecord)> {
        self.pools.member(unique_id, endpoint)
    }

    /// Whose node or client presents `unique_id`: that of the pool it is registered in, else the one that `1:TENANT:ANYTHING` names.
    pub fn owner(&self, unique_id: &str) -> Option<&TenantRecord> {
        match self.member(unique_id, "") {
            Some((pool, _)) => self.tenant(pool.tenant),
            None => self.named(named_in(unique_id)?),
        }
    }

    /// Where the puts of a caller go: to the pool that it is itself of, else to the one that is its user's.
    pub fn preferred(&self, tenant: TenantId, user: &str, unique_id: &str) -> Option<PoolId> {
        let own = self.member(unique_id, "").filter(|(pool, node)| pool.tenant == tenant && node.kind == super::NodeKind::Compute);
        own.map(|(pool, _)| pool.id).or_else(|| if user.is_empty() { None } else { self.pools.of_user(tenant, user) })
    }

    /// The tables of a tenant that are declared, by number, and last the one for all other keys.
    pub fn tables_of(&self, tenant: TenantId) -> Vec<TableRecord> {
        self.tables.of(tenant)
    }

    /// The table of this number, dropped or not.
    pub fn table(&self, id: TableId) -> Option<TableRecord> {
        self.tables.get(id)
    }

    /// The table that has this shard, dropped or not.
    pub fn table_with(&self, shard: ShardId) -> Option<TableRecord> {
        self.tables.with_shard(shard)
    }

    /// The table that a key belongs to.
    pub fn table_of(&self, tenant: TenantId, key: &[u8]) -> TableRecord {
        self.tables.taking(tenant, key).cloned().unwrap_or_else(|| TableRecord::default_of(tenant))
    }

    /// The table that an object belongs to that was put with this version, for good: also when it is dropped, or another is declared.
    pub fn table_at(&self, tenant: TenantId, key: &[u8], version: Tso) -> TableRecord {
        self.tables.taking_at(tenant, key, version.physical_ms()).cloned().unwrap_or_else(|| TableRecord::default_of(tenant))
    }

    /// The shard that a key belongs to. `rest`: the table for what no rule takes.
    pub(crate) fn shard_of(&self, rest: &TableRecord, key: &[u8]) -> ShardId {
        self.tables.taking(rest.tenant, key).unwrap_or(rest).shard_of(key)
    }

    pub(super) fn tables_ever(&self) -> usize {
        self.tables.len()
    }

    /// A number that neither a table nor anything of one had, with all above it.
    pub(super) fn fresh_number(&self) -> u64 {
        self.tables.fresh()
    }

    pub(crate) fn stored_tables(&self) -> Option<StoredTables> {
        self.tables.stored()
    }

    pub(super) fn with_tables(&self, stored: StoredTables) -> Self {
        Self { tables: stored.into(), ..self.clone() }
    }

    /// A number that no pool had.
    pub(super) fn fresh_pool(&self) -> PoolId {
        self.pools.fresh()
    }

    /// What a tenant has in the cold tier; `None`: nothing was ever said of it.
    pub fn vaults_of(&self, tenant: TenantId) -> Option<&VaultsRecord> {
        self.vaults.of(tenant)
    }

    /// The vault of this number.
    pub fn vault(&self, id: VaultId) -> Option<&VaultRecord> {
        self.vaults.get(id)
    }

    /// Those of all tenants.
    pub fn all_vaults(&self) -> impl Iterator<Item = &VaultRecord> {
        self.vaults.iter()
    }

    /// Where new uploads of a tenant go: to the newest of its vaults that this release can use, or, where it can use none, to the newest,
    /// which says why it cannot be opened.
    pub fn vault_of(&self, tenant: TenantId) -> Option<&VaultRecord> {
        self.vaults_of(tenant)?.newest()
    }

    /// The same, if this release can bring anything there.
    pub fn usable_vault_of(&self, tenant: TenantId) -> Option<&VaultRecord> {
        self.vault_of(tenant).filter(|vault| vault.target.is_usable())
    }

    /// Numbers that no vault had.
    pub(super) fn fresh_vault(&self) -> VaultId {
        self.vaults.fresh()
    }

    pub(crate) fn stored_vaults(&self) -> Option<StoredVaults> {
        self.vaults.stored()
    }

    pub(super) fn with_vaults(&self, stored: StoredVaults) -> Self {
        Self { vaults: stored.into(), ..self.clone() }
    }

    /// Every changefeed, by number.
    pub fn feeds(&self) -> impl Iterator<Item = &FeedRecord> {
        self.feeds.iter()
    }

    /// The changefeed of this number.
    pub fn feed(&self, id: FeedId) -> Option<&FeedRecord> {
        self.feeds.get(id)
    }

    /// A number that no changefeed had.
    pub(super) fn fresh_feed(&self) -> FeedId {
        self.feeds.fresh()
    }

    pub(crate) fn stored_feeds(&self) -> Option<StoredFeeds> {
        self.feeds.stored()
    }

    pub(super) fn with_feeds(&self, stored: StoredFeeds) -> Self {
        Self { feeds: stored.into(), ..self.clone() }
    }

    pub(crate) fn stored_pools(&self) -> Option<StoredPools> {
        self.pools.stored()
    }

    pub(super) fn with_pools(&self, stored: StoredPools) -> Self {
        Self { pools: stored.into(), ..self.clone() }
    }

    pub(super) fn enter(&mut self, change: Change) {
        match change {
            Change::Tenant(record) => self.enter_tenant(record),
            Change::Pool(record) => self.pools.enter(record),
            Change::PoolUsers(record) => self.pools.enter_with_users(record),
            Change::PoolGone(id) => self.pools.leave(id),
            Change::Vaults(record) => self.vaults.enter(record),
            Change::TenantVaults(tenant, record) => {
                self.enter_tenant(tenant);
                self.vaults.enter(record);
            }
            Change::Table(record) => self.tables.enter(record),
            Change::Feed(record) => self.feeds.enter(record),
            Change::FeedGone(id) => self.feeds.leave(id),
        }
    }

    fn enter_tenant(&mut self, record: TenantRecord) {
        if record.status == TenantStatus::Gone {
            self.vaults.leave(record.id);
            self.feeds.leave_all_of(record.id);
        }
        self.tenants.insert(record.id, record);
    }
}

/// The tenant that `1:TENANT:ANYTHING` names.
pub fn named_in(unique_id: &str) -> Option<&str> {
    match unique_id.split(':').collect::<Vec<_>>()[..] {
        ["1", tenant, name] if !tenant.is_empty() && !name.is_empty() => Some(tenant),
        _ => None,
    }
}
