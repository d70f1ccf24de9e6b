//! Steps under way: from a decision to orders for nodes, and from what nodes say to effects.

use super::step::{End, Step, World, live};
use crate::engine::Engine;
use crate::planted::{self, Defect};
use crate::work::board::Ended;
use perilune_protocol::rpc::work::{WorkOrder, WorkOutcome, WorkSource};
use perilune_protocol::{ReplicaPlace, SegmentId};
use perilune_state::objects::{Object, Replica};
use perilune_state::replicas::{CopyRefusal, CopyRoom};
use perilune_state::segments::{Reach, Segment};
use perilune_state::{Effect, State};
use std::sync::Arc;

/// An order waits so long for its node to take it, in milliseconds.
const TAKEN_WITHIN_MS: u64 = 10_000;
/// Segments that are asked for room before a copy is given up for now.
const TARGETS_MAX: usize = 16;

/// A step that nodes are at, or the log.
pub(super) struct Flight {
    /// Whose step it is.
    pub(super) job: usize,
    pub(super) step: Step,
    room: Option<CopyRoom>,
    /// Copies that were, or are, to be fetched from; the present one at the end.
    sources: Vec<SegmentId>,
    bad: bool,
}

/// What comes next.
pub(super) enum Next {
    /// An order of this number was put up.
    Order(u64),
    /// This is to be put into the log; the step is done when it is there.
    Log(Box<Effect>),
    /// It is over. With what went wrong, for people.
    Over(End, String),
}

impl Flight {
    pub(super) fn new(job: usize, step: Step) -> Self {
        Self { job, step, room: None, sources: Vec::new(), bad: false }
    }

    /// Bytes that beginning it costs of what may be moved.
    pub(super) fn cost(&self) -> u64 {
        match &self.step {
            Step::Copy { object, .. } | Step::Verify { object, .. } => object.size,
            Step::Drop { .. } | Step::Demote(_) | Step::Remove { .. } | Step::Unmount(_) => 0,
        }
    }

    /// Bytes that will leave a segment when it is done.
    pub(super) fn outgoing(&self) -> Option<(SegmentId, u64)> {
        match &self.step {
            Step::Copy { object, drop: Some(segment), .. } | Step::Drop { object, segment } => Some((*segment, object.size)),
            _ => None,
        }
    }

    pub(super) async fn begin(&mut self, engine: &Engine, world: &World<'_>) -> Next {
        match self.step.clone() {
            Step::Copy { object, to, drop } => self
                .find_room(engine, world, &object, to, drop)
                .await
                .unwrap_or_else(|why| Next::Over(End::Full, format!("{}: {why}", object.key.to_object_key()))),
            Step::Verify { object, segment } => match object.replica_on(segment) {
                Some(replica) => Next::Order(put(engine, world, &object, place(replica), &replica.segment, None)),
                None => Next::Over(End::Moot, String::new()),
            },
            Step::Drop { object, segment } => Next::Log(Box::new(State::replicas(&object, None, Some(segment)))),
            Step::Demote(object) => Next::Log(Box::new(State::demotion(&object))),
            // It is met again once its vault has it, or has not.
            Step::Remove { object, .. } if engine.reign.cold.is_uploading(&object.key) || world.is_saved(&object) => {
                Next::Over(End::Failed, format!("{}: it has come to its vault meanwhile", object.key.to_object_key()))
            }
            Step::Remove { object, reason } => {
                // Nothing can be read of it, so no lease is worth waiting for.
                let _ = object.condemn(world.now, true);
                Next::Log(Box::new(State::removal(&object, reason)))
            }
            Step::Unmount(segment) => match engine.unmount_now(segment).await {
                Ok(()) => Next::Over(End::Done, String::new()),
                Err(fault) => Next::Over(End::Failed, fault.to_string()),
            },
        }
    }

    async fn find_room(
        &mut self,
        engine: &Engine,
        world: &World<'_>,
        object: &Arc<Object>,
        to: Option<Arc<Segment>>,
        drop: Option<SegmentId>,
    ) -> Result<Next, String> {
        let targets = to.map_or_else(|| world.targets(object, drop), |to| vec![to]);
        if targets.is_empty() {
            return Err("no segment without a copy of it takes another".into());
        }
        for target in targets.iter().take(TARGETS_MAX) {
            let room = loop {
                match world.state.copy_room(object.size, target, world.now) {
                    Ok(room) => break Some(room),
                    Err(CopyRefusal::Full) => break None,
                    Err(CopyRefusal::NeedWindow(window)) => {
                        engine.commit(&window).await.map_err(|fault| fault.to_string())?;
                    }
                }
            };
            if let Some(room) = room {
                crate::work::evict::ring_if_tight(engine);
                self.room = Some(room);
                if planted::is(Defect::EarlyDrop) && drop.is_some() {
                    let _ = engine.commit(&State::replicas(object, None, drop)).await;
                }
                return Ok(self.fetch(engine, world, object));
            }
        }
        Err(format!("no room for {} bytes on any of {} segments", object.size, targets.len()))
    }

