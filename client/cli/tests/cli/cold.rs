//! The cold tier with real processes, real bytes, a directory and a real S3 server: what was brought there is read when memory has gone.

use crate::group::{Process, Shared, at};
use crate::harness::{Dev, fetch, finish, metric, perilune, run, said, wait_for};
use crate::s3d::{AK, BUCKET, S3d, SK};
use crate::tenants::send;
use crate::vaults::list;
use nix::sys::signal::Signal;
use perilune_client::{Put, Store, StoreConfig};
use perilune_protocol::{ObjectKey, PutConfig};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const GROUP: u8 = 22;
pub(crate) const TOKEN: &str = "0123456789abcdef";
pub(crate) const MIB: usize = 1 << 20;
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A master and a store node with a vault.
pub(crate) struct Stand {
    pub(crate) dev: Dev,
    pub(crate) store: Store,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) vault: PathBuf,
    pub(crate) s3: Option<S3d>,
}

impl Stand {
    pub(crate) fn start(s3: Option<S3d>, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("vaults");
        std::fs::create_dir(&root).unwrap();
        let flags = with_root(&root, flags);
        let dev = Dev::start_with(dir.path(), &flags.iter().map(String::as_str).collect::<Vec<_>>());
        let (mut add, vault) = match &s3 {
            Some(s3) => (add_bucket(&dev, s3), s3.files()),
            None => {
                let mut add = add(&dev);
                add.args(["--dir", root.to_str().unwrap(), "--prefix", "kv"]);
                (add, root)
            }
        };
        let added = finish(&mut add);
        assert!(added.status.success(), "{}", said(&added));
        let store = connect(&dev, PATIENCE);
        Self { dev, store, dir, vault, s3 }
    }

    /// Files of uploads in the vault.
    pub(crate) fn uploads(&self) -> Vec<PathBuf> {
        files(&self.vault).into_iter().filter(|path| path.components().any(|part| part.as_os_str() == "objects")).collect()
    }

    pub(crate) fn metric(&self, name: &str) -> u64 {
        metric(&fetch(&self.dev.http, "/metrics"), &format!("perilune_{name}")).unwrap()
    }

    pub(crate) fn offload(&self) -> Value {
        self.dev.json(&["offload", "--deadline", "60s"]).remove(0)
    }

    pub(crate) fn put(&self, keys: impl IntoIterator<Item = usize>) {
        keys.into_iter().for_each(|n| assert_eq!(self.store.put(&key(n), &value(n), &PutConfig::default()), Ok(Put::Stored), "{n}"));
    }

    pub(crate) fn check(&self, keys: impl IntoIterator<Item = usize>) {
        keys.into_iter().for_each(|n| assert!(self.store.get(&key(n)).unwrap_or_else(|fault| panic!("{n}: {fault}")) == value(n), "{n}"));
    }

    /// All memory goes, and fresh one of `size` comes.
    pub(crate) fn change_memory(&self, size: usize) {
        let old = self.dev.json(&["segments"]);
        change_memory(&self.dev.rest, old.iter().map(|segment| &segment["segment_id"]).collect(), size);
    }
}

/// These segments of a node go, and fresh memory comes.
pub(crate) fn change_memory<T: serde::Serialize>(rest: &str, old: Vec<T>, size: usize) {
    let ask = |path: &str, body: &Value| {
        let (status, text) = send("POST", &format!("http://{rest}/api/{path}"), &body.to_string());
        assert_eq!(status, 200, "{path}: {text}");
    };
    ask("unmount", &json!({ "segment_ids": old }));
    ask("mount", &json!({ "size": size }));
}

fn add(dev: &Dev) -> Command {
    let mut add = perilune();
    add.args(["vaults", "add", "default", "main", "--http", &dev.http]);
    add
}

fn add_bucket(dev: &Dev, s3: &S3d) -> Command {
    let mut add = add(dev);
    add.args(["--bucket", BUCKET, "--endpoint", s3.url(), "--prefix", "kv", "--ak", AK]).env("PERILUNE_VAULT_SK", SK);
    add
}

pub(crate) fn with_root(root: &Path, flags: &[&str]) -> Vec<String> {
    ["--vault-root", root.to_str().unwrap(), "--lease", "1s"].iter().chain(flags).map(|flag| (*flag).to_owned()).collect()
}

