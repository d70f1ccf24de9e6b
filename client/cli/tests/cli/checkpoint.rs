//! Checkpoints with real processes: everything is killed, memory and the masters' data are gone, and the vault brings all of it back.

use crate::cold::{MIB, PATIENCE, Stand, files, key, value};
use crate::group::{Process, Shared, at, leader, master_with};
use crate::harness::{Dev, fetch, finish, metric, perilune, run, said, wait_for};
use crate::s3d::{AK, BUCKET, S3d, SK};
use crate::tenants::send;
use perilune_client::{Put, Store, StoreConfig};
use perilune_protocol::PutConfig;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(crate) fn page(http: &str, path: &str) -> Value {
    let (status, text) = send("GET", &format!("http://{http}/tiflash/remote/{path}"), "");
    assert_eq!(status, 200, "{path}: {text}");
    serde_json::from_str(&text).unwrap()
}

pub(crate) fn checkpoint(http: &str) -> Value {
    let made = run(["vaults", "checkpoint", "--json", "--http", http]);
    assert!(made.status.success(), "{}", said(&made));
    serde_json::from_slice(&made.stdout).unwrap()
}

/// Has all garbage looked for.
pub(crate) fn collect(http: &str) {
    wait_for("a collector", || (page(http, "gc")["execute"] == "true").then_some(()));
}

/// Files of a kind in a vault.
fn count(vault: &Path, kind: &str) -> usize {
    files(vault).into_iter().filter(|path| path.components().any(|part| part.as_os_str() == kind)).count()
}

/// What a new cluster needs to know: where the vault is, and the key for secrets.
pub(crate) struct Kit {
    dir: tempfile::TempDir,
    root: PathBuf,
}

impl Kit {
    /// Of a stand, before all of it goes.
    pub(crate) fn of(stand: &Stand) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(stand.dir.path().join("data/master/secret.key"), dir.path().join("key")).unwrap();
        let root = stand.vault.clone();
        let described = match &stand.s3 {
            None => {
                // The folder has a name of its own, as `perilune vaults list` shows.
                let folder = std::fs::read_dir(&root).unwrap().next().unwrap().unwrap().file_name();
                format!("[main]\ndir = \"{}\"\nprefix = \"{}\"\n", root.display(), folder.to_str().unwrap())
            }
            Some(s3) => {
                format!("[main]\nbucket = \"{BUCKET}\"\nendpoint = \"{}\"\nprefix = \"kv\"\nak = \"{AK}\"\nsk = \"{SK}\"\n", s3.url())
            }
        };
        std::fs::write(dir.path().join("vault"), described).unwrap();
        Self { dir, root }
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// A master that begins again from the vault, with its data in `data`.
    pub(crate) fn master(&self, data: &str, more: &[&str]) -> Command {
        let mut master = perilune();
        master.args(["master", "--rpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--lease", "1s", "--data-dir", &self.file(data)]);
        master.args(["--restore", "vault://main", "--vault-file", &self.file("vault"), "--vault-root", self.root.to_str().unwrap()]);
        master.args(more).stdout(Stdio::null());
        master
    }

    fn refused(&self, data: &str, more: &[&str], why: &str) {
        let output = finish(&mut self.master(data, more));
        assert!(output.status.code() == Some(1) && said(&output).contains(why), "{}", said(&output));
        assert!(!self.dir.path().join(data).join("master").exists(), "{why}");
        let left = std::fs::read_dir(self.dir.path().join(data)).into_iter().flatten().count();
        assert_eq!(left, 0, "{why}");
    }

