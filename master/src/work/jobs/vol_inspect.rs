//! `vol_inspect`: every copy of every object is compared with its checksum by the node that holds it. A bad one goes and is made anew
//! from a good one; an object of which no good one is left is removed, since it could not be read anyway.

use super::shard_repair::repair;
use super::step::{End, Step, World, live};
use super::sweep::Passes;
use super::{Job, Look};
use perilune_protocol::SegmentId;
use perilune_state::effect::RemoveReason;
use perilune_state::objects::{Key, Object};
use perilune_state::settings::Switch;
use std::collections::HashSet;
use std::sync::Arc;

/// Objects per slice: all of them are wanted, and a slice is held in memory.
const SLICE: u64 = 1024;
/// Between two passes, in milliseconds.
const REST_MS: u64 = 10 * 60 * 1000;

pub(super) struct VolInspect {
    passes: Passes,
    /// What comes next of objects that are being looked at, one step at a time for each.
    again: Vec<Step>,
    /// Those of them that lost a bad copy.
    lacking: HashSet<Key>,
}

impl VolInspect {
    pub(super) fn new(at: u64) -> Self {
        Self { passes: Passes::new(at, SLICE, REST_MS), again: Vec::new(), lacking: HashSet::new() }
    }
}

impl Job for VolInspect {
    fn switch(&self) -> Switch {
        Switch::VolInspect
    }

    fn next(&mut self, world: &World<'_>) -> Option<Step> {
        loop {
            if let Some(step) = world.pop(&mut self.again) {
                return Some(step);
            }
            if world.now >= self.passes.next_at() {
                self.passes.begin(world.state, world.now);
            }
            let found = self.passes.next(world.state, |object| object.readable())?;
            let verify = world.idle(&found).and_then(|object| verify_after(&object, None));
            self.again.extend(verify);
        }
    }

    fn ended(&mut self, step: &Step, end: &End, world: &World<'_>) {
        let Some(known) = step.object() else { return };
        let Some(object) = world.standing(known) else {
            self.lacking.remove(&known.key);
            return;
        };
        let key = object.key.clone();
        let next = match (step, end) {
            (Step::Verify { segment, .. }, End::Bad) if live(&object).any(|r| r.segment.id() != *segment) => {
                self.lacking.insert(key.clone());
                Some(Step::Drop { object: object.clone(), segment: *segment })
            }
            (Step::Verify { segment, .. }, End::Bad) => {
                tracing::error!(%segment, "{}: the last copy is damaged: the object is removed", key.to_object_key());
                self.lacking.remove(&key);
                Some(Step::Remove { object: object.clone(), reason: RemoveReason::Damaged })
            }
            // The others first: what is made anew is to be made from a good one.
            (Step::Verify { segment, .. } | Step::Drop { segment, .. }, _) => verify_after(&object, Some(*segment)),
            _ => None,
        };
        let lacking = *end != End::Failed && self.lacking.contains(&key);
        let next = next.or_else(|| if lacking { repair(&object) } else { None });
        if next.is_none() {
            self.lacking.remove(&key);
        }
        self.again.extend(next);
    }

    fn off(&mut self) {
        // Switched on again, it looks at once.
        self.passes.due_at(0);
    }

    fn look(&self, _: &World<'_>, _: bool) -> Look {
        Look { at: self.passes.at(), working: self.passes.underway(), ..Look::default() }
    }
}

/// The copies of an object are looked at in the order of their segments.
fn verify_after(object: &Arc<Object>, last: Option<SegmentId>) -> Option<Step> {
    let rest = live(object).map(|r| r.segment.id()).filter(|id| last.is_none_or(|last| *id > last));
    rest.min().map(|segment| Step::Verify { object: object.clone(), segment })
}
