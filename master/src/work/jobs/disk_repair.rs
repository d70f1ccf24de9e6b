//! `disk_repair`: what a lost segment held is copied again from elsewhere, one lost segment after the other, until nothing refers to it.
//!
//! A segment is lost when its node is, or when it was unmounted. Of those that were unmounted a later leader may know nothing any more;
//! what they left lacking is found by `shard_repair`.

use super::step::{End, Step, World, live};
use super::sweep::{END, Sweep};
use super::{FILTER_SLICE, Job, Look, PASS_MS, RETRY_MS};
use perilune_protocol::SegmentId;
use perilune_protocol::rpc::job::JobSegment;
use perilune_state::objects::Object;
use perilune_state::segments::{Phase, Reach};
use perilune_state::settings::Switch;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Default)]
pub(super) struct DiskRepair {
    /// What is known of each lost segment.
    lost: BTreeMap<SegmentId, Lost>,
    /// The one that is being repaired.
    present: Option<(SegmentId, Sweep)>,
    /// How many segments had gone when they were last looked for: among the objects, since the table knows them no more.
    unmounts: u64,
}

#[derive(Default)]
struct Lost {
    /// Objects of the last pass that something is to be done for, and those that nothing can be done for.
    left: u64,
    stuck: u64,
    /// When the next pass is due, in milliseconds.
    due: u64,
    looked: bool,
    /// Unmounted: no longer in the table.
    gone: bool,
}

impl DiskRepair {
    /// Keeps the list of lost segments.
    fn notice(&mut self, world: &World<'_>) {
        let table = world.state.segments.table();
        let is_lost = |id: &SegmentId| table.get(*id).is_some_and(|s| s.reach() == Reach::Lost);
        self.lost.retain(|id, lost| is_lost(id) || (lost.gone && !(lost.looked && lost.left == 0)));
        for segment in table.iter().filter(|s| s.reach() == Reach::Lost) {
            self.lost.entry(segment.id()).or_default();
        }
        let unmounts = world.state.segments.unmounts();
        if unmounts != self.unmounts {
            self.unmounts = unmounts;
            world.state.index.for_each(&mut |object| {
                for replica in object.replicas.iter().filter(|r| r.segment.phase() == Phase::Gone) {
                    self.lost.entry(replica.segment.id()).or_default().gone = true;
                }
                std::ops::ControlFlow::Continue(())
            });
        }
    }

    fn begin(&mut self, now: u64) -> Option<()> {
        // The one that waits longest, so that none waits for ever.
        let (id, lost) = self.lost.iter_mut().filter(|(_, lost)| lost.due <= now).min_by_key(|(_, lost)| lost.due)?;
        *lost = Lost { due: now + PASS_MS, gone: lost.gone, ..Lost::default() };
        self.present = Some((*id, Sweep::from(0, FILTER_SLICE)));
        Some(())
    }
}

impl Job for DiskRepair {
    fn switch(&self) -> Switch {
        Switch::DiskRepair
    }

    fn next(&mut self, world: &World<'_>) -> Option<Step> {
        if self.present.is_none() {
            self.notice(world);
            self.begin(world.now)?;
        }
        loop {
            let (id, sweep) = self.present.as_mut()?;
            let (id, lost) = (*id, self.lost.entry(*id).or_default());
            let mut stuck = 0;
            let found = sweep.next(world.state, |object| match object.replica_on(id) {
                Some(_) if live(object).next().is_some() => {
                    lost.left += 1;
                    true
                }
                Some(_) => {
                    stuck += 1;
                    false
                }
                None => false,
            });
            lost.stuck += stuck;
            let Some(found) = found else {
                lost.looked = true;
                self.present = None;
                return None;
            };
            match world.standing(&found).filter(|object| object.replica_on(id).is_some_and(|r| !r.segment.readable())) {
                None => lost.left = lost.left.saturating_sub(1),
                Some(object) if world.idle(&object).is_some() => match step(&object, id) {
                    Some(step) => return Some(step),
                    // Its last copy was lost since the slice was gathered.
                    None => (lost.left, lost.stuck) = (lost.left.saturating_sub(1), lost.stuck + 1),
                },
                // Another step is about it: it is looked at again.
                Some(_) => lost.due = lost.due.min(world.now + RETRY_MS),
            }
        }
    }

    fn ended(&mut self, step: &Step, end: &End, world: &World<'_>) {
        let (Step::Copy { drop: Some(id), .. } | Step::Drop { segment: id, .. }) = step else { return };
        let Some(lost) = self.lost.get_mut(id) else { return };
        match end {
            End::Done | End::Moot => lost.left = lost.left.saturating_sub(1),
            End::Bad | End::Full | End::Failed => lost.due = lost.due.min(world.now + RETRY_MS),
        }
    }

    fn look(&self, world: &World<'_>, on: bool) -> Look {
        let told = |(id, lost): (SegmentId, Option<&Lost>)| {
            let (left, stuck) = lost.map_or((0, 0), |lost| (lost.left, lost.stuck));
            let status = match lost {
                Some(lost) if lost.looked && left + stuck == 0 => "repaired",
                // What is stuck can be read again when the node returns, not before.
                Some(lost) if on && (!lost.looked || left > 0) => "repairing",
                _ => "broken",
            };
            JobSegment { segment: id, status: status.into(), left, stuck }
        };
        let table = world.state.segments.table();
        let unseen = table.iter().filter(|s| s.reach() == Reach::Lost && !self.lost.contains_key(&s.id())).map(|s| (s.id(), None));
        let segments = self.lost.iter().map(|(id, lost)| (*id, Some(lost))).chain(unseen).map(told).collect();
        let at = self.present.as_ref().map_or(0, |(_, sweep)| sweep.at().min(END));
        let working = self.present.is_some() || self.lost.values().any(|lost| lost.left > 0);
        Look { at, working, segments, note: String::new() }
    }
}

/// The copy on this very segment is the one to replace; it just goes where there are enough others. Of the last there may be a return.
fn step(object: &Arc<Object>, lost: SegmentId) -> Option<Step> {
    let object = object.clone();
    // Counted once, since nodes come and go meanwhile.
    match live(&object).count() {
        0 => None,
        few if few < usize::from(object.wanted()) => Some(Step::Copy { object, to: None, drop: Some(lost) }),
        _ => Some(Step::Drop { object, segment: lost }),
    }
}