    pub(crate) fn again(&self, data: &str, more: &[&str]) -> Again {
        let key = self.file("key");
        let more: Vec<&str> = ["--secret-key-file", &key].into_iter().chain(more.iter().copied()).collect();
        let (master, at) = up(&mut self.master(data, &more), &self.dir.path().join("ready"));
        let mut node = perilune();
        let lent = self.dir.path().join(format!("{data}-node"));
        node.args(["store", "--http", "127.0.0.1:0", "--segment-size", "64MiB", "--vault-root", self.root.to_str().unwrap()]);
        node.args(["--master", at["rpc"].as_str().unwrap()]).arg("--data-dir").arg(&lent);
        let (node, _) = up(&mut node, &self.dir.path().join("ready"));
        let rpc = at["rpc"].as_str().unwrap().to_owned();
        let store = Store::connect(StoreConfig { masters: vec![rpc.clone()], deadline: PATIENCE, ..StoreConfig::default() }).unwrap();
        Again { store, rpc, http: at["http"][0].as_str().unwrap().to_owned(), _processes: [master, node], _lent: Shared(lent) }
    }
}

fn up(command: &mut Command, ready: &Path) -> (Process, Value) {
    let _ = std::fs::remove_file(ready);
    let mut process = Process(command.arg("--ready-file").arg(ready).stdout(Stdio::null()).spawn().unwrap());
    let at = wait_for("it to be up", || {
        assert_eq!(process.0.try_wait().unwrap(), None, "{command:?} ended");
        std::fs::read(ready).ok().and_then(|text| serde_json::from_slice(&text).ok())
    });
    (process, at)
}

/// A new cluster.
pub(crate) struct Again {
    pub(crate) store: Store,
    pub(crate) rpc: String,
    http: String,
    _processes: [Process; 2],
    _lent: Shared,
}

impl Again {
    pub(crate) fn check(&self, keys: impl IntoIterator<Item = usize>) {
        keys.into_iter().for_each(|n| assert!(self.store.get(&key(n)).unwrap_or_else(|fault| panic!("{n}: {fault}")) == value(n), "{n}"));
    }
}

fn begins_again(s3: Option<S3d>) {
    let stand = Stand::start(s3, &["--segment-size", "64MiB"]);
    let vault = stand.vault.clone();
    stand.put(0..200);
    let made = checkpoint(&stand.dev.http);
    assert_eq!((made["objects"].as_u64(), made["saved"].as_u64(), made["number"].as_u64()), (Some(200), Some(200), Some(1)), "{made}");
    let kit = Kit::of(&stand);
    let Stand { mut dev, dir, s3, store, .. } = stand;
    dev.kill();
    drop((dev, store));
    // The key and the vault are all that is left.
    if s3.is_some() {
        drop(dir.path().join("vaults"));
    }
    std::fs::remove_dir_all(dir.path().join("data")).unwrap();

    let first = kit.again("first", &["--take-over"]);
    // The memory that there was is gone, and not listed as what may come back.
    let listed = run(["segments", "--json", "--master", &first.rpc]);
    assert!(listed.status.success() && listed.stdout.iter().filter(|byte| **byte == b'\n').count() == 1, "{}", said(&listed));
    assert_eq!(metric(&fetch(&first.http, "/metrics"), "perilune_capacity_bytes"), Some(64 * MIB as u64));
    assert_eq!(first.store.exists(&[key(7), key(200)]), Ok(vec![true, false]));
    first.check(0..200);
    let late = b"put in the new cluster";
    assert_eq!(first.store.put(&key(200), late, &PutConfig::default()), Ok(Put::Stored));
    first.store.remove(&(0..10).map(key).collect::<Vec<_>>(), true).into_iter().for_each(|outcome| outcome.unwrap());
    // What the checkpoint names that both began with stays.
    collect(&first.http);
    let made = checkpoint(&first.http);
    assert_eq!((made["number"].as_u64(), made["objects"].as_u64(), made["saved"].as_u64()), (Some(2), Some(191), Some(191)), "{made}");
    wait_for("what was swept to settle", || (count(&vault, "objects") == 200 + 1 + 2 * 2).then_some(()));
    drop(first);

    let second = kit.again("second", &["--take-over"]);
    second.check(10..200);
    assert_eq!((second.store.get(&key(200)).unwrap(), second.store.exists(&[key(3)])), (late.to_vec(), Ok(vec![false])));
    assert_eq!(count(&vault, "checkpoints"), 2);
    let listed = run(["vaults", "checkpoints", "--http", &second.http]);
    assert!(listed.status.success() && said(&listed).contains("191"), "{}", said(&listed));
    drop((s3, dir, second.rpc.clone()));
}

