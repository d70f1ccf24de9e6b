//! What may become of pools and of the nodes registered in them: a request in, the change to log or a refusal out.

use super::asked::{Described, Meant, PoolRefused};
use super::decide::{Decision, Refused, TEXT_BYTES_MAX};
use super::pool::{NodeKind, NodeRecord, NodeStatus, PoolKind, PoolRecord, PoolStatus};
use super::record::{Change, Known, TenantRecord};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Most pools there may be: all are copied whenever one changes.
const POOLS_MAX: usize = 10_000;
/// Most nodes of one pool, and most users: they are one entry of the log.
const NODES_MAX: usize = 4096;

impl Known {
    /// A pool begins, with the nodes it has.
    ///
    /// # Errors
    /// [`Refused::Pool`], [`Refused::Unknown`], [`Refused::Dropped`], [`Refused::Wrong`].
    pub fn add_pool(&self, meant: Meant<'_>, kind: PoolKind, users: &[String], nodes: &[Described], now_ms: u64) -> Decision {
        check_name(meant.name)?;
        check_id(meant.cluster_id)?;
        check_users(users)?;
        if kind == PoolKind::Sql {
            let count = |kind| nodes.iter().filter(|node| node.kind == Some(kind)).count();
            let (masters, followers) = (count(NodeKind::Master), count(NodeKind::Follower));
            check_masters(masters, followers)?;
        }
        let nodes = read(kind, nodes, NodeStatus::Unknown, now_ms)?;
        let tenant = self.living(meant.tenant)?;
        self.check_free(tenant, &nodes)?;
        if let Some(other) = self.pools_of(tenant.id).find(|pool| pool.cluster_id == meant.cluster_id) {
            return Err(PoolRefused::IdTaken(other.cluster_id.clone()).into());
        }
        if let Some(other) = self.pools_of(tenant.id).find(|pool| pool.name == meant.name) {
            return Err(PoolRefused::NameTaken(other.name.clone()).into());
        }
        self.check_places(tenant, kind, &nodes)?;
        if self.pools().count() >= POOLS_MAX || nodes.len() > NODES_MAX || users.len() > NODES_MAX {
            return Err(too_many());
        }
        Ok(Some(self.entering(PoolRecord {
            id: self.fresh_pool(),
            tenant: tenant.id,
            cluster_id: meant.cluster_id.into(),
            name: meant.name.into(),
            kind,
            status: if kind == PoolKind::Compute { PoolStatus::Normal } else { PoolStatus::Unknown },
            users: once_each(users),
            nodes,
            ctime_ms: now_ms,
            mtime_ms: now_ms,
        })))
    }

    /// A pool ends: what its nodes lend is emptied. Frontends that were registered less than `young_ms` ago stay.
    ///
    /// # Errors
    /// As [`Known::add_pool`].
    pub fn drop_pool(&self, meant: Meant<'_>, young_ms: u64, now_ms: u64) -> Decision {
        let pool = self.meant(meant)?;
        too_young(pool, pool.nodes.iter(), young_ms, now_ms)?;
        Ok(Some(Change::PoolGone(pool.id)))
    }

    /// The pool of this id is called `name` from now on.
    ///
    /// # Errors
    /// As [`Known::add_pool`].
    pub fn rename_pool(&self, tenant: &str, cluster_id: &str, name: &str, now_ms: u64) -> Decision {
        let pool = self.meant(Meant { tenant, cluster_id, name: "" })?;
        if pool.name == name {
            return Err(PoolRefused::SameName(Box::new(pool.clone())).into());
        }
        check_name(name)?;
        if self.pools_of(pool.tenant).any(|other| other.name == name) {
            return Err(PoolRefused::NameTaken(name.into()).into());
        }
        changed(pool, now_ms, |pool| pool.name = name.into())
    }

