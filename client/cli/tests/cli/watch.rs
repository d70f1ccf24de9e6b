//! What happens, told to those who watch: as the command shows it, and as a router keeps it.

use crate::cold::connect;
use crate::group::{Process, all, leader, lends, master};
use crate::harness::{Dev, wait_for};
use nix::sys::signal::Signal;
use perilune_client::{Since, Store, StoreConfig, Watch};
use perilune_protocol::event::{Event, EventFilter, EventKind, What};
use perilune_protocol::rpc::object::{ListKeys, Locate};
use perilune_protocol::rpc::segment::ListSegments;
use perilune_protocol::{NodeId, ObjectKey, PutConfig, SegmentId, Tso};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const SOON: Duration = Duration::from_millis(200);

#[test]
fn a_cursor_goes_on_where_it_was_after_the_master_was_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(dir.path());
    let store = connect(&dev, Duration::from_secs(10));
    let put = |store: &Store, key: &str| {
        store.put(&key.into(), b"value", &PutConfig::default()).unwrap();
    };
    ["a/1", "b/1", "a/2"].iter().for_each(|key| put(&store, key));
    let shown = dev.json(&["watch", "--from", "oldest", "--kind", "put", "--prefix", "a/", "--count", "2"]);
    let keys: Vec<&str> = shown.iter().map(|event| event["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["a/1", "a/2"]);
    assert_eq!((&shown[0]["event"], &shown[0]["size"]), (&"put".into(), &5.into()));
    let cursor = shown[0]["cursor"].as_str().unwrap().to_owned();

    dev.kill();
    let dev = dev.start_again(dir.path(), &[]);
    let store = connect(&dev, Duration::from_secs(10));
    assert_eq!(store.remove(&[ObjectKey::from("b/1")], true).len(), 1);
    let shown = dev.json(&["watch", "--from", &cursor, "--kind", "put,removed", "--count", "3"]);
    let brief: Vec<String> =
        shown.iter().map(|event| format!("{} {}", event["event"].as_str().unwrap(), event["key"].as_str().unwrap())).collect();
    assert_eq!(brief, ["put b/1", "put a/2", "removed b/1"]);
    for (wrong, why) in
        [(&cursor[1..], "no cursor"), ("yesterday", "no cursor"), ("AWflUEQQsUJvkke7aA5f4MgAAAAAAAAATQAAAAN4aFPP", "begin with a snapshot")]
    {
        let refused = dev.run(&["watch", "--from", wrong, "--count", "1"]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains(why), "{wrong}: {said}");
    }
    let text = dev.ok(&["watch", "--from", "snapshot", "--kind", "put,mounted", "--count", "3"]);
    assert!(text.contains("mounted") && text.contains("a/1") && text.contains("a/2") && !text.contains("b/1"), "{text}");
}

/// Which keys are on which nodes, by what was told.
#[derive(Default)]
struct Router {
    segments: BTreeMap<SegmentId, NodeId>,
    objects: BTreeMap<ObjectKey, (Tso, BTreeSet<SegmentId>)>,
}

impl Router {
    fn hear(&mut self, event: Event) {
        match event.what {
            What::Mounted { segment, node, .. } => drop(self.segments.insert(segment, node)),
            What::Unmounted { segment } => drop(self.segments.remove(&segment)),
            What::Put { key, version, replicas, .. } if self.objects.get(&key).is_none_or(|(known, _)| *known <= version) => {
                self.objects.insert(key, (version, replicas.into_iter().map(|place| place.segment).collect()));
            }
            What::Replicas { key, version, add, drop } => {
                if let Some((_, places)) = self.objects.get_mut(&key).filter(|(known, _)| *known == version) {
                    places.retain(|segment| drop != Some(*segment));
                    places.extend(add.map(|place| place.segment));
                }
            }
            What::Removed { key, version, .. } if self.objects.get(&key).is_some_and(|(known, _)| *known == version) => {
                self.objects.remove(&key);
            }
            _ => {}
        }
    }

    fn routes(&self) -> BTreeMap<ObjectKey, BTreeSet<NodeId>> {
        let nodes = |places: &BTreeSet<SegmentId>| places.iter().filter_map(|segment| self.segments.get(segment).copied()).collect();
        self.objects.iter().map(|(key, (_, places))| (key.clone(), nodes(places))).collect()
    }
}

/// The same, as the masters say.
fn asked(store: &Store) -> BTreeMap<ObjectKey, BTreeSet<NodeId>> {
    let segments = store.call(&ListSegments {}).unwrap();
    let nodes: BTreeMap<SegmentId, NodeId> = segments.into_iter().map(|s| (s.desc.id, s.desc.node)).collect();
    let keys: Vec<ObjectKey> =
        store.call(&ListKeys { pattern: String::new(), limit: 0 }).unwrap().keys.into_iter().map(|(key, _)| key).collect();
    let places = store.call(&Locate { keys: keys.clone() }).unwrap();
    let nodes = |place: perilune_protocol::ObjectPlace| place.replicas.iter().map(|replica| nodes[&replica.segment]).collect();
    keys.into_iter().zip(places).map(|(key, place)| (key, nodes(place.unwrap()))).collect()
}

/// Which group the masters of this test are.
const GROUP: u8 = 50;

#[test]
fn a_router_knows_what_the_masters_know_whoever_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut masters: Vec<Process> = (1..=3).map(|nth| master(GROUP, dir.path(), nth)).collect();
    let _nodes: Vec<_> = (0..2).map(|n| lends(&all(GROUP), dir.path(), &format!("node{n}"), "64MiB")).collect();
    let config = || StoreConfig {
        masters: all(GROUP).split(',').map(str::to_owned).collect(),
        deadline: Duration::from_secs(30),
        ..StoreConfig::default()
    };
    let store = Store::connect(config()).unwrap();
    let stop = AtomicBool::new(false);
    let all_events = EventFilter::default;
    let begin = |since| Store::connect(config()).unwrap().watch(since, all_events(), true);
    let (mut router, mut watch) = (Router::default(), begin(Since::Snapshot));
    let mut heard = 0;
    // A connection that breaks now and then, and a watch that is begun anew with the cursor that was kept.
    let mut follow = |router: &mut Router, watch: &mut Watch, events: usize| {
        for _ in 0..events {
            match watch.next(SOON) {
                Ok(Some(event)) => router.hear(event),
                Ok(None) => return false,
                Err(fault) => eprintln!("{fault}"),
            }
            heard += 1;
            if let Some(cursor) = watch.cursor().filter(|_| heard % 97 == 0) {
                *watch = begin(Since::Cursor(cursor));
            }
        }
        true
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let upsert = PutConfig { upsert: true, ..PutConfig::default() };
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let key: ObjectKey = format!("block {}", n % 300).into();
                match n % 7 {
                    6 => drop(store.remove(&[key], true)),
                    // What the loss of a leader leaves open is no matter here.
                    _ => drop(store.put(&key, &[n as u8; 5000], &upsert)),
                }
            }
        });
        for round in 0..2 {
            while !follow(&mut router, &mut watch, 400) && router.objects.len() < 50 {}
            let killed = leader(GROUP);
            masters[killed - 1].signal(Signal::SIGKILL);
            follow(&mut router, &mut watch, 400);
            masters[killed - 1] = master(GROUP, dir.path(), killed);
            assert!(!router.objects.is_empty(), "round {round}");
        }
        stop.store(true, Ordering::Relaxed);
    });
    wait_for("the router to know what the masters know", || {
        while follow(&mut router, &mut watch, 1000) {}
        (router.routes() == asked(&store)).then_some(())
    });
    assert!(heard > 800, "{heard}");
    // One that begins late with all there is comes to the same, without any but objects and segments.
    let filter = EventFilter { kinds: vec![EventKind::Put, EventKind::Mounted], ..all_events() };
    let (mut late, mut watch) = (Router::default(), store.watch(Since::Snapshot, filter, true));
    while let Some(event) = watch.next(SOON).unwrap() {
        late.hear(event);
    }
    assert_eq!(late.routes(), router.routes());
}
