//! What opens vaults, and what becomes of bytes when it changes: other keys, encryption, another vault, a tenant that is dropped.

use crate::cold::{MIB, PATIENCE, Stand, files, key, value};
use crate::group::{Process, Shared};
use crate::harness::{perilune, run, said, wait_for};
use crate::s3d::{AK, BUCKET, S3d, SK};
use crate::vaults::{OTHER, done, vaults};
use perilune_client::{Put, Store, StoreConfig};
use perilune_protocol::PutConfig;
use serde_json::Value;
use std::path::PathBuf;
use std::process::Stdio;

/// Uploads that were asked for since it was forgotten, with their headers.
fn uploads_asked(s3: &S3d) -> Vec<Value> {
    let is_upload = |asked: &Value| {
        let (method, target) = (asked["method"].as_str().unwrap(), asked["target"].as_str().unwrap());
        target.contains("/objects/")
            && (method == "PUT" && !target.contains("partNumber") || method == "POST" && target.contains("?uploads"))
    };
    s3.requests().into_iter().filter(is_upload).collect()
}

#[test]
fn keys_change_under_way_and_nothing_is_lost() {
    let stand = Stand::start(Some(S3d::start()), &["--segment-size", "64MiB"]);
    let s3 = stand.s3.as_ref().unwrap();
    let pairs = [(AK, SK), OTHER, ("AKIATHIRD", "third+secret"), ("AKIAFOURTH", "fourth/secret")];
    stand.put(0..20);
    stand.offload();
    for (nth, [old, new]) in pairs.array_windows().enumerate() {
        // The service takes another pair from now on, and the one before no longer.
        s3.say(&format!("key add {} {}", new.0, new.1));
        s3.say(&format!("key remove {}", old.0));
        s3.say("requests forget");
        let these = 20 * (nth + 1)..20 * (nth + 2);
        stand.put(these.clone());
        let output = stand.dev.run(&["offload", "--deadline", "2s"]);
        assert!(!output.status.success() && said(&output).contains("20 objects"), "{}", said(&output));
        assert!(uploads_asked(s3).iter().all(|asked| asked["status"] == 403), "{:?}", uploads_asked(s3));
        done(&stand.dev, new.1, &["rotate", "default", "main", "--ak", new.0]);
        assert_eq!(stand.offload()["left"], 0);
        let signed = |asked: &Value| asked["headers"]["authorization"].as_str().unwrap().contains(&format!("Credential={}/", new.0));
        assert_eq!(uploads_asked(s3).iter().filter(|asked| asked["status"] == 200 && signed(asked)).count(), these.len());
    }
    stand.change_memory(64 * MIB);
    stand.check(0..80);
    assert_eq!(stand.metric("cold_lost_total"), 0);
}

#[test]
fn encryption_is_asked_for_with_every_upload_to_a_bucket() {
    let stand = Stand::start(Some(S3d::start()), &["--segment-size", "64MiB"]);
    let s3 = stand.s3.as_ref().unwrap();
    let upload = |keys: std::ops::Range<usize>, sse: Option<&str>| {
        s3.say("requests forget");
        stand.put(keys.clone());
        assert_eq!(stand.offload()["left"], 0);
        let asked = uploads_asked(s3);
        assert_eq!(asked.len(), keys.len(), "{asked:?}");
        assert!(asked.iter().all(|asked| asked["headers"]["x-amz-server-side-encryption"].as_str() == sse), "{asked:?}");
    };
    // One of them is uploaded in parts.
    upload(60..70, None);
    done(&stand.dev, "", &["encrypt", "default"]);
    upload(130..140, Some("AES256"));
    done(&stand.dev, "", &["encrypt", "default", "--off"]);
    upload(0..3, None);
    stand.change_memory(64 * MIB);
    stand.check((60..70).chain(130..140).chain(0..3));
}

