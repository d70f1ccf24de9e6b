//! What must be in the end, when all was put right: everything is there, everywhere, and no job has anything left to do.

use super::checkpoints;
use super::client::{self, Client, Found, Recalled};
use super::master::start;
use super::memory::Condition;
use super::needs;
use super::oracle::{Check, Key};
use super::steward;
use super::tenancy::Remaining;
use super::vaults;
use super::world::World;
use crate::engine::Engine;
use perilune_protocol::rpc::job::{JobState, PaceJobs, SwitchJob};
use perilune_protocol::{ColdName, ReplicaPlace, SegmentId, Tso, tenant};
use perilune_state::effect::ObjectRecord;
use perilune_state::objects::Object;
use perilune_state::segments::Phase;
use perilune_state::settings::{Settings, Switch};
use std::ops::ControlFlow;
use std::rc::Rc;
use std::time::Duration;

/// So long jobs may take for what faults left them.
const JOBS_MS: u64 = 150_000;
/// So long an object may take to come back from its vault.
const FETCH_MS: u64 = 60_000;
/// So long vaults may take to be rid of what nothing names: a node may be at it for a minute, and then somebody has to look.
const SWEPT_MS: u64 = 240_000;
/// A leader looks at all of a vault once, when it has reigned for a while; so another has to.
const REIGN_MS: u64 = 40_000;
/// Between two looks at them.
const LOOK_MS: u64 = 500;

