//! A new key for secrets takes over in a group of masters, which are killed meanwhile.

use crate::group::{Process, at, leader, master_with};
use crate::harness::{finish, perilune, said, wait_for};
use crate::s3d::{AK, BUCKET, S3d, SK};
use crate::tenants::send;
use serde_json::Value;
use std::fs;
use std::time::Duration;

const GROUP: u8 = 32;
const TENANTS: usize = 8;

/// What a master says of keys; nothing while it is not there.
fn keys(nth: usize) -> Option<Value> {
    let (status, text) = send("GET", &format!("http://{}/tiflash/remote/secret_keys", at(GROUP, 30_000 + nth)), "");
    (status == 200).then(|| serde_json::from_str(&text).unwrap())
}

/// With which keys secrets are sealed, as all masters say.
fn sealed() -> Option<Vec<String>> {
    let mut all: Vec<String> = Vec::new();
    for nth in 1..=3 {
        all.extend(keys(nth)?["sealed"].as_object().unwrap().keys().cloned());
    }
    all.sort_unstable();
    all.dedup();
    Some(all)
}

#[test]
fn a_new_key_seals_all_anew_once_all_masters_have_it_whoever_is_killed() {
    let (dir, s3) = (tempfile::tempdir().unwrap(), S3d::start());
    let write = |name: &str, text: &str| {
        let file = dir.path().join(name);
        fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let (token, old, new) = (write("token", "a-token-of-this-test"), write("old", &"01".repeat(32)), write("new", &"23".repeat(32)));
    let ask = |args: &[&str]| {
        let http = at(GROUP, 30_000 + leader(GROUP));
        let output = finish(perilune().env("PERILUNE_VAULT_SK", SK).args(args).args(["--http", &http, "--meta-token-file", &token]));
        output.status.success().then(|| said(&output))
    };
    // Somebody else may lead before it is answered.
    let done = |args: &[&str]| wait_for("an answer", || ask(args));
    let add = |tenant: &str, prefix: &str| {
        done(&[
            "vaults",
            "add",
            tenant,
            &format!("v-{prefix}"),
            "--bucket",
            BUCKET,
            "--endpoint",
            s3.url(),
            "--prefix",
            prefix,
            "--ak",
            AK,
        ]);
    };
    let begin = |nth: usize, keys: &str| master_with(GROUP, dir.path(), nth, &["--meta-token-file", &token, "--secret-key-file", keys]);
    let mut masters: Vec<Option<Process>> = (1..=3).map(|nth| Some(begin(nth, &old))).collect();
    let tenants: Vec<String> = (0..TENANTS).map(|n| format!("t{n}")).collect();
    for tenant in &tenants {
        done(&["tenants", "create", tenant]);
        add(tenant, tenant);
    }
    let before = wait_for("all masters to say the same", || sealed().filter(|all| all.len() == 1)).remove(0);

    let both = format!("{new},{old}");
    let restart = |masters: &mut Vec<Option<Process>>, nth: usize, keys: &str| {
        drop(masters[nth - 1].take());
        masters[nth - 1] = Some(begin(nth, keys));
    };
    restart(&mut masters, 1, &both);
    restart(&mut masters, 2, &both);
    let newest = wait_for("a master to say", || keys(1))["keys"][0].as_str().unwrap().to_owned();
    assert_ne!(newest, before);
    // One of the three has the older only: it opens what is added now.
    add("t0", "more");
    assert_eq!(wait_for("all masters to say", sealed), std::slice::from_ref(&before));

    restart(&mut masters, 3, &both);
    for round in 0..3 {
        // A little later each time, and so somewhere else in what there is to do.
        std::thread::sleep(Duration::from_millis(150 * round));
        let killed = leader(GROUP);
        restart(&mut masters, killed, &both);
    }
    wait_for("all to be sealed with the new one", || sealed().filter(|all| *all == [newest.clone()]));
    (1..=3).for_each(|nth| restart(&mut masters, nth, &new));
    for tenant in &tenants {
        let shown = done(&["vaults", "list", tenant, "--json"]);
        assert!(shown.contains(r#""ready":true"#) && !shown.contains(r#""ready":false"#), "{shown}");
    }
    assert_eq!(wait_for("all masters to say", || keys(1))["keys"], serde_json::json!([newest]));
}
