//! How much each tenant has: what a quota is compared with. Soft; every member counts, and a leader also what puts in progress were promised.
//!
//! One number of bytes and one of objects, promised and held alike: a put is counted before it is given room, and taken off when it comes to
//! nothing; what it publishes stays counted until it leaves the index. So what is counted is never below what there is.

use crate::apply::State;
use crate::objects::Object;
use arc_swap::ArcSwap;
use perilune_protocol::tenant::Quota;
use perilune_protocol::{ByteSize, Fault, FaultCode, TenantId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What one tenant has. Any thread counts; Relaxed, since the numbers order nothing: each addition is decided by an RMW of its own.
#[derive(Debug, Default)]
pub struct Meter {
    bytes: AtomicU64,
    objects: AtomicU64,
}

impl Meter {
    /// Bytes of values, each copy counted.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Objects, puts in progress among them.
    pub fn objects(&self) -> u64 {
        self.objects.load(Ordering::Relaxed)
    }

    /// One object of so many bytes more, unless that would be more than `quota`; then says what is in the way.
    pub(crate) fn promise(&self, bytes: u64, quota: Quota) -> Result<(), OverQuota> {
        self.promise_bytes(bytes, quota)?;
        add(&self.objects, quota.objects, 1).map_err(|has| {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            OverQuota { has: format!("{has} objects"), quota, of: Limit::Objects }
        })?;
        Ok(())
    }

    fn promise_bytes(&self, bytes: u64, quota: Quota) -> Result<(), OverQuota> {
        let over = |has| OverQuota { has: ByteSize(has).to_string(), quota, of: Limit::Bytes };
        add(&self.bytes, quota.bytes, bytes).map(drop).map_err(over)
    }

    /// An object came that nobody was promised, or left.
    pub(crate) fn count(&self, objects: i64, bytes: i64) {
        self.objects.fetch_add(objects as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Adds to a word unless that would be more than `limit`; then says what it is.
fn add(word: &AtomicU64, limit: Option<u64>, more: u64) -> Result<u64, u64> {
    let below = |now: u64| now.checked_add(more).filter(|sum| limit.is_none_or(|limit| *sum <= limit));
    word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below)
}

/// Bytes that count for a copy which is yet to come; given back when it is there, since then it counts itself, or will not be.
#[must_use]
#[derive(Debug)]
pub struct Promise {
    meter: Arc<Meter>,
    bytes: u64,
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.meter.count(0, -(self.bytes as i64));
    }
}

impl State {
    /// Counts one more copy of so many bytes of what a tenant has.
    ///
    /// # Errors
    /// [`FaultCode::QuotaExceeded`], and what is said of a tenant that is not served.
    pub fn promise_copy(&self, tenant: TenantId, bytes: u64) -> Result<Promise, Fault> {
        let quota = self.directory.may_use(tenant).map(|()| self.directory.known().tenant(tenant).map(|t| t.quota).unwrap_or_default())?;
        let meter = self.meters.of(tenant);
        meter.promise_bytes(bytes, quota).map_err(|over| FaultCode::QuotaExceeded.with(over.to_string()))?;
        Ok(Promise { meter, bytes })
    }
}

/// Why a put was promised nothing.
#[derive(Debug, thiserror::Error)]
#[error("the tenant has {has} and may have {quota}")]
pub struct OverQuota {
    has: String,
    quota: Quota,
    /// Which limit it is.
    pub(crate) of: Limit,
}

/// What a quota limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// Bytes in memory: less where something leaves it.
    Bytes,
    /// Objects, those in vaults among them: fewer only where some are gone altogether.
    Objects,
}

/// What an object counts for, in bytes.
pub(crate) fn weight(object: &Object) -> i64 {
    (object.size * object.replicas.len() as u64) as i64
}

/// The room. A meter is made when its tenant is first met, and stays.
#[derive(Default)]
pub struct Meters {
    by_tenant: ArcSwap<BTreeMap<TenantId, Arc<Meter>>>,
}

impl Meters {
    /// That of one tenant.
    pub fn of(&self, tenant: TenantId) -> Arc<Meter> {
        if let Some(meter) = self.by_tenant.load().get(&tenant) {
            return meter.clone();
        }
        // Who comes first makes it: the map with the others' new meters in it is tried again.
        self.by_tenant.rcu(|map| {
            let mut map = BTreeMap::clone(map);
            map.entry(tenant).or_default();
            map
        });
        self.by_tenant.load().get(&tenant).cloned().unwrap_or_default()
    }

    /// All that were met.
    pub fn all(&self) -> Arc<BTreeMap<TenantId, Arc<Meter>>> {
        self.by_tenant.load_full()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_reached_and_never_passed_however_many_ask() {
        let (meters, quota) = (Meters::default(), Quota { bytes: Some(1000), objects: Some(70) });
        let tenant = TenantId(3);
        let given: u64 = std::thread::scope(|scope| {
            let ask = || (0..100).filter(|_| meters.of(tenant).promise(10, quota).is_ok()).count() as u64;
            let askers: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            askers.into_iter().map(|asker| asker.join().unwrap()).sum()
        });
        let meter = meters.of(tenant);
        assert_eq!((given, meter.objects(), meter.bytes()), (70, 70, 700), "refused for its objects, so its bytes were taken off again");
        assert!(meter.promise(301, Quota { objects: None, ..quota }).unwrap_err().to_string().contains("1000"));
        meter.count(-1, -10);
        assert!(meter.promise(310, Quota { objects: None, ..quota }).is_ok());
        assert_eq!(meters.all().len(), 1);
    }
}
