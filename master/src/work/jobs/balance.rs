//! `balance`: copies move from the fullest segments to the emptiest until all of a tenant's are filled within 5 % of their mean. Copies that
//! nobody reads go first; two copies of an object never come to lie on one node because of it.

use super::step::{End, Step, World, shares_node};
use super::{Job, Look, PASS_MS, RETRY_MS};
use perilune_protocol::{SegmentId, TenantId};
use perilune_state::alloc::PAGE;
use perilune_state::objects::Object;
use perilune_state::segments::Segment;
use perilune_state::settings::Switch;
use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Evened out up to this distance from the mean, as a share of a segment: a little less than what is promised.
const NEAR: f64 = 0.045;
/// Objects looked at, of a segment that is too full, before it is looked at again which is the fullest.
const BATCH: usize = 4096;

#[derive(Default)]
pub(super) struct Balance {
    /// Objects with a copy on a segment that was the fullest, those to move first at the end; none left where all were looked at.
    found: HashMap<SegmentId, Vec<Arc<Object>>>,
    due: u64,
    working: bool,
    note: String,
}

/// Segments that take copies, with how full they are, the emptiest first.
type Fills = Vec<(f64, Arc<Segment>)>;

/// The segments of one tenant.
#[derive(Default)]
struct Ours {
    fills: Fills,
    used: u64,
    capacity: u64,
}

impl Ours {
    fn mean(&self) -> f64 {
        self.used as f64 / self.capacity.max(1) as f64
    }

    /// How far the one that is farthest from the mean is from it.
    fn spread(&self) -> f64 {
        let mean = self.mean();
        self.fills.iter().map(|(fill, _)| (fill - mean).abs()).fold(0.0, f64::max)
    }
}

impl Balance {
    fn rest(&mut self, world: &World<'_>, pause: u64, note: String) {
        *self = Self { due: world.now + pause, note, ..Self::default() };
    }
}

impl Job for Balance {
    fn switch(&self) -> Switch {
        Switch::Balance
    }

    fn next(&mut self, world: &World<'_>) -> Option<Step> {
        if world.now < self.due {
            return None;
        }
        let mut tenants = tenants(world);
        tenants.sort_by(|a, b| b.spread().total_cmp(&a.spread()));
        let most = tenants.first()?;
        if most.spread() <= NEAR {
            let note = format!("all segments are filled within 5 % of the mean ({:.1} %)", most.mean() * 100.0);
            self.rest(world, RETRY_MS, note);
            return None;
        }
        self.working = true;
        let mut all_fresh = true;
        // One that nothing can be done for does not hold up the others.
        for ours in tenants.iter().take_while(|ours| ours.spread() > NEAR) {
            match self.step(world, ours) {
                Ok(step) => return Some(step),
                Err(fresh) => all_fresh &= fresh,
            }
        }
        self.found.clear();
        if all_fresh && world.outgoing.is_empty() {
            self.rest(world, PASS_MS, "no object of the fullest segment can move to one that is less full".into());
        } else if all_fresh {
            // What is under way tells first: looking again means looking at every object.
            self.due = world.now + RETRY_MS;
        }
        None
    }

    fn ended(&mut self, _: &Step, end: &End, world: &World<'_>) {
        if matches!(end, End::Bad | End::Full | End::Failed) {
            self.due = self.due.max(world.now + RETRY_MS);
        }
    }

    fn look(&self, _: &World<'_>, _: bool) -> Look {
        Look { working: self.working, note: self.note.clone(), ..Look::default() }
    }
}