    /// More nodes; all or none.
    ///
    /// # Errors
    /// As [`Known::add_pool`].
    pub fn add_nodes(&self, meant: Meant<'_>, nodes: &[Described], now_ms: u64) -> Decision {
        let pool = self.meant(meant)?;
        if nodes.is_empty() {
            return Err(PoolRefused::NoNodes.into());
        }
        let nodes = read(pool.kind, nodes, NodeStatus::Running, now_ms)?;
        let tenant = self.living(meant.tenant)?;
        self.check_free(tenant, &nodes)?;
        self.check_places(tenant, pool.kind, &nodes)?;
        if pool.nodes.len() + nodes.len() > NODES_MAX {
            return Err(too_many());
        }
        changed_nodes(pool, now_ms, |all| all.extend(nodes))
    }

    /// These nodes go: what they lend is emptied. Frontends as in [`Known::drop_pool`].
    ///
    /// # Errors
    /// As [`Known::add_pool`].
    pub fn drop_nodes(&self, meant: Meant<'_>, nodes: &[Described], young_ms: u64, now_ms: u64) -> Decision {
        let (pool, going) = self.registered(meant, nodes, now_ms)?;
        too_young(pool, going.iter().map(|at| &pool.nodes[*at]), young_ms, now_ms)?;
        changed_nodes(pool, now_ms, |all| {
            let mut at = 0..;
            all.retain(|_| at.next().is_none_or(|at| !going.contains(&at)));
        })
    }

    /// What these nodes lend is emptied; they stay registered, and lend nothing more. Twice is as good as once.
    ///
    /// # Errors
    /// As [`Known::add_pool`].
    pub fn decommission(&self, meant: Meant<'_>, nodes: &[Described], now_ms: u64) -> Decision {
        let (pool, leaving) = self.registered(meant, nodes, now_ms)?;
        if pool.kind != PoolKind::Compute {
            return Err(PoolRefused::NotCompute.into());
        }
        if leaving.iter().all(|at| !pool.nodes[*at].lends()) {
            return Ok(None);
        }
        let leaving: Vec<_> = leaving.into_iter().filter(|at| pool.nodes[*at].lends()).collect();
        changed(pool, now_ms, |pool| leaving.iter().for_each(|at| set_status(&mut pool.nodes[*at], NodeStatus::Decommissioning, now_ms)))
    }

    /// A node that was to be emptied lends nothing any more.
    pub fn emptied(&self, pool: &PoolRecord, node: &NodeRecord, now_ms: u64) -> Decision {
        let is_it = |known: &&NodeRecord| known.unique_id == node.unique_id && known.is_at(node) && known.status == node.status;
        let Some(pool) = self.pool(pool.id).filter(|pool| pool.nodes.iter().any(|known| is_it(&known))) else { return Ok(None) };
        changed(pool, now_ms, |pool| {
            let found = pool.nodes.iter_mut().find(|known| is_it(&&**known));
            found.into_iter().for_each(|node| set_status(node, NodeStatus::Decommissioned, now_ms));
        })
    }

    /// Whose puts go to this pool where nothing else says where: these and no others. They leave the pools of the tenant that they were of.
    ///
    /// # Errors
    /// As [`Known::add_pool`].
    pub fn set_users(&self, meant: Meant<'_>, users: &[String], now_ms: u64) -> Decision {
        if users.is_empty() {
            return Err(PoolRefused::NoUsers.into());
        }
        check_users(users)?;
        if users.len() > NODES_MAX {
            return Err(too_many());
        }
        let (pool, users) = (self.meant(meant)?, once_each(users));
        if pool.users == users {
            return Ok(None);
        }
        Ok(Some(self.entering(renewed(pool, now_ms, |pool| pool.users = users))))
    }

    /// A pool as it is from now on. What releases before do not read is said only where a user moves.
    fn entering(&self, pool: PoolRecord) -> Change {
        let moves = self.pools_of(pool.tenant).any(|other| other.shares_users(&pool));
        if moves { Change::PoolUsers(pool) } else { Change::Pool(pool) }
    }

    /// A pool of store nodes falls asleep, or is woken.
    ///
    /// # Errors
    /// As [`Known::add_pool`].
    pub fn set_pool_status(&self, meant: Meant<'_>, status: PoolStatus, now_ms: u64) -> Decision {
        let pool = self.meant(meant)?;
        let refused = match pool.status {
            _ if pool.kind != PoolKind::Compute => PoolRefused::NotCompute,
            from if from == status => PoolRefused::SameStatus(from),
            from if !from.may_become(status) => PoolRefused::Status(from),
            _ => return changed(pool, now_ms, |pool| pool.status = status),
        };
        Err(refused.into())
    }

