//! The rules about tenants: whose is what, how much of it there may be, and who may have none.

use super::oracle::{Check, Key};
use perilune_protocol::tenant::Quota;
use perilune_protocol::{FaultCode, Outcome, ReplicaPlace, SegmentId, TenantId, Tso, tenant};
use perilune_state::directory::{Change, PoolId, PoolRecord, PoolStatus, TableId, TenantRecord, TenantStatus};
use std::collections::{BTreeMap, BTreeSet};

/// A put is given room by the quota of a moment, and may be published so long after that one was lowered.
const PROMISED_MS: u64 = 20_000;

/// The directory as the log tells, and what was told of it.
#[derive(Default)]
pub(super) struct Owners {
    tenants: BTreeMap<TenantId, TenantRecord>,
    /// What was allowed, and since when.
    quotas: BTreeMap<TenantId, Vec<(u64, Quota)>>,
    pools: BTreeMap<PoolId, PoolRecord>,
    tables: BTreeMap<TableId, (TenantId, String)>,
    /// Whose a segment is, and what its node presents.
    segments: BTreeMap<SegmentId, (TenantId, String)>,
    /// Since when nothing may be added: somebody was told so.
    refused: BTreeMap<TenantId, u64>,
    /// The same for pools.
    asleep: BTreeMap<PoolId, u64>,
    /// Puts that somebody was told are ended.
    aborted: BTreeSet<Tso>,
}

impl Owners {
    /// The tenant of this name, as far as the log says.
    pub(super) fn named(&self, name: &str) -> Option<TenantId> {
        if name == tenant::DEFAULT {
            return Some(TenantId::default());
        }
        self.tenants.values().find(|t| t.name == name).map(|t| t.id)
    }

    pub(super) fn name_of(&self, id: TenantId) -> Option<String> {
        self.tenants.get(&id).map(|tenant| tenant.name.clone())
    }

    /// Whether it ever declared a table.
    pub(super) fn has_tables(&self, id: TenantId) -> bool {
        self.tables.values().any(|(tenant, _)| *tenant == id)
    }

    pub(super) fn status(&self, id: TenantId) -> TenantStatus {
        self.tenants.get(&id).map_or(TenantStatus::Normal, |t| t.status)
    }

    /// Whether its keys are served.
    pub(super) fn is_served(&self, id: TenantId) -> bool {
        matches!(self.status(id), TenantStatus::Normal | TenantStatus::Overdue)
    }

    /// Dropped tenants of which something may be left.
    pub(super) fn dropped(&self) -> Vec<String> {
        self.tenants.values().filter(|t| t.status == TenantStatus::Deleted).map(|t| t.name.clone()).collect()
    }

    /// Those of which nothing may be left.
    pub(super) fn gone(&self) -> impl Iterator<Item = &TenantRecord> {
        self.tenants.values().filter(|t| t.status == TenantStatus::Gone)
    }

    pub(super) fn lent(&mut self, segment: SegmentId, tenant: TenantId, unique_id: &str) {
        // Described anew, it stays whose it is.
        self.segments.entry(segment).or_insert_with(|| (tenant, unique_id.into()));
    }

    pub(super) fn left(&mut self, segment: SegmentId) {
        self.segments.remove(&segment);
    }

    pub(super) fn segments_of(&self, tenant: TenantId) -> impl Iterator<Item = SegmentId> {
        self.segments.iter().filter(move |(_, (of, _))| *of == tenant).map(|(segment, _)| *segment)
    }

    /// "numbers are given once": of tenants and tables, and names of tenants. Gives the tenant that is gone from now on.
    pub(super) fn enter(&mut self, now: u64, change: Change) -> Result<Option<TenantRecord>, super::oracle::Broken> {
        match change {
            Change::Tenant(record) | Change::TenantVaults(record, _) => return self.enter_tenant(now, record),
            Change::Pool(record) | Change::PoolUsers(record) => {
                if record.status == PoolStatus::Normal {
                    self.asleep.remove(&record.id);
                }
                self.pools.insert(record.id, record);
            }
            Change::PoolGone(id) => {
                self.pools.remove(&id);
                self.asleep.remove(&id);
            }
            Change::Table(record) => {
                let (is, newest) = ((record.tenant, record.name.clone()), self.tables.last_key_value().map(|(id, _)| *id));
                let again = self.tables.get(&record.id).is_some_and(|was| *was != is || !record.dropped);
                if again || !self.tables.contains_key(&record.id) && newest.is_some_and(|newest| newest > record.id) {
                    return Err(("numbers are given once", format!("table {record:?} has a number that another had")));
                }
                self.tables.insert(record.id, is);
            }
            Change::Vaults(_) | Change::Feed(_) | Change::FeedGone(_) => {}
        }
        Ok(None)
    }

