//! `shard_repair`: objects that have fewer copies that can be read than were wanted, for whatever reason, get the ones they lack.

use super::step::{End, Step, World, dead, lacks};
use super::sweep::Passes;
use super::{FILTER_SLICE, Job, Look, PASS_MS};
use perilune_state::settings::Switch;

pub(super) struct ShardRepair {
    passes: Passes,
    again: Vec<Step>,
}

impl ShardRepair {
    pub(super) fn new(at: u64) -> Self {
        Self { passes: Passes::new(at, FILTER_SLICE, PASS_MS), again: Vec::new() }
    }
}

impl Job for ShardRepair {
    fn switch(&self) -> Switch {
        Switch::ShardRepair
    }

    fn next(&mut self, world: &World<'_>) -> Option<Step> {
        if let Some(step) = world.pop(&mut self.again) {
            return Some(step);
        }
        self.passes.begin(world.state, world.now);
        loop {
            let found = self.passes.next(world.state, |object| lacks(object))?;
            if let Some(step) = world.idle(&found).and_then(|object| repair(&object)) {
                return Some(step);
            }
        }
    }

    fn ended(&mut self, step: &Step, end: &End, world: &World<'_>) {
        let Step::Copy { object, .. } = step else { return };
        match end {
            End::Done => self.again.extend(world.standing(object).and_then(|object| repair(&object))),
            // What no segment takes is tried again when a segment comes or changes, or with the next pass.
            End::Moot | End::Full => {}
            End::Bad | End::Failed => self.passes.due_at(world.now + super::RETRY_MS),
        }
    }

    fn look(&self, _: &World<'_>, _: bool) -> Look {
        Look { at: self.passes.at(), working: self.passes.underway(), ..Look::default() }
    }
}

/// One copy more, in the place of one that is dead, if there is such.
pub(super) fn repair(object: &std::sync::Arc<perilune_state::objects::Object>) -> Option<Step> {
    let drop = dead(object).map(|r| r.segment.id());
    lacks(object).then(|| Step::Copy { object: object.clone(), to: None, drop })
}
