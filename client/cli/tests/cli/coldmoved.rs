//! What lies in one vault is brought to another, with real processes and real bytes, so that the first can be dropped.

use crate::checkpoint::page;
use crate::cold::{MIB, PATIENCE, Restarted, Stand, TOKEN, change_memory, connect, files, with_root};
use crate::group::{Process, Shared, at};
use crate::harness::{Dev, fetch, finish, metric, perilune, run, said, wait_for};
use nix::sys::signal::Signal;
use perilune_client::{Put, Store, StoreConfig};
use perilune_protocol::{ObjectKey, PutConfig};
use serde_json::Value;
use std::path::Path;
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
    let flags = ["--segment-size", "64MiB", "--upload-limit", "1s"];
    let mut stand = Stand::start(None, &flags);
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
    let flags = with_root(&stand.vault, &flags);
    stand.dev = stand.dev.start_again(stand.dir.path(), &flags.iter().map(String::as_str).collect::<Vec<_>>());
    stand.store = connect(&stand.dev, PATIENCE);
    let moved = wait_for("the rest to be moved", || Some(from_main(&stand.dev, "60s")).filter(|moved| moved.status.success()));
    let found: Value = serde_json::from_slice(&moved.stdout).unwrap();
    assert_eq!((&found["left"], found["saved"].as_u64() >= Some(60)), (&0.into(), true), "{found}");
    // What was moved before the kill and not deleted yet, and what may yet come to lie there, is nobody's once the vault is dropped.
    let folders = std::fs::read_dir(&stand.vault).unwrap().map(|entry| entry.unwrap().path());
    let old = folders.into_iter().find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("kv")).unwrap();
    let orphan = old.join("objects/00/00000000-0000-4000-8000-000000000000");
    std::fs::create_dir_all(orphan.parent().unwrap()).unwrap();
    std::fs::write(&orphan, "nobody's").unwrap();
    wait_for("the vault to be dropped", || {
        let dropped = vaults(&stand.dev, &["drop", "default", "main", "--dir"]);
        let waits = said(&dropped).contains("may still come to lie there: ask again in");
        assert!(dropped.status.success() || waits, "{}", said(&dropped));
        dropped.status.success().then_some(())
    });
    assert_eq!(files(&old), Vec::<std::path::PathBuf>::new(), "its claim is gone, too");
    assert_eq!(stand.offload()["left"], 0);
    stand.change_memory(64 * MIB);
    stand.check(0..70);
    assert_eq!(stand.metric("cold_lost_total"), 0);
}

#[test]
fn a_vault_that_is_gone_is_dropped_by_force_and_no_other_is() {
    let stand = Stand::start(None, &[]);
    let add = |dir: &Path, name: &str| {
        std::fs::create_dir_all(dir).unwrap();
        let added = vaults(&stand.dev, &["add", "default", name, "--dir", dir.to_str().unwrap()]);
        assert!(added.status.success(), "{}", said(&added));
    };
    let (there, away) = (stand.vault.join("there"), stand.vault.join("away"));
    add(&there, "second");
    stand.put(0..4);
    assert_eq!(stand.offload()["left"], 0);
    add(&stand.vault.join("third"), "third");
    let moved = stand.dev.run(&["offload", "--from", "second", "--deadline", "60s"]);
    assert!(moved.status.success(), "{}", said(&moved));
    std::fs::rename(&there, &away).unwrap();
    let left = files(&away);
    let dropped = vaults(&stand.dev, &["drop", "default", "second", "--dir"]);
    let why = "mount or make the directory, or correct the vault; `force` drops the vault and leaves what lies there";
    assert!(!dropped.status.success() && said(&dropped).contains(why), "{}", said(&dropped));
    let refused = vaults(&stand.dev, &["drop", "default", "third", "--dir", "--force"]);
    assert!(!refused.status.success() && said(&refused).contains("4 objects lie in the vault"), "{}", said(&refused));
    let dropped = vaults(&stand.dev, &["drop", "default", "second", "--dir", "--force"]);
    assert!(dropped.status.success(), "{}", said(&dropped));
    assert!(!there.exists() && !left.is_empty() && files(&away) == left);
    stand.check(0..4);
}

