//! Changefeeds with real processes: leaders are killed while a feed delivers, and what it delivered tells what is there.

use crate::group::{Process, Shared, all, at, leader, lends, master_with};
use crate::harness::{Dev, PROGRAM, fetch, finish, perilune, run, said, wait_for};
use crate::s3d::{AK, BUCKET, S3d, SK};
use crate::tenants::send;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::signal::Signal;
use nix::sys::statvfs::statvfs;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn feeds(http: &str, args: &[&str]) -> Output {
    finish(perilune().arg("feeds").args(args).args(["--http", http]))
}

fn done(http: &str, args: &[&str]) -> String {
    let output = feeds(http, args);
    assert!(output.status.success(), "{args:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn json(http: &str, args: &[&str]) -> Value {
    let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
    let text = done(http, &args);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn feeds_are_created_listed_paused_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let sinks = tempfile::tempdir().unwrap();
    let root = sinks.path().to_str().unwrap();
    let dev = Dev::start_with(dir.path(), &["--segment-size", "64MiB", "--vault-root", root]);
    let sink = format!("file://{root}/f?protocol=csv");
    let refused = feeds(&dev.http, &["create", "a_b", "--sink", &sink]);
    assert!(!refused.status.success() && said(&refused).contains("invalid changefeed_id: a_b"), "{}", said(&refused));
    let shown = done(&dev.http, &["create", "f", "--sink", "blackhole://", "--curl"]);
    assert!(shown.starts_with("curl -X POST \"http://") && shown.contains("/api/v2/changefeeds\" -d '{"), "{shown}");
    done(&dev.http, &["create", "f", "--sink", &sink, "--rule", "*.*", "--rule", "!system.*"]);
    assert_eq!(json(&dev.http, &["get", "f"])["config"]["filter"]["rules"], serde_json::json!(["*.*", "!system.*"]));
    let list = done(&dev.http, &["list"]);
    assert!(list.contains("normal") && list.contains("delivered until"), "{list}");
    done(&dev.http, &["pause", "f"]);
    assert_eq!(json(&dev.http, &["status", "f"])["state"], "stopped");
    done(&dev.http, &["resume", "f"]);
    assert_eq!(json(&dev.http, &["list"])["state"], "normal");
    done(&dev.http, &["rm", "f"]);
    assert!(said(&feeds(&dev.http, &["get", "f"])).contains("changefeed not exists, default/f"));
}

#[test]
fn how_long_a_feed_may_hold_what_it_lacks_is_a_setting() {
    let dir = tempfile::tempdir().unwrap();
    let refused = said(&run(["dev", "--feed-gc-ttl", "0s"]));
    assert!(refused.contains("feed-gc-ttl is nothing"), "{refused}");
    let dev = Dev::start_with(dir.path(), &["--segment-size", "64MiB", "--feed-gc-ttl", "1s"]);
    done(&dev.http, &["create", "f", "--sink", "blackhole://"]);
    done(&dev.http, &["pause", "f"]);
    let failed = wait_for("it to be given up", || Some(json(&dev.http, &["status", "f"])).filter(|status| status["state"] == "failed"));
    assert_eq!(failed["last_error"]["code"], "CDC:ErrGCTTLExceeded", "{failed}");
}

/// What a reader of the files knows who applies them in the order of their names.
#[derive(Default)]
struct Index {
    /// Keys, with the version that is there, for a reader that looks at versions; and for one that does not.
    there: BTreeMap<String, u64>,
    plain: BTreeSet<String>,
    puts: BTreeSet<(String, u64)>,
}

impl Index {
    fn read(files: &BTreeMap<String, String>) -> Self {
        let mut index = Self::default();
        for text in files.values() {
            let mut last = 0;
            for line in text.lines() {
                let fields: Vec<&str> = line.split(',').map(|field| field.trim_matches('"')).collect();
                let [op, _, _, commit_ts, key, _, _, _, _, version, ..] = fields[..] else { panic!("{line}") };
                let (commit_ts, version): (u64, u64) = (commit_ts.parse().unwrap(), version.parse().unwrap());
                assert!(commit_ts >= last, "a file is in order");
                last = commit_ts;
                let known = index.there.get(key).copied();
                match op {
                    "I" => {
                        index.puts.insert((key.into(), version));
                        index.plain.insert(key.into());
                        if known.is_none_or(|known| known <= version) {
                            index.there.insert(key.into(), version);
                        }
                    }
                    "D" => {
                        index.plain.remove(key);
                        if known == Some(version) {
                            index.there.remove(key);
                        }
                    }
                    _ => {}
                }
            }
        }
        index
    }
}

fn csv_below(dir: &Path, files: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            csv_below(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "csv") {
            files.insert(path.display().to_string(), fs::read_to_string(path).unwrap());
        }
    }
}

