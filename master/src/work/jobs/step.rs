//! What jobs want done: one thing to one object, or to one segment.

use perilune_protocol::SegmentId;
use perilune_state::State;
use perilune_state::effect::RemoveReason;
use perilune_state::objects::{Key, Object, Replica};
use perilune_state::segments::{Phase, Reach, Segment};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// One thing.
#[derive(Clone)]
pub(super) enum Step {
    /// A copy more, written and verified by the node it goes to; then one less, if that is named.
    Copy {
        /// Of what.
        object: Arc<Object>,
        /// To here, or to wherever it is best.
        to: Option<Arc<Segment>>,
        /// From here.
        drop: Option<SegmentId>,
    },
    /// A copy less.
    Drop {
        /// Of what.
        object: Arc<Object>,
        /// From here.
        segment: SegmentId,
    },
    /// A copy is compared with the checksum.
    Verify {
        /// Of what.
        object: Arc<Object>,
        /// The one here.
        segment: SegmentId,
    },
    /// The object leaves memory: nothing of it can be read there, and it is in a vault.
    Demote(Arc<Object>),
    /// The object goes: nothing of it can be read, for good.
    Remove {
        /// Which.
        object: Arc<Object>,
        /// Why.
        reason: RemoveReason,
    },
    /// The segment goes: nothing is on it.
    Unmount(SegmentId),
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It is done, and in the log.
    Done,
    /// There was nothing to do any more: the object was removed, replaced, or is being removed.
    Moot,
    /// The copy that was looked at is not what was put.
    Bad,
    /// It is not done: no segment takes the copy.
    Full,
    /// It is not done, for another reason.
    Failed,
}

impl Step {
    /// What it is about.
    pub(super) fn object(&self) -> Option<&Arc<Object>> {
        match self {
            Self::Copy { object, .. } | Self::Drop { object, .. } | Self::Verify { object, .. } => Some(object),
            Self::Demote(object) | Self::Remove { object, .. } => Some(object),
            Self::Unmount(_) => None,
        }
    }
}

/// What jobs decide by.
pub(super) struct World<'a> {
    pub(super) state: &'a State,
    pub(super) now: u64,
    /// Bytes that steps under way will take from segments.
    pub(super) outgoing: &'a HashMap<SegmentId, u64>,
    /// Objects that something is being done to.
    pub(super) busy: &'a HashSet<Key>,
}

impl World<'_> {
    /// The last of `steps` whose object no other job is at.
    pub(super) fn pop(&self, steps: &mut Vec<Step>) -> Option<Step> {
        while let Some(step) = steps.pop() {
            if step.object().is_none_or(|object| self.idle(object).is_some()) {
                return Some(step);
            }
        }
        None
    }

    /// The present form of an object in hand, unless it was removed, replaced, or is being removed, or another step is about it.
    pub(super) fn idle(&self, object: &Object) -> Option<Arc<Object>> {
        if self.busy.contains(&object.key) { None } else { self.standing(object) }
    }

    /// The same, whatever is being done to it.
    pub(super) fn standing(&self, object: &Object) -> Option<Arc<Object>> {
        self.state.standing(object.key.as_ref()).filter(|now| now.version == object.version)
    }

    /// Whether an object in hand is in a vault by now.
    pub(super) fn is_saved(&self, object: &Object) -> bool {
        self.standing(object).is_some_and(|now| now.cold.is_some())
    }

    /// How full a segment will be when everything that is to leave it has left, as a share of it.
    pub(super) fn fill(&self, segment: &Segment) -> f64 {
        self.settled(segment) as f64 / segment.space().capacity().max(1) as f64
    }

    /// The same in bytes.
    pub(super) fn settled(&self, segment: &Segment) -> u64 {
        let leaving = segment.held() + self.outgoing.get(&segment.id()).copied().unwrap_or(0);
        segment.space().used().saturating_sub(leaving)
    }

    /// Segments that a copy may go to, best first: on nodes that hold none of those that stay, then the emptiest.
    pub(super) fn targets(&self, object: &Object, drop: Option<SegmentId>) -> Vec<Arc<Segment>> {
        let table = self.state.segments.table();
        let tenant = object.key.as_ref().tenant;
        let free = table.iter().filter(|s| s.tenant() == tenant && s.allocatable() && object.replica_on(s.id()).is_none());
        let mut free: Vec<_> = free.map(|s| (shares_node(object, s, drop), self.fill(s), s.clone())).collect();
        free.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        free.into_iter().map(|(.., segment)| segment).collect()
    }
}

/// Whether another copy that stays is on the node of `segment`.
pub(super) fn shares_node(object: &Object, segment: &Segment, drop: Option<SegmentId>) -> bool {
    object.replicas.iter().any(|r| Some(r.segment.id()) != drop && r.segment.phase() != Phase::Gone && r.segment.node() == segment.node())
}

/// Copies that can be read, and will be for as long as anybody knows.
pub(super) fn lasting(object: &Object) -> impl Iterator<Item = &Replica> {
    object.replicas.iter().filter(|r| r.segment.phase() == Phase::Mounted && r.segment.reach() != Reach::Lost)
}

/// Copies that can be read now.
pub(super) fn live(object: &Object) -> impl Iterator<Item = &Replica> {
    object.replicas.iter().filter(|r| r.segment.readable())
}

/// A copy that nobody can read any more, or not before its node returns.
pub(super) fn dead(object: &Object) -> Option<&Replica> {
    object.replicas.iter().find(|r| !r.segment.readable())
}

/// Whether there are fewer copies that can be read than were wanted, and one to make others from.
pub(super) fn lacks(object: &Object) -> bool {
    let live = live(object).count();
    live > 0 && live < usize::from(object.wanted())
}