#[test]
fn a_move_and_a_checkpoint_go_on_with_the_next_master_and_a_move_takes_along_what_readers_would_not_have_fetched() {
    const GROUP: u8 = 25;
    let dir = tempfile::tempdir().unwrap();
    let (rpc, http, rest) = (at(GROUP, 10_001), at(GROUP, 30_001), at(GROUP, 40_001));
    let mut master = Restarted::start(dir.path(), "master", &["--rpc", &rpc, "--http", &http, "--lease", "1s"]);
    let node = Restarted::start(dir.path(), "store", &["--master", &rpc, "--http", &rest, "--segment-size", "96MiB"]);
    let _memory = Shared(dir.path().join("store"));
    let vault = |name: &str| dir.path().join("vaults").join(name);
    let add = |name: &str| {
        std::fs::create_dir_all(vault(name)).unwrap();
        let mut add = perilune();
        add.args(["vaults", "add", "default", name, "--http", &http, "--dir", vault(name).to_str().unwrap()]);
        let added = finish(add.env("PERILUNE_META_TOKEN", TOKEN));
        assert!(added.status.success(), "{}", said(&added));
    };
    let offload = |more: &[&str]| run(["offload", "--master", &rpc, "--deadline", "60s"].iter().chain(more));
    let uploads = |name: &str| files(&vault(name)).iter().filter(|path| path.iter().any(|part| part == "objects")).count();
    let store = Store::connect(StoreConfig { masters: vec![rpc.clone()], deadline: PATIENCE, ..StoreConfig::default() }).unwrap();
    let value = |n: usize| (0..n * MIB).map(|i| (i * 7 + (i >> 8) + n) as u8).collect::<Vec<_>>();
    let key = |n: usize| ObjectKey::from(format!("k{n}").as_str());

    add("old");
    for n in [1, 2, 9, 60] {
        assert_eq!(store.put(&key(n), &value(n), &PutConfig::default()), Ok(Put::Stored), "{n}");
    }
    assert!(offload(&[]).status.success());
    let segments: Value = serde_json::from_slice(&run(["segments", "--json", "--master", &rpc]).stdout).unwrap();
    change_memory(&rest, vec![&segments["segment_id"]], 64 * MIB);
    add("new");
    node.signal(Signal::SIGSTOP);
    let mut moving = perilune();
    moving.args(["offload", "--from", "old", "--deadline", "60s", "--master", &rpc]).stdout(Stdio::null()).stderr(Stdio::piped());
    let moving = moving.spawn().unwrap();
    wait_for("room for what is moved", || metric(&fetch(&http, "/metrics"), "master_allocated_bytes").filter(|bytes| *bytes > 0));
    master.again();
    node.signal(Signal::SIGCONT);
    let told = moving.wait_with_output().unwrap();
    let why = "1 objects (60 MiB) are in vault \"old\" yet; what went wrong last: 1 of them, such as k60, have more than 57.60 MiB";
    assert!(!told.status.success() && said(&told).contains(why), "{}", said(&told));
    assert_eq!(uploads("new"), 3);
    assert_eq!(store.remove(&[key(60)], true), [Ok(())], "forced, as it may be leased");
    let moved = offload(&["--from", "old"]);
    assert!(moved.status.success(), "{}", said(&moved));
    wait_for("the old vault to be empty", || (uploads("old") == 0).then_some(()));
    for n in [1, 2, 9] {
        assert!(store.get(&key(n)).unwrap() == value(n), "{n}");
    }

    assert_eq!(store.put(&key(3), &value(3), &PutConfig::default()), Ok(Put::Stored));
    node.signal(Signal::SIGSTOP);
    let mut keeping = perilune();
    keeping.args(["vaults", "checkpoint", "--http", &http, "--deadline", "60s"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let keeping = keeping.spawn().unwrap();
    wait_for("a checkpoint to be asked for", || (page(&http, "checkpoints")["asked"] == true).then_some(()));
    master.again();
    node.signal(Signal::SIGCONT);
    let kept = keeping.wait_with_output().unwrap();
    assert!(kept.status.success() && said(&kept).contains("is kept: 4 objects, 4 of them in a vault"), "{}", said(&kept));
}