impl Balance {
    /// The next move for one tenant. The `Err` says whether its fullest segment was looked through just now, so that looking again at once
    /// would find the same.
    fn step(&mut self, world: &World<'_>, ours: &Ours) -> Result<Step, bool> {
        let (fills, mean) = (&ours.fills, ours.mean());
        let (Some((lowest, _)), Some((highest, fullest))) = (fills.first(), fills.last()) else { return Err(true) };
        let fresh = !self.found.contains_key(&fullest.id());
        let found = self.found.entry(fullest.id()).or_insert_with(|| gather(world, fullest));
        while let Some(candidate) = found.pop() {
            let Some(object) = world.idle(&candidate).filter(|o| o.replica_on(fullest.id()).is_some()) else { continue };
            if let Some(to) = target(fills, *highest, fullest, &object) {
                self.note = format!("filled from {:.1} to {:.1} %, {:.1} in the mean", lowest * 100.0, highest * 100.0, mean * 100.0);
                return Ok(Step::Copy { object, to: Some(to), drop: Some(fullest.id()) });
            }
        }
        Err(fresh)
    }
}

fn gather(world: &World<'_>, from: &Segment) -> Vec<Arc<Object>> {
    let mut found = Vec::new();
    world.state.index.for_each(&mut |object| {
        if object.replica_on(from.id()).is_some() && !object.is_condemned() {
            found.push((!world.state.is_leased(object, world.now), object.touched(), object.clone()));
        }
        ControlFlow::Continue(())
    });
    // Not leased and used longest ago at the end.
    found.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
    let cold = found.split_off(found.len().saturating_sub(BATCH));
    cold.into_iter().map(|(.., object)| object).collect()
}

fn tenants(world: &World<'_>) -> Vec<Ours> {
    let mut tenants: BTreeMap<TenantId, Ours> = BTreeMap::new();
    for segment in world.state.segments.table().iter().filter(|s| s.allocatable()) {
        let ours = tenants.entry(segment.tenant()).or_default();
        ours.used += world.settled(segment);
        ours.capacity += segment.space().capacity();
        ours.fills.push((world.fill(segment), segment.clone()));
    }
    tenants.values_mut().for_each(|ours| ours.fills.sort_by(|a, b| a.0.total_cmp(&b.0)));
    tenants.into_values().collect()
}

/// What a copy takes may be so much more than its size, in bytes: else one copy that is all there is would go to and fro.
fn rounding(capacity: u64) -> u64 {
    (capacity / 4096).max(PAGE)
}

/// The emptiest segment that the object may move to and that is then less full than the one it comes from was.
fn target(fills: &Fills, highest: f64, from: &Segment, object: &Object) -> Option<Arc<Segment>> {
    let after = |fill: f64, to: &Segment| {
        let capacity = to.space().capacity().max(1);
        fill + (object.size + rounding(capacity)) as f64 / capacity as f64
    };
    let fits = |(fill, to): &&(f64, Arc<Segment>)| {
        after(*fill, to) < highest && object.replica_on(to.id()).is_none() && !shares_node(object, to, Some(from.id()))
    };
    fills.iter().find(fits).map(|(_, to)| to.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::sample::{MIB, lent, sample};
    use std::collections::HashSet;

    fn first_step(state: &perilune_state::State) -> Option<Step> {
        Balance::default().next(&World { state, now: 1, outgoing: &HashMap::new(), busy: &HashSet::new() })
    }

    #[test]
    fn a_tenant_that_nothing_can_be_done_for_does_not_hold_up_the_others() {
        let segments = [(1, 2 * MIB), (1, 2 * MIB), (2, 8 * MIB), (2, 8 * MIB)];
        let objects: [(&str, &[usize]); 3] = [("stuck", &[0]), ("a", &[2]), ("b", &[2])];
        let (state, ids) = lent(segments, &objects, 871_424 - 5);
        let Some(Step::Copy { object, to: Some(to), .. }) = first_step(&state) else { panic!("nothing moves") };
        assert_eq!((object.key.as_ref().tenant, to.id()), (TenantId(2), ids[3]));
    }

    #[test]
    fn one_copy_that_is_all_there_is_stays_where_it_is() {
        let (state, _) = sample([2 * MIB, 2 * MIB], &[("a", &[0])], 871_424 - 5);
        assert!(first_step(&state).is_none());
        let (state, _) = sample([4 * MIB, 4 * MIB], &[("a", &[0]), ("b", &[0])], 871_424 - 5);
        assert!(first_step(&state).is_some(), "of two, one may go");
    }
}