#[test]
fn no_plain_byte_is_in_a_directory_that_is_encrypted() {
    let stand = Stand::start(None, &["--segment-size", "64MiB"]);
    let holds = |file: &PathBuf, n: usize| {
        let marked = &value(n)[..64];
        std::fs::read(file).unwrap().windows(64).any(|window| window == marked)
    };
    stand.put([5]);
    stand.offload();
    let plain = stand.uploads();
    assert!(plain.len() == 1 && holds(&plain[0], 5));
    done(&stand.dev, "", &["encrypt", "default"]);
    stand.put([6, 66]);
    stand.offload();
    let sealed: Vec<_> = stand.uploads().into_iter().filter(|file| !plain.contains(file)).collect();
    assert!(sealed.len() == 2 && !sealed.iter().any(|file| holds(file, 6) || holds(file, 66)));
    done(&stand.dev, "", &["encrypt", "default", "--off"]);
    stand.change_memory(64 * MIB);
    stand.check([5, 6, 66]);
}

#[test]
fn new_objects_go_to_a_new_vault_and_those_of_the_others_are_read() {
    let stand = Stand::start(None, &["--segment-size", "64MiB"]);
    stand.put(0..10);
    stand.offload();
    let root = stand.vault.to_str().unwrap();
    done(&stand.dev, "", &["add", "default", "second", "--dir", root, "--prefix", "second"]);
    stand.put(10..20);
    stand.offload();
    let second = stand.uploads().iter().filter(|file| file.to_str().unwrap().contains("/second_")).count();
    assert_eq!((stand.uploads().len(), second), (20, 10));
    stand.change_memory(64 * MIB);
    stand.check(0..20);
    let refused = vaults(&stand.dev, "", &["drop", "default", "main", "--dir"]);
    assert!(!refused.status.success() && said(&refused).contains("10 objects lie in the vault"), "{}", said(&refused));
}

#[test]
fn the_vault_of_a_dropped_tenant_is_emptied_before_it_is_forgotten() {
    let stand = Stand::start(Some(S3d::start()), &["--segment-size", "64MiB"]);
    let s3 = stand.s3.as_ref().unwrap();
    let tenants = |args: &[&str]| {
        let output = run(["tenants"].iter().chain(args).copied().chain(["--http", &stand.dev.http]));
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    tenants(&["create", "acme"]);
    let bucket = ["--bucket", BUCKET, "--endpoint", s3.url(), "--prefix", "acme", "--ak", AK];
    done(&stand.dev, SK, &[&["add", "acme", "main"][..], &bucket].concat());
    let memory = Shared(stand.dir.path().join("acme"));
    let ready = stand.dir.path().join("acme.ready");
    let mut node = perilune();
    node.args(["store", "--master", &stand.dev.rpc, "--tenant", "acme", "--http", "127.0.0.1:0", "--segment-size", "64MiB"]);
    node.arg("--data-dir").arg(&memory.0).arg("--ready-file").arg(&ready).stdout(Stdio::null());
    let _node = Process(node.spawn().unwrap());
    wait_for("acme's memory", || std::fs::read(&ready).ok());

    let config = StoreConfig { masters: vec![stand.dev.rpc.clone()], tenant: "acme".into(), deadline: PATIENCE, ..StoreConfig::default() };
    let acme = Store::connect(config).unwrap();
    for n in 0..30 {
        assert_eq!(acme.put(&key(n), &value(n), &PutConfig::default()), Ok(Put::Stored));
    }
    stand.put(0..10);
    stand.dev.ok(&["offload", "--tenant", "acme"]);
    stand.offload();
    let of = |prefix: &str| -> Vec<PathBuf> { files(&s3.files().join(prefix)) };
    assert_eq!((of("acme/objects").len(), of("kv/objects").len()), (30, 10));

    // While the vault does not do it, the tenant is not gone.
    s3.say("fault refuse 503 100000 DELETE");
    s3.say("fault refuse 503 100000 delete");
    s3.say("requests forget");
    tenants(&["drop", "acme"]);
    tenants(&["recycle", "acme"]);
    let deletes = |asked: &Value| asked["method"] == "DELETE" || asked["target"].as_str().unwrap().contains("?delete");
    wait_for("the vault to refuse", || s3.requests().iter().any(deletes).then_some(()));
    assert!(tenants(&["list", "--json"]).contains("DELETED"));
    s3.say("faults off");
    wait_for("the dropped tenant to be gone", || (!tenants(&["list", "--json"]).contains("acme")).then_some(()));
    assert_eq!(of("acme"), Vec::<PathBuf>::new());
    assert_eq!(of("kv/objects").len(), 10);
    stand.change_memory(64 * MIB);
    stand.check(0..10);
}
