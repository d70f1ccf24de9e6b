//! `disk_drop`: segments that drain are emptied before their grace period ends, and unmounted as soon as they are empty. What would be
//! late at the pace that is set does not keep to it.

use super::step::{End, Step, World, lasting};
use super::sweep::Sweep;
use super::{FILTER_SLICE, Job, Look, RETRY_MS};
use perilune_protocol::SegmentId;
use perilune_protocol::rpc::job::JobSegment;
use perilune_state::objects::Object;
use perilune_state::segments::{Phase, Reach, Segment};
use perilune_state::settings::Switch;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Between two passes over the objects of a segment, in milliseconds: puts that began before it drained may end on it.
const AGAIN_MS: u64 = 500;

/// The share of a grace period in which a segment should be empty.
const IN_TIME: f64 = 0.5;

#[derive(Default)]
pub(super) struct DiskDrop {
    draining: BTreeMap<SegmentId, Draining>,
    present: Option<(SegmentId, Sweep)>,
}

#[derive(Default)]
struct Draining {
    /// Objects that the last pass found there and that are still there.
    left: u64,
    due: u64,
    /// The last pass is over, and no put that it could have missed was under way when it began: none begins on a segment that drains.
    looked: bool,
    quiet: bool,
}

impl DiskDrop {
    fn notice(&mut self, world: &World<'_>) {
        let table = world.state.segments.table();
        let drains = |s: &Segment| s.phase() == Phase::Draining && s.reach() != Reach::Lost;
        self.draining.retain(|id, _| table.get(*id).is_some_and(|s| drains(s)));
        for segment in table.iter().filter(|s| drains(s)) {
            // Whoever chose the segment just before it drained has said so by then.
            let fresh = || Draining { due: world.now + AGAIN_MS / 5, ..Draining::default() };
            self.draining.entry(segment.id()).or_insert_with(fresh);
        }
    }

    /// A segment that was found empty, and that nobody writes to or reads from any more.
    fn empty(&self, world: &World<'_>) -> Option<SegmentId> {
        let table = world.state.segments.table();
        let is_empty = |(id, draining): (&SegmentId, &Draining)| {
            let segment = table.get(*id)?;
            let nothing = draining.looked && draining.quiet && draining.left == 0;
            let free = nothing && segment.held() == 0 && !world.outgoing.contains_key(id);
            // What ends in the middle of a pass may have been counted down twice, so what decides is what is.
            (free && is_bare(world, *id)).then_some(*id)
        };
        self.draining.iter().find_map(is_empty)
    }
}

impl Job for DiskDrop {
    fn switch(&self) -> Switch {
        Switch::DiskDrop
    }

    fn next(&mut self, world: &World<'_>) -> Option<Step> {
        loop {
            if self.present.is_none() {
                self.notice(world);
                // The one that waits longest, so that none waits for ever.
                let due = self.draining.iter_mut().filter(|(_, draining)| draining.due <= world.now);
                let (id, draining) = due.min_by_key(|(_, draining)| draining.due)?;
                let quiet = !world.state.puts.any_on(*id);
                *draining = Draining { due: world.now + AGAIN_MS, quiet, ..Draining::default() };
                self.present = Some((*id, Sweep::from(0, FILTER_SLICE)));
            }
            let (id, sweep) = self.present.as_mut()?;
            let (id, draining) = (*id, self.draining.entry(*id).or_default());
            let found = sweep.next(world.state, |object| {
                let here = object.replica_on(id).is_some();
                draining.left += u64::from(here);
                here
            });
            let Some(found) = found else {
                draining.looked = true;
                self.present = None;
                // Looked at right away: what ends on it from now on is seen by the next pass.
                if let Some(empty) = self.empty(world) {
                    self.draining.remove(&empty);
                    return Some(Step::Unmount(empty));
                }
                continue;
            };
            match world.standing(&found).filter(|object| object.replica_on(id).is_some()) {
                None => draining.left = draining.left.saturating_sub(1),
                Some(object) if world.idle(&object).is_some() => return Some(step(world, &object, id)),
                // Another step is about it: it is still here, and the next pass sees it.
                Some(_) => {}
            }
        }
    }

    fn ended(&mut self, step: &Step, end: &End, world: &World<'_>) {
        let (Step::Copy { drop: Some(id), .. } | Step::Drop { segment: id, .. }) = step else { return };
        let Some(draining) = self.draining.get_mut(id) else { return };
        if matches!(end, End::Bad | End::Full | End::Failed) {
            draining.due = draining.due.max(world.now + RETRY_MS);
            return;
        }
        draining.left = draining.left.saturating_sub(1);
        // Then it is found empty the sooner.
        if draining.left == 0 {
            draining.due = 0;
        }
    }

    /// What would go with its segment when the grace period ends is moved as fast as nodes can.
    fn hurries(&self, world: &World<'_>, rate: u64) -> bool {
        let table = world.state.segments.table();
        self.draining.keys().filter_map(|id| table.get(*id)).any(|segment| {
            let left_s = segment.drain_until().saturating_sub(world.now) as f64 / 1000.0;
            world.settled(segment) as f64 > rate as f64 * left_s * IN_TIME
        })
    }

    fn look(&self, _: &World<'_>, _: bool) -> Look {
        let told =
            |(id, draining): (&SegmentId, &Draining)| JobSegment { segment: *id, status: "dropping".into(), left: draining.left, stuck: 0 };
        Look { working: !self.draining.is_empty(), segments: self.draining.iter().map(told).collect(), ..Look::default() }
    }
}

/// Whether no object has a copy there.
fn is_bare(world: &World<'_>, id: SegmentId) -> bool {
    let mut bare = true;
    world.state.index.for_each(&mut |object| {
        bare = object.replica_on(id).is_none();
        if bare { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    bare
}

/// Where there are enough others, the copy just goes; so does what is in a vault where no other memory takes it.
fn step(world: &World<'_>, object: &Arc<Object>, leaves: SegmentId) -> Step {
    let object = object.clone();
    let (lasting, nowhere) = (lasting(&object).count(), object.cold.is_some() && world.targets(&object, Some(leaves)).is_empty());
    if nowhere && lasting == 0 {
        Step::Demote(object)
    } else if nowhere || lasting >= usize::from(object.wanted()).max(1) {
        Step::Drop { object, segment: leaves }
    } else {
        Step::Copy { object, to: None, drop: Some(leaves) }
    }
}
