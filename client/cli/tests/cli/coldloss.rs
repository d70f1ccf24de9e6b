//! What is put stays, where there is a vault to bring it to: at a quota, and when a node dies.

use crate::cold::{MIB, PATIENCE, Stand, connect};
use crate::harness::{Dev, run, said, wait_for};
use crate::s3d::S3d;
use crate::tenants::{node, send};
use crate::vaults::{list, vaults};
use perilune_client::{Put, Store};
use perilune_protocol::{FaultCode, ObjectKey, PutConfig};
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn big(n: usize) -> (ObjectKey, Vec<u8>) {
    (format!("big {n}").as_str().into(), (0..MIB).map(|i| (i * 7 + n * 13 + (i >> 8)) as u8).collect())
}

fn put(store: &Store, objects: impl IntoIterator<Item = usize>) {
    for (n, (key, value)) in objects.into_iter().map(|n| (n, big(n))) {
        assert_eq!(store.put(&key, &value, &PutConfig::default()), Ok(Put::Stored), "{n}");
    }
}

fn check(store: &Store, objects: impl IntoIterator<Item = usize>) {
    for (n, (key, value)) in objects.into_iter().map(|n| (n, big(n))) {
        assert!(store.get(&key).unwrap_or_else(|fault| panic!("{n}: {fault}")) == value, "{n}");
    }
}

/// Asks again as long as there is no room; says what it was told.
fn put_at_last(store: &Store, objects: impl IntoIterator<Item = usize>) -> Vec<String> {
    let mut refusals = Vec::new();
    for (n, (key, value)) in objects.into_iter().map(|n| (n, big(n))) {
        let put = wait_for("room", || match store.put(&key, &value, &PutConfig::default()) {
            Ok(put) => Some(put),
            Err(fault) => {
                assert!([FaultCode::NoSpace, FaultCode::QuotaExceeded].contains(&fault.code), "{n}: {fault}");
                refusals.push(fault.to_string());
                None
            }
        });
        assert_eq!(put, Put::Stored, "{n}");
    }
    refusals
}

#[test]
fn puts_that_come_faster_than_a_slow_vault_takes_them_are_refused_and_nothing_is_lost() {
    let stand = Stand::start(Some(S3d::start()), &["--segment-size", "64MiB"]);
    stand.s3.as_ref().unwrap().say("fault slow 4000 1000 PUT /cold/kv/objects");
    put(&stand.store, 0..8);
    // None of it is there yet, and there may be half as much.
    assert!(run(["tenants", "quota", "default", "--bytes", "4MiB", "--http", &stand.dev.http]).status.success());
    let refusals = put_at_last(&stand.store, 8..10);
    assert!(refusals.iter().any(|told| told.contains("on their way to vault")), "{refusals:?}");
    check(&stand.store, 0..10);
    assert_eq!((stand.metric("evicted_unsaved_total"), stand.metric("cold_lost_total")), (0, 0));
}

#[test]
fn what_leaves_because_its_vault_refuses_it_is_said() {
    let stand = Stand::start(Some(S3d::start()), &["--segment-size", "64MiB"]);
    assert!(run(["tenants", "quota", "default", "--bytes", "8MiB", "--http", &stand.dev.http]).status.success());
    stand.s3.as_ref().unwrap().say("fault refuse 403 1000000 PUT /cold/kv/objects");
    put_at_last(&stand.store, 0..12);
    let keys: Vec<_> = (0..12).map(|n| big(n).0).collect();
    let gone = stand.store.exists(&keys).unwrap().into_iter().filter(|there| !there).count();
    assert!(gone >= 4 && stand.metric("evicted_unsaved_total") == gone as u64, "{gone}");
    check(&stand.store, 11..12);
    let listed = &list(&stand.dev, "default")[0];
    assert_eq!((&listed["evicted_unsaved"], &listed["state"]), (&gone.to_string().into(), &"refuses".into()), "{listed}");
    let told = said(&vaults(&stand.dev, "", &["list", "default"]));
    assert!(told.ends_with(&format!("{gone} objects left memory that vault main had not taken, since this master leads\n")), "{told}");
    let log = stand.dev.log();
    assert!(log.contains("WARN") && log.contains("objects left memory that their vault has not taken"), "{log}");
}

#[test]
fn a_tenant_at_its_quota_loses_nothing() {
    let stand = Stand::start(None, &["--segment-size", "64MiB"]);
    assert!(run(["tenants", "quota", "default", "--bytes", "8MiB", "--http", &stand.dev.http]).status.success());
    // As fast as they are taken.
    put(&stand.store, 0..24);
    assert_eq!((stand.metric("evicted_unsaved_total"), stand.metric("demoted_total") > 14), (0, true));
    check(&stand.store, 0..24);
    assert_eq!((stand.metric("evicted_unsaved_total"), stand.metric("cold_lost_total")), (0, 0));
}

#[test]
fn a_put_at_the_quota_takes_the_place_of_the_oldest_alone() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(dir.path());
    let store = connect(&dev, PATIENCE);
    assert!(run(["tenants", "quota", "default", "--bytes", "8MiB", "--http", &dev.http]).status.success());
    put(&store, 0..8);
    for n in 8..12 {
        put(&store, n..n + 1);
        let kept: BTreeSet<_> = dev.json(&["ls"]).iter().map(|line| line["key"].as_str().unwrap().to_owned()).collect();
        assert_eq!(kept, (n - 7..=n).map(|n| format!("big {n}")).collect());
    }
}

