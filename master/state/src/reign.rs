//! How a state comes to lead. A change of leaders must not take longer the more objects there are, so nothing here walks them, except
//! where a state has to be copied first ([`crate::snapshot::copy`]), which a member does while it follows.
//!
//! | a state | the space of an object | how that ends |
//! |---|---|---|
//! | follows | is taken when the object comes and given back when it goes, at once; what lies in its way is to go first | [`State::begin`] |
//! | leads | was taken by the put before, and is held after the object went until its last lease has ended | [`State::follow`] |
//! | is loose | is not looked after: it led once, and what its puts took is still taken | with a copy of it |

use crate::MonotonicMs;
use crate::apply::State;
use crate::meter::weight;
use crate::objects::limbo::Why;
use crate::objects::{Object, Replica};
use perilune_protocol::{ObjectKey, SegmentId, Tso};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Which of the three a state is, and what it found when it began to lead.
///
/// `footing`: written by apply and by those who exclude it; read by anyone. The rest is written once, in [`State::prepare`].
#[derive(Default)]
pub(crate) struct Reign {
    footing: AtomicU8,
    began: AtomicU64,
    /// The last version that leaders before may have given.
    inherited: AtomicU64,
    /// Copies in whose way the space of others lies. Written by apply while it follows; a snapshot may know an object as it was later, and
    /// where it is then another that has yet to go.
    unsettled: Mutex<Vec<Replica>>,
}

const FOLLOWS: u8 = 0;
const LEADS: u8 = 1;
const LOOSE: u8 = 2;

impl Reign {
    /// Gives back what copies have, and settles those in whose way it was.
    fn release(&self, replicas: &[Replica]) {
        let mut unsettled = self.unsettled();
        for replica in replicas {
            let same = |other: &Replica| Arc::ptr_eq(&other.segment, &replica.segment) && other.extents == replica.extents;
            // Of two that claim the very same, the one that stays has it from now on.
            match unsettled.iter().position(same) {
                Some(waiting) => drop(unsettled.swap_remove(waiting)),
                None => replica.segment.space().release(&replica.extents),
            }
        }
        unsettled.retain(|r| r.segment.space().claim(&r.extents).is_err());
    }

    pub(crate) fn loose() -> Self {
        Self { footing: AtomicU8::new(LOOSE), ..Self::default() }
    }

    fn unsettled(&self) -> MutexGuard<'_, Vec<Replica>> {
        self.unsettled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn footing(&self) -> u8 {
        // Pairs with the store in `begin`, which runs before the first request.
        self.footing.load(Ordering::Acquire)
    }
}

/// The state led once, or objects in it claim the same space: another reign begins with a copy ([`crate::snapshot::copy`]).
#[derive(Debug, thiserror::Error)]
#[error("the state does not know whose space is whose: begin with a copy of it")]
pub struct Loose;

/// Committed objects that claim the same space: the log or the allocator is wrong, or the state is that of a dump, which may know an object
/// as it was before it moved, and another as it was later. Reported, never hidden.
pub struct Overlap {
    object: Arc<Object>,
    /// The object with the copies that could be claimed, if there is any.
    form: Option<Arc<Object>>,
    /// The object some of whose copies, or all, were left out.
    pub key: ObjectKey,
    /// Why.
    pub why: String,
}

impl Overlap {
    /// Copies that are left of the object; where there is none, it is left out.
    pub fn left(&self) -> usize {
        self.form.as_ref().map_or(0, |form| form.replicas.len())
    }
}

impl State {
    pub(crate) fn is_leading(&self) -> bool {
        self.reign.footing() == LEADS
    }

    /// Whether every object has its space and nothing else is taken, so that a reign can begin with this very state.
    pub fn is_ready(&self) -> bool {
        self.reign.footing() == FOLLOWS && self.reign.unsettled().is_empty()
    }

    /// Whether a copy of it would be ready where this is not.
    pub fn is_loose(&self) -> bool {
        self.reign.footing() == LOOSE
    }

    /// When this leader began.
    pub fn began(&self) -> MonotonicMs {
        self.reign.began.load(Ordering::Relaxed)
    }

    /// Until when an object may be read by those to whom leaders before this one gave a lease, of which only they knew.
    pub fn inherited(&self, object: &Object) -> MonotonicMs {
        let of_others = object.version <= Tso(self.reign.inherited.load(Ordering::Relaxed));
        if of_others { self.began() + self.rules.lease_ms } else { 0 }
    }

    /// Whether someone may be reading it.
    pub fn is_leased(&self, object: &Object, now: MonotonicMs) -> bool {
        object.leased(now) || self.inherited(object) > now
    }