/// Three masters with a place for sinks, and a node.
pub(crate) struct Fleet {
    group: u8,
    dir: tempfile::TempDir,
    flags: Vec<String>,
    pub(crate) masters: Vec<Process>,
    /// What was put, whether it was removed or not.
    pub(crate) put: BTreeSet<String>,
    _node: (Process, Shared),
}

impl Fleet {
    pub(crate) fn start(group: u8) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (sinks, key) = (dir.path().join("sinks"), dir.path().join("secret.key"));
        fs::create_dir(&sinks).unwrap();
        fs::write(&key, "5".repeat(64)).unwrap();
        let flags = ["--secret-key-file", key.to_str().unwrap(), "--vault-root", sinks.to_str().unwrap()].map(str::to_owned).to_vec();
        let masters = (1..=3).map(|nth| master_of(group, dir.path(), nth, &flags)).collect();
        let node = lends(&all(group), dir.path(), "node", "64MiB");
        Self { group, dir, flags, masters, put: BTreeSet::new(), _node: node }
    }

    /// Where people ask a master; everything about feeds is answered by the leader, whoever is asked.
    fn http(&self, nth: usize) -> String {
        at(self.group, 30_000 + nth)
    }

    pub(crate) fn leader(&self) -> usize {
        leader(self.group)
    }

    fn sinks(&self) -> PathBuf {
        self.dir.path().join("sinks")
    }

    /// A feed of all objects that is quick to flush, with these flags for its sink.
    pub(crate) fn create(&self, name: &str, sink: &[&str]) {
        let config = self.dir.path().join("config.json");
        let quick =
            r#"{"sink": {"csv": {"include_commit_ts": true}, "date_separator": "none", "cloud_storage_config": {"flush_interval": "2s"}}}"#;
        fs::write(&config, quick).unwrap();
        let common = ["create", name, "--replica-config", config.to_str().unwrap(), "--rule", "default.*"];
        done(&self.http(self.leader() % 3 + 1), &[&common[..], sink].concat());
    }

    fn file_sink(&self, name: &str) -> String {
        format!("file://{}/{name}?protocol=csv", self.sinks().display())
    }

    pub(crate) fn put(&mut self, name: String) {
        let value = self.dir.path().join("value");
        fs::write(&value, &name).unwrap();
        let output = finish(perilune().args(["put", &name]).arg(&value).args(["--master", &all(self.group), "--deadline", "60s"]));
        assert!(output.status.success(), "{name}: {}", said(&output));
        self.put.insert(name);
    }

    pub(crate) fn remove(&self, name: &str) {
        let output = finish(perilune().args(["rm", name, "--force", "--master", &all(self.group), "--deadline", "60s"]));
        assert!(output.status.success(), "{name}: {}", said(&output));
    }

    pub(crate) fn restart(&mut self, nth: usize) {
        self.masters[nth - 1] = master_of(self.group, self.dir.path(), nth, &self.flags);
    }

    /// What somebody answers, whoever leads by now.
    fn ask(&self, method: &str, path: &str, body: &str) -> String {
        wait_for(path, || {
            let (status, answer) = send(method, &format!("http://{}{path}", self.http(self.leader())), body);
            (status == 200).then_some(answer)
        })
    }

    /// Until these feeds have delivered everything, up to the stamp that this gives. Says what they say of themselves if they never do.
    pub(crate) fn until_delivered(&self, names: &[&str]) -> u64 {
        let now: Value = serde_json::from_str(&self.ask("POST", "/api/v2/tso", "{}")).unwrap();
        // The clock of a later leader may be ahead of all walls for long, and only count.
        let (now, began) = (now["timestamp"].as_u64().unwrap() << 18 | now["logic_time"].as_u64().unwrap(), Instant::now());
        for name in names {
            wait_for("a feed to deliver", || {
                let http = self.http(self.leader());
                let output = feeds(&http, &["status", name, "--json"]);
                let found: Option<Value> = serde_json::from_slice(&output.stdout).ok();
                let far = found.and_then(|found| found["checkpoint_ts"].as_u64());
                // Sooner than a test that is too slow is ended, so that it is known why.
                assert!(
                    began.elapsed() < Duration::from_secs(90),
                    "{name} should reach {now}, and is at {far:?}: {}{}",
                    said(&output),
                    said(&feeds(&http, &["get", name, "--json"]))
                );
                far.filter(|far| *far >= now)
            });
        }
        now
    }

    /// What the masters know.
    pub(crate) fn keys(&self) -> BTreeSet<String> {
        self.ask("GET", "/get_all_keys", "").lines().map(str::to_owned).collect()
    }

    /// What readers of these directories know is what is there.
    fn check(&self, trees: &[&Path]) {
        let keys = self.keys();
        for tree in trees {
            let mut files = BTreeMap::new();
            csv_below(tree, &mut files);
            let index = Index::read(&files);
            assert_eq!(index.there.keys().cloned().collect::<BTreeSet<_>>(), keys, "with versions: {files:#?}");
            assert_eq!(index.plain, keys, "without looking at versions: {files:#?}");
            let told: BTreeSet<String> = index.puts.iter().map(|(key, _)| key.clone()).collect();
            assert_eq!(told, self.put, "every object that was put is told, and no other: {files:#?}");
            assert_eq!(index.puts.len(), self.put.len(), "as the one version that it was: {files:#?}");
        }
    }
}