fn set(dev: &Dev, name: &str, value: &str) {
    let (status, text) = send("POST", &format!("http://{}/config/set", dev.http), &json!({ "key": name, "value": value }).to_string());
    assert_eq!(status, 200, "{text}");
}

pub(crate) fn connect(dev: &Dev, deadline: Duration) -> Store {
    Store::connect(StoreConfig { masters: vec![dev.rpc.clone()], deadline, ..StoreConfig::default() }).unwrap()
}

pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

pub(crate) fn key(n: usize) -> ObjectKey {
    format!("model/block {n}").as_str().into()
}

/// Some small, some of several pieces.
pub(crate) fn value(n: usize) -> Vec<u8> {
    let len = if n % 67 == 66 { 9 * MIB + n } else { 1 + n * 977 % 100_000 };
    (0..len).map(|i| (i * 7 + n * 13 + (i >> 8)) as u8).collect()
}

fn is_read_when_memory_has_gone(s3: Option<S3d>) {
    let stand = Stand::start(s3, &["--segment-size", "64MiB"]);
    stand.put(0..200);
    let found = stand.offload();
    assert_eq!((found["left"].as_u64(), found["saved"].as_u64(), found["cold"].as_u64()), (Some(0), Some(200), Some(0)), "{found}");
    assert_eq!((stand.uploads().len(), stand.metric("offloaded_total")), (200, 200));
    stand.check(0..3);
    assert_eq!(stand.metric("recalled_total"), 0, "memory comes first");

    stand.change_memory(64 * MIB);
    assert_eq!(stand.store.exists(&[key(7), key(200)]), Ok(vec![true, false]));
    assert_eq!(stand.store.size(&key(66)), Ok(9 * MIB as u64 + 66));
    let (status, text) = send("GET", &format!("http://{}/api/get/model%2Fblock%200", stand.dev.rest), "");
    assert!(status == 200 && text.as_bytes() == value(0), "{status} {text:.200}");
    let keys: Vec<_> = (0..100).map(key).collect();
    for (n, outcome) in stand.store.get_batch(&keys).into_iter().enumerate() {
        assert!(outcome.unwrap_or_else(|fault| panic!("{n}: {fault}")) == value(n), "{n}");
    }
    stand.check(100..200);
    // One may have made room for another meanwhile.
    assert!((200..260).contains(&stand.metric("recalled_total")), "{}", stand.metric("recalled_total"));
    assert_eq!((stand.metric("recalls_failed_total"), stand.metric("cold_lost_total")), (0, 0));
    // It has its value wherever its copy lies, so only what is said to replace it does.
    stand.change_memory(64 * MIB);
    let plain = PutConfig::default();
    assert_eq!(stand.store.put(&key(1), b"other", &plain), Ok(Put::Existed));
    let batch = stand.store.put_batch(&[(key(2), b"other".as_slice()), (key(200), b"200")], &plain);
    assert_eq!(batch, [Ok(Put::Existed), Ok(Put::Stored)]);
    let body = json!({"key": key(3).to_string(), "value": "other"}).to_string();
    assert_eq!(send("PUT", &format!("http://{}/api/put", stand.dev.rest), &body).0, 200, "it keeps its value");
    stand.check(1..4);
    // What is removed or replaced leaves nothing in the vault.
    assert_eq!(stand.store.put(&key(0), b"new", &PutConfig { upsert: true, ..PutConfig::default() }), Ok(Put::Stored));
    stand.store.remove(&(1..200).map(key).collect::<Vec<_>>(), true).into_iter().for_each(|outcome| outcome.unwrap());
    wait_for("the uploads to be deleted", || stand.uploads().is_empty().then_some(()));
    assert_eq!(stand.store.get(&key(0)).unwrap(), b"new");
}

#[test]
fn a_directory_serves_when_memory_has_gone() {
    is_read_when_memory_has_gone(None);
}

#[test]
fn a_bucket_serves_when_memory_has_gone() {
    is_read_when_memory_has_gone(Some(S3d::start()));
}

