//! Copies of objects that come and go while the object stays: room for a new one, and the one way a set of copies changes.
//!
//! ```text
//!             copy_room             the node wrote and verified it        apply
//!  free space ─────────► CopyRoom ──► Effect::Replicas ──► log ──► another form of the object takes its place
//!                          │  copy_give_up                           │  the copy that went
//!                          └─► limbo until the writer has stopped    └─► limbo until every lease on the old form has lapsed
//! ```
//!
//! A lookup that holds the old form when it is replaced is refused a lease there, finds the new form in the index, and is granted
//! one; what was granted on the old form holds on the new one, too.

use crate::MonotonicMs;
use crate::apply::{Applied, Rules, State, unknown_segment};
use crate::effect::Effect;
use crate::meter::weight;
use crate::objects::limbo::Why;
use crate::objects::{KeyRef, Object, Replica};
use crate::segments::{Phase, Segment};
use crate::window::{self, NoRoom};
use perilune_protocol::{FaultCode, ObjectKey, ReplicaPlace, SegmentId, TenantId, Tso};
use std::sync::Arc;

/// Room for a copy that a node is to write. Soft: it dies with the leader. Whoever has it owes it to the log, or to [`State::copy_give_up`].
#[derive(Clone)]
pub struct CopyRoom {
    replica: Replica,
    given: MonotonicMs,
}

/// Why there is no room for a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyRefusal {
    /// Log this, which widens the window of the segment (DESIGN D4), and ask again.
    NeedWindow(Box<Effect>),
    /// The segment is full, leaves, or its node is silent.
    Full,
}

impl CopyRoom {
    /// Where the copy goes.
    pub fn place(&self) -> ReplicaPlace {
        ReplicaPlace { segment: self.replica.segment.id(), extents: self.replica.extents.to_vec() }
    }

    /// The segment it goes to.
    pub fn segment(&self) -> &Arc<Segment> {
        &self.replica.segment
    }
}

impl State {
    /// Takes room for a copy of `size` bytes on `target`.
    pub fn copy_room(&self, size: u64, target: &Arc<Segment>, now: MonotonicMs) -> Result<CopyRoom, CopyRefusal> {
        if !target.allocatable() {
            return Err(CopyRefusal::Full);
        }
        match window::take(target, size) {
            Ok(extents) => Ok(CopyRoom { replica: Replica { segment: target.clone(), extents: extents.into() }, given: now }),
            Err(NoRoom::Window(effect)) => Err(CopyRefusal::NeedWindow(effect)),
            Err(NoRoom::Full) => Err(CopyRefusal::Full),
        }
    }

    /// The effect that makes a change of copies: one that was written and verified, one that is to go, or both.
    pub fn replicas(object: &Object, add: Option<&CopyRoom>, drop: Option<SegmentId>) -> Effect {
        let KeyRef { tenant, .. } = object.key.as_ref();
        let (key, version) = (object.key.to_object_key(), object.version);
        Effect::Replicas { tenant, key, version, add: add.map(CopyRoom::place), drop }
    }

    /// A copy that will not be. While the node may still write there (`writes`), the room waits as that of an abandoned put does, and
    /// from now as long as an order lasts: it may have been taken late.
    pub fn copy_give_up(&self, room: CopyRoom, writes: bool, now: MonotonicMs) {
        let Rules { put_release_ms, put_discard_ms, .. } = self.rules;
        let until = if writes { (room.given + put_release_ms).max(now + put_discard_ms) } else { now };
        self.limbo.hold(&[room.replica], Why::Abandoned, until, now);
    }

    /// Apply: see [`Effect::Replicas`].
    pub(crate) fn rearrange(
        &self,
        tenant: TenantId,
        key: &ObjectKey,
        version: Tso,
        add: Option<&ReplicaPlace>,
        drop: Option<SegmentId>,
        now: MonotonicMs,
    ) -> Applied {
        let mut fresh = None;
        if let Some(place) = add {
            // With the segment its space has gone, too.
            let Some(segment) = self.segments.table().get(place.segment).cloned() else { return unknown_segment(place.segment) };
            fresh = Some(Replica { segment, extents: place.extents.clone().into() });
        }
        let Some(old) = self.index.get(KeyRef::new(tenant, key)).filter(|o| o.version == version) else {
            if self.is_leading() {
                // Written to the end, so nobody writes there any more, and nobody was told to read it.
                self.limbo.hold(fresh.as_slice(), Why::Abandoned, now, now);
            } else {
                // As in `refuse`: it may have come in time.
                self.departed.leaving(now).note(fresh.as_slice());
            }
            return Applied::Refused(FaultCode::ObjectNotFound.with(format!("{key}: this version was removed or replaced")));
        };
        let is_fresh = |r: &Replica| fresh.as_ref().is_some_and(|fresh| fresh.is(r));
        let goes = |r: &Replica| !is_fresh(r) && (Some(r.segment.id()) == drop || add.is_some_and(|p| p.segment == r.segment.id()));
        let (gone, mut stay): (Vec<Replica>, Vec<Replica>) = old.replicas.iter().cloned().partition(|r| goes(r));
        let known = stay.iter().any(is_fresh);
        if gone.is_empty() && (known || fresh.is_none()) {
            return Applied::Nothing;
        }
        if let Some(leaves) = fresh.as_ref().filter(|r| !known && r.segment.phase() != Phase::Mounted) {
            // Whoever empties it may have looked already. Segments leave by the log, so every member finds the same here.
            let (segment, fault) = (leaves.segment.id(), FaultCode::SegmentNotFound);
            if self.is_leading() {
                self.limbo.hold(fresh.as_slice(), Why::Abandoned, now, now);
            }
            return Applied::Refused(fault.with(format!("{key}: segment {segment} is about to go and takes no copy")));
        }
        if let Some(Replica { segment, extents }) = fresh.as_ref().filter(|_| !known && self.is_leading()) {
            segment.space().settle(extents);
        }
        let come: Vec<Replica> = fresh.filter(|_| !known).into_iter().collect();
        stay.extend(come.iter().cloned());
        self.occupy(&come);
        self.reform(&old, old.with_replicas(stay.into()), &gone, now);
        // As in `demote`.
        let lost = gone.iter().any(|r| r.segment.phase() != Phase::Gone);
        if lost || !come.is_empty() { Applied::Done } else { Applied::Nothing }
    }

    /// Apply: another form takes the place of `old`, without the copies that are `gone`.
    pub(crate) fn reform(&self, old: &Object, form: Object, gone: &[Replica], now: MonotonicMs) {
        let form = Arc::new(form);
        let mut leaving = self.departed.leaving(now);
        self.index.replace(form.clone());
        let until = form.succeed(old).max(self.inherited(old));
        leaving.note(gone);
        self.vacate(gone, until, now);
        self.meters.of(form.key.as_ref().tenant).count(0, weight(&form) - weight(old));
        if self.is_leading() {
            self.recency.admit(&form);
        }
    }
}
