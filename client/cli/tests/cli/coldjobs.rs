//! Offloads as jobs of shards, which are stopped half-way, and vaults that are in nobody else's way.

use crate::cold::{MIB, PATIENCE, Stand, change_memory, files, key, value};
use crate::group::{Process, Shared};
use crate::harness::{perilune, run, said, wait_for};
use crate::s3d::{AK, BUCKET, S3d, SK};
use crate::vaults::done;
use perilune_client::{Put, Store, StoreConfig};
use perilune_protocol::PutConfig;
use serde_json::Value;
use std::collections::BTreeSet;
use std::process::{Output, Stdio};
use std::time::Duration;

fn tables(stand: &Stand, args: &[&str]) -> Output {
    run(["tables"].iter().chain(args).copied().chain(["--http", &stand.dev.http]))
}

fn lines(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", said(output));
    output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(|line| serde_json::from_slice(line).unwrap()).collect()
}

/// The table that all keys of `crate::cold` are in: one shard.
fn table(stand: &Stand) -> Value {
    let all = lines(&tables(stand, &["list", "default", "--json"]));
    all.into_iter().find(|table| table["prefix"] == "model/").unwrap()
}

#[test]
fn an_offload_stops_when_its_job_is_aborted_and_the_next_round_goes_on() {
    const OBJECTS: usize = 400;
    let stand = Stand::start(Some(S3d::start()), &["--segment-size", "64MiB"]);
    let s3 = stand.s3.as_ref().unwrap();
    assert!(tables(&stand, &["create", "default", "model.all", "model/", "--shards", "1"]).status.success());
    let small = (0..).filter(|n| n % 67 != 66).take(OBJECTS);
    stand.put(small.clone());
    let tablet = table(&stand)["tablet_ids"][0].as_str().unwrap().to_owned();
    let stats = || lines(&tables(&stand, &["stats", "default", &tablet, "--json"])).remove(0);
    let number = |stats: &Value, name: &str| stats[name].as_str().unwrap().parse::<u64>().unwrap();
    assert_eq!((number(&stats(), "base_compaction_cnt"), number(&stats(), "cumulative_point")), (0, 0));

    s3.say("fault slow 200 100000 PUT");
    let output = std::thread::scope(|scope| {
        let offload = scope.spawn(|| stand.dev.run(&["offload", "--deadline", "60s"]));
        wait_for("some uploads", || (stand.metric("offloaded_total") > 10).then_some(()));
        let job = table(&stand)["jobs"][0].clone();
        assert_eq!(job["tablet_id"], tablet.as_str());
        let id = job["id"].as_str().unwrap();
        let refused = tables(&stand, &["abort-job", "default", &tablet, "1"]);
        assert!(!refused.status.success() && said(&refused).contains(&format!("unmatched job id, recorded_job={{\"id\":\"{id}\"}}")));
        assert!(tables(&stand, &["abort-job", "default", &tablet, id]).status.success());
        offload.join().unwrap()
    });
    assert!(!output.status.success() && said(&output).contains(&format!("of tablet {tablet} was stopped")), "{}", said(&output));
    // What was on its way ends; nothing else is begun.
    wait_for("the job to end", || table(&stand)["jobs"].is_null().then_some(()));
    let saved = stand.metric("offloaded_total");
    assert!(saved < OBJECTS as u64 - 100, "{saved} were uploaded");
    assert_eq!(stand.uploads().len() as u64, saved);
    assert_eq!(number(&stats(), "base_compaction_cnt"), 0, "it was not finished");
    let gone = tables(&stand, &["abort-job", "default", &tablet, "1"]);
    assert!(!gone.status.success() && said(&gone).contains("job not found"), "{}", said(&gone));

    s3.say("faults off");
    let found = stand.offload();
    assert_eq!((found["left"].as_u64(), found["saved"].as_u64()), (Some(0), Some(OBJECTS as u64)), "{found}");
    assert_eq!(stand.uploads().len(), OBJECTS, "nothing is uploaded twice");
    let versions = small.map(|n| stand.dev.json(&["query", &key(n).to_string()])[0]["version"].as_u64().unwrap());
    assert_eq!(number(&stats(), "cumulative_point"), versions.max().unwrap());
    assert_eq!((number(&stats(), "base_compaction_cnt"), number(&stats(), "cumulative_compaction_cnt")), (1, 0));

    // More than there is memory for: some leaves.
    stand.put((1000..4000).filter(|n| n % 67 != 66).take(1500));
    wait_for("a pass over the shard", || (number(&stats(), "cumulative_compaction_cnt") > 0).then_some(()));
}

