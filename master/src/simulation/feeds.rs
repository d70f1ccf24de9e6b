//! Changefeeds of a run: made, paused, taken back to earlier stamps, dropped; and who asks how far they are.

use super::delivered::BUCKET;
use super::steward::{decide, insist};
use super::vaults::{self, Mood};
use super::world::World;
use crate::feeds::ReplicaConfig;
use perilune_protocol::Tso;
use perilune_state::directory::{FeedEvent, FeedRecord, FeedState, NewFeed};
use serde_json::json;
use std::rc::Rc;
use std::time::Duration;

/// Feeds that a run has at a time.
const FEEDS_MAX: usize = 4;
/// Between two looks at how far they are, at most.
const LOOK_MS: u64 = 400;
/// So long they may take for what faults left them.
const DELIVERED_MS: u64 = 60_000;

/// Some begin with the run.
pub(super) fn begin(world: &Rc<World>) {
    if !world.options.feeds {
        return;
    }
    for _ in 0..world.range(1, 2) {
        let world = Rc::clone(world);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(Duration::from_millis(world.below(10_000))).await;
            create(&world).await;
        });
    }
    tokio::task::spawn_local(look(Rc::clone(world)));
}

/// Has something done to one of them, or makes another.
pub(super) fn acts(world: &Rc<World>, lasts: u64) {
    let world = Rc::clone(world);
    tokio::task::spawn_local(async move {
        let feeds = world.oracle.borrow().feeds();
        let nth = world.below(10);
        if feeds.is_empty() || nth >= 8 && feeds.len() < FEEDS_MAX {
            return create(&world).await;
        }
        let feed = feeds[world.below(feeds.len() as u64) as usize].id;
        if nth == 0 {
            return drop(decide(&world, "drop feed", move |known, _, _| known.drop_feed(feed)).await);
        }
        decide(&world, "pause feed", move |known, _, now| known.advance_feed(feed, FeedEvent::Pause, None, now)).await;
        tokio::time::sleep(Duration::from_millis(lasts)).await;
        let over = if nth < 4 { some_stamp(&world) } else { None };
        decide(&world, "resume feed", move |known, _, now| known.resume_feed(feed, over, now)).await;
    });
}

/// A sink is away, refuses, or answers some requests only.
pub(super) fn ails(world: &Rc<World>, lasts: u64) {
    let feeds = world.oracle.borrow().feeds();
    if feeds.is_empty() {
        return;
    }
    let bucket = bucket(&feeds[world.below(feeds.len() as u64) as usize]);
    let mood = world.draw.borrow_mut().pick(&[Mood::Away, Mood::Refusing, Mood::Failing]);
    vaults::lock(&world.buckets).set(&bucket, mood);
    world.after(lasts, move |world| vaults::lock(&world.buckets).set(&bucket, Mood::Well));
}

fn bucket(feed: &FeedRecord) -> String {
    format!("{BUCKET}{}", feed.name)
}

/// Somewhere in what has happened; what follows may be gone.
pub(super) fn some_stamp(world: &World) -> Option<Tso> {
    let oracle = world.oracle.borrow();
    let last = oracle.stamps.last_key_value().map(|(index, _)| *index)?;
    oracle.stamps.range(world.below(last + 1)..).next().map(|(_, stamp)| *stamp)
}

async fn create(world: &Rc<World>) {
    let place = world.below(world.options.tenants) as usize;
    let Some(tenant) = world.name_at(place).filter(|_| world.options.feeds) else { return };
    let newest = world.oracle.borrow().stamps.last_key_value().map(|(_, stamp)| *stamp);
    let start = if world.per_mille(500) { some_stamp(world) } else { newest };
    let Some(start) = start else { return };
    let name = format!("f{}", world.next());
    let quota = world.draw.borrow_mut().pick(&[1 << 10, 64 << 10, 1 << 30]);
    let config = json!({
        "memory_quota": quota,
        "sink": {
            "csv": { "include_commit_ts": true, "quote": "" },
            "terminator": "\n",
            "date_separator": "none",
            "cloud_storage_config": { "flush_interval": "2s" },
        },
    });
    let said = config.as_object().cloned().unwrap_or_default();
    let Ok(config) = ReplicaConfig::default().over(&said) else { return };
    let new = NewFeed {
        sink: format!("s3://bucket/{BUCKET}{name}?protocol=csv&access-key=a&secret-access-key=s"),
        name,
        sealed: None,
        config: config.shown().to_string(),
        start,
        target: None,
        creator: "simulation".into(),
    };
    decide(world, "create feed", move |known, _, now| known.create_feed(&tenant, &new, now)).await;
}

/// "a checkpoint is durable", also as masters tell it.
async fn look(world: Rc<World>) {
    while !world.is_over() {
        tokio::time::sleep(Duration::from_millis(world.range(1, LOOK_MS))).await;
        world.hear_sinks();
        let masters = world.members();
        let which = masters[world.below(masters.len() as u64) as usize];
        let told: Vec<_> = {
            let masters = world.masters.borrow();
            let Some(up) = masters.get(&which).and_then(|master| master.up.as_ref()) else { continue };
            let engine = up.throne.served().0;
            let known = engine.directory();
            known.feeds().filter_map(|feed| Some((feed.id, feed.run, engine.reign.feeds.progress(feed)?.checkpoint))).collect()
        };
        for (id, run, checkpoint) in told {
            let said = world.oracle.borrow_mut().says(id, run, checkpoint, &format!("master {which}"));
            world.check(said);
        }
    }
}

/// In the end none stands still, and each delivers all that has happened. What a feed needs may be gone; then it has failed.
pub(super) async fn heal(world: &Rc<World>) -> super::oracle::Check {
    let feeds = world.oracle.borrow().feeds();
    for feed in feeds {
        if matches!(feed.state, FeedState::Normal | FeedState::Failed) {
            continue;
        }
        let id = feed.id;
        // One that waits for long after many errors goes on at once.
        insist(world, "pause feed", move |known, _, now| known.advance_feed(id, FeedEvent::Pause, None, now)).await;
        insist(world, "resume feed", move |known, _, now| known.resume_feed(id, None, now)).await;
    }
    let until = world.now() + DELIVERED_MS;
    let newest = world.oracle.borrow().stamps.last_key_value().map_or(Tso(0), |(_, stamp)| *stamp);
    loop {
        world.hear_sinks();
        let behind = world.oracle.borrow_mut().behind(newest).filter(|_| !world.is_over());
        match behind {
            Some(what) if world.now() >= until => return Err(("it heals", format!("{what}, {DELIVERED_MS} ms after all was put right"))),
            Some(_) => tokio::time::sleep(Duration::from_millis(LOOK_MS)).await,
            None => return Ok(()),
        }
    }
}
