//! How a state comes to lead. A change of leaders must not take longer the more objects there are, so nothing here walks them, except
//! where a state has to be copied first ([`crate::snapshot::copy`]), which a member does while it follows.
//!
//! | a state | the space of an object | how that ends |
//! |---|---|---|
//! | follows | is taken when the object comes and given back when it goes, at once; what lies in its way is to go first | [`State::begin`] |
//! | leads | was taken by the put before, and is held after the object went until its last lease has ended | [`State::follow`] |
//! | is loose | is not looked after: it led, and what its puts took is still taken; or it is being copied | with a copy of it; [`State::claim_all`] |

use crate::MonotonicMs;
use crate::apply::State;
use crate::meter::weight;
use crate::objects::limbo::Why;
use crate::objects::{Object, Replica};
use crate::segments::Phase;
use perilune_protocol::{ObjectKey, SegmentId, Tso};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Which of the three a state is, and what it found when it began to lead.
///
/// `kind`: written by apply and by those who exclude it; read by anyone. `began` and `inherited` are written once, in
/// [`State::begin`].
#[derive(Default)]
pub(crate) struct Footing {
    kind: AtomicU8,
    began: AtomicU64,
    /// The last version that leaders before may have given.
    inherited: AtomicU64,
    /// Copies whose space another still has, by segment and first byte. Written by apply while it follows: a snapshot may know an object as it
    /// was later, where another is then that has yet to go.
    displaced: Mutex<HashMap<(SegmentId, u64), Vec<Replica>>>,
}

const FOLLOWS: u8 = 0;
const LEADS: u8 = 1;
const LOOSE: u8 = 2;

impl Footing {
    fn displaced(&self) -> MutexGuard<'_, HashMap<(SegmentId, u64), Vec<Replica>>> {
        self.displaced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what copies lie on.
    fn occupy(&self, replicas: &[Replica]) {
        let mut displaced = self.displaced();
        for replica in replicas.iter().filter(|r| r.segment.space().claim(&r.extents).is_err()) {
            displaced.entry(place_of(replica)).or_default().push(replica.clone());
        }
    }

    /// Gives back what copies have.
    fn release(&self, replicas: &[Replica]) {
        let mut displaced = self.displaced();
        for replica in replicas.iter().filter(|r| r.segment.phase() != Phase::Gone) {
            let Entry::Occupied(mut waiting) = displaced.entry(place_of(replica)) else {
                replica.segment.space().release(&replica.extents);
                continue;
            };
            // Of two that claim the very same, the one that stays has it from now on.
            match waiting.get().iter().position(|other| other.is(replica)) {
                Some(nth) => drop(waiting.get_mut().swap_remove(nth)),
                None => replica.segment.space().release(&replica.extents),
            }
            if waiting.get().is_empty() {
                waiting.remove();
            }
        }
    }

    /// Whether none is displaced any more. What was in the way of one may have gone since.
    fn is_settled(&self) -> bool {
        let mut displaced = self.displaced();
        displaced.retain(|_, waiting| {
            waiting.retain(|r| r.segment.phase() != Phase::Gone && r.segment.space().claim(&r.extents).is_err());
            !waiting.is_empty()
        });
        displaced.is_empty()
    }

    pub(crate) fn loose() -> Self {
        Self { kind: AtomicU8::new(LOOSE), ..Self::default() }
    }

    fn kind(&self) -> u8 {
        // Pairs with the store in `begin`, which runs before the first request.
        self.kind.load(Ordering::Acquire)
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
    /// The object with the copies that could be claimed, if there is any, or one in a vault.
    form: Option<Arc<Object>>,
    /// The object some of whose copies, or all, were left out.
    pub key: ObjectKey,
    /// Why.
    pub why: String,
}

impl Overlap {
    /// Copies that are left of the object; where there is none, it is left out.
    pub fn left(&self) -> usize {
        self.form.as_ref().map_or(0, |form| form.replicas.len() + usize::from(form.cold.is_some()))
    }
}

impl State {
    /// Whether its reign has begun, and the lead is not lost.
    pub fn is_leading(&self) -> bool {
        self.footing.kind() == LEADS
    }

    /// Whether every object has its space and nothing else is taken, so that a reign can begin with this very state. Copies in whose way nothing
    /// lies any more take theirs now.
    pub fn is_ready(&self) -> bool {
        self.footing.kind() == FOLLOWS && self.footing.is_settled()
    }

    /// Whether a copy of it would be ready where this is not.
    pub fn is_loose(&self) -> bool {
        self.footing.kind() == LOOSE
    }

    /// When this leader began.
    pub fn began(&self) -> MonotonicMs {
        self.footing.began.load(Ordering::Relaxed)
    }

    /// Until when an object may be read by those to whom leaders before this one gave a lease, of which only they knew.
    pub fn inherited(&self, object: &Object) -> MonotonicMs {
        let of_others = object.version <= Tso(self.footing.inherited.load(Ordering::Relaxed));
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
        self.footing.inherited.store(self.tso.limit().0, Ordering::Relaxed);
        self.footing.began.store(now, Ordering::Relaxed);
        self.footing.kind.store(LEADS, Ordering::Release);
    }

    /// The lead is lost: effects that others decided move no space here, since it was never given to what they remove.
    pub fn follow(&self) {
        let _ = self.footing.kind.compare_exchange(LEADS, LOOSE, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// An object, or a copy of one, came by the log or a snapshot. A leader has given it room before.
    pub(crate) fn occupy(&self, replicas: &[Replica]) {
        if self.footing.kind() == FOLLOWS {
            self.footing.occupy(replicas);
        }
    }

    /// Copies went that may be read until `until`.
    pub(crate) fn vacate(&self, replicas: &[Replica], until: MonotonicMs, now: MonotonicMs) {
        match self.footing.kind() {
            LEADS => self.limbo.hold(replicas, Why::Readers, until, now),
            FOLLOWS => self.footing.release(replicas),
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
                let form = (!claimed.is_empty() || object.cold.is_some()).then(|| Arc::new(object.with_replicas(claimed.into())));
                overlaps.push(Overlap { key: object.key.to_object_key(), why, object, form });
            }
        }
        if overlaps.is_empty() {
            self.footing.kind.store(FOLLOWS, Ordering::Release);
        }
        overlaps
    }
}

fn place_of(replica: &Replica) -> (SegmentId, u64) {
    (replica.segment.id(), replica.extents.first().map_or(0, |extent| extent.offset))
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