    /// Takes the lead after replay, when nobody applies effects meanwhile.
    pub fn lead(&self, now: MonotonicMs) -> Result<(), Loose> {
        if !self.is_ready() {
            return Err(Loose);
        }
        self.begin(&[], now);
        Ok(())
    }

    /// From now on effects move space. Keeps out of use what somebody may still write into or read: the window, until the writers of leaders
    /// before must have stopped (DESIGN D4), and what left lately, until its leases have ended. `overlaps` are those that the copy came with,
    /// if this is one. The caller excludes effects meanwhile, and `now` is at least 1.
    pub fn begin(&self, overlaps: &[Overlap], now: MonotonicMs) {
        for Overlap { object, form, .. } in overlaps {
            let meter = self.meters.of(object.key.as_ref().tenant);
            match form {
                Some(form) => {
                    self.index.replace(form.clone());
                    meter.count(0, weight(form) - weight(object));
                }
                None if self.index.remove(object.key.as_ref(), object.version).is_some() => self.discount(object),
                None => {}
            }
        }
        let table = self.segments.table();
        for segment in table.iter() {
            segment.space().seal();
            if let Some(grace_ms) = table.grace_ms(segment.id()) {
                segment.start_grace(now.saturating_add(grace_ms));
            }
        }
        // The last first: what left long ago may lie where something was that left just now.
        for (noted, Replica { segment, extents }) in self.departed.noted().into_iter().rev() {
            let until = noted.saturating_add(self.rules.lease_ms);
            if until > now {
                let extents = segment.space().claim_rest(&extents).into();
                self.limbo.hold(&[Replica { segment, extents }], Why::Readers, until, now);
            }
        }
        self.recency.inherit(self.index.len());
        self.tso.skip_past_limit();
        self.reign.inherited.store(self.tso.limit().0, Ordering::Relaxed);
        self.reign.began.store(now, Ordering::Relaxed);
        self.reign.footing.store(LEADS, Ordering::Release);
    }

    /// The lead is lost: effects that others decided move no space here, since it was never given to what they remove.
    pub fn follow(&self) {
        let _ = self.reign.footing.compare_exchange(LEADS, LOOSE, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// An object, or a copy of one, came by the log or a snapshot. A leader has given it room before.
    pub(crate) fn settle_in(&self, replicas: &[Replica]) {
        if self.reign.footing() == FOLLOWS {
            let refused = replicas.iter().filter(|r| r.segment.space().claim(&r.extents).is_err());
            self.reign.unsettled().extend(refused.cloned());
        }
    }

    /// A segment went, and with it all that is on it.
    pub(crate) fn clear(&self, segment: SegmentId) {
        self.reign.unsettled().retain(|r| r.segment.id() != segment);
    }

    /// Copies went that may be read until `until`.
    pub(crate) fn vacate(&self, replicas: &[Replica], until: MonotonicMs, now: MonotonicMs) {
        match self.reign.footing() {
            LEADS => self.limbo.hold(replicas, Why::Readers, until, now),
            FOLLOWS => self.reign.release(replicas),
            _ => {}
        }
    }

    /// Gives every object of a loose state in which nothing is taken the space that its record names. When each has its own, the state is
    /// ready.
    pub(crate) fn claim_all(&self) -> Vec<Overlap> {
        let mut objects = Vec::with_capacity(self.index.len());
        self.index.for_each(&mut |object| {
            objects.push((object.version, object.clone()));
            ControlFlow::Continue(())
        });
        // Newest first: should two ever claim the same bytes, the newer was written last.
        objects.sort_unstable_by_key(|(version, _)| std::cmp::Reverse(*version));
        let mut overlaps = Vec::new();
        for (_, object) in objects {
            if let Some((claimed, why)) = claim(&object.replicas) {
                let form = (!claimed.is_empty()).then(|| Arc::new(object.with_replicas(claimed.into())));
                overlaps.push(Overlap { key: object.key.to_object_key(), why, object, form });
            }
        }
        if overlaps.is_empty() {
            self.reign.footing.store(FOLLOWS, Ordering::Release);
        }
        overlaps
    }
}

/// Gives an object the space its record names, copy by copy. Where some could not have it: those that have, and why the others do not.
fn claim(replicas: &[Replica]) -> Option<(Vec<Replica>, String)> {
    let refusal = |r: &Replica| r.segment.space().claim(&r.extents).err();
    let first = replicas.iter().position(|r| refusal(r).is_some())?;
    let (mut claimed, mut refused) = (replicas[..first].to_vec(), Vec::new());
    // The one that was refused is asked once more, for its reason.
    for replica in &replicas[first..] {
        match refusal(replica) {
            None => claimed.push(replica.clone()),
            Some(why) => refused.push(format!("{why} on segment {}", replica.segment.id())),
        }
    }
    (!refused.is_empty()).then(|| (claimed, refused.join("; ")))
}