    fn meant(&self, meant: Meant<'_>) -> Result<&PoolRecord, Refused> {
        let tenant = self.living(meant.tenant)?;
        let found = self.pools_of(tenant.id).find(|pool| pool.cluster_id == meant.cluster_id);
        found.filter(|pool| meant.name.is_empty() || pool.name == meant.name).ok_or_else(|| PoolRefused::Unknown.into())
    }

    /// The pool that is meant, and which of its nodes are.
    fn registered(&self, meant: Meant<'_>, nodes: &[Described], now_ms: u64) -> Result<(&PoolRecord, BTreeSet<usize>), Refused> {
        let pool = self.meant(meant)?;
        if nodes.is_empty() {
            return Err(PoolRefused::NoNodes.into());
        }
        let mut found = BTreeSet::new();
        for node in nodes {
            let node = record(pool.kind, node, NodeStatus::Unknown, now_ms);
            let at = pool.nodes.iter().position(|known| known.unique_id == node.unique_id && known.is_at(&node));
            found.insert(at.ok_or_else(|| PoolRefused::NoNode(node.unique_id.clone()))?);
        }
        Ok((pool, found))
    }

    /// What a node presents is one tenant's.
    fn check_free(&self, tenant: &TenantRecord, nodes: &[NodeRecord]) -> Result<(), PoolRefused> {
        let taken = nodes.iter().find_map(|node| self.member(&node.unique_id, "").filter(|(pool, _)| pool.tenant != tenant.id));
        occupied(taken)
    }

    /// No two nodes of one kind are at one place, and none is registered twice.
    fn check_places(&self, tenant: &TenantRecord, kind: PoolKind, nodes: &[NodeRecord]) -> Result<(), PoolRefused> {
        occupied(nodes.iter().find_map(|node| self.member(&node.unique_id, &node.endpoint()).filter(|(_, known)| known.is_at(node))))?;
        let registered = self.pools_of(tenant.id).filter(|pool| pool.kind == kind).flat_map(|pool| &pool.nodes);
        let mut places: BTreeSet<String> = registered.flat_map(NodeRecord::endpoints).collect();
        for node in nodes {
            if let Some(place) = node.endpoints().find(|place| places.contains(place)) {
                return Err(PoolRefused::EndpointTaken(place, kind));
            }
            places.extend(node.endpoints());
        }
        Ok(())
    }
}

fn occupied(taken: Option<(&PoolRecord, &NodeRecord)>) -> Result<(), PoolRefused> {
    taken.map_or(Ok(()), |(pool, node)| Err(PoolRefused::Occupied { unique_id: node.unique_id.clone(), pool: Box::new(pool.clone()) }))
}

fn read(kind: PoolKind, nodes: &[Described], status: NodeStatus, now_ms: u64) -> Result<Vec<NodeRecord>, PoolRefused> {
    let mut records = Vec::with_capacity(nodes.len());
    for (nth, node) in nodes.iter().enumerate() {
        let named = !node.unique_id.is_empty() && (!node.ip.is_empty() || !node.host.is_empty());
        let plain = check_id(&node.unique_id).is_ok() && [&node.ip, &node.host].iter().all(|text| text.is_empty() || is_host(text));
        let of_kind = (kind == PoolKind::Sql) == matches!(node.kind, Some(NodeKind::Master | NodeKind::Observer | NodeKind::Follower));
        if !(named && plain && of_kind) {
            return Err(PoolRefused::BadNode(nth));
        }
        if node.port.is_none_or(|port| port == 0) {
            return Err(PoolRefused::NoPort(nth));
        }
        records.push(record(kind, node, status, now_ms));
    }
    Ok(records)
}

fn record(kind: PoolKind, node: &Described, status: NodeStatus, now_ms: u64) -> NodeRecord {
    NodeRecord {
        unique_id: node.unique_id.clone(),
        ip: node.ip.clone(),
        host: node.host.clone(),
        port: node.port.unwrap_or(0),
        kind: if kind == PoolKind::Compute { NodeKind::Compute } else { node.kind.unwrap_or(NodeKind::Observer) },
        status,
        ctime_ms: now_ms,
        mtime_ms: now_ms,
    }
}