fn master_of(group: u8, dir: &Path, nth: usize, flags: &[String]) -> Process {
    master_with(group, dir, nth, &flags.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn leaders_are_killed_and_files_and_bucket_hold_every_object_that_was_put() {
    let (mut fleet, s3) = (Fleet::start(12), S3d::start());
    let uri = fleet.dir.path().join("uri");
    let (endpoint, secret) = (s3.url().replace(':', "%3A").replace('/', "%2F"), SK.replace('/', "%2F").replace('+', "%2B"));
    fs::write(&uri, format!("s3://{BUCKET}/f?protocol=csv&access-key={AK}&secret-access-key={secret}&endpoint={endpoint}")).unwrap();
    fleet.create("file", &["--sink", &fleet.file_sink("f")]);
    fleet.create("s3", &["--sink-file", uri.to_str().unwrap()]);
    let shown = done(&fleet.http(1), &["get", "s3"]);
    assert!(!shown.contains(SK) && !shown.contains(AK) && shown.contains("secret-access-key=xxxxx"), "{shown}");
    for round in 0..3 {
        (0..5).for_each(|n| fleet.put(format!("k{round}-{n}")));
        // At a moment of its own, while it delivers.
        let killed = fleet.leader();
        fleet.masters[killed - 1].signal(Signal::SIGKILL);
        (5..10).for_each(|n| fleet.put(format!("k{round}-{n}")));
        fleet.restart(killed);
    }
    fleet.remove("k0-0");
    fleet.until_delivered(&["file", "s3"]);
    fleet.check(&[&fleet.sinks().join("f"), &s3.files()]);
}

#[test]
fn a_leader_that_was_stopped_while_it_delivers_leaves_files_that_are_right_in_their_order() {
    let mut fleet = Fleet::start(32);
    fleet.create("f", &["--sink", &fleet.file_sink("f")]);
    let (metadata, over) = (fleet.sinks().join("f/metadata"), Arc::new(AtomicBool::new(false)));
    let watch = std::thread::spawn({
        let over = Arc::clone(&over);
        move || {
            let mut seen = Vec::new();
            while !over.load(Ordering::Relaxed) {
                // It is there from the first flush on.
                let said = fs::read(&metadata).ok().map(|text| serde_json::from_slice::<Value>(&text).unwrap());
                seen.extend(said.map(|said| said["checkpoint-ts"].as_u64().unwrap()));
                seen.dedup();
                std::thread::sleep(Duration::from_millis(1));
            }
            seen
        }
    });
    (0..4).for_each(|n| fleet.put(format!("k{n}")));
    // In the middle of a flush: its first file is there.
    let first = fleet.sinks().join("f/default/default/0/CDC000001.csv");
    let stopped = fleet.leader();
    wait_for("a file", || first.exists().then_some(()));
    fleet.put("late".into());
    fleet.masters[stopped - 1].signal(Signal::SIGSTOP);
    wait_for("another leader", || (fleet.leader() != stopped).then_some(()));
    ["k0", "k1", "late"].iter().for_each(|name| fleet.remove(name));
    fleet.put("new".into());
    fleet.until_delivered(&["f"]);
    fleet.masters[stopped - 1].signal(Signal::SIGCONT);
    fleet.remove("k2");
    fleet.until_delivered(&["f"]);
    fleet.check(&[&fleet.sinks().join("f")]);
    over.store(true, Ordering::Relaxed);
    let seen = watch.join().unwrap();
    assert!(seen.is_sorted() && seen.len() > 1, "{seen:?}");
}

#[test]
fn a_feed_whose_disk_is_full_waits_and_loses_nothing() {
    const GROUP: u8 = 33;
    let dir = tempfile::tempdir().unwrap();
    let (sinks, ready, value) = (dir.path().join("sinks"), dir.path().join("ready"), dir.path().join("value"));
    fs::create_dir(&sinks).unwrap();
    let may = Command::new("unshare").args(["-rm", "mount", "-t", "tmpfs", "x"]).arg(&sinks).output();
    if !may.as_ref().is_ok_and(|o| o.status.success()) {
        println!("skipped: no file system can be mounted in a namespace of one's own here ({may:?})");
        return;
    }
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-ec", "mount -t tmpfs -o size=1m,mode=755 perilune-test \"$1\"; shift; exec \"$@\"", "sh"]).arg(&sinks);
    command.args([PROGRAM, "dev", "--segment-size", "64MiB", "--rpc", &at(GROUP, 10_001), "--http", &at(GROUP, 30_001)]);
    command.arg("--vault-root").arg(&sinks).arg("--data-dir").arg(dir.path().join("data")).arg("--ready-file").arg(&ready);
    let _shared = Shared(dir.path().join("data"));
    let master = Process(command.args(["--rest", "127.0.0.1:0"]).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap());
    wait_for("it to be up", || ready.exists().then_some(()));
    let http = at(GROUP, 30_001);
    let put = |key: &str| {
        fs::write(&value, key).unwrap();
        let output = finish(perilune().args(["put", key]).arg(&value).args(["--master", &at(GROUP, 10_001)]));
        assert!(output.status.success(), "{}", said(&output));
    };
    let lag = || {
        let page = fetch(&http, "/metrics");
        let line = page.lines().find(|line| line.starts_with("perilune_changefeed_checkpoint_lag_seconds{")).expect("a lag");
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let config = dir.path().join("config.json");
    fs::write(&config, r#"{"sink": {"cloud_storage_config": {"flush_interval": "2s"}}}"#).unwrap();
    let sink = format!("file://{}/f?protocol=csv", sinks.display());
    done(&http, &["create", "f", "--sink", &sink, "--replica-config", config.to_str().unwrap(), "--rule", "default.*"]);
    let inside = PathBuf::from(format!("/proc/{}/root{}", master.0.id(), sinks.display()));
    // What the master writes from now on finds no room.
    let hog = fs::File::create(inside.join("hog")).unwrap();
    let bytes = statvfs(&inside).map(|s| s.blocks_available() * s.fragment_size()).unwrap();
    fallocate(&hog, FallocateFlags::empty(), 0, bytes.cast_signed()).unwrap();
    put("a");
    wait_for("a flush that fails", || (lag() > 2.5).then_some(()));
    put("b");
    let mut files = BTreeMap::new();
    csv_below(&inside, &mut files);
    assert!(files.is_empty(), "{files:?}");
    fs::remove_file(inside.join("hog")).unwrap();
    drop(hog);
    wait_for("what was kept back", || {
        files.clear();
        csv_below(&inside, &mut files);
        let text = files.values().cloned().collect::<String>();
        (text.contains("\"a\"") && text.contains("\"b\"")).then_some(())
    });
}

#[test]
fn how_much_a_master_logs_is_changed_while_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let (ready, log) = (dir.path().join("ready"), dir.path().join("log"));
    let mut master = perilune();
    master.args(["master", "--rpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--log", "error"]).stdout(Stdio::null());
    master.arg("--data-dir").arg(dir.path().join("data")).arg("--ready-file").arg(&ready).stderr(fs::File::create(&log).unwrap());
    let _master = Process(master.spawn().unwrap());
    let addresses = wait_for("the master to be up", || fs::read(&ready).ok());
    let addresses: Value = serde_json::from_slice(&addresses).unwrap();
    let url = |path: &str| format!("http://{}/api/v2/{path}", addresses["http"].as_str().or(addresses["http"][0].as_str()).unwrap());
    // Each is refused, which is logged as information.
    let asks_of = |feed: &str| send("GET", &url(&format!("changefeeds/{feed}")), "").0;
    let logs = |text: &str| fs::read_to_string(&log).unwrap().contains(text);
    let set = |level: &str| send("POST", &url("log"), &format!(r#"{{"log_level": "{level}"}}"#));
    assert_eq!((asks_of("first"), logs("default/first")), (400, false));
    assert_eq!(set("info").0, 200);
    asks_of("second");
    assert!(logs("default/second"));
    let (status, refused) = set("loud=quiet=so");
    assert!(status == 400 && refused.contains("fail to change log level: loud=quiet=so"), "{refused}");
    asks_of("third");
    assert!(logs("default/third"), "what is no level changes nothing");
    assert_eq!(set("fatal").0, 200);
    asks_of("fourth");
    assert!(!logs("default/fourth"));
}