#[test]
fn memory_is_filled_several_times_and_all_is_read() {
    let stand = Stand::start(None, &["--segment-size", "16MiB"]);
    set(&stand.dev, "write_back", "strict");
    // About 50 MiB, as fast as they are taken.
    let small: Vec<_> = (0..1000).filter(|n| n % 67 != 66).collect();
    stand.put(small.iter().copied());
    assert_eq!(stand.metric("evicted_unsaved_total"), 0);
    assert!(stand.metric("demoted_total") > 500);
    // Together, and one after the other.
    for some in small.chunks(32) {
        let found = stand.store.get_batch(&some.iter().copied().map(key).collect::<Vec<_>>());
        some.iter().zip(found).for_each(|(n, found)| assert!(found.unwrap_or_else(|fault| panic!("{n}: {fault}")) == value(*n), "{n}"));
    }
    stand.check(small.iter().rev().copied().take(450));
    assert_eq!((stand.metric("evicted_unsaved_total"), stand.metric("cold_lost_total")), (0, 0));
}

#[test]
fn what_was_altered_cut_or_deleted_in_the_vault_is_a_miss_and_is_said() {
    let stand = Stand::start(None, &["--segment-size", "64MiB"]);
    stand.put(0..6);
    stand.offload();
    let uploads = stand.uploads();
    for (nth, upload) in uploads.iter().enumerate().take(4) {
        let mut bytes = std::fs::read(upload).unwrap();
        match nth {
            0 => *bytes.last_mut().unwrap() ^= 1,
            1 => bytes[64] ^= 1,
            2 => bytes.truncate(bytes.len() - 1),
            _ => std::fs::remove_file(upload).unwrap(),
        }
        if nth < 3 {
            std::fs::write(upload, bytes).unwrap();
        }
    }
    stand.change_memory(64 * MIB);
    let outcomes: Vec<_> = (0..6).map(|n| stand.store.get(&key(n))).collect();
    let right = outcomes.iter().enumerate().filter(|(n, outcome)| outcome.as_ref().is_ok_and(|bytes| *bytes == value(*n))).count();
    let missed = outcomes.iter().filter(|outcome| outcome.as_ref().is_err_and(|fault| fault.code.number() == -704)).count();
    let faults: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    assert_eq!((right, missed, stand.metric("cold_lost_total")), (2, 4, 4), "{faults:?}");
    let there: usize = stand.store.exists(&(0..6).map(key).collect::<Vec<_>>()).unwrap().into_iter().map(usize::from).sum();
    assert_eq!(there, 2, "and for good");
    // A miss is put anew.
    let puts = (0..6).map(|n| stand.store.put(&key(n), &value(n), &PutConfig::default()).unwrap());
    assert_eq!(puts.filter(|put| *put == Put::Stored).count(), 4);
    stand.check(0..6);
}

