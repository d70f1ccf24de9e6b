//! `vol_inspect`: every copy of every object is compared with its checksum by the node that holds it. A bad one goes and is made anew
//! from a good one; an object of which no good one is left, nor one that may return or is in a vault, is removed: it could not be read anyway.

use super::shard_repair::repair;
use super::step::{End, Step, World, live};
use super::sweep::Passes;
use super::{Job, Look, PASS_MS};
use perilune_protocol::SegmentId;
use perilune_state::effect::RemoveReason;
use perilune_state::objects::{Key, Object, Replica};
use perilune_state::segments::Phase;
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
    /// Objects that another job was at when their turn came, of which a copy could not be looked at, or whose lost copy could not be made
    /// anew: looked at in the end, from when.
    later: Vec<(u64, Arc<Object>)>,
}

impl VolInspect {
    pub(super) fn new(at: u64) -> Self {
        Self { passes: Passes::new(at, SLICE, REST_MS), again: Vec::new(), lacking: HashSet::new(), later: Vec::new() }
    }
}

impl Job for VolInspect {
    fn switch(&self) -> Switch {
        Switch::VolInspect
    }

    fn next(&mut self, world: &World<'_>) -> Option<Step> {
        loop {
            if let Some(step) = self.again.pop() {
                match step.object() {
                    Some(object) if world.idle(object).is_none() => self.later.push((0, object.clone())),
                    _ => return Some(step),
                }
                continue;
            }
            if world.now >= self.passes.next_at() {
                self.passes.begin(world.state, world.now);
            }
            if let Some(found) = self.passes.next(world.state, |object| object.readable()) {
                match world.idle(&found) {
                    Some(object) => self.again.extend(verify_after(&object, None)),
                    None => self.later.push((0, found)),
                }
                continue;
            }
            let lacking = &mut self.lacking;
            self.later.retain(|(_, object)| {
                let stands = world.standing(object).is_some();
                if !stands {
                    lacking.remove(&object.key);
                }
                stands
            });
            let nth = self.later.iter().position(|(due, object)| *due <= world.now && world.idle(object).is_some())?;
            let object = world.idle(&self.later.swap_remove(nth).1);
            self.again.extend(object.and_then(|object| verify_after(&object, None)));
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
            // Another copy that is only away may return, and be right.
            (Step::Verify { segment, .. }, End::Bad) if others(&object, *segment).any(|r| r.segment.phase() != Phase::Gone) => {
                self.lacking.insert(key.clone());
                Some(Step::Drop { object: object.clone(), segment: *segment })
            }
            // What is in its vault is compared when it is fetched.
            (Step::Verify { .. }, End::Bad) if object.cold.is_some() => {
                self.lacking.remove(&key);
                Some(Step::Demote(object.clone()))
            }
            (Step::Verify { segment, .. }, End::Bad) => {
                tracing::error!(%segment, "{}: the last copy is damaged: the object is removed", key.to_object_key());
                self.lacking.remove(&key);
                Some(Step::Remove { object: object.clone(), reason: RemoveReason::Damaged })
            }
            (Step::Verify { .. } | Step::Remove { .. }, End::Failed) => {
                self.later.push((world.now + PASS_MS, object));
                return;
            }
            // It may be that no segment has room, or that none of the copies left is right: another look tells.
            (Step::Drop { .. }, End::Failed) | (Step::Copy { .. }, End::Bad) => None,
            // The others first: what is made anew is to be made from a good one.
            (Step::Verify { segment, .. } | Step::Drop { segment, .. }, _) => verify_after(&object, Some(*segment)),
            _ => None,
        };
        if next.is_none() && self.lacking.contains(&key) {
            if matches!((step, end), (_, End::Full | End::Failed) | (Step::Copy { .. }, End::Bad)) {
                self.later.push((world.now + PASS_MS, object));
                return;
            }
            match repair(&object) {
                Some(copy) => self.again.push(copy),
                None => drop(self.lacking.remove(&key)),
            }
        }
        self.again.extend(next);
    }

    fn off(&mut self) {
        // Switched on again, it looks at once.
        self.passes.due_at(0);
    }

    fn look(&self, _: &World<'_>, _: bool) -> Look {
        Look { at: self.passes.at(), working: self.passes.underway() || !self.later.is_empty(), ..Look::default() }
    }
}

fn others(object: &Object, than: SegmentId) -> impl Iterator<Item = &Replica> {
    object.replicas.iter().filter(move |r| r.segment.id() != than)
}

/// The copies of an object are looked at in the order of their segments.
fn verify_after(object: &Arc<Object>, last: Option<SegmentId>) -> Option<Step> {
    let rest = live(object).map(|r| r.segment.id()).filter(|id| last.is_none_or(|last| *id > last));
    rest.min().map(|segment| Step::Verify { object: object.clone(), segment })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::sample::{MIB, sample};
    use std::collections::HashMap;

    #[test]
    fn a_copy_that_could_not_be_looked_at_is_looked_at_again_in_the_same_pass() {
        let (state, [first, second]) = sample([8 * MIB, 8 * MIB], &[("a", &[0, 1])], MIB);
        let mut job = VolInspect::new(0);
        let (outgoing, busy) = (HashMap::new(), HashSet::new());
        let at = |now| World { state: &state, now, outgoing: &outgoing, busy: &busy };
        let looked = |step: &Step| if let Step::Verify { segment, .. } = step { *segment } else { panic!("it looks") };
        let step = job.next(&at(1)).unwrap();
        assert_eq!(looked(&step), first);
        job.ended(&step, &End::Failed, &at(2));
        assert!(job.next(&at(3)).is_none() && job.look(&at(3), true).working);
        for segment in [first, second] {
            let step = job.next(&at(2 + PASS_MS)).unwrap();
            assert_eq!(looked(&step), segment);
            job.ended(&step, &End::Done, &at(2 + PASS_MS));
        }
        assert!(job.next(&at(3 + PASS_MS)).is_none() && !job.look(&at(3), true).working);
    }
}
