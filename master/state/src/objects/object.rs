//! One object: an immutable value with two soft words, replaced whole by the next version, or by itself with other copies.

use super::key::Keyed;
use super::{Few, Key};
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
    pub extents: Few<Extent>,
}

impl Replica {
    /// Whether both are the very same bytes. A segment that was lent anew is another, whatever its id.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.segment, &other.segment) && self.extents == other.extents
    }
}

/// A published object. There are millions of these, so one with one copy in one piece is two allocations: this, and its key.
///
/// | word | written by | meaning |
/// |---|---|---|
/// | `lease` | readers extend it; whoever removes or replaces the object condemns it | readable until, also after it was condemned |
/// | `uses` | readers; the evictor compares | stamp of the last use |
pub struct Object {
    /// The key.
    pub key: Key,
    /// Orders the versions of a key.
    pub version: Tso,
    /// Bytes.
    pub size: u64,
    /// Of the value.
    pub checksum: u64,
    /// The copies in memory. None at all where it is only in a vault, and on a member that has yet to be told where they went.
    pub replicas: Few<Replica>,
    /// The copy in a vault, if there is one: then those in memory may go.
    pub cold: Option<Box<ColdCopy>>,
    lease: LeaseWord,
    uses: Uses,
}

/// The stamp of the last use and, in bits that no stamp reaches, what never changes: for that the object would need another word.
///
/// ```text
///   63   62 61         54 53                        0
///  +-------+-------------+---------------------------+
///  |  pin  |   wanted    |  stamp of the last use    |
///  +-------+-------------+---------------------------+
/// ```
struct Uses(AtomicU64);

impl Uses {
    const STAMP: u64 = (1 << 54) - 1;

    fn new(pin: Pin, wanted: u8, stamp: u64) -> Self {
        let pin = match pin {
            Pin::None => 0,
            Pin::Soft => 1,
            Pin::Hard => 2,
        };
        Self(AtomicU64::new(pin << 62 | u64::from(wanted) << 54 | stamp.min(Self::STAMP)))
    }

    /// Relaxed: a stamp says nothing of other data.
    fn word(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn pin(&self) -> Pin {
        match self.word() >> 62 {
            0 => Pin::None,
            1 => Pin::Soft,
            _ => Pin::Hard,
        }
    }

    fn wanted(&self) -> u8 {
        (self.word() >> 54) as u8
    }

    fn stamp(&self) -> u64 {
        self.word() & Self::STAMP
    }

    fn raise(&self, stamp: u64) {
        self.0.fetch_max(self.word() & !Self::STAMP | stamp.min(Self::STAMP), Ordering::Relaxed);
    }
}

impl Keyed for Object {
    fn key(&self) -> &Key {
        &self.key
    }
}

impl Object {
    /// A new version, not leased, last used at stamp `touched`; as many copies are wanted as there are.
    pub fn new(key: Key, version: Tso, size: u64, checksum: u64, pin: Pin, replicas: Few<Replica>, touched: u64) -> Self {
        let wanted = u8::try_from(replicas.len()).unwrap_or(u8::MAX);
        let (lease, uses) = (LeaseWord::new(), Uses::new(pin, wanted, touched));
        Self { key, version, size, checksum, replicas, cold: None, lease, uses }
    }

    /// The same, of which so many copies are wanted.
    pub(crate) fn wanting(self, copies: u8) -> Self {
        Self { uses: Uses::new(self.pin(), copies, self.touched()), ..self }
    }

    /// The same version with these copies in memory, in a state in which nobody has a lease on it.
    pub(crate) fn anew(&self, replicas: Few<Replica>, touched: u64) -> Self {
        let Self { version, size, checksum, .. } = *self;
        let (lease, uses) = (LeaseWord::new(), Uses::new(self.pin(), self.wanted(), touched));
        Self { key: self.key.clone(), version, size, checksum, replicas, cold: self.cold.clone(), lease, uses }
    }

    /// Resistance to eviction.
    pub fn pin(&self) -> Pin {
        self.uses.pin()
    }

    /// How many copies whoever put it asked for.
    pub fn wanted(&self) -> u8 {
        self.uses.wanted()
    }

    /// The same version with other copies in memory; see [`Object::with`].
    pub(crate) fn with_replicas(&self, replicas: Few<Replica>) -> Self {
        self.with(replicas, self.cold.clone())
    }

    /// The same version with other copies, leased and used as this one was until now; condemned if this one is.
    pub(crate) fn with(&self, replicas: Few<Replica>, cold: Option<Box<ColdCopy>>) -> Self {
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
        self.used(old.touched());
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
        self.uses.raise(stamp);
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
        self.uses.stamp()
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::size_of;

    /// What `docs/architecture.md` says an object takes; more is a decision, not an accident.
    #[test]
    fn an_object_with_its_counts_fits_into_120_bytes() {
        assert_eq!((size_of::<Key>(), size_of::<Few<Extent>>(), size_of::<Few<Replica>>()), (24, 24, 32));
        assert_eq!(size_of::<Object>() + 2 * size_of::<usize>(), 120);
    }

    #[test]
    fn a_use_changes_neither_pin_nor_wanted_copies() {
        for pin in [Pin::None, Pin::Soft, Pin::Hard] {
            for wanted in [0, 1, 7, u8::MAX] {
                let uses = Uses::new(pin, wanted, 5);
                for (stamp, last) in [(4, 5), (6, 6), (Uses::STAMP, Uses::STAMP), (u64::MAX, Uses::STAMP)] {
                    uses.raise(stamp);
                    assert_eq!((uses.pin(), uses.wanted(), uses.stamp()), (pin, wanted, last));
                }
            }
        }
    }
}
