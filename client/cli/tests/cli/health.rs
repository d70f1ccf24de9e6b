//! How vaults are, as is said of them; and that one that is away holds up its own tenant only, with real processes and a real S3 server.

use crate::checkpoint::page;
use crate::cold::{PATIENCE, Stand, files, key, value};
use crate::harness::{Dev, fetch, metric, run, said, wait_for};
use crate::s3d::{AK, BUCKET, S3d, SK};
use crate::tenants::{node, send};
use crate::vaults::vaults;
use perilune_client::{Put, Store, StoreConfig};
use perilune_protocol::PutConfig;
use serde_json::{Value, json};
use std::fs;

fn shown(stand: &Stand, tenant: &str) -> Value {
    let output = vaults(&stand.dev, "", &["list", tenant, "--json"]);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", said(&output)))
}

#[test]
fn a_vault_is_said_to_work_to_refuse_and_to_be_away_and_holds_up_no_other_tenants_checkpoint() {
    let (stand, mut theirs) = (Stand::start(Some(S3d::start()), &["--segment-size", "64MiB"]), S3d::start());
    let dev = &stand.dev;
    // What is wrong is said when it is added, and shown.
    assert!(run(["tenants", "create", "acme", "--http", &dev.http]).status.success());
    let add = |name: &str, bucket: &str, ak: &str| {
        let added = vaults(dev, SK, &["add", "acme", name, "--bucket", bucket, "--endpoint", theirs.url(), "--prefix", name, "--ak", ak]);
        assert!(added.status.success(), "{}", said(&added));
        said(&added)
    };
    assert!(add("wrong", "no-such-bucket", AK).contains("the vault wrong is recorded, but cannot be used at present"));
    let refuses = wait_for("it to be known", || Some(shown(&stand, "acme")).filter(|vault| vault["state"] == "refuses"));
    assert!(refuses["last_error"].as_str().unwrap().to_lowercase().contains("bucket") && refuses["ready"] == false, "{refuses}");
    assert!(vaults(dev, "", &["drop", "acme", "wrong"]).status.success());
    assert!(add("strange", BUCKET, "AKIAUNKNOWN").contains("cannot be used at present"));
    assert!(vaults(dev, "", &["drop", "acme", "strange"]).status.success());
    assert!(!add("own", BUCKET, AK).contains("cannot be used"));
    let works = wait_for("it to be known", || Some(shown(&stand, "acme")).filter(|vault| vault["state"] == "works"));
    assert_eq!(works["last_error"], "");
    let up = || {
        let page = fetch(&dev.http, "/metrics");
        let line = page.lines().find(|line| line.starts_with("perilune_vault_up{") && line.contains(r#"name="own""#));
        line.unwrap().ends_with(" 1")
    };
    assert!(up());

    // It goes away for good, with something to be brought there.
    let _node = node(dev, stand.dir.path(), "acme");
    let config = StoreConfig { masters: vec![dev.rpc.clone()], tenant: "acme".into(), deadline: PATIENCE, ..StoreConfig::default() };
    let acme = Store::connect(config).unwrap();
    theirs.kill();
    assert_eq!(acme.put(&key(0), &value(0), &PutConfig::default()), Ok(Put::Stored));
    stand.put(0..3);
    let set = json!({ "key": "checkpoint_wait_seconds", "value": "1" }).to_string();
    assert_eq!(send("POST", &format!("http://{}/config/set", dev.http), &set).0, 200);
    let made = vaults(dev, "", &["checkpoint", "--deadline", "60s"]);
    assert!(made.status.success() && said(&made).contains("4 objects, 3 of them in a vault"), "{}", said(&made));
    let away = shown(&stand, "acme");
    assert!(away["state"] == "away" && away["ready"] == false && !away["last_error"].as_str().unwrap().is_empty(), "{away}");
    assert!(!up());
    let stores = &page(&dev.http, "info")["stores"];
    assert_eq!((&stores[0]["dt_file"]["num"], stores[0].get("error")), (&3.into(), None), "{stores}");
    let unlisted = stores[1]["error"].as_str().unwrap();
    assert!(unlisted.contains(": away;") && !unlisted.contains(theirs.url()), "{unlisted}");
    assert_eq!(metric(&fetch(&dev.http, "/metrics"), "perilune_cold_lost_total"), Some(0));
    // Nobody's memory has lost anything for it.
    assert!(acme.get(&key(0)).unwrap() == value(0));
}

#[test]
fn a_checkpoint_whose_manifest_is_gone_without_a_record_of_it_holds_up_nothing() {
    let stand = Stand::start(None, &["--segment-size", "64MiB"]);
    stand.put(0..3);
    let make = |dev: &Dev| {
        let made = vaults(dev, "", &["checkpoint", "--deadline", "60s"]);
        assert!(made.status.success(), "{}", said(&made));
    };
    make(&stand.dev);
    let Stand { mut dev, store, dir, vault, .. } = stand;
    drop(store);
    // As if it was killed between the two.
    dev.kill();
    let manifests = || files(&vault).into_iter().filter(|file| file.to_str().unwrap().contains("/checkpoints/")).collect::<Vec<_>>();
    let before = manifests();
    assert_eq!(before.len(), 1);
    fs::remove_file(&before[0]).unwrap();
    let dev = dev.start_again(dir.path(), &["--vault-root", vault.to_str().unwrap(), "--lease", "1s", "--segment-size", "64MiB"]);
    make(&dev);
    let after = manifests();
    assert!(after.len() == 1 && after != before, "{after:?}");
}