#[test]
fn a_vault_that_is_slow_holds_up_no_other_tenant() {
    let stand = Stand::start(Some(S3d::start()), &["--segment-size", "64MiB"]);
    let (mine, quick) = (stand.s3.as_ref().unwrap(), S3d::start());
    assert!(run(["tenants", "create", "acme", "--http", &stand.dev.http]).status.success());
    done(&stand.dev, SK, &["add", "acme", "main", "--bucket", BUCKET, "--endpoint", quick.url(), "--prefix", "acme", "--ak", AK]);
    let segments = || -> BTreeSet<String> {
        stand.dev.json(&["segments"]).iter().map(|segment| segment["segment_id"].as_str().unwrap().to_owned()).collect()
    };
    let first = segments();
    let memory = Shared(stand.dir.path().join("acme"));
    let ready = stand.dir.path().join("acme.ready");
    let mut node = perilune();
    node.args(["store", "--master", &stand.dev.rpc, "--tenant", "acme", "--http", "127.0.0.1:0", "--segment-size", "64MiB"]);
    node.arg("--data-dir").arg(&memory.0).arg("--ready-file").arg(&ready).stdout(Stdio::null());
    let _node = Process(node.spawn().unwrap());
    let told: Value = wait_for("acme's memory", || serde_json::from_slice(&std::fs::read(&ready).ok()?).ok());
    let masters = vec![stand.dev.rpc.clone()];
    let theirs = Store::connect(StoreConfig { masters, tenant: "acme".into(), deadline: PATIENCE, ..StoreConfig::default() }).unwrap();
    // The first one's are offered first, and are more than are looked at, or fetched, at a time.
    let small = (0..).filter(|n| n % 67 != 66).take(600);
    stand.put(small.clone());
    for n in 0..40 {
        assert_eq!(theirs.put(&key(n), &value(n), &PutConfig::default()), Ok(Put::Stored));
    }
    mine.say("fault slow 600000 100000 PUT");
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| stand.dev.run(&["offload", "--deadline", "8s"]));
        wait_for("the slow vault to be asked", || (table_jobs(&stand) > 0).then_some(()));
        let done = stand.dev.run(&["offload", "--tenant", "acme", "--deadline", "60s"]);
        assert!(done.status.success() && !slow.is_finished(), "{}", said(&done));
        assert!(!slow.join().unwrap().status.success());
    });
    mine.say("faults off");
    wait_for("the slow vault to be back", || stand.dev.run(&["offload", "--deadline", "60s"]).status.success().then_some(()));

    // The same on the way back.
    let all = segments();
    change_memory(&stand.dev.rest, first.iter().collect(), 64 * MIB);
    change_memory(told["rest"].as_str().unwrap(), all.difference(&first).collect(), 64 * MIB);
    mine.say("fault slow 600000 100000 GET /cold/kv/objects");
    let patient = crate::cold::connect(&stand.dev, Duration::from_secs(8));
    let keys: Vec<_> = small.clone().take(100).map(key).collect();
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| patient.get_batch(&keys));
        wait_for("the slow vault to be read from", || (mine.say("faults").trim() != "100000").then_some(()));
        for n in 0..40 {
            assert!(theirs.get(&key(n)).unwrap_or_else(|fault| panic!("{n}: {fault}")) == value(n), "{n}");
        }
        assert!(!slow.is_finished(), "the other tenant waited for it");
        assert!(slow.join().unwrap().iter().all(Result::is_err));
    });
    mine.say("faults off");
    wait_for("it to be read", || small.clone().take(100).all(|n| stand.store.get(&key(n)) == Ok(value(n))).then_some(()));
    assert_eq!(stand.metric("cold_lost_total"), 0);
}

fn table_jobs(stand: &Stand) -> usize {
    lines(&tables(stand, &["list", "default", "--json"])).iter().filter_map(|table| table["jobs"].as_array()).map(Vec::len).sum()
}

#[test]
fn a_vault_that_deletes_slowly_holds_up_no_other() {
    let stand = Stand::start(Some(S3d::start()), &["--segment-size", "64MiB"]);
    let (slow, quick) = (stand.s3.as_ref().unwrap(), S3d::start());
    stand.put(0..40);
    assert_eq!(stand.offload()["left"], 0);
    // From now on new objects go there.
    done(&stand.dev, SK, &["add", "default", "second", "--bucket", BUCKET, "--endpoint", quick.url(), "--prefix", "second", "--ak", AK]);
    stand.put(100..140);
    assert_eq!(stand.offload()["left"], 0);
    let left = |vault: &std::path::Path| files(vault).iter().filter(|path| path.to_str().unwrap().contains("/objects/")).count();
    assert_eq!((left(&slow.files()), left(&quick.files())), (40, 40));
    for verb in ["DELETE", "delete"] {
        slow.say(&format!("fault slow 1000 100000 {verb}"));
    }
    // What was brought to the slow one first is garbage first.
    for some in [0..40, 100..140] {
        stand.store.remove(&some.map(key).collect::<Vec<_>>(), true).into_iter().for_each(|outcome| outcome.unwrap());
    }
    wait_for("the quick vault to be empty", || (left(&quick.files()) == 0).then_some(()));
    assert!(left(&slow.files()) > 0, "it waited for the slow one");
    slow.say("faults off");
    wait_for("the slow vault to be empty", || (left(&slow.files()) == 0).then_some(()));
}
