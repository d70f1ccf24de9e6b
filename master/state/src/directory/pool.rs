//! What is recorded of each pool and of the nodes registered in it, and who is found by what.

use perilune_protocol::TenantId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The number of a pool, never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PoolId(pub u64);

/// Nodes of one tenant that belong together, as they are stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolRecord {
    /// Its number.
    pub id: PoolId,
    /// Whose.
    pub tenant: TenantId,
    /// What programs know it by; of the pools of a tenant only one has it.
    pub cluster_id: String,
    /// What people know it by, and no other pool of the tenant.
    pub name: String,
    /// What its nodes are.
    pub kind: PoolKind,
    /// Whether it takes bytes.
    pub status: PoolStatus,
    /// Whose puts go here where nothing else says where.
    pub users: Vec<String>,
    /// Who is registered.
    pub nodes: Vec<NodeRecord>,
    /// When it was added, in milliseconds of the one clock.
    pub ctime_ms: u64,
    /// When it was last changed.
    pub mtime_ms: u64,
}

/// What the nodes of a pool are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PoolKind {
    /// Frontends: routers and schedulers, which lend nothing.
    Sql,
    /// Store nodes.
    Compute,
}

/// Where a pool of store nodes is in its life; only [`PoolStatus::Normal`] takes new bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PoolStatus {
    /// Nobody has said; that of frontends for good.
    Unknown,
    /// It serves.
    Normal,
    /// It is put to sleep.
    Suspended,
    /// Somebody needs it: its nodes are to be started.
    ToResume,
    /// Somebody stopped it by hand.
    ManualShutdown,
}

/// A node that was registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// What it presents. Several nodes of one tenant may present the same.
    pub unique_id: String,
    /// Where it is; this or `host` may be empty.
    pub ip: String,
    /// The name of the machine, which counts before `ip`.
    pub host: String,
    /// Its port for heartbeats, or that of a frontend's edit log.
    pub port: u16,
    /// What it is.
    pub kind: NodeKind,
    /// Where it is in its life.
    pub status: NodeStatus,
    /// When it was registered, in milliseconds of the one clock.
    pub ctime_ms: u64,
    /// When it was last changed.
    pub mtime_ms: u64,
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeKind {
    /// A store node.
    Compute,
    /// The one frontend that may change what there is.
    Master,
    /// A frontend that looks.
    Observer,
    /// A frontend of several that elect their master.
    Follower,
}

/// Where a node is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeStatus {
    /// Came with its pool; as good as running.
    Unknown,
    /// Was added.
    Running,
    /// Does not serve.
    Shutdown,
    /// What it lends is being emptied.
    Decommissioning,
    /// It lends nothing any more.
    Decommissioned,
}

impl PoolStatus {
    /// Whether somebody may say that it is `next` from now on (B.3.19; the page allows no way from asleep to awake but through `ToResume`).
    pub fn may_become(self, next: Self) -> bool {
        use PoolStatus::{ManualShutdown, Normal, Suspended, ToResume, Unknown};
        matches!((self, next), (Unknown | ToResume | ManualShutdown, Normal) | (Normal, Suspended | ManualShutdown) | (Suspended, ToResume))
    }
}

impl PoolRecord {
    /// Whether it is another pool of the kind of `other`, and has a user of it.
    pub(super) fn shares_users(&self, other: &Self) -> bool {
        self.id != other.id && self.kind == other.kind && self.users.iter().any(|user| other.users.contains(user))
    }
}

impl NodeRecord {
    /// `host:port`, by the name of the machine where it has one.
    pub fn endpoint(&self) -> String {
        format!("{}:{}", if self.host.is_empty() { &self.ip } else { &self.host }, self.port)
    }

    /// Every `host:port` that it is called: by the name of its machine, and by its address.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = String> + use<'_> {
        [&self.host, &self.ip].into_iter().filter(|host| !host.is_empty()).map(|host| format!("{host}:{}", self.port))
    }

    /// Whether `other` means the same place: the same port of the same machine.
    pub fn is_at(&self, other: &Self) -> bool {
        let same = |a: &str, b: &str| !a.is_empty() && a == b;
        self.port == other.port && (same(&self.host, &other.host) || same(&self.ip, &other.ip))
    }

    /// Whether this is what `endpoint` (`host:port`) calls.
    fn is_called(&self, endpoint: &str) -> bool {
        let Some((host, port)) = endpoint.rsplit_once(':') else { return false };
        port.parse() == Ok(self.port) && [&self.host, &self.ip].iter().any(|own| *own == host)
    }

    /// Whether it may lend memory, and what it lends takes bytes.
    pub fn lends(&self) -> bool {
        self.kind == NodeKind::Compute && matches!(self.status, NodeStatus::Unknown | NodeStatus::Running)
    }
}

/// All pools. `members` and `users` follow from `records`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pools {
    /// The last number that was given.
    last: u64,
    records: BTreeMap<PoolId, PoolRecord>,
    members: BTreeMap<String, Vec<PoolId>>,
    users: BTreeMap<(TenantId, String), PoolId>,
}

/// How snapshots keep them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredPools {
    last: u64,
    records: Vec<PoolRecord>,
}