#[test]
fn a_directory_that_is_not_mounted_loses_nothing() {
    let stand = Stand::start(None, &["--segment-size", "64MiB"]);
    stand.put(0..5);
    stand.offload();
    stand.change_memory(64 * MIB);
    let folder = std::fs::read_dir(&stand.vault).unwrap().next().unwrap().unwrap().path();
    let away = stand.dir.path().join("away");
    std::fs::rename(&folder, &away).unwrap();
    std::fs::create_dir(&folder).unwrap();
    for n in 0..5 {
        let fault = stand.store.get(&key(n)).unwrap_err();
        assert_eq!(fault.code.number(), -703, "{fault}");
        assert_eq!(stand.store.put(&key(n), b"other", &PutConfig::default()), Ok(Put::Existed));
    }
    // Nor does one that another cluster has: its objects are not these.
    std::fs::create_dir_all(folder.join("owner")).unwrap();
    std::fs::write(folder.join("owner/cluster"), "another").unwrap();
    for n in 0..5 {
        let fault = stand.store.get(&key(n)).unwrap_err();
        assert_eq!(fault.code.number(), -703, "{fault}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::rename(&away, &folder).unwrap();
    stand.check(0..5);
    assert_eq!(stand.metric("cold_lost_total"), 0);
}

#[test]
fn nothing_is_brought_to_the_vault_of_another_cluster() {
    let stand = Stand::start(Some(S3d::start()), &["--segment-size", "64MiB"]);
    stand.put(0..5);
    stand.offload();
    let dir = tempfile::tempdir().unwrap();
    let other = Dev::start_with(dir.path(), &["--lease", "1s"]);
    let added = finish(&mut add_bucket(&other, stand.s3.as_ref().unwrap()));
    assert!(added.status.success(), "{}", said(&added));
    let store = connect(&other, PATIENCE);
    assert_eq!(store.put(&key(7), &value(7), &PutConfig::default()), Ok(Put::Stored));
    wait_for("the other cluster to say why", || {
        let look = finish(perilune().args(["offload", "--deadline", "1s", "--master", &other.rpc]));
        assert!(!look.status.success(), "{}", said(&look));
        said(&look).contains("give this one another bucket or prefix").then_some(())
    });
    let vault = &list(&other, "default")[0];
    assert!(vault["ready"] == false && vault["state"] == "refuses", "{vault}");
    assert!(store.get(&key(7)).unwrap() == value(7) && stand.uploads().len() == 5);
    stand.change_memory(64 * MIB);
    stand.check(0..5);
}

#[test]
fn a_vault_that_is_slow_or_gone_is_in_nobodys_way_and_nothing_is_lost() {
    let mut stand = Stand::start(Some(S3d::start()), &["--segment-size", "16MiB"]);
    stand.put(0..20);
    stand.offload();
    stand.change_memory(16 * MIB);
    stand.check(0..10);
    stand.s3.as_ref().unwrap().say("fault slow 600000 1000");
    let quick = connect(&stand.dev, Duration::from_secs(3));
    // Half of the memory is in use: all else is offered to the vault.
    for n in 20..200 {
        if n % 67 != 66 {
            assert_eq!(quick.put(&key(n), &value(n), &PutConfig::default()), Ok(Put::Stored), "{n}");
            assert!(quick.get(&key(n)).unwrap() == value(n), "{n}");
        }
    }
    let fault = quick.get(&key(15)).unwrap_err();
    assert!([-901, -703, -702].contains(&fault.code.number()), "{fault}");
    assert!(quick.get(&key(5)).unwrap() == value(5), "what is in memory is read all the same");
    stand.s3.as_mut().unwrap().kill();
    // The first one is large: what was just read has to lapse before it has room.
    wait_for("room", || quick.put(&key(200), &value(200), &PutConfig::default()).is_ok().then_some(()));
    for n in 201..260 {
        assert_eq!(quick.put(&key(n), &value(n), &PutConfig::default()), Ok(Put::Stored), "{n}");
    }
    let fault = quick.get(&key(16)).unwrap_err();
    assert!(fault.message.contains("vault"), "{fault}");
    assert_eq!(quick.exists(&[key(16)]), Ok(vec![true]), "it is not forgotten");
    assert_eq!(stand.metric("cold_lost_total"), 0);
    wait_for("uploads to fail", || (stand.metric("offloads_failed_total") > 0).then_some(()));
    let output = stand.dev.run(&["offload", "--deadline", "2s"]);
    assert!(!output.status.success() && said(&output).contains("in memory only"), "{}", said(&output));
}

#[test]
fn what_is_in_the_vault_outlives_everybody() {
    let stand = Stand::start(None, &["--segment-size", "64MiB"]);
    stand.put(0..60);
    stand.offload();
    stand.change_memory(64 * MIB);
    stand.check(0..10);
    let Stand { mut dev, dir, vault, .. } = stand;
    dev.kill();
    let flags = with_root(&vault, &["--segment-size", "64MiB"]);
    let dev = dev.start_again(dir.path(), &flags.iter().map(String::as_str).collect::<Vec<_>>());
    let store = connect(&dev, PATIENCE);
    let stand = Stand { dev, store, dir, vault, s3: None };
    stand.check(0..60);
    let found = stand.offload();
    assert_eq!((found["left"].as_u64(), found["saved"].as_u64()), (Some(0), Some(60)), "{found}");
    assert_eq!(stand.uploads().len(), 60, "nothing is uploaded twice");
}

/// A master, or a store node, that is killed and started again on its data, at an address that it keeps.
pub(crate) struct Restarted {
    args: Vec<String>,
    process: Option<Process>,
    ready: PathBuf,
}

impl Restarted {
    pub(crate) fn start(dir: &Path, name: &str, args: &[&str]) -> Self {
        let ready = dir.join(format!("ready-{name}"));
        let common = [name, "--data-dir", dir.join(name).to_str().unwrap(), "--vault-root", dir.to_str().unwrap()].map(str::to_owned);
        let mut args: Vec<_> = common.into_iter().chain(args.iter().map(|arg| (*arg).to_owned())).collect();
        args.extend(["--ready-file".to_owned(), ready.to_str().unwrap().to_owned()]);
        let mut started = Self { args, process: None, ready };
        started.again();
        started
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.as_ref().unwrap().signal(signal);
    }

    /// `kill -9`, and another.
    pub(crate) fn again(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.0.kill().unwrap();
            process.0.wait().unwrap();
        }
        let _ = std::fs::remove_file(&self.ready);
        let mut command = perilune();
        let process = Process(command.args(&self.args).env("PERILUNE_META_TOKEN", TOKEN).stdout(Stdio::null()).spawn().unwrap());
        self.process = Some(process);
        wait_for("it to be up", || self.ready.exists().then_some(()));
    }
}

#[test]
fn whoever_is_killed_nothing_is_lost_and_nothing_is_left_over() {
    let dir = tempfile::tempdir().unwrap();
    let (rpc, http, rest) = (at(GROUP, 10_001), at(GROUP, 30_001), at(GROUP, 40_001));
    let mut master = Restarted::start(dir.path(), "master", &["--rpc", &rpc, "--http", &http, "--lease", "1s"]);
    let mut node = Restarted::start(dir.path(), "store", &["--master", &rpc, "--http", &rest, "--segment-size", "64MiB"]);
    let _memory = Shared(dir.path().join("store"));
    let vault = dir.path().join("vaults");
    std::fs::create_dir(&vault).unwrap();
    let mut add = perilune();
    add.args(["vaults", "add", "default", "main", "--http", &http, "--dir", vault.to_str().unwrap()]);
    let added = finish(add.env("PERILUNE_META_TOKEN", TOKEN));
    assert!(added.status.success(), "{}", said(&added));
    let config = StoreConfig { masters: vec![rpc.clone()], deadline: PATIENCE, ..StoreConfig::default() };
    let store = Store::connect(config).unwrap();
    let uploads = || files(&vault).into_iter().filter(|path| path.components().any(|part| part.as_os_str() == "objects")).count();
    let offload = |wait: &str| run(["offload", "--master", &rpc, "--deadline", wait]);
    for n in 0..150 {
        assert_eq!(store.put(&key(n), &value(n), &PutConfig::default()), Ok(Put::Stored), "{n}");
    }
    std::thread::scope(|scope| {
        for kills in 1..=4 {
            let offloading = scope.spawn(|| offload("2s"));
            let before = uploads();
            wait_for("some uploads", || (uploads() >= (before + 20).min(150)).then_some(()));
            if kills % 2 == 0 {
                node.again()
            } else {
                master.again()
            }
            offloading.join().unwrap();
        }
        wait_for("all to be in the vault", || offload("20s").status.success().then_some(()));
        wait_for("what was not named to be deleted", || (uploads() == 150).then_some(()));
    });
    // All memory goes; who is killed while they come back forgets none of them.
    let segments = || run(["segments", "--json", "--master", &rpc]).stdout;
    let old: Value = serde_json::from_slice(&segments()).unwrap();
    let ask = |path: &str, body: &Value| send("POST", &format!("http://{rest}/api/{path}"), &body.to_string());
    assert_eq!(ask("unmount", &json!({ "segment_ids": [old["segment_id"]] })).0, 200);
    assert_eq!(ask("mount", &json!({ "size": 64 * MIB })).0, 200);
    for kills in 0..6 {
        std::thread::scope(|scope| {
            let reading = scope.spawn(|| (kills * 25..kills * 25 + 25).map(|n| (n, store.get(&key(n)))).collect::<Vec<_>>());
            if kills % 2 == 0 {
                node.again()
            } else {
                master.again()
            }
            for (n, outcome) in reading.join().unwrap() {
                assert!(outcome.as_ref().is_err() || outcome == Ok(value(n)), "{n}: other bytes");
            }
        });
    }
    for n in 0..150 {
        assert!(store.get(&key(n)).unwrap_or_else(|fault| panic!("{n}: {fault}")) == value(n), "{n}");
    }
    assert_eq!(uploads(), 150);
}
