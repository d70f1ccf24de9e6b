//! What lies in one vault is brought to another, with real processes and real bytes, so that the first can be dropped.

use crate::cold::{MIB, PATIENCE, Stand, connect, with_root};
use crate::group::Process;
use crate::harness::{Dev, perilune, run, said, wait_for};
use serde_json::Value;
use std::process::{Output, Stdio};

fn from_main(dev: &Dev, deadline: &str) -> Output {
    dev.run(&["offload", "--from", "main", "--json", "--deadline", deadline])
}

fn vaults(dev: &Dev, args: &[&str]) -> Output {
    run(["vaults"].iter().chain(args).copied().chain(["--http", &dev.http]))
}

/// Uploads in the folder of a vault.
fn uploads(stand: &Stand, prefix: &str) -> usize {
    let folder = stand.vault.join(prefix).to_str().unwrap().to_owned();
    stand.uploads().iter().filter(|path| path.to_str().unwrap().starts_with(&folder)).count()
}

#[test]
fn a_vault_is_retired_and_whoever_is_killed_meanwhile_nothing_is_lost() {
    let mut stand = Stand::start(None, &["--segment-size", "64MiB"]);
    stand.put(0..60);
    assert_eq!(stand.offload()["left"], 0);
    stand.change_memory(64 * MIB);
    let refused = from_main(&stand.dev, "5s");
    assert!(said(&refused).contains("new objects go to vault"), "{}", said(&refused));
    let root = stand.vault.to_str().unwrap().to_owned();
    let added = vaults(&stand.dev, &["add", "default", "second", "--dir", &root, "--prefix", "second"]);
    assert!(added.status.success(), "{}", said(&added));
    // Some is in memory as well, and some in no vault yet.
    stand.check(0..10);
    stand.put(60..70);
    let refused = vaults(&stand.dev, &["drop", "default", "main", "--dir"]);
    assert!(
        !refused.status.success() && said(&refused).contains("60 objects lie in the vault: `perilune offload --from`"),
        "{}",
        said(&refused)
    );
    let refused = stand.dev.run(&["offload", "--from", "third"]);
    assert!(said(&refused).contains("the tenant has no vault \"third\""), "{}", said(&refused));

    let mut moving = perilune();
    moving.args(["offload", "--from", "main", "--deadline", "60s", "--master", &stand.dev.rpc]).stdout(Stdio::null()).stderr(Stdio::null());
    let moving = Process(moving.spawn().unwrap());
    wait_for("some to be moved", || (uploads(&stand, "second") >= 5).then_some(()));
    stand.dev.kill();
    drop(moving);
    let flags = with_root(&stand.vault, &["--segment-size", "64MiB"]);
    stand.dev = stand.dev.start_again(stand.dir.path(), &flags.iter().map(String::as_str).collect::<Vec<_>>());
    stand.store = connect(&stand.dev, PATIENCE);
    let moved = wait_for("the rest to be moved", || Some(from_main(&stand.dev, "60s")).filter(|moved| moved.status.success()));
    let found: Value = serde_json::from_slice(&moved.stdout).unwrap();
    assert_eq!((&found["left"], found["saved"].as_u64() >= Some(60)), (&0.into(), true), "{found}");
    let dropped = vaults(&stand.dev, &["drop", "default", "main", "--dir"]);
    assert!(dropped.status.success(), "{}", said(&dropped));
    assert_eq!(stand.offload()["left"], 0);
    stand.change_memory(64 * MIB);
    stand.check(0..70);
    assert_eq!(stand.metric("cold_lost_total"), 0);
}