/// "it heals": somebody leads, puts are stored, and every object that was acknowledged and not removed is there, on every member.
pub(super) async fn look(world: &Rc<World>) -> Check {
    if world.oracle.borrow().lenient {
        return Ok(());
    }
    let client = Client::new(world, world.options.clients, 0);
    let until = world.now() + 30_000;
    // A key of its own: nobody is in the middle of putting it.
    while client.put(1_000_000).await.is_none() {
        if world.now() >= until || world.is_over() {
            return Err(("it heals", "no put was stored within 30 s after all was put right".into()));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    jobs_end(world, &client).await?;
    is_kept(world).await?;
    leading(world).map_or(Ok(()), |engine| needs::forgotten(&engine))?;
    let remaining = world.oracle.borrow().remaining();
    for left in &remaining {
        let good = left.record.replicas.iter().any(|place| is_good(world, &left.record, place));
        // Of a tenant that was dropped nothing is served.
        if left.acknowledged && (good || left.in_vault) && world.oracle.borrow().owners.is_served(left.key.tenant) {
            can_be_read(world, left).await?;
        }
    }
    settled(world).await?;
    world.oracle.borrow().all_emptied()?;
    swept(world).await?;
    checkpoints::look(world, tenant::DEFAULT)?;
    agree(world).await
}

/// "it heals": a checkpoint is made when somebody asks for one.
async fn is_kept(world: &Rc<World>) -> Check {
    let until = world.now() + JOBS_MS;
    while world.options.cold && !world.is_over() {
        match steward::checkpoint(world).await {
            Some(true) => break,
            Some(false) => return Ok(()),
            None => {}
        }
    }
    let is_made = |engine: &Engine| engine.upload_flag().is_none() && engine.state().checkpoints.recorded().begun().is_none();
    while world.options.cold && !world.is_over() && !leading(world).as_ref().is_some_and(is_made) {
        if world.now() >= until {
            return Err(("it heals", format!("no checkpoint is made {JOBS_MS} ms after all was put right")));
        }
        tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
    }
    Ok(())
}

async fn can_be_read(world: &Rc<World>, left: &Remaining) -> Check {
    let (number, until) = (client::number(&left.record.key), world.now() + FETCH_MS);
    let at = |place: &usize| world.name_at(*place).and_then(|name| world.oracle.borrow().owners.named(&name)) == Some(left.key.tenant);
    let Some(place) = (0..world.options.tenants as usize).find(at) else { return Ok(()) };
    let reader = Client::new(world, world.options.clients, place);
    let mut found = reader.locate(number).await;
    // What makes room for it may be leased.
    while matches!(found, Found::Away) && world.now() < until && !world.is_over() {
        if reader.recall(number).await == Recalled::Through {
            return Ok(());
        }
        found = reader.locate(number).await;
    }
    let leaves = || {
        let is_it = |other: &Remaining| other.key == left.key && other.record.version == left.record.version;
        !world.oracle.borrow().remaining().iter().any(is_it)
    };
    match found {
        Found::There(place, _) if place.version >= left.record.version && reader.read(&left.key, number, &place) => Ok(()),
        _ if leaves() => Ok(()),
        Found::There(place, _) => unreadable(left, &format!("{place:?}")),
        Found::Away => unreadable(left, "it is away"),
        Found::Nowhere => unreadable(left, "it is not found"),
    }
}

fn unreadable(left: &Remaining, found: &str) -> Check {
    let what = format!("{} {} was acknowledged and cannot be read at the end: {found}", left.key, left.record.version.0);
    Err(("it heals", what))
}

/// No node is at anything for a vault.
async fn settled(world: &Rc<World>) -> Check {
    let until = world.now() + JOBS_MS;
    while world.hauls.get() > 0 && !world.is_over() {
        if world.now() >= until {
            return Err(("a job ends", format!("a node is at an order about a vault {JOBS_MS} ms after all was put right")));
        }
        tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
    }
    Ok(())
}

/// "vaults hold what is named": once no node is at anything for a vault, and somebody has looked at all that is in them.
async fn swept(world: &Rc<World>) -> Check {
    let (until, mut reign) = (world.now() + SWEPT_MS, world.now() + REIGN_MS);
    loop {
        let orphan = vaults::lock(&world.buckets).orphan().filter(|_| !world.is_over());
        let Some((bucket, name)) = orphan else { return Ok(()) };
        if world.now() >= until {
            return Err(("vaults hold what is named", format!("{name} is in bucket {bucket}, {SWEPT_MS} ms after all was put right")));
        }
        if world.hauls.get() == 0 && world.now() >= reign {
            reign = world.now() + REIGN_MS;
            for id in world.members() {
                if let Some(master) = world.masters.borrow_mut().get_mut(&id) {
                    master.end(world, false);
                }
                start(world, id);
            }
        }
        tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
    }
}

fn condition(world: &World, record: &ObjectRecord, place: &ReplicaPlace) -> Condition {
    world.memory.borrow().look(place, (client::number(&record.key), record.version.0))
}

fn is_good(world: &World, record: &ObjectRecord, place: &ReplicaPlace) -> bool {
    condition(world, record, place) == Condition::Right
}

/// "a job ends": all are switched on, and some time later have nothing left to do.
async fn jobs_end(world: &Rc<World>, client: &Client) -> Check {
    client.order(&PaceJobs { bytes_per_second: Settings::default().job_bytes_per_second() }).await;
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
    let oracle = world.oracle.borrow();
    if let Some(dropped) = oracle.owners.dropped().first() {
        return Some(format!("tenant {dropped} was dropped and is not gone"));
    }
    oracle.remaining().iter().find_map(|left| lacking(world, engine, &left.key, &left.record))
}

/// What no segment has room for stays undone.
fn is_full(job: &JobState) -> bool {
    job.last_error.contains("no room for") || job.last_error.contains("takes another")
}

/// "wanted copies": as many good ones as were asked for, or as there are segments with room for one.
fn lacking(world: &World, engine: &Engine, key: &Key, record: &ObjectRecord) -> Option<String> {
    let good = record.replicas.iter().filter(|place| is_good(world, record, place)).count();
    let says = |what: &str| Some(format!("{key} {} {what}: {:?}", record.version.0, record.replicas));
    if record.replicas.iter().any(|place| condition(world, record, place) == Condition::Rotten) {
        return says("has a copy whose bytes changed");
    }
    let has = |id: SegmentId| record.replicas.iter().any(|place| place.segment == id);
    let table = engine.state().segments.table();
    // As much again, since a value lies in few pieces.
    let roomy = |segment: &&std::sync::Arc<perilune_state::segments::Segment>| {
        segment.tenant() == key.tenant && room(segment) > 2 * record.size + (1 << 20) && !has(segment.id())
    };
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

/// An object as all are to know it.
type Known = (Key, Tso, Vec<ReplicaPlace>, Option<ColdName>);

fn compare(world: &World) -> Check {
    let head = world.oracle.borrow().head.0;
    let remaining = world.oracle.borrow().remaining().into_iter();
    let expected: Vec<Known> = remaining
        .filter(|left| !left.record.replicas.is_empty() || left.cold.is_some())
        .map(|left| (left.key, left.record.version, sorted(left.record.replicas), left.cold))
        .collect();
    let mut directory = None;
    for (id, master) in world.masters.borrow().iter() {
        let Some(up) = &master.up else { return Err(("it heals", format!("master {id} is down at the end"))) };
        if up.loose.applied() < head {
            return Err(("it heals", format!("master {id} has applied {} of {head} entries at the end", up.loose.applied())));
        }
        let mut known: Vec<Known> = Vec::new();
        let engine = up.throne.engine();
        engine.state().index.for_each(&mut |object| {
            known.extend(known_as(object));
            ControlFlow::Continue(())
        });
        known.sort_by(|a, b| a.0.cmp(&b.0));
        if known != expected {
            let (more, less) = (known.iter().find(|k| !expected.contains(k)), expected.iter().find(|k| !known.contains(k)));
            return Err(("members agree", format!("master {id} has {more:?} too many and lacks {less:?}")));
        }
        let its = engine.directory();
        let first = directory.get_or_insert_with(|| its.clone());
        if *first != its {
            return Err(("members agree", format!("master {id} has another directory than the first: {its:?}, {first:?}")));
        }
    }
    Ok(())
}

/// Nothing where it was only on segments that are gone: those objects are forgotten by and by.
fn known_as(object: &Object) -> Option<Known> {
    let here = object.replicas.iter().filter(|r| r.segment.phase() != Phase::Gone);
    let places: Vec<_> = here.map(|r| ReplicaPlace { segment: r.segment.id(), extents: r.extents.to_vec() }).collect();
    let key = Key { tenant: object.key.as_ref().tenant, key: object.key.to_object_key() };
    let cold = object.cold.as_ref().map(|copy| copy.name);
    (!places.is_empty() || cold.is_some()).then(|| (key, object.version, sorted(places), cold))
}

fn sorted(mut places: Vec<ReplicaPlace>) -> Vec<ReplicaPlace> {
    places.sort_by_key(|place| place.segment);
    places
}