#[test]
fn a_cluster_begins_again_from_a_directory() {
    begins_again(None);
}

#[test]
fn a_cluster_begins_again_from_a_bucket() {
    begins_again(Some(S3d::start()));
}

#[test]
fn what_a_checkpoint_names_stays_until_it_goes() {
    let stand = Stand::start(None, &["--segment-size", "64MiB"]);
    stand.put(0..20);
    assert_eq!(page(&stand.dev.http, "upload"), json!({"message": "flag_set=true"}));
    wait_for("the checkpoint", || (page(&stand.dev.http, "checkpoints")["asked"] == false).then_some(()));
    stand.store.remove(&(0..20).map(key).collect::<Vec<_>>(), true).into_iter().for_each(|outcome| outcome.unwrap());
    // Something else that was removed is deleted, so the collector was there; and all that is there was looked at.
    stand.put(20..25);
    stand.offload();
    stand.store.remove(&(20..25).map(key).collect::<Vec<_>>(), true).into_iter().for_each(|outcome| outcome.unwrap());
    let orphan = stand.uploads()[0].parent().unwrap().with_file_name("67").join("67e55044-10b1-426f-9247-bb680e5fe0c8");
    std::fs::create_dir_all(orphan.parent().unwrap()).unwrap();
    std::fs::write(&orphan, "nobody's").unwrap();
    let info = page(&stand.dev.http, "info");
    assert_eq!((info["stores"][0]["num_manifests"].as_u64(), info["stores"][0]["data_file"]["num"].as_u64()), (Some(1), Some(3)), "{info}");
    collect(&stand.dev.http);
    wait_for("the orphan to go", || (!orphan.exists()).then_some(()));
    wait_for("what no checkpoint names to go", || (stand.uploads().len() == 20 + 2).then_some(()));
    let info = page(&stand.dev.http, "info");
    let store = &info["stores"][0];
    let files = |kind: &str, what: &str| store[kind][what].as_u64().unwrap();
    assert_eq!((files("dt_file", "num"), files("dt_file", "num_delmark"), store["num_keys"].as_u64()), (20, 0, Some(23)), "{info}");
    let bytes: u64 = stand.uploads().iter().map(|file| file.metadata().unwrap().len()).sum();
    assert!(files("dt_file", "bytes") + files("data_file", "bytes") > bytes && files("dt_file", "bytes") < bytes, "{info}");
    let id = store["store_id"].as_u64().unwrap();
    assert_eq!(page(&stand.dev.http, &format!("info/{id},999"))["stores"].as_array().unwrap().len(), 1);
    assert_eq!(page(&stand.dev.http, "info/999")["stores"], json!([]));
    for wrong in ["x", "1,,2", "-1", "+1", &"9".repeat(30)] {
        assert_eq!(send("GET", &format!("http://{}/tiflash/remote/info/{wrong}", stand.dev.http), "").0, 400, "{wrong}");
    }
    // It stays in the second, in which none of them is; and goes with the third.
    checkpoint(&stand.dev.http);
    assert_eq!((stand.uploads().len(), count(&stand.vault, "checkpoints")), (24, 2));
    let kept = checkpoint(&stand.dev.http);
    wait_for("the first to go, with what only it named", || (stand.uploads().len() == 4).then_some(()));
    assert_eq!((count(&stand.vault, "checkpoints"), kept["number"].as_u64()), (2, Some(3)));
    // A vault that checkpoints lie in is not dropped.
    let dropped = run(["vaults", "drop", "default", "main", "--dir", "--http", &stand.dev.http]);
    assert!(!dropped.status.success(), "{}", said(&dropped));
}

