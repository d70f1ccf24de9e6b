//! One object: an immutable value with two soft words, replaced whole by the next version, or by itself with other copies.

use super::Key;
use crate::MonotonicMs;
use crate::effect::ColdCopy;
use crate::segments::{Reach, Segment};
use perilune_protocol::{Extent, ObjectPlace, Pin, ReplicaPlace, SegmentId, Tso};
use perilune_stdx::lease::LeaseWord;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One copy in memory.
#[derive(Clone)]
pub struct Replica {
    /// The segment it lies on.
    pub segment: Arc<Segment>,
    /// Its pieces in the order of the value.
    pub extents: Box<[Extent]>,
}

impl Replica {
    /// Whether both are the very same bytes. A segment that was lent anew is another, whatever its id.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.segment, &other.segment) && self.extents == other.extents
    }
}

/// A published object.
///
/// | word | written by | meaning |
/// |---|---|---|
/// | `lease` | readers extend it; whoever removes or replaces the object condemns it | readable until, also after it was condemned |
/// | `touched` | readers; the evictor compares | stamp of the last use |
pub struct Object {
    /// The key.
    pub key: Key,
    /// Orders the versions of a key.
    pub version: Tso,
    /// Bytes.
    pub size: u64,
    /// Of the value.
    pub checksum: u64,
    /// Resistance to eviction.
    pub pin: Pin,
    /// How many copies whoever put it asked for.
    pub wanted: u8,
    /// The copies in memory. None at all where it is only in a vault, and on a member that has yet to be told where they went.
    pub replicas: Box<[Replica]>,
    /// The copy in a vault, if there is one: then those in memory may go.
    pub cold: Option<Box<ColdCopy>>,
    lease: LeaseWord,
    touched: AtomicU64,
}

impl Object {
    /// A new version, not leased, last used at stamp `touched`; as many copies are wanted as there are.
    pub fn new(key: Key, version: Tso, size: u64, checksum: u64, pin: Pin, replicas: Box<[Replica]>, touched: u64) -> Self {
        let wanted = u8::try_from(replicas.len()).unwrap_or(u8::MAX);
        let (lease, touched) = (LeaseWord::new(), AtomicU64::new(touched));
        Self { key, version, size, checksum, pin, wanted, replicas, cold: None, lease, touched }
    }

    /// The same version with these copies in memory, in a state in which nobody has a lease on it.
    pub(crate) fn anew(&self, replicas: Box<[Replica]>, touched: u64) -> Self {
        let Self { version, size, checksum, pin, wanted, .. } = *self;
        let (lease, touched) = (LeaseWord::new(), AtomicU64::new(touched));
        Self { key: self.key.clone(), version, size, checksum, pin, wanted, replicas, cold: self.cold.clone(), lease, touched }
    }

    /// The same version with other copies in memory; see [`Object::with`].
    pub(crate) fn with_replicas(&self, replicas: Box<[Replica]>) -> Self {
        self.with(replicas, self.cold.clone())
    }

    /// The same version with other copies, leased and used as this one was until now; condemned if this one is.
    pub(crate) fn with(&self, replicas: Box<[Replica]>, cold: Option<Box<ColdCopy>>) -> Self {
        let form = Self { cold, ..self.anew(replicas, self.touched()) };
        form.lease.grant(self.lease.until());
        if self.lease.is_condemned() {
            form.lease.condemn_by_force();
        }
        form
    }

    /// Apply: this form is visible in the place of `old`, which shall promise nothing more. What it promised holds here as well, and if
    /// somebody condemned it meanwhile, that is true of this form. Gives the end of the last lease on `old`.
    pub(crate) fn succeed(&self, old: &Self) -> MonotonicMs {
        if old.lease.condemn_by_force().is_none() {
            self.lease.condemn_by_force();
        }
        let until = old.lease.until();
        self.lease.inherit(until);
        self.touched.fetch_max(old.touched(), Ordering::Relaxed);
        until
    }

    /// The copy on this segment.
    pub fn replica_on(&self, segment: SegmentId) -> Option<&Replica> {
        self.replicas.iter().find(|r| r.segment.id() == segment)
    }

    /// Whether a copy can be read now.
    pub fn readable(&self) -> bool {
        !self.lease.is_condemned() && self.replicas.iter().any(|r| r.segment.readable())
    }

    /// Whether it can be read now, or once it is fetched from its vault.
    pub fn reachable(&self) -> bool {
        self.readable() || (self.cold.is_some() && !self.lease.is_condemned())
    }

    /// Whether nothing of it is in memory by design.
    pub fn is_only_cold(&self) -> bool {
        self.replicas.is_empty() && self.cold.is_some()
    }

    /// Keeps the object readable until `until` and marks it used. False when it is being removed, or no copy can be read.
    pub fn grant(&self, until: MonotonicMs, stamp: u64) -> bool {
        if !self.replicas.iter().any(|r| r.segment.readable()) || !self.lease.grant(until) {
            return false;
        }
        self.used(stamp);
        true
    }

    /// Last used at `stamp`, unless later.
    pub(crate) fn used(&self, stamp: u64) {
        self.touched.fetch_max(stamp, Ordering::Relaxed);
    }

    /// From now on no lease is granted. Refused while one runs, unless `force`; then the space is held until it ends.
    /// The `Err` says until when.
    pub fn condemn(&self, now: MonotonicMs, force: bool) -> Result<(), MonotonicMs> {
        if !force {
            return self.lease.condemn(now);
        }
        self.lease.condemn_by_force();
        Ok(())
    }

    /// Apply: until when a lease that was granted must be honoured.
    pub(crate) fn retire(&self) -> MonotonicMs {
        self.lease.condemn_by_force();
        self.lease.until()
    }

    /// Bytes that leaving would give back to memory that can be allocated from.
    pub fn frees(&self) -> u64 {
        self.size * self.replicas.iter().filter(|r| r.segment.allocatable()).count() as u64
    }

    /// Whether this leader let someone read until later than `now`. For what leaders before allowed: [`crate::State::is_leased`].
    pub fn leased(&self, now: MonotonicMs) -> bool {
        self.lease.until() > now
    }

    /// Whether the object is being removed.
    pub fn is_condemned(&self) -> bool {
        self.lease.is_condemned()
    }

    /// The stamp of the last use.
    pub fn touched(&self) -> u64 {
        self.touched.load(Ordering::Relaxed)
    }

    /// The answer to "where is it" for what has to be fetched from its vault first: no copies, and no lease.
    pub(crate) fn cold_place(&self) -> ObjectPlace {
        ObjectPlace { version: self.version, size: self.size, checksum: self.checksum, lease_ms: 0, replicas: Vec::new() }
    }

    /// The answer to "where is it": copies that can be read, those on suspect nodes only when there is no other.
    pub fn place(&self, lease_ms: u64) -> ObjectPlace {
        let alive = |r: &&Replica| r.segment.readable() && r.segment.reach() == Reach::Alive;
        let pick = |filter: &dyn Fn(&&Replica) -> bool| -> Vec<ReplicaPlace> {
            self.replicas.iter().filter(filter).map(|r| ReplicaPlace { segment: r.segment.id(), extents: r.extents.to_vec() }).collect()
        };
        let mut replicas = pick(&alive);
        if replicas.is_empty() {
            replicas = pick(&|r| r.segment.readable());
        }
        ObjectPlace { version: self.version, size: self.size, checksum: self.checksum, lease_ms, replicas }
    }
}

#[cfg(test)]
impl Object {
    /// Leased without a readable replica.
    pub(crate) fn lease_for_test(&self, until: MonotonicMs) {
        self.lease.grant(until);
    }
}