    fn enter_tenant(&mut self, now: u64, record: TenantRecord) -> Result<Option<TenantRecord>, super::oracle::Broken> {
        use TenantStatus::{Deleted, Gone, Normal, Overdue};
        let again = |what: &str| Err(("numbers are given once", format!("{what}: {record:?}")));
        match self.tenants.get(&record.id) {
            Some(was) if was.name != record.name => return again("a tenant has the number of another"),
            Some(was) if matches!((was.status, record.status), (Gone, _) | (Deleted, Normal | Overdue)) => {
                return again("a tenant that was dropped is there again");
            }
            None if record.name != tenant::DEFAULT && self.named(&record.name).is_some() => return again("a name is given twice"),
            None if self.tenants.last_key_value().is_some_and(|(newest, _)| *newest > record.id && record.id.0 > 0) => {
                return again("a number is given that is not new");
            }
            _ => {}
        }
        if record.status == Normal {
            self.refused.remove(&record.id);
        }
        self.quotas.entry(record.id).or_insert_with(|| vec![(0, Quota::default())]).push((now, record.quota));
        let gone = (record.status == Gone).then(|| record.clone());
        self.tenants.insert(record.id, record);
        Ok(gone)
    }

    /// "never above a quota": what is published beside what there is.
    pub(super) fn fits(&self, now: u64, tenant: TenantId, objects: u64, bytes: u64) -> Check {
        let Some(all) = self.quotas.get(&tenant) else { return Ok(()) };
        // Until when each was in force: until the next began.
        let ends = all.iter().skip(1).map(|(since, _)| *since).chain([u64::MAX]);
        let lately = all.iter().zip(ends).filter(|(_, end)| *end > now.saturating_sub(PROMISED_MS)).map(|((_, quota), _)| quota);
        let within = |quota: &Quota| quota.bytes.is_none_or(|most| bytes <= most) && quota.objects.is_none_or(|most| objects <= most);
        let quotas: Vec<&Quota> = lately.collect();
        if quotas.iter().any(|quota| within(quota)) {
            return Ok(());
        }
        Err(("never above a quota", format!("tenant {} has {objects} objects of {bytes} bytes, and may have {quotas:?}", tenant.0)))
    }

    /// "a tenant's bytes lie in its own memory".
    pub(super) fn lies(&self, key: &Key, places: &[ReplicaPlace]) -> Check {
        let stray = places.iter().find(|place| self.segments.get(&place.segment).is_some_and(|(tenant, _)| *tenant != key.tenant));
        match stray {
            None => Ok(()),
            Some(place) => Err(("a tenant's bytes lie in its own memory", format!("{key} lies in {place:?}"))),
        }
    }

    /// Somebody was told that a tenant may have no more.
    pub(super) fn refuse(&mut self, now: u64, tenant: TenantId) {
        if self.status(tenant) != TenantStatus::Normal {
            self.refused.entry(tenant).or_insert(now);
        }
    }

    /// Somebody was told that the pools of a tenant sleep.
    pub(super) fn sleep(&mut self, now: u64, tenant: TenantId) {
        for pool in self.pools.values().filter(|pool| pool.tenant == tenant && pool.status == PoolStatus::Suspended) {
            self.asleep.entry(pool.id).or_insert(now);
        }
    }

    /// "who may have no room gets none", and "no new extent in a pool that sleeps", for what was asked for after somebody knew.
    pub(super) fn granted(&self, asked: u64, key: &Key, places: &[ReplicaPlace]) -> Check {
        if let Some(since) = self.refused.get(&key.tenant).filter(|since| **since < asked) {
            let what = format!("{key} was given room, asked for at {asked}; its tenant may have none since {since}");
            return Err(("who may have no room gets none", what));
        }
        for place in places {
            let Some((_, unique_id)) = self.segments.get(&place.segment).filter(|(_, unique_id)| !unique_id.is_empty()) else { continue };
            let pool = self.pools.values().find(|pool| pool.nodes.iter().any(|node| node.unique_id == *unique_id));
            if let Some(since) = pool.and_then(|pool| self.asleep.get(&pool.id)).filter(|since| **since < asked) {
                let what = format!("{key} was given {place:?}, asked for at {asked}; the pool sleeps since {since}");
                return Err(("no new extent in a pool that sleeps", what));
            }
        }
        Ok(())
    }

    /// Somebody was told that a put is ended.
    pub(super) fn abort(&mut self, version: Tso) {
        self.aborted.insert(version);
    }

    /// "the writer of what was aborted is told". Of a put of which somebody knew that it was aborted before its writer asked.
    pub(super) fn tells(&self, version: Tso, told: &Outcome<()>) -> Check {
        match told {
            Err(fault) if fault.code != FaultCode::InvalidWrite => Ok(()),
            _ => Err(("the writer of what was aborted is told", format!("of {} it is told {told:?}", version.0))),
        }
    }

    /// Whether somebody was told that this put is ended.
    pub(super) fn is_aborted(&self, version: Tso) -> bool {
        self.aborted.contains(&version)
    }

    /// "what was aborted is not published".
    pub(super) fn publishes(&self, key: &Key, version: Tso) -> Check {
        match self.aborted.contains(&version) {
            false => Ok(()),
            true => Err(("what was aborted is not published", format!("{key} {} is published", version.0))),
        }
    }

    /// "what is dropped is emptied": a tenant is gone, and neither memory nor vault has anything of it.
    pub(super) fn emptied(&self, gone: &TenantRecord, objects: usize, vault: Option<String>) -> Check {
        let left = match (objects, self.segments_of(gone.id).next(), vault) {
            (0, None, None) => return Ok(()),
            (0, None, Some(left)) => format!("{left} is in its vault"),
            (0, Some(segment), _) => format!("segment {segment} is lent to it"),
            (objects, ..) => format!("{objects} objects are there"),
        };
        Err(("what is dropped is emptied", format!("tenant {} is gone, and {left}", gone.name)))
    }
}