#[test]
fn what_is_in_a_vault_is_read_there_when_its_node_dies() {
    let stand = Stand::start(Some(S3d::start()), &["--segment-size", "64MiB", "--lost-after", "10m"]);
    let ask = |path: &str, body: &Value| {
        let (status, text) = send("POST", &format!("http://{}/api/{path}", stand.dev.rest), &body.to_string());
        assert_eq!(status, 200, "{path}: {text}");
    };
    ask("unmount", &json!({ "segment_ids": [stand.dev.json(&["segments"])[0]["segment_id"]] }));
    let other = node(&stand.dev, stand.dir.path(), "default");
    put(&stand.store, 0..8);
    assert_eq!(stand.offload()["left"], 0);
    ask("mount", &json!({ "size": 64 * MIB }));
    // Who has read before goes there once more; who has not is told where they are, or that the node is silent.
    check(&stand.store, 0..4);
    drop(other);
    check(&stand.store, 0..4);
    check(&connect(&stand.dev, PATIENCE), 4..8);
    wait_for("it to be suspect", || stand.dev.ok(&["nodes"]).contains("SUSPECT").then_some(()));
    check(&stand.store, 0..8);
    // By now they are in memory, so the vault is left alone.
    let read = || (stand.metric("recalled_total"), stand.metric("read_through_bytes_total"));
    let before = read();
    check(&connect(&stand.dev, PATIENCE), 0..8);
    assert_eq!(read(), before);
}

#[test]
fn a_bucket_that_lists_and_takes_nothing_is_said_to_be_away() {
    let stand = Stand::start(Some(S3d::start()), &["--segment-size", "64MiB"]);
    put(&stand.store, 0..1);
    assert_eq!(stand.offload()["left"], 0);
    let s3 = stand.s3.as_ref().unwrap();
    s3.say("fault refuse 503 1000000 PUT");
    put(&stand.store, 1..3);
    wait_for("it to be said", || {
        let offload = stand.dev.run(&["offload", "--deadline", "2s"]);
        assert!(!offload.status.success() && said(&offload).contains("2 objects"), "{}", said(&offload));
        said(&offload).contains("503").then_some(())
    });
    // Its page is asked each time, and answers.
    let vault = &list(&stand.dev, "default")[0];
    assert!(vault["ready"] == false && vault["state"] == "away", "{vault}");
    let (reason, error) = (vault["reason"].as_str().unwrap(), vault["last_error"].as_str().unwrap());
    // The last one may be that it is left alone for a while.
    assert!(!reason.is_empty() && reason == error && !error.contains('\n'), "{vault}");
    s3.say("faults off");
    wait_for("the rest to be brought", || stand.dev.run(&["offload", "--deadline", "5s"]).status.success().then_some(()));
    let vault = &list(&stand.dev, "default")[0];
    assert!(vault["ready"] == true && vault["state"] == "works", "{vault}");

    // And who asks sees where it is.
    let key = big(0).0.to_string();
    let shown = stand.dev.json(&["query", &key]).remove(0);
    assert!(shown["vault"]["vault_name"] == "main" && !shown["replicas"].as_array().unwrap().is_empty(), "{shown}");
    stand.change_memory(64 * MIB);
    let text = stand.dev.ok(&["query", &key]);
    assert!(text.contains("\"main\"") && text.contains("not in memory"), "{text}");
}

#[test]
fn who_reads_a_key_out_of_its_vault_while_it_is_replaced_finds_a_value() {
    let stand = Stand::start(Some(S3d::start()), &["--segment-size", "64MiB"]);
    put(&stand.store, 0..6);
    assert_eq!(stand.offload()["left"], 0);
    let (s3, writer) = (stand.s3.as_ref().unwrap(), connect(&stand.dev, PATIENCE));
    // The vault says late what it has; or what it is asked for is gone when it looks.
    for (kind, objects) in [("late", 0..3), ("slow", 3..6)] {
        stand.change_memory(64 * MIB);
        s3.say(&format!("fault {kind} 800 1000 GET /cold/kv/objects"));
        std::thread::scope(|scope| {
            let store = &stand.store;
            let read = move |n: usize| match n % 3 {
                // Through a node.
                0 => store.get_range(&big(n).0, 0..MIB as u64).map(|part| part.bytes),
                _ => store.get(&big(n).0),
            };
            let reads: Vec<_> = objects.clone().map(|n| (n, scope.spawn(move || read(n)))).collect();
            wait_for("the vault to be asked", || (s3.say("faults").trim().parse::<u32>().unwrap() <= 997).then_some(()));
            for n in objects {
                let upsert = PutConfig { upsert: true, ..PutConfig::default() };
                assert_eq!(writer.put(&big(n).0, &big(n + 100).1, &upsert), Ok(Put::Stored));
            }
            for (n, read) in reads {
                let value = read.join().unwrap().unwrap_or_else(|fault| panic!("{kind} {n}: {fault}"));
                assert!(value == big(n).1 || value == big(n + 100).1, "{kind} {n}");
                // Who read the old one just now may read it as long as its lease runs.
                assert!(writer.get(&big(n).0).unwrap() == big(n + 100).1, "{kind} {n}");
            }
        });
        s3.say("faults off");
    }
    assert_eq!(stand.metric("cold_lost_total"), 0);
}
