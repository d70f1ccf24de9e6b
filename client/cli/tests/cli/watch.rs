//! What happens, told to those who watch: as the command shows it, and as a router keeps it.

use crate::cold::connect;
use crate::group::{Process, all, at, leader, lends, master};
use crate::harness::{Dev, perilune, run, said, wait_for};
use nix::sys::signal::Signal;
use perilune_client::{Put, Since, Store, StoreConfig, Watch};
use perilune_protocol::event::{Event, EventFilter, EventKind, What};
use perilune_protocol::{FaultCode, ObjectKey, PutConfig, SegmentId, Tso};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_millis(200);
/// Longer than what surely comes takes anywhere.
const LONG: Duration = Duration::from_secs(100);

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
    // What a feed carries.
    assert!(run(["feeds", "create", "f", "--sink", "blackhole://", "--rule", "default.*", "--http", &dev.http]).status.success());
    let shown = dev.json(&["watch", "--feed", "f", "--from", "oldest", "--count", "3"]);
    let keys: Vec<&str> = shown.iter().map(|event| event["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["a/1", "b/1", "a/2"]);
    let shown = dev.json(&["watch", "--feed", "f", "--from", &cursor, "--count", "1"]);
    assert_eq!((&shown[0]["event"], &shown[0]["key"]), (&"put".into(), &"b/1".into()));
    // What there is of that: no segment and no node, as `watch` alone begins with.
    let shown = dev.json(&["watch", "--feed", "f", "--from", "snapshot", "--count", "3"]);
    let keys: BTreeSet<&str> = shown.iter().map(|event| event["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["a/1", "a/2", "b/1"].into());
    for from in ["now", "snapshot"] {
        let refused = said(&dev.run(&["watch", "--count", "1", "--feed", "g", "--from", from]));
        assert!(refused.contains("no changefeed"), "{from}: {refused}");
    }

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
    // Of what there is, no event is a place to go on from; the last of them leaves one from which nothing is missing.
    let mut watch = store.watch(Since::Snapshot, EventFilter::default(), true);
    assert!(watch.next(LONG).unwrap().is_some() && watch.cursor().is_none() && !watch.is_exact());
    put(&store, "a/3");
    let mut given = 1;
    while watch.cursor().is_none() {
        watch.next(LONG).unwrap().expect("the rest of what there is");
        given += 1;
    }
    assert!(given >= 3, "a segment, and two objects: {given}");
    let mut behind = connect(&dev, Duration::from_secs(10)).watch(Since::Cursor(watch.cursor().unwrap()), EventFilter::default(), true);
    let is_it = |event: Event| event.what.object().is_some_and(|(key, _)| *key == ObjectKey::from("a/3"));
    wait_for("what was put meanwhile", || behind.next(SOON).unwrap().filter(|event| is_it(event.clone())));
    wait_for("the list to be exact", || {
        let _ = watch.next(SOON).unwrap();
        watch.is_exact().then_some(())
    });
    assert_eq!(store.remove(&["a/3".into()], true).len(), 1);
    let text = dev.ok(&["watch", "--from", "snapshot", "--kind", "put,mounted", "--count", "3"]);
    assert!(text.contains("mounted") && text.contains("a/1") && text.contains("a/2") && !text.contains("b/1"), "{text}");
}

/// As where power was lost before the last entries were on disk: others have their numbers now.
#[test]
fn a_watch_that_runs_on_notices_that_what_it_told_is_lost() {
    const GROUP: u8 = 34;
    let dir = tempfile::tempdir().unwrap();
    let (rpc, data, kept, ready) = (at(GROUP, 10_001), dir.path().join("data"), dir.path().join("kept"), dir.path().join("ready"));
    let start = || {
        let _ = std::fs::remove_file(&ready);
        let mut command = perilune();
        command.args(["master", "--rpc", &rpc, "--http", &at(GROUP, 30_001)]).arg("--data-dir").arg(&data);
        let master = Process(command.arg("--ready-file").arg(&ready).stdout(Stdio::null()).spawn().unwrap());
        wait_for("the master to be up", || ready.exists().then_some(()));
        master
    };
    let copy = |from: &Path, to: &Path| assert!(Command::new("cp").arg("-r").args([from, to]).status().unwrap().success());
    let connect = || {
        let config = StoreConfig { masters: vec![rpc.clone()], deadline: Duration::from_secs(30), ..StoreConfig::default() };
        Store::connect(config).unwrap()
    };
    let master = start();
    let _node = lends(&rpc, dir.path(), "node", "16MiB");
    let store = connect();
    let put = |key: &str| assert_eq!(store.put(&key.into(), b"value", &PutConfig::default()), Ok(Put::Stored));
    put("a");
    drop(master);
    copy(&data, &kept);
    let master = start();
    // One is told what is lost then, the other nothing, and both watch on.
    let kinds = |kinds: &[EventKind]| EventFilter { kinds: kinds.to_vec(), ..EventFilter::default() };
    let mut watches = [kinds(&[EventKind::Put]), kinds(&[EventKind::Cleared])].map(|filter| connect().watch(Since::Now, filter, true));
    watches.iter_mut().for_each(|watch| assert_eq!(watch.next(SOON), Ok(None)));
    (0..3).for_each(|n| put(&format!("lost{n}")));
    wait_for("what is lost to be told", || watches[0].next(SOON).unwrap());
    assert_eq!(watches[1].next(SOON), Ok(None));
    drop(master);
    std::fs::remove_dir_all(&data).unwrap();
    copy(&kept, &data);
    let _master = start();
    (0..20).for_each(|n| put(&format!("other{n}")));
    for watch in &mut watches {
        // What it was given before it asks again may be left.
        wait_for("it to notice", || match watch.next(SOON) {
            Ok(told) => {
                let is_lost = |event: &Event| event.what.object().is_some_and(|(key, _)| key.to_string().starts_with("lost"));
                assert!(told.iter().all(is_lost), "{told:?}");
                None
            }
            Err(fault) => (fault.code == FaultCode::OutOfRange).then_some(()),
        });
    }
}

/// Which keys are on which nodes, by what was told. A node is where its transfer engine is called.
#[derive(Default)]
struct Router {
    segments: BTreeMap<SegmentId, String>,
    objects: BTreeMap<ObjectKey, (Tso, BTreeSet<SegmentId>)>,
}

type Routes = BTreeMap<String, BTreeSet<String>>;

impl Router {
    fn hear(&mut self, event: Event) {
        match event.what {
            What::Mounted { segment, endpoint, .. } => drop(self.segments.insert(segment, endpoint)),
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

    fn routes(&self) -> Routes {
        let nodes = |places: &BTreeSet<SegmentId>| places.iter().filter_map(|segment| self.segments.get(segment).cloned()).collect();
        self.objects.iter().map(|(key, (_, places))| (key.to_string(), nodes(places))).collect()
    }
}

/// The same, as `/get_all_keys` and `/batch_query_keys` of the leader say; `None`: it does not answer, or not any more.
fn asked() -> Option<Routes> {
    let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(10))).build().into();
    let http = at(GROUP, 30_000 + leader(GROUP));
    let get =
        |path: &str| agent.get(format!("http://{http}{path}")).call().ok()?.body_mut().with_config().limit(1 << 28).read_to_string().ok();
    let all = get("/get_all_keys")?;
    let keys: Vec<&str> = all.lines().filter(|line| !line.is_empty()).collect();
    let mut routes = Routes::new();
    for some in keys.chunks(100) {
        let said: serde_json::Value = serde_json::from_str(&get(&format!("/batch_query_keys?keys={}", some.join(",")))?).unwrap();
        for key in some {
            let values = said["data"][key]["values"].as_array()?;
            let nodes = values.iter().map(|value| value["transport_endpoint_"].as_str().unwrap().to_owned()).collect();
            routes.insert((*key).to_owned(), nodes);
        }
    }
    Some(routes)
}

/// Which group the masters of this test are.
const GROUP: u8 = 50;

/// A consumer as a router is one: it keeps its index and a cursor, and comes back with it when its connection breaks.
struct Consumer {
    router: Router,
    watch: Watch,
    heard: usize,
    draw: u64,
}

impl Consumer {
    fn begin(since: Since) -> Watch {
        Store::connect(config()).unwrap().watch(since, EventFilter::default(), true).named("router")
    }

    fn below(&mut self, n: u64) -> u64 {
        self.draw = self.draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.draw >> 33) % n
    }

    /// Up to so many events; false when there are no more for now.
    fn follow(&mut self, events: usize) -> bool {
        for _ in 0..events {
            match self.watch.next(SOON) {
                Ok(Some(event)) => self.router.hear(event),
                Ok(None) => return false,
                Err(fault) => eprintln!("{fault}"),
            }
            self.heard += 1;
            if self.below(100) == 0
                && let Some(cursor) = self.watch.cursor()
            {
                self.watch = Self::begin(Since::Cursor(cursor));
            }
        }
        true
    }
}

fn config() -> StoreConfig {
    StoreConfig { masters: all(GROUP).split(',').map(str::to_owned).collect(), deadline: Duration::from_secs(30), ..StoreConfig::default() }
}

/// A trace that is replayed, and keys that come, are replaced and go.
fn load(round: usize, blocks: usize) {
    let mut replay = perilune();
    replay.args([
        "replay",
        "--generate",
        "40",
        "--seed",
        &round.to_string(),
        "--prefix",
        &format!("trace{round}"),
        "--block-size",
        "32KiB",
    ]);
    replay.args(["--workers", "2", "--deadline", "60s", "--master", &all(GROUP)]).stdout(Stdio::null());
    let mut replay = Process(replay.spawn().unwrap());
    let store = Store::connect(config()).unwrap();
    let upsert = PutConfig { upsert: true, ..PutConfig::default() };
    for n in 0..blocks {
        let key: ObjectKey = format!("block{}", n % 60).into();
        match n % 7 {
            6 => drop(store.remove(&[key], true)),
            // What the loss of a leader leaves open is no matter here.
            _ => drop(store.put(&key, &[n as u8; 5000], &upsert)),
        }
    }
    assert!(replay.0.wait().unwrap().success(), "the trace of round {round} was not replayed");
}

#[test]
fn a_router_knows_what_the_masters_know_whoever_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut masters: Vec<Process> = (1..=3).map(|nth| master(GROUP, dir.path(), nth)).collect();
    // So little that some of the trace is evicted.
    let _nodes: Vec<_> = (0..2).map(|n| lends(&all(GROUP), dir.path(), &format!("node{n}"), "16MiB")).collect();
    let seed = u64::from(std::process::id());
    eprintln!("seed {seed}");
    let mut consumer = Consumer { router: Router::default(), watch: Consumer::begin(Since::Snapshot), heard: 0, draw: seed };
    for round in 0..3 {
        let blocks = 100 + consumer.below(100) as usize;
        std::thread::scope(|scope| {
            let load = scope.spawn(move || load(round, blocks));
            let aim = consumer.heard + 50 + consumer.below(200) as usize;
            while consumer.heard < aim && !load.is_finished() {
                consumer.follow(10);
            }
            let killed = leader(GROUP);
            masters[killed - 1].signal(Signal::SIGKILL);
            consumer.follow(100);
            masters[killed - 1] = master(GROUP, dir.path(), killed);
            while !load.is_finished() {
                consumer.follow(100);
            }
        });
        wait_for("the router to know what the masters know", || {
            while consumer.follow(1000) {}
            (Some(consumer.router.routes()) == asked()).then_some(())
        });
        assert!(!consumer.router.objects.is_empty(), "round {round}");
    }
    assert!(consumer.heard > 800, "{}", consumer.heard);
    // One that begins late with all there is comes to the same, without any but objects and segments.
    let filter = EventFilter { kinds: vec![EventKind::Put, EventKind::Mounted], ..EventFilter::default() };
    let (mut late, mut watch) = (Router::default(), Store::connect(config()).unwrap().watch(Since::Snapshot, filter, true));
    wait_for("one that begins late to come to the same", || {
        while let Some(event) = watch.next(SOON).unwrap() {
            late.hear(event);
        }
        (late.routes() == consumer.router.routes()).then_some(())
    });
}
