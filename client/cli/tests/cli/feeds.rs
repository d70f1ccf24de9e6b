//! Changefeeds with real processes: leaders are killed while a feed delivers, and what it delivered tells what is there.

use crate::group::{Process, all, at, leader, lends, master_with};
use crate::harness::{Dev, finish, perilune, said, wait_for};
use crate::s3d::{AK, BUCKET, S3d, SK};
use crate::tenants::send;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Output;

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

/// Which group the masters of this test are.
const GROUP: u8 = 12;

/// What a reader of the files knows: keys, with the version that is there. Rows may come twice, and those of a file are in order.
#[derive(Default)]
struct Index {
    there: BTreeMap<String, u64>,
    puts: BTreeSet<(String, u64)>,
    last: u64,
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
                // What comes again is older than the newest that was seen.
                index.last = index.last.max(commit_ts);
                let known = index.there.get(key).copied();
                match op {
                    "I" => {
                        index.puts.insert((key.into(), version));
                        if known.is_none_or(|known| known <= version) {
                            index.there.insert(key.into(), version);
                        }
                    }
                    "D" if known == Some(version) => drop(index.there.remove(key)),
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

#[test]
fn leaders_are_killed_and_files_and_bucket_hold_every_object_that_was_put() {
    let (dir, s3) = (tempfile::tempdir().unwrap(), S3d::start());
    let sinks = dir.path().join("sinks");
    fs::create_dir(&sinks).unwrap();
    let key = dir.path().join("secret.key");
    fs::write(&key, "5".repeat(64)).unwrap();
    let flags = ["--secret-key-file", key.to_str().unwrap(), "--vault-root", sinks.to_str().unwrap()];
    let mut masters: Vec<Process> = (1..=3).map(|nth| master_with(GROUP, dir.path(), nth, &flags)).collect();
    let _node = lends(&all(GROUP), dir.path(), "node", "64MiB");

    let http = |nth: usize| at(GROUP, 30_000 + nth);
    // Any master is asked.
    let any = http(leader(GROUP) % 3 + 1);
    let config = dir.path().join("config.json");
    let quick =
        r#"{"sink": {"csv": {"include_commit_ts": true}, "date_separator": "none", "cloud_storage_config": {"flush_interval": "2s"}}}"#;
    fs::write(&config, quick).unwrap();
    let config = config.to_str().unwrap();
    let file = format!("file://{}/f?protocol=csv", sinks.display());
    let uri = dir.path().join("uri");
    let (endpoint, secret) = (s3.url().replace(':', "%3A").replace('/', "%2F"), SK.replace('/', "%2F").replace('+', "%2B"));
    fs::write(&uri, format!("s3://{BUCKET}/f?protocol=csv&access-key={AK}&secret-access-key={secret}&endpoint={endpoint}")).unwrap();
    done(&any, &["create", "file", "--sink", &file, "--replica-config", config, "--rule", "default.*"]);
    done(&any, &["create", "s3", "--sink-file", uri.to_str().unwrap(), "--replica-config", config, "--rule", "default.*"]);
    let shown = done(&any, &["get", "s3"]);
    assert!(!shown.contains(SK) && !shown.contains(AK) && shown.contains("secret-access-key=xxxxx"), "{shown}");

    let mut put = BTreeSet::new();
    let one = |name: String, put: &mut BTreeSet<String>| {
        let value = dir.path().join("value");
        fs::write(&value, &name).unwrap();
        let output = finish(perilune().args(["put", &name]).arg(&value).args(["--master", &all(GROUP), "--deadline", "30s"]));
        assert!(output.status.success(), "{name}: {}", said(&output));
        put.insert(name);
    };
    for round in 0..3 {
        (0..5).for_each(|n| one(format!("k{round}-{n}"), &mut put));
        // At a moment of its own, while it delivers.
        let killed = leader(GROUP);
        masters[killed - 1].signal(Signal::SIGKILL);
        (5..10).for_each(|n| one(format!("k{round}-{n}"), &mut put));
        masters[killed - 1] = master_with(GROUP, dir.path(), killed, &flags);
    }
    let gone = finish(perilune().args(["rm", "k0-0", "--force", "--master", &all(GROUP)]));
    assert!(gone.status.success(), "{}", said(&gone));

    let leads = http(leader(GROUP));
    let (status, now) = send("POST", &format!("http://{leads}/api/v2/tso"), "{}");
    assert_eq!(status, 200, "{now}");
    let now: Value = serde_json::from_str(&now).unwrap();
    // A leader that has just begun gives many stamps of one millisecond.
    let now = now["timestamp"].as_u64().unwrap() << 18 | now["logic_time"].as_u64().unwrap();
    for feed in ["file", "s3"] {
        wait_for(&format!("{feed} to have everything"), || {
            let output = feeds(&leads, &["status", feed, "--json"]);
            let found: Value = serde_json::from_slice(&output.stdout).ok()?;
            (found["checkpoint_ts"].as_u64()? >= now).then_some(())
        });
    }
    let (status, keys) = send("GET", &format!("http://{leads}/get_all_keys"), "");
    assert_eq!(status, 200, "{keys}");
    let keys: BTreeSet<String> = keys.lines().map(str::to_owned).collect();
    let mut trees = [BTreeMap::new(), BTreeMap::new()];
    csv_below(&sinks.join("f"), &mut trees[0]);
    csv_below(&s3.files(), &mut trees[1]);
    for files in &trees {
        let index = Index::read(files);
        assert_eq!(index.there.keys().cloned().collect::<BTreeSet<_>>(), keys, "{files:?}");
        let told: BTreeSet<String> = index.puts.iter().map(|(key, _)| key.clone()).collect();
        assert_eq!(told, put, "every object that was put is told, and no other");
        assert_eq!(index.puts.len(), put.len(), "as the one version that it was");
        assert!(index.last > 0 && !keys.contains("k0-0"));
    }
    drop(masters);
}