fn renewed(pool: &PoolRecord, now_ms: u64, change: impl FnOnce(&mut PoolRecord)) -> PoolRecord {
    let mut record = pool.clone();
    change(&mut record);
    // The clock of one leader may be behind that of the one before.
    record.mtime_ms = now_ms.max(pool.mtime_ms);
    record
}

fn changed(pool: &PoolRecord, now_ms: u64, change: impl FnOnce(&mut PoolRecord)) -> Decision {
    Ok(Some(Change::Pool(renewed(pool, now_ms, change))))
}

/// The same for what may leave frontends without a master.
fn changed_nodes(pool: &PoolRecord, now_ms: u64, change: impl FnOnce(&mut Vec<NodeRecord>)) -> Decision {
    let mut nodes = pool.nodes.clone();
    change(&mut nodes);
    if pool.kind == PoolKind::Sql {
        let count = |kind| nodes.iter().filter(|node| node.kind == kind).count();
        check_masters(count(NodeKind::Master), count(NodeKind::Follower))?;
    }
    changed(pool, now_ms, |pool| pool.nodes = nodes)
}

fn check_masters(masters: usize, followers: usize) -> Result<(), PoolRefused> {
    let right = if followers > 0 { masters == 0 } else { masters == 1 };
    if right { Ok(()) } else { Err(PoolRefused::Masters { masters, followers }) }
}

fn set_status(node: &mut NodeRecord, status: NodeStatus, now_ms: u64) {
    (node.status, node.mtime_ms) = (status, now_ms.max(node.mtime_ms));
}

/// Frontends that go were not registered a moment ago.
fn too_young<'a>(
    pool: &PoolRecord,
    mut going: impl Iterator<Item = &'a NodeRecord>,
    young_ms: u64,
    now_ms: u64,
) -> Result<(), PoolRefused> {
    let young = going.find(|node| node.kind != NodeKind::Compute && now_ms.saturating_sub(node.ctime_ms) < young_ms);
    young.map_or(Ok(()), |node| Err(PoolRefused::TooYoung(Box::new(pool.clone()), Box::new(node.clone()))))
}

fn once_each(users: &[String]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    users.iter().filter(|user| seen.insert(*user)).cloned().collect()
}

fn check_users(users: &[String]) -> Result<(), Refused> {
    if users.iter().any(|user| user.trim().is_empty()) {
        return Err(PoolRefused::NoUsers.into());
    }
    users.iter().try_for_each(|user| check_text(user))
}

fn check_name(name: &str) -> Result<(), PoolRefused> {
    let plain = name.len() <= TEXT_BYTES_MAX && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if plain && name.starts_with(|first: char| first.is_ascii_alphabetic()) { Ok(()) } else { Err(PoolRefused::Name) }
}

fn check_text(text: &str) -> Result<(), Refused> {
    super::decide::check_text("an id or a name", text)
}

/// Whoever makes a path of an id stays where it was.
fn check_id(id: &str) -> Result<(), Refused> {
    check_text(id)?;
    match ["/", "\\", ".."].iter().find(|part| id.contains(**part)) {
        None => Ok(()),
        Some(part) => Err(Refused::Wrong(format!("an id cannot have {part:?} in it"))),
    }
}

/// An address, or the name of a machine (RFC 1123, and `_` as containers have it), which is not numbers with dots between.
fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        let plain = (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        plain && !label.starts_with('-') && !label.ends_with('-')
    };
    let is_name = text.len() <= 253 && text.split('.').all(is_label);
    let is_number = |label: &str| label.bytes().all(|b| b.is_ascii_digit());
    // With a port behind it, one of the sixth version stands in brackets.
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).filter(|bare| bare.contains(':')).unwrap_or(text);
    bare.parse::<IpAddr>().is_ok() || (is_name && !(text.contains('.') && text.split('.').all(is_number)))
}

fn too_many() -> Refused {
    Refused::Wrong(format!("there are up to {POOLS_MAX} pools, and up to {NODES_MAX} nodes and users in each"))
}