    /// Has the next copy fetched from that was not yet tried.
    fn fetch(&mut self, engine: &Engine, world: &World<'_>, object: &Arc<Object>) -> Next {
        let Some(room) = &self.room else { return Next::Over(End::Failed, "no room was taken".into()) };
        let mut sources: Vec<&Replica> = live(object).filter(|r| !self.sources.contains(&r.segment.id())).collect();
        sources.sort_by_key(|r| r.segment.reach() != Reach::Alive);
        let Some(source) = sources.first() else {
            let why = if self.bad { "no copy has the right bytes" } else { "no copy can be read" };
            return self.give_up(world, false, if self.bad { End::Bad } else { End::Failed }, why.into());
        };
        self.sources.push(source.segment.id());
        let from = WorkSource { segment: (*source.segment.desc()).clone(), extents: source.extents.to_vec() };
        Next::Order(put(engine, world, object, room.place(), room.segment(), Some(from)))
    }

    fn give_up(&mut self, world: &World<'_>, writes: bool, end: End, why: String) -> Next {
        if let Some(room) = self.room.take() {
            world.state.copy_give_up(room, writes, world.now);
        }
        Next::Over(end, why)
    }

    /// Its order ended.
    pub(super) fn heard(&mut self, engine: &Engine, world: &World<'_>, ended: Ended<WorkOutcome>) -> Next {
        let Some(known) = self.step.object().cloned() else { return Next::Over(End::Moot, String::new()) };
        let key = known.key.to_object_key();
        // A node that failed may have given up a transfer that is still on its way.
        let writes = matches!(ended, Ended::Silence { taken: true, .. } | Ended::Said(WorkOutcome::Failed(_)));
        let Some(object) = world.standing(&known) else { return self.give_up(world, writes, End::Moot, String::new()) };
        match (&self.step, ended) {
            (Step::Verify { .. }, Ended::Said(WorkOutcome::Right)) => Next::Over(End::Done, String::new()),
            (Step::Verify { segment, .. }, Ended::Said(WorkOutcome::Wrong { found })) => {
                // It may have moved while it was looked at, and something else lie there now.
                let extents = |object: &Object| object.replica_on(*segment).map(|r| r.extents.clone());
                if extents(&object) != extents(&known) {
                    return Next::Over(End::Moot, String::new());
                }
                let why = format!("{key}: the copy on segment {segment} has checksum {found:016x}, put with {:016x}", object.checksum);
                Next::Over(End::Bad, why)
            }
            (Step::Copy { drop, .. }, Ended::Said(WorkOutcome::Right)) => match self.room.take() {
                Some(room) => Next::Log(Box::new(State::replicas(&object, Some(&room), *drop))),
                None => Next::Over(End::Failed, "no room was taken".into()),
            },
            (Step::Copy { .. }, Ended::Said(WorkOutcome::Wrong { .. })) => {
                self.bad = true;
                self.fetch(engine, world, &object)
            }
            (Step::Copy { .. }, Ended::Said(WorkOutcome::Unread(why))) => {
                tracing::debug!(%key, "a copy could not be fetched: {why}");
                self.fetch(engine, world, &object)
            }
            (_, Ended::Said(WorkOutcome::Unread(why) | WorkOutcome::Failed(why))) => {
                self.give_up(world, writes, End::Failed, format!("{key}: {why}"))
            }
            (_, Ended::Silence { .. }) => {
                self.give_up(world, writes, End::Failed, format!("{key}: the node that was to work on it is silent"))
            }
            _ => self.give_up(world, writes, End::Failed, format!("{key}: an answer that fits no question")),
        }
    }
}

fn place(replica: &Replica) -> ReplicaPlace {
    ReplicaPlace { segment: replica.segment.id(), extents: replica.extents.to_vec() }
}

fn put(engine: &Engine, world: &World<'_>, object: &Object, place: ReplicaPlace, on: &Segment, source: Option<WorkSource>) -> u64 {
    // As long as a put may take: a new leader waits no longer for those who may write.
    let limit_ms = world.state.rules.put_deadline_ms();
    let order = WorkOrder { id: 0, limit_ms, place, size: object.size, checksum: object.checksum, source };
    engine.reign.jobs.board.put(on.node(), order, world.now + TAKEN_WITHIN_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::cold::tests::Stand;
    use perilune_protocol::rpc::cold::ColdOutcome;
    use perilune_state::effect::RemoveReason;
    use std::collections::{HashMap, HashSet};

    #[test]
    fn what_is_being_saved_or_just_was_is_removed_by_no_job() {
        let stand = Stand::start();
        stand.vault("main");
        let (engine, node) = (stand.engine(), stand.node());
        let remove = |object: &Arc<Object>| {
            let (outgoing, busy) = (HashMap::new(), HashSet::new());
            let world = World { state: engine.state(), now: engine.now(), outgoing: &outgoing, busy: &busy };
            let step = Step::Remove { object: object.clone(), reason: RemoveReason::Damaged };
            stand.runtime.block_on(Flight::new(0, step).begin(&engine, &world))
        };
        for (key, outcome) in [("saved", ColdOutcome::Done { stored: 100 }), ("not saved", ColdOutcome::Failed("no".into()))] {
            let (object, order) = stand.put_and_save(key, node);
            assert!(matches!(remove(&object), Next::Over(End::Failed, _)), "it is on its way");
            stand.ends(node, &object, &order, outcome.clone());
            match remove(&object) {
                Next::Over(End::Failed, _) => assert_eq!(key, "saved"),
                Next::Log(effect) => assert!(key == "not saved" && matches!(*effect, Effect::Remove { .. }), "{key}: {effect:?}"),
                Next::Order(_) | Next::Over(..) => panic!("{key}"),
            }
        }
    }
}
