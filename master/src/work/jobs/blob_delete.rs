//! `blob_delete`: what nobody can reach any more goes: objects whose every segment is gone and that are in no vault, and copies on segments
//! that are gone, of objects that lack none. The space of abandoned puts is freed by the sweep of held space, which asks this switch.

use super::step::{End, Step, World, lacks};
use super::sweep::Passes;
use super::{FILTER_SLICE, Job, Look};
use perilune_state::effect::RemoveReason;
use perilune_state::objects::Object;
use perilune_state::segments::Phase;
use perilune_state::settings::Switch;
use std::sync::Arc;

pub(super) struct BlobDelete {
    passes: Passes,
    /// How many segments had gone when the last pass began; none yet.
    unmounts: Option<u64>,
    /// Objects that another job was at when their turn came: looked at in the end.
    later: Vec<Arc<Object>>,
}

impl BlobDelete {
    pub(super) fn new() -> Self {
        Self { passes: Passes::new(0, FILTER_SLICE, u64::MAX / 2), unmounts: None, later: Vec::new() }
    }
}

impl Job for BlobDelete {
    fn switch(&self) -> Switch {
        Switch::BlobDelete
    }

    fn next(&mut self, world: &World<'_>) -> Option<Step> {
        let unmounts = world.state.segments.unmounts();
        if !self.passes.underway() && self.unmounts != Some(unmounts) {
            self.unmounts = Some(unmounts);
            self.passes.due_at(0);
            self.passes.begin(world.state, world.now);
        }
        loop {
            let found = match self
                .passes
                .next(world.state, |object| !object.is_only_cold() && (object.replicas.is_empty() || is_gone(object).is_some()))
            {
                Some(found) => found,
                None => {
                    self.later.retain(|object| world.standing(object).is_some());
                    let nth = self.later.iter().position(|object| world.idle(object).is_some())?;
                    self.later.swap_remove(nth)
                }
            };
            let Some(object) = world.idle(&found) else {
                self.later.push(found);
                continue;
            };
            match is_gone(&object) {
                _ if object.is_only_cold() => {}
                _ if object.replicas.iter().all(|r| r.segment.phase() == Phase::Gone) => {
                    if object.cold.is_some() {
                        return Some(Step::Demote(object));
                    }
                    return Some(Step::Remove { object, reason: RemoveReason::Orphaned });
                }
                // Who repairs what a lost segment held needs to know what that was.
                Some(segment) if !lacks(&object) => return Some(Step::Drop { object, segment }),
                _ => {}
            }
        }
    }

    fn ended(&mut self, _: &Step, end: &End, _: &World<'_>) {
        if *end == End::Failed {
            self.unmounts = None;
        }
    }

    fn look(&self, _: &World<'_>, _: bool) -> Look {
        Look { at: self.passes.at(), working: self.passes.underway(), ..Look::default() }
    }
}

fn is_gone(object: &Object) -> Option<perilune_protocol::SegmentId> {
    object.replicas.iter().find(|r| r.segment.phase() == Phase::Gone).map(|r| r.segment.id())
}
