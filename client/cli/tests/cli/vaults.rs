//! Vaults with real processes and a real S3 server: added, listed, rotated, dropped, told to nodes, and no secret where it does not belong.

use crate::harness::{Dev, finish, perilune, run, said};
use crate::s3d::{AK, BUCKET, S3d, SK};
use perilune_vault::{Limits, Vault};
use serde_json::Value;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

/// Another pair, as what it was is given out of hand.
const OTHER: (&str, &str) = ("AKIAOTHER", "an0ther/secret");

fn vaults(dev: &Dev, sk: &str, args: &[&str]) -> Output {
    let args = ["vaults"].iter().chain(args).copied().chain(["--http", &dev.http]);
    finish(perilune().env("PERILUNE_VAULT_SK", sk).args(args))
}

fn done(dev: &Dev, sk: &str, args: &[&str]) {
    let output = vaults(dev, sk, args);
    assert!(output.status.success(), "{args:?}: {}", said(&output));
}

fn refused(output: &Output, why: &str) {
    assert!(!output.status.success() && said(output).contains(why), "{why}: {}", said(output));
}

fn list(dev: &Dev, tenant: &str) -> Vec<Value> {
    let output = vaults(dev, "", &["list", tenant, "--json"]);
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn bucket<'a>(s3: &'a S3d, name: &'a str, prefix: &'a str, ak: &'a str) -> Vec<&'a str> {
    vec!["add", "default", name, "--bucket", BUCKET, "--endpoint", s3.url(), "--prefix", prefix, "--ak", ak]
}

/// Whether `secret` is in a file below `dir`.
fn holds(dir: &Path, secret: &str) -> bool {
    std::fs::read_dir(dir).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() { holds(&path, secret) } else { has(&std::fs::read(&path).unwrap_or_default(), secret) }
    })
}

fn has(bytes: &[u8], secret: &str) -> bool {
    bytes.windows(secret.len()).any(|window| window == secret.as_bytes())
}

#[test]
fn vaults_are_added_listed_rotated_and_dropped() {
    let (dir, cold, s3) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), S3d::start());
    let root = cold.path().to_str().unwrap();
    let dev = Dev::start_with(dir.path(), &["--vault-root", root]);
    assert_eq!(list(&dev, "default"), Vec::<Value>::new());
    refused(&vaults(&dev, "", &["list", "nobody"]), "instance not existed, instance_id=nobody");
    done(&dev, SK, &bucket(&s3, "main", "/kv/", AK));
    refused(&vaults(&dev, SK, &bucket(&s3, "main", "other", AK)), "vault_name=main already created");
    refused(&vaults(&dev, SK, &bucket(&s3, "again", "kv", AK)), "original obj infos has a same conf");
    refused(&vaults(&dev, "", &bucket(&s3, "none", "kv", AK)), "secret key is empty");
    done(&dev, "", &["add", "default", "near", "--dir", root, "--prefix", "near"]);
    done(&dev, "", &["add", "default", "far", "--dir", "/etc"]);

    let all = list(&dev, "default");
    let seen: Vec<_> = all.iter().map(|v| (v["name"].as_str().unwrap(), v["ready"] == true, v["is_default"] == true)).collect();
    assert_eq!(seen, [("main", true, false), ("near", true, false), ("far", false, true)], "{all:?}");
    assert!(all[2]["reason"].as_str().unwrap().contains("--vault-root"), "{}", all[2]);
    let obj = &all[0]["obj_info"];
    assert_eq!((&obj["sk"], &obj["ak"], &obj["prefix"]), (&"******".into(), &"******".into(), &"kv".into()));
    done(&dev, "", &["drop", "default", "far", "--dir"]);
    refused(&vaults(&dev, "", &["drop", "default", "far", "--dir"]), "vault_name=far not found");
    refused(&vaults(&dev, "", &["drop", "default", "near"]), "other kind");

    // The service forgets the pair, and learns another: what is told to the masters is what counts.
    s3.say(&format!("key add {} {}", OTHER.0, OTHER.1));
    s3.say(&format!("key remove {AK}"));
    assert_eq!(list(&dev, "default")[0]["ready"], false);
    let rotate = |sk: &str| vaults(&dev, sk, &["rotate", "default", "main", "--ak", OTHER.0]);
    assert!(rotate(OTHER.1).status.success() && list(&dev, "default")[0]["ready"] == true);
    refused(&rotate(OTHER.1), "ak sk eq original, please check it");
    done(&dev, "", &["rename", "default", "main", "first"]);
    done(&dev, "", &["drop", "default", "first"]);
    assert_eq!(list(&dev, "default").len(), 1);
    let table = vaults(&dev, "", &["list", "default"]);
    assert!(said(&table).contains("near") && said(&table).contains("yes"), "{}", said(&table));
}

#[test]
fn curl_says_the_same_and_no_secret() {
    let args = ["vaults", "add", "acme", "v", "--bucket", "b", "--endpoint", "e", "--ak", "AKIA", "--curl"];
    let output = finish(perilune().env("PERILUNE_VAULT_SK", SK).args(args));
    let shown = said(&output);
    assert!(shown.contains("/MetaService/http/v1/add_s3_vault?token=$PERILUNE_META_TOKEN") && !shown.contains(SK), "{shown}");
    assert!(shown.contains(r#""sk":"'"$PERILUNE_VAULT_SK"'""#), "{shown}");
    refused(&run(["vaults", "add", "acme", "v", "--dir", "relative"]), "whole path");
    refused(&run(["vaults", "add", "acme", "v", "--bucket", "b", "--endpoint", "e"]), "--ak");
}