impl From<StoredPools> for Pools {
    fn from(stored: StoredPools) -> Self {
        let records = stored.records.into_iter().map(|record| (record.id, record)).collect();
        let mut pools = Self { last: stored.last, records, ..Self::default() };
        pools.order();
        pools
    }
}

impl Pools {
    /// `None` where there never was one.
    pub(super) fn stored(&self) -> Option<StoredPools> {
        (self.last > 0).then(|| StoredPools { last: self.last, records: self.records.values().cloned().collect() })
    }

    pub(super) fn enter(&mut self, record: PoolRecord) {
        self.last = self.last.max(record.id.0);
        self.records.insert(record.id, record);
        self.order();
    }

    /// The same, and its users leave the other pools of the tenant.
    pub(super) fn enter_with_users(&mut self, record: PoolRecord) {
        for other in self.records.values_mut().filter(|other| other.tenant == record.tenant && other.shares_users(&record)) {
            other.users.retain(|user| !record.users.contains(user));
            other.mtime_ms = record.mtime_ms.max(other.mtime_ms);
        }
        self.enter(record);
    }

    pub(super) fn leave(&mut self, id: PoolId) {
        self.records.remove(&id);
        self.order();
    }

    /// A number that no pool had.
    pub(super) fn fresh(&self) -> PoolId {
        PoolId(self.last + 1)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &PoolRecord> {
        self.records.values()
    }

    pub(super) fn get(&self, id: PoolId) -> Option<&PoolRecord> {
        self.records.get(&id)
    }

    /// The node that presents `unique_id` from `endpoint`, or, where none is registered there, the first that presents it.
    pub(super) fn member(&self, unique_id: &str, endpoint: &str) -> Option<(&PoolRecord, &NodeRecord)> {
        let pools = self.members.get(unique_id)?.iter().filter_map(|id| self.records.get(id));
        let mut nodes = pools.flat_map(|pool| pool.nodes.iter().filter(|n| n.unique_id == unique_id).map(move |node| (pool, node)));
        let first = nodes.next()?;
        if first.1.is_called(endpoint) {
            return Some(first);
        }
        Some(nodes.find(|(_, node)| node.is_called(endpoint)).unwrap_or(first))
    }

    pub(super) fn of_user(&self, tenant: TenantId, user: &str) -> Option<PoolId> {
        self.users.get(&(tenant, user.to_owned())).copied()
    }

    fn order(&mut self) {
        (self.members, self.users) = (BTreeMap::new(), BTreeMap::new());
        for pool in self.records.values() {
            for node in &pool.nodes {
                let known = self.members.entry(node.unique_id.clone()).or_default();
                if known.last() != Some(&pool.id) {
                    known.push(pool.id);
                }
            }
            for user in pool.users.iter().filter(|_| pool.kind == PoolKind::Compute) {
                self.users.entry((pool.tenant, user.clone())).or_insert(pool.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_woken_before_it_serves() {
        use PoolStatus::{ManualShutdown, Normal, Suspended, ToResume, Unknown};
        let all = [Unknown, Normal, Suspended, ToResume, ManualShutdown];
        let allowed: Vec<_> = all.iter().flat_map(|from| all.map(|to| (*from, to))).filter(|(from, to)| from.may_become(*to)).collect();
        let expected = [
            (Unknown, Normal),
            (Normal, Suspended),
            (Normal, ManualShutdown),
            (Suspended, ToResume),
            (ToResume, Normal),
            (ManualShutdown, Normal),
        ];
        assert_eq!(allowed, expected);
    }

    #[test]
    fn nodes_that_present_the_same_are_told_apart_by_where_they_are() {
        let node = |port| NodeRecord {
            unique_id: "1:acme:n".into(),
            ip: "127.0.0.1".into(),
            host: String::new(),
            port,
            kind: NodeKind::Compute,
            status: NodeStatus::Running,
            ctime_ms: 0,
            mtime_ms: 0,
        };
        let pool = |id, port| PoolRecord {
            id: PoolId(id),
            tenant: TenantId(1),
            cluster_id: format!("c{id}"),
            name: format!("n{id}"),
            kind: PoolKind::Compute,
            status: PoolStatus::Normal,
            users: vec!["jack".into()],
            nodes: vec![node(port)],
            ctime_ms: 0,
            mtime_ms: 0,
        };
        let mut pools = Pools::default();
        pools.enter(pool(1, 9050));
        pools.enter(pool(2, 9051));
        let found = |pools: &Pools, at| pools.member("1:acme:n", at).map(|(pool, _)| pool.id.0);
        assert_eq!((found(&pools, "127.0.0.1:9051"), found(&pools, "127.0.0.1:9050"), found(&pools, "")), (Some(2), Some(1), Some(1)));
        assert_eq!((pools.member("1:acme:m", ""), pools.of_user(TenantId(1), "jack")), (None, Some(PoolId(1))));
        assert_eq!(Pools::from(pools.stored().unwrap()), pools);
        pools.leave(PoolId(1));
        assert_eq!((found(&pools, "127.0.0.1:9050"), pools.of_user(TenantId(1), "jack")), (Some(2), Some(PoolId(2))));
        pools.leave(PoolId(2));
        assert_eq!((pools.fresh(), found(&pools, "")), (PoolId(3), None), "numbers are not given again");
    }
}
