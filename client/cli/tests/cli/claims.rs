//! Whose a vault is, with real processes: through mounts that are missing, vaults that are away, and restores that break off.

use crate::checkpoint::{Kit, checkpoint, collect, page};
use crate::cold::{Stand, connect, files, key, value};
use crate::harness::{finish, run, said, wait_for};
use crate::tenants::send;
use perilune_client::{Put, Store};
use perilune_protocol::PutConfig;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

const MIB: usize = crate::cold::MIB;

fn folders(root: &Path) -> Vec<PathBuf> {
    fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Who has a vault.
fn owner(folder: &Path) -> String {
    let mut claims: Vec<_> = files(&folder.join("owner")).into_iter().filter(|path| !path.ends_with("alive")).collect();
    // The first one has no number.
    claims.sort_by_key(|path| (!path.ends_with("cluster"), path.clone()));
    fs::read_to_string(claims.last().unwrap()).unwrap()
}

fn put(store: &Store, keys: std::ops::Range<usize>) {
    keys.for_each(|n| assert_eq!(store.put(&key(n), &value(n), &PutConfig::default()), Ok(Put::Stored), "{n}"));
}

#[test]
fn a_mount_that_is_missing_when_a_master_starts_loses_nothing() {
    let stand = Stand::start(None, &["--segment-size", "64MiB"]);
    stand.put(0..5);
    checkpoint(&stand.dev.http);
    stand.change_memory(64 * MIB);
    let [folder] = folders(&stand.vault).try_into().unwrap();
    let before = files(&folder).len();
    let Stand { mut dev, dir, vault, .. } = stand;
    dev.kill();
    let away = dir.path().join("away");
    fs::rename(&folder, &away).unwrap();
    let dev = dev.start_again(dir.path(), &["--vault-root", vault.to_str().unwrap(), "--lease", "1s", "--segment-size", "64MiB"]);
    let stand = Stand { store: connect(&dev, crate::cold::PATIENCE), dev, dir, vault, s3: None };
    let unread = || {
        let fault = stand.store.get(&key(0)).unwrap_err();
        assert_eq!(fault.code.number(), -703, "{fault}");
    };
    let says = |why: &str| {
        wait_for(why, || {
            let told = page(&stand.dev.http, "checkpoints");
            assert_eq!(told["checkpoints"].as_array().unwrap().len(), 1, "{told}");
            told["last_error"].as_str().unwrap().contains(why).then_some(())
        });
    };
    says("mount or make the directory");
    unread();
    assert_eq!(folders(&stand.vault), [] as [PathBuf; 0], "nothing is made in its place");
    // What a mount is to cover is there before it.
    fs::create_dir(&folder).unwrap();
    says("is what it lies on mounted?");
    unread();
    assert_eq!(files(&folder), [] as [PathBuf; 0]);
    fs::remove_dir(&folder).unwrap();
    fs::rename(&away, &folder).unwrap();
    for n in 0..5 {
        wait_for("it to be read again", || stand.store.get(&key(n)).is_ok_and(|found| found == value(n)).then_some(()));
    }
    // Nothing was given up, so nothing is garbage.
    collect(&stand.dev.http);
    checkpoint(&stand.dev.http);
    stand.check(0..5);
    assert_eq!((stand.metric("cold_lost_total"), stand.metric("cold_garbage_deleted_total")), (0, 0));
    assert!(files(&folder).len() > before);
}

#[test]
fn a_restore_that_broke_off_is_done_again_and_has_the_vaults_that_were_away() {
    let stand = Stand::start(None, &["--segment-size", "64MiB"]);
    stand.put(0..3);
    stand.offload();
    let kit = Kit::of(&stand);
    let [main] = folders(&stand.vault).try_into().unwrap();
    let root = stand.vault.to_str().unwrap();
    let added = run(["vaults", "add", "default", "other", "--http", &stand.dev.http, "--dir", root, "--prefix", "other"]);
    assert!(added.status.success(), "{}", said(&added));
    let other = wait_for("the other vault", || folders(&stand.vault).into_iter().find(|path| *path != main));
    let (status, text) =
        send("POST", &format!("http://{}/config/set", stand.dev.http), &json!({"key": "checkpoint_vault", "value": "main"}).to_string());
    assert_eq!(status, 200, "{text}");
    wait_for("it to be claimed", || other.join("owner/cluster").exists().then_some(()));
    stand.put(3..6);
    let made = checkpoint(&stand.dev.http);
    assert_eq!(made["saved"].as_u64(), Some(6), "{made}");
    let old = owner(&main);
    let Stand { mut dev, store, dir, .. } = stand;
    dev.kill();
    drop((dev, store));
    fs::remove_dir_all(dir.path().join("data")).unwrap();

    // All is claimed, and then the data directory cannot be made: as if it had been killed there.
    let broken = PathBuf::from(kit.file("again"));
    fs::create_dir(&broken).unwrap();
    let obstacle = broken.join("master.restoring");
    fs::write(&obstacle, "in the way").unwrap();
    let secret = kit.file("key");
    let output = finish(&mut kit.master("again", &["--secret-key-file", &secret, "--take-over"]));
    assert!(!output.status.success() && said(&output).contains("restoring"), "{}", said(&output));
    let phantom = owner(&main);
    assert!(phantom != old && owner(&other) == phantom, "{phantom}");
    // Now the other vault is away.
    let away = dir.path().join("away");
    fs::rename(&other, &away).unwrap();
    fs::remove_file(&obstacle).unwrap();
    let again = kit.again("again", &[]);
    again.check(0..3);
    assert_eq!((owner(&away), owner(&main) != phantom), (phantom, true));
    put(&again.store, 6..9);
    let left = || finish(crate::harness::perilune().args(["offload", "--deadline", "1s", "--master", &again.rpc]));
    let output = left();
    assert!(!output.status.success() && said(&output).contains("in memory only"), "{}", said(&output));
    fs::rename(&away, &other).unwrap();
    wait_for("all to be in a vault", || left().status.success().then_some(()));
    again.check(3..9);
    assert_eq!(owner(&other), owner(&main));
}

#[test]
fn a_cluster_says_that_it_is_at_work_while_a_checkpoint_takes_its_time() {
    let stand = Stand::start(Some(crate::s3d::S3d::start()), &["--segment-size", "64MiB"]);
    let s3 = stand.s3.as_ref().unwrap();
    wait_for("it to be said", || stand.vault.join("kv/owner/alive").exists().then_some(()));
    s3.say("fault slow 600000 1000 PUT /cold/kv/objects");
    assert_eq!(page(&stand.dev.http, "upload"), json!({"message": "flag_set=true"}));
    let begun = || page(&stand.dev.http, "checkpoints")["checkpoints"].as_array().unwrap().len() == 1;
    wait_for("a checkpoint to begin", || begun().then_some(()));
    // What comes now goes to another folder, and whoever looks there is told as well.
    let mut add = crate::harness::perilune();
    add.args(["vaults", "add", "default", "second", "--http", &stand.dev.http, "--bucket", crate::s3d::BUCKET, "--endpoint", s3.url()]);
    add.args(["--prefix", "second", "--ak", crate::s3d::AK]).env("PERILUNE_VAULT_SK", crate::s3d::SK);
    let added = finish(&mut add);
    assert!(added.status.success(), "{}", said(&added));
    wait_for("it to be said there", || stand.vault.join("second/owner/alive").exists().then_some(()));
    assert!(begun(), "it is written still");
}
