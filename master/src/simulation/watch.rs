//! Those who read what happened: from any place, of any master, through all that goes wrong.
//!
//! | rule | |
//! |---|---|
//! | told once, in order | what is told from one place to another is all that took effect between the two, and nothing else |
//! | resolved is resolved | what is told behind a place has a later stamp than was said to be complete there |
//! | a list and what follows it | whoever applied both knows what the log knows |

use super::oracle::{Check, Key};
use super::world::World;
use crate::events::{EventLog, Page, ReadError, Wanted};
use perilune_protocol::event::{Cursor, Event, EventFilter, What};
use perilune_protocol::rpc::watch::{ListAll, Listed};
use perilune_protocol::{FaultCode, ObjectKey, Outcome, ReplicaPlace, SegmentId, Tso};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

/// Milliseconds between two looks of a reader, at most.
const PAUSE_MS: u64 = 1500;

/// Reads until all was put right, beginning anew now and then. With its index of all there is, where it began with a list.
pub(super) async fn live(world: Rc<World>) {
    let mut reader = Reader::default();
    while !world.is_over() {
        tokio::time::sleep(std::time::Duration::from_millis(world.range(1, PAUSE_MS))).await;
        let looked = reader.look(&world);
        world.check(looked);
        if world.below(40) == 0 {
            reader = Reader::default();
        }
    }
}

/// Somebody who keeps a place.
#[derive(Default)]
pub(super) struct Reader {
    at: Option<Cursor>,
    /// What was listed and told so far; `None`: it began with no list.
    index: Option<Index>,
}

impl Reader {
    /// One page of one master, which may have come less far than others, or have forgotten what others know.
    fn look(&mut self, world: &World) -> Check {
        let masters: Vec<u64> = world.masters.borrow().keys().copied().collect();
        let which = world.draw.borrow_mut().pick(&masters);
        let Some(log) = events(world, which) else { return Ok(()) };
        let Some(from) = self.at else {
            if world.below(2) == 0 {
                let parts = world.range(1, 4) as u32;
                let mut index = Index::default();
                for part in 0..parts {
                    let Listed { events, begin, settled, .. } =
                        list(world, which, (part, parts), self.at).map_err(|fault| ("a list and what follows it", fault.to_string()))?;
                    self.at = self.at.or(Some(begin));
                    index.settled = settled.index;
                    events.iter().for_each(|event| index.apply(event));
                }
                self.index = Some(index);
            } else {
                let Ok((safe, oldest)) = log.oldest() else { return Ok(()) };
                let (newest, end) = log.resolved();
                if world.below(2) == 0 {
                    self.at = Some(Cursor { index: world.range(oldest.index, end.index + 1), place: 0, ..oldest });
                } else if safe <= newest {
                    let stamp = Tso(world.range(safe.0, newest.0));
                    let at = log.at(stamp).map_err(|e| ("a stamp is a place", format!("master {which} at {}: {e}", stamp.0)))?;
                    self.at = Some(at);
                    return world.oracle.borrow_mut().resumes(stamp, at, &format!("master {which}"));
                }
            }
            return Ok(());
        };
        match log.verified(from).and_then(|from| log.read(from, world.range(1, 4000) as usize)) {
            Ok(Page { events, next, resolved }) => {
                if let Some(index) = &mut self.index {
                    events.iter().for_each(|event| index.apply(event));
                }
                self.at = Some(next);
                if let Some(index) = self.index.as_ref().filter(|index| next.index > index.settled) {
                    world.oracle.borrow_mut().equals(next.index, &index.objects())?;
                }
                world.oracle.borrow_mut().told(
                    which,
                    (from.index, u64::from(from.place)),
                    &events,
                    (next.index, u64::from(next.place)),
                    resolved,
                )
            }
            // Another may have it.
            Err(ReadError::Ahead) => Ok(()),
            // A disk lied, and power was lost: this is how its readers hear of it.
            Err(ReadError::Rewritten { .. }) if world.oracle.borrow().lenient => {
                *self = Self::default();
                Ok(())
            }
            Err(ReadError::OutOfRange { oldest }) if oldest > from => {
                *self = Self::default();
                Ok(())
            }
            Err(e) => Err(("told once, in order", format!("master {which} at {from}: {e}"))),
        }
    }
}

/// What a master tells of what happened; `None`: it is down, or stopped.
fn events(world: &World, id: u64) -> Option<Arc<EventLog>> {
    let masters = world.masters.borrow();
    let master = masters.get(&id).filter(|master| master.blocked(world.now()).is_none())?;
    let up = master.up.as_ref().filter(|up| up.loose.poison().is_none())?;
    Some(Arc::clone(up.throne.served().0.events()))
}

/// A part of all that a master knows.
fn list(world: &World, id: u64, (part, parts): (u32, u32), begin: Option<Cursor>) -> Outcome<Listed> {
    let masters = world.masters.borrow();
    let up = masters.get(&id).and_then(|master| master.up.as_ref()).ok_or_else(|| FaultCode::Unreachable.with("it is down"))?;
    let engine = up.throne.served().0;
    let question = ListAll { filter: EventFilter::default(), everybody: true, part, parts, begin };
    engine.events().list(&engine.inner.seat.state(), &question, &Arc::new(Wanted::new(EventFilter::default())?))
}

/// Objects with copies, and where these are, as whoever applies events knows them.
#[derive(Default)]
struct Index {
    segments: BTreeSet<SegmentId>,
    objects: BTreeMap<Key, (Tso, BTreeMap<SegmentId, ReplicaPlace>)>,
    /// From this entry on it is exact.
    settled: u64,
}

/// What an index is compared by.
pub(super) type Known = BTreeMap<Key, (Tso, Vec<ReplicaPlace>)>;

impl Index {
    fn apply(&mut self, event: &Event) {
        let whose = |key: &ObjectKey| Key { tenant: event.tenant.unwrap_or_default(), key: key.clone() };
        match &event.what {
            What::Mounted { segment, .. } => drop(self.segments.insert(*segment)),
            What::Unmounted { segment } => {
                self.segments.remove(segment);
                self.objects.values_mut().for_each(|(_, places)| drop(places.remove(segment)));
            }
            What::Put { key, version, replicas, .. } => {
                let key = whose(key);
                if self.objects.get(&key).is_none_or(|(known, _)| known <= version) {
                    let here = replicas.iter().filter(|place| self.segments.contains(&place.segment));
                    let places = here.map(|place| (place.segment, place.clone())).collect();
                    self.objects.insert(key, (*version, places));
                }
            }
            What::Replicas { key, version, add, drop } => {
                if let Some((_, places)) = self.objects.get_mut(&whose(key)).filter(|(known, _)| known == version) {
                    drop.iter().for_each(|segment| std::mem::drop(places.remove(segment)));
                    for place in add.iter().filter(|place| self.segments.contains(&place.segment)) {
                        places.insert(place.segment, place.clone());
                    }
                }
            }
            What::Removed { key, version, .. } => {
                let key = whose(key);
                if self.objects.get(&key).is_some_and(|(known, _)| known == version) {
                    self.objects.remove(&key);
                }
            }
            What::Demoted { key, version } => {
                if let Some((_, places)) = self.objects.get_mut(&whose(key)).filter(|(known, _)| known == version) {
                    places.clear();
                }
            }
            _ => {}
        }
    }

    fn objects(&self) -> Known {
        let there = self.objects.iter().filter(|(_, (_, places))| !places.is_empty());
        there.map(|(key, (version, places))| (key.clone(), (*version, places.values().cloned().collect()))).collect()
    }
}
