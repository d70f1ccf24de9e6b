//! What must be in the end, when all was put right: everything is there, everywhere, and no job has anything left to do.

use super::client::{self, Client};
use super::memory::Condition;
use super::oracle::Check;
use super::world::World;
use crate::engine::Engine;
use perilune_protocol::rpc::job::{JobState, PaceJobs, SwitchJob};
use perilune_protocol::{ReplicaPlace, SegmentId, Tso};
use perilune_state::effect::ObjectRecord;
use perilune_state::segments::Phase;
use perilune_state::settings::{JOB_BYTES_PER_SECOND_DEFAULT, Switch};
use std::ops::ControlFlow;
use std::rc::Rc;
use std::time::Duration;

/// So long jobs may take for what faults left them.
const JOBS_MS: u64 = 150_000;
/// Between two looks at them.
const LOOK_MS: u64 = 500;

/// "it heals": somebody leads, puts are stored, and every object that was acknowledged and not removed is there, on every member.
pub(super) async fn look(world: &Rc<World>) -> Check {
    if world.oracle.borrow().lenient {
        return Ok(());
    }
    let client = Client::new(world, world.options.clients);
    let until = world.now() + 30_000;
    // A key of its own: nobody is in the middle of putting it.
    while client.put(1_000_000).await.is_none() {
        if world.now() >= until || world.is_over() {
            return Err(("it heals", "no put was stored within 30 s after all was put right".into()));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    jobs_end(world, &client).await?;
    let remaining = world.oracle.borrow().remaining();
    for (record, acknowledged) in &remaining {
        if !acknowledged || !record.replicas.iter().any(|place| is_good(world, record, place)) {
            continue;
        }
        let number = client::number(&record.key);
        let place = client.locate(number).await.map(|(place, _)| place);
        let leaving =
            world.oracle.borrow().remaining().iter().all(|(other, _)| (&other.key, other.version) != (&record.key, record.version));
        match place {
            Some(place) if place.version >= record.version && client.read(number, &place) => {}
            _ if leaving => {}
            found => {
                let what = format!("{} {} was acknowledged and cannot be read at the end: {found:?}", record.key, record.version.0);
                return Err(("it heals", what));
            }
        }
    }
    agree(world).await
}

fn condition(world: &World, record: &ObjectRecord, place: &ReplicaPlace) -> Condition {
    world.memory.borrow().look(place, (client::number(&record.key), record.version.0))
}

fn is_good(world: &World, record: &ObjectRecord, place: &ReplicaPlace) -> bool {
    condition(world, record, place) == Condition::Right
}

/// "a job ends": all are switched on, and some time later have nothing left to do.
async fn jobs_end(world: &Rc<World>, client: &Client) -> Check {
    client.order(&PaceJobs { bytes_per_second: JOB_BYTES_PER_SECOND_DEFAULT }).await;
    // Off and on: what it looked at may have changed since.
    for on in [false, true] {
        for job in Switch::ALL.iter().filter(|job| on || **job == Switch::VolInspect) {
            while client.order(&SwitchJob { job: job.key().into(), on }).await.is_none() && !world.is_over() {}
        }
        tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
    }
    let until = world.now() + JOBS_MS;
    loop {
        tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
        let left = leading(world).map_or(Some("nobody leads".into()), |engine| undone(world, &engine));
        match left {
            Some(left) if world.now() >= until => return Err(("a job ends", format!("{left}, {JOBS_MS} ms after all was put right"))),
            Some(_) if !world.is_over() => {}
            _ => return Ok(()),
        }
    }
}

fn leading(world: &World) -> Option<Engine> {
    let masters = world.masters.borrow();
    let mut engines = masters.values().filter_map(|master| Some(master.up.as_ref()?.throne.served().0));
    engines.find(Engine::leads)
}

/// What there is still to do.
fn undone(world: &World, engine: &Engine) -> Option<String> {
    let jobs = engine.jobs();
    let busy = |job: &&JobState| !job.on || job.in_flight > 0 || (job.state != "idle" && !is_full(job));
    if let Some(job) = jobs.iter().find(busy) {
        return Some(format!("{job:?} has something left to do"));
    }
    let table = engine.state().segments.table();
    if let Some(segment) = table.iter().find(|segment| segment.phase() != Phase::Mounted) {
        return Some(format!("segment {} still drains", segment.id()));
    }
    let remaining = world.oracle.borrow().remaining();
    remaining.iter().find_map(|(record, _)| lacking(world, engine, record))
}

/// What no segment has room for stays undone.
fn is_full(job: &JobState) -> bool {
    job.last_error.contains("no room for") || job.last_error.contains("takes another")
}

/// "wanted copies": as many good ones as were asked for, or as there are segments with room for one.
fn lacking(world: &World, engine: &Engine, record: &ObjectRecord) -> Option<String> {
    let good = record.replicas.iter().filter(|place| is_good(world, record, place)).count();
    let says = |what: &str| Some(format!("{} {} {what}: {:?}", record.key, record.version.0, record.replicas));
    if record.replicas.iter().any(|place| condition(world, record, place) == Condition::Rotten) {
        return says("has a copy whose bytes changed");
    }
    let has = |id: SegmentId| record.replicas.iter().any(|place| place.segment == id);
    let table = engine.state().segments.table();
    // As much again, since a value lies in few pieces.
    let roomy = |segment: &&std::sync::Arc<_>| room(segment) > 2 * record.size + (1 << 20) && !has(segment.id());
    let possible = table.iter().filter(roomy).count();
    if good > 0 && good < usize::from(record.wanted) && possible > 0 {
        return says("has fewer copies than were wanted, and there is room");
    }
    None
}

fn room(segment: &perilune_state::segments::Segment) -> u64 {
    segment.space().capacity().saturating_sub(segment.space().used())
}

/// "members agree": all come to the same objects, once they have heard what was stored last.
async fn agree(world: &Rc<World>) -> Check {
    let until = world.now() + 5000;
    loop {
        tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
        let compared = compare(world);
        if compared.is_ok() || world.now() >= until {
            return compared;
        }
    }
}

fn compare(world: &World) -> Check {
    let head = world.oracle.borrow().head();
    let remaining = world.oracle.borrow().remaining().into_iter().map(|(record, _)| record);
    let mut expected: Vec<_> = remaining.filter(|r| !r.replicas.is_empty()).map(|r| (r.key, r.version, sorted(r.replicas))).collect();
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    for (id, master) in world.masters.borrow().iter() {
        let Some(up) = &master.up else { return Err(("it heals", format!("master {id} is down at the end"))) };
        if up.loose.applied() < head {
            return Err(("it heals", format!("master {id} has applied {} of {head} entries at the end", up.loose.applied())));
        }
        let mut known: Vec<(_, Tso, _)> = Vec::new();
        let engine = up.throne.engine();
        engine.state().index.for_each(&mut |object| {
            // Those whose segments are gone are forgotten by and by.
            let here = object.replicas.iter().filter(|r| r.segment.phase() != Phase::Gone);
            let places = here.map(|r| ReplicaPlace { segment: r.segment.id(), extents: r.extents.to_vec() }).collect::<Vec<_>>();
            if !places.is_empty() {
                known.push((object.key.to_object_key(), object.version, sorted(places)));
            }
            ControlFlow::Continue(())
        });
        known.sort_by(|a, b| a.0.cmp(&b.0));
        if known != expected {
            let (more, less) = (known.iter().find(|k| !expected.contains(k)), expected.iter().find(|k| !known.contains(k)));
            return Err(("members agree", format!("master {id} has {more:?} too many and lacks {less:?}")));
        }
    }
    Ok(())
}

fn sorted(mut places: Vec<ReplicaPlace>) -> Vec<ReplicaPlace> {
    places.sort_by_key(|place| place.segment);
    places
}