#[test]
fn an_upload_that_is_asked_for_twice_is_one_checkpoint_and_the_flag_falls_when_it_is_made() {
    let mut stand = Stand::start(Some(S3d::start()), &["--segment-size", "64MiB"]);
    stand.put(0..30);
    stand.s3.as_ref().unwrap().say("fault slow 600000 1000 PUT /cold/kv/objects");
    for spelled in ["tiflash", "tifash"] {
        let asked = send("POST", &format!("http://{}/{spelled}/remote/upload", stand.dev.http), "");
        assert_eq!(asked, (200, r#"{"message":"flag_set=true"}"#.to_owned()));
    }
    let in_step = |dev: &Dev| send("GET", &format!("http://{}/tiflash/sync-status/{}", dev.http, default_table(dev)), "").1;
    assert_eq!(in_step(&stand.dev), "0\n\n");
    let output = finish(perilune().args(["vaults", "checkpoint", "--deadline", "2s", "--http", &stand.dev.http]));
    assert!(!output.status.success() && said(&output).contains("still worked on"), "{}", said(&output));
    // Who is killed meanwhile remembers.
    stand.dev.kill();
    stand.s3.as_ref().unwrap().say("faults off");
    let Stand { dev, dir, vault, s3, .. } = stand;
    let root = dir.path().join("vaults");
    let dev = dev.start_again(dir.path(), &["--vault-root", root.to_str().unwrap(), "--lease", "1s", "--segment-size", "64MiB"]);
    let found = wait_for("the checkpoint", || Some(page(&dev.http, "checkpoints")).filter(|found| found["asked"] == false));
    let whole: Vec<_> = found["checkpoints"].as_array().unwrap().iter().filter(|one| one["whole"] == true).collect();
    assert!(whole.len() == 1 && whole[0]["saved"] == 30, "{found}");
    let text = in_step(&dev);
    let shards: usize = text.lines().next().unwrap().parse().unwrap();
    assert!(shards == 16 && text.lines().nth(1).unwrap().split(' ').count() == shards, "those that are empty as well: {text}");
    drop((vault, s3));
}

fn default_table(dev: &Dev) -> String {
    let listed = run(["tables", "list", "default", "--json", "--http", &dev.http]).stdout;
    let tables = listed.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let mut tables = tables.map(|line| serde_json::from_slice::<Value>(line).unwrap());
    tables.next().unwrap()["table_id"].as_str().unwrap().to_owned()
}

#[test]
fn what_cannot_be_begun_from_is_refused_and_says_why() {
    let stand = Stand::start(None, &["--segment-size", "64MiB"]);
    stand.put(0..5);
    stand.offload();
    let kit = Kit::of(&stand);
    let key_file = kit.file("key");
    let with_key = ["--secret-key-file", key_file.as_str()];
    kit.refused("none", &with_key, "there is no checkpoint in it");
    checkpoint(&stand.dev.http);
    checkpoint(&stand.dev.http);
    kit.refused("no-key", &[], "--secret-key-file");
    kit.refused("living", &with_key, "--take-over");
    std::fs::write(kit.file("other"), "6".repeat(64)).unwrap();
    kit.refused("other-key", &["--secret-key-file", &kit.file("other"), "--take-over"], "secret key file");
    let busy = PathBuf::from(kit.file("busy")).join("master");
    std::fs::create_dir_all(&busy).unwrap();
    std::fs::write(busy.join("x"), "x").unwrap();
    let output = finish(&mut kit.master("busy", &with_key));
    assert!(said(&output).contains("is not empty"), "{}", said(&output));
    // Nothing was taken from the one that lives.
    assert_eq!(stand.offload()["left"], 0);

    // The newest is altered: the one before serves. Both are: nothing does.
    let manifest = |nth: usize| {
        let mut all: Vec<_> = files(&stand.vault).into_iter().filter(|path| path.to_str().unwrap().contains("/checkpoints/")).collect();
        all.sort();
        all.remove(nth)
    };
    let bytes = std::fs::read(manifest(1)).unwrap();
    std::fs::write(manifest(1), &bytes[..bytes.len() / 2]).unwrap();
    let again = kit.again("older", &["--take-over"]);
    again.check(0..5);
    drop(again);
    let mut bytes = std::fs::read(manifest(0)).unwrap();
    bytes[20] ^= 1;
    std::fs::write(manifest(0), bytes).unwrap();
    kit.refused("altered", &["--secret-key-file", &key_file, "--take-over"], "is not whole");
}

#[test]
fn who_was_overtaken_brings_nothing_there_deletes_nothing_there_and_says_so() {
    let stand = Stand::start(None, &["--segment-size", "64MiB"]);
    stand.put(0..10);
    checkpoint(&stand.dev.http);
    let kit = Kit::of(&stand);
    let again = kit.again("new", &["--take-over"]);
    let mut late = 10..;
    wait_for("the old one to say why", || {
        // What came there before it noticed is the new cluster's to delete.
        stand.put(late.next());
        let look = stand.dev.run(&["offload", "--deadline", "1s"]);
        (!look.status.success() && said(&look).contains("it is the vault of cluster")).then_some(())
    });
    stand.store.remove(&(0..10).map(key).collect::<Vec<_>>(), true).into_iter().for_each(|outcome| outcome.unwrap());
    let last = late.start - 1;
    stand.check([last]);
    again.check(0..10);
    assert_eq!(again.store.put(&key(10), &value(10), &PutConfig::default()), Ok(Put::Stored));
    let made = checkpoint(&again.http);
    assert_eq!((made["number"].as_u64(), made["saved"].as_u64()), (Some(2), Some(11)), "{made}");
    assert_eq!(metric(&fetch(&stand.dev.http, "/metrics"), "perilune_cold_garbage_deleted_total"), Some(0));
    let refused = run(["vaults", "checkpoint", "--deadline", "1s", "--http", &stand.dev.http]);
    assert!(!refused.status.success() && said(&refused).contains("it is the vault of cluster"), "{}", said(&refused));
    assert!(stand.metric("cold_lost_total") == 0 && MIB > 0);
}

#[test]
fn who_has_the_lease_deletes_and_the_next_when_it_resigned_whoever_leads() {
    const GROUP: u8 = 31;
    let dir = tempfile::tempdir().unwrap();
    let (key, root) = (dir.path().join("secret.key"), dir.path().join("vaults"));
    std::fs::write(&key, "5".repeat(64)).unwrap();
    std::fs::create_dir(&root).unwrap();
    let flags = ["--secret-key-file", key.to_str().unwrap(), "--vault-root", root.to_str().unwrap()];
    let mut masters: Vec<_> = (1..=3).map(|nth| master_with(GROUP, dir.path(), nth, &flags)).collect();
    let http = |nth: usize| at(GROUP, 30_000 + nth);
    leader(GROUP);
    assert_eq!(page(&http(1), "upload"), json!({"message": "can not sync remote store, disagg_mode=None"}));
    assert_eq!(page(&http(2), "gc"), json!({"message": "can not trigger gc, disagg_mode=None"}));
    let mut add = perilune();
    add.args(["vaults", "add", "default", "main", "--http", &http(1), "--dir", root.to_str().unwrap()]);
    let added = finish(add.env("PERILUNE_META_TOKEN", crate::pools::TOKEN));
    assert!(added.status.success(), "{}", said(&added));
    let folder = wait_for("the claim", || files(&root).into_iter().find(|path| path.ends_with("owner/cluster")));
    let folder = folder.parent().unwrap().parent().unwrap().join("objects/67");
    std::fs::create_dir_all(&folder).unwrap();
    // A folder with nothing in it goes, too.
    std::fs::write(folder.join("keep"), "").unwrap();
    let deleted = |nth: usize| metric(&fetch(&http(nth), "/metrics"), "perilune_cold_garbage_deleted_total").unwrap();
    let mut before = None;
    for turn in 0..3 {
        let owner = wait_for("an owner", || {
            let all: Vec<Value> = (1..=3).map(|nth| page(&http(nth), "owner/info")).collect();
            let owner = (1..=3).find(|nth| all[nth - 1]["status"] == "IsOwner")?;
            let agree = all.iter().all(|said| said["owner_id"] == at(GROUP, 10_000 + owner).as_str());
            (agree && Some(owner) != before).then_some(owner)
        });
        let orphan = folder.join(format!("67e55044-10b1-426f-9247-bb680e5fe0c{turn}"));
        std::fs::write(&orphan, "nobody's").unwrap();
        let counts = [1, 2, 3].map(deleted);
        let other = owner % 3 + 1;
        let refused = json!({"status": "NotOwner", "owner_id": at(GROUP, 10_000 + owner), "execute": "false"});
        assert_eq!(page(&http(other), "gc"), refused);
        assert_eq!(page(&http(owner), "gc")["execute"], "true");
        wait_for("the orphan to go", || (!orphan.exists()).then_some(()));
        wait_for("the owner to have counted it", || (deleted(owner) == counts[owner - 1] + 1).then_some(()));
        (1..=3).filter(|nth| *nth != owner).for_each(|nth| assert_eq!(deleted(nth), counts[nth - 1], "turn {turn}: {nth} is not {owner}"));
        assert_eq!(page(&http(owner), "owner/resign"), json!({"message": "Done"}));
        before = Some(owner);
    }
    // A checkpoint goes with the lead: whoever leads next finishes what was asked of the one before, wherever that was.
    let leads = leader(GROUP);
    let survivor = leads % 3 + 1;
    assert_eq!(page(&http(survivor), "upload"), json!({"message": "flag_set=true"}));
    drop(masters.remove(leads - 1));
    let ask = || send("GET", &format!("http://{}/tiflash/remote/checkpoints", http(survivor)), "");
    let all = wait_for("the checkpoint", || {
        let found: Value = serde_json::from_str(&ask().1).ok()?;
        (found["asked"] == false).then(|| found["checkpoints"].as_array().unwrap().clone())
    });
    assert!(all.len() == 1 && all[0]["whole"] == true, "{all:?}");
}

#[test]
fn a_store_node_answers_as_a_master_says() {
    let stand = Stand::start(None, &["--segment-size", "64MiB"]);
    // Whatever is put later might lie on a node that may not use directories.
    stand.put(0..3);
    let node = crate::tenants::node(&stand.dev, stand.dir.path(), "default");
    let owner = wait_for("a collector", || Some(page(&stand.dev.http, "owner/info")).filter(|said| said["status"] == "IsOwner"));
    assert_eq!(page(&node.rest, "owner/info"), json!({"status": "NotOwner", "owner_id": owner["owner_id"]}));
    assert_eq!(page(&node.rest, "gc"), json!({"status": "NotOwner", "owner_id": owner["owner_id"], "execute": "false"}));
    let resigned = send("POST", &format!("http://{}/tifash/remote/owner/resign", node.rest), "");
    assert_eq!(resigned, (200, r#"{"message":"This node is not the remote gc owner, can't be resigned."}"#.to_owned()));
    assert_eq!(page(&node.rest, "upload"), json!({"message": "flag_set=true"}));
    wait_for("the checkpoint", || (page(&stand.dev.http, "checkpoints")["asked"] == false).then_some(()));
    let info = page(&node.rest, "info");
    assert_eq!((info["stores"][0]["num_manifests"].as_u64(), info["stores"][0]["dt_file"]["num"].as_u64()), (Some(1), Some(3)), "{info}");
    assert_eq!(page(&node.rest, "info/1"), info);
    let text = |at: &str| send("GET", &format!("http://{at}/tiflash/remote/info"), "").1;
    assert_eq!(text(&node.rest), text(&stand.dev.http), "in one order");
    assert_eq!(send("GET", &format!("http://{}/tiflash/remote/info/x", node.rest), "").0, 400);
}
