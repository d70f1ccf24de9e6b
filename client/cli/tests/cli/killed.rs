//! kill -9 while something goes on that has several steps: nothing is lost, and in the end nothing is left over.
//!
//! Steps end with something durable: an entry of the log, a name in the bucket. The bucket holds a request up before it is carried out, or the
//! answer to it; then whoever asked is killed.

use crate::checkpoint::{checkpoint, collect, page};
use crate::cold::{MIB, PATIENCE, Restarted, TOKEN, change_memory, files, key, value};
use crate::group::{Shared, at};
use crate::harness::{fetch, finish, metric, perilune, run, said, wait_for};
use crate::s3d::{AK, BUCKET, S3d, SK};
use crate::vaults::OTHER;
use perilune_client::{Put, Store, StoreConfig};
use perilune_protocol::PutConfig;
use serde_json::Value;
use std::path::Path;

#[derive(Clone, Copy)]
enum Who {
    Master,
    Node,
}

/// A master and a node of one tenant with a bucket, which can both be killed.
struct Cluster {
    s3: S3d,
    master: Restarted,
    node: Restarted,
    _memory: Shared,
    rpc: String,
    http: String,
    rest: String,
    tenant: &'static str,
}

impl Cluster {
    fn start(group: u8, dir: &Path, tenant: &'static str) -> Self {
        let (rpc, http, rest) = (at(group, 10_001), at(group, 30_001), at(group, 40_001));
        let master = Restarted::start(dir, "master", &["--rpc", &rpc, "--http", &http, "--lease", "1s", "--upload-limit", "6s"]);
        let s3 = S3d::start();
        if tenant != "default" {
            by_page(&http, "", &["tenants", "create", tenant]);
        }
        by_page(&http, SK, &["vaults", "add", tenant, "main", "--bucket", BUCKET, "--endpoint", s3.url(), "--prefix", tenant, "--ak", AK]);
        let lends = ["--master", &rpc, "--http", &rest, "--segment-size", "64MiB", "--tenant", tenant];
        let node = Restarted::start(dir, "store", &lends);
        Self { s3, master, node, _memory: Shared(dir.join("store")), rpc, http, rest, tenant }
    }

    fn store(&self) -> Store {
        let tenant = self.tenant.into();
        Store::connect(StoreConfig { masters: vec![self.rpc.clone()], tenant, deadline: PATIENCE, ..StoreConfig::default() }).unwrap()
    }

    fn offload(&self, wait: &str) -> bool {
        run(["offload", "--tenant", self.tenant, "--master", &self.rpc, "--deadline", wait]).status.success()
    }

    /// Files of the tenant's prefix in the bucket, and how many of them are uploads.
    fn left(&self) -> (usize, usize) {
        let all = files(&self.s3.files().join(self.tenant));
        (all.len(), all.iter().filter(|path| path.components().any(|part| part.as_os_str() == "objects")).count())
    }

    /// Has something begun, and kills whoever is held up by the bucket in the middle of it.
    fn dies(&mut self, who: Who, held: &str, begin: impl FnOnce(&Self)) {
        held.split(" then ").for_each(|fault| drop(self.s3.say(&format!("fault {fault}"))));
        begin(self);
        wait_for(held, || self.is_held().then_some(()));
        match who {
            Who::Master => self.master.again(),
            Who::Node => self.node.again(),
        }
        self.s3.say("faults off");
    }

    /// Whether what the bucket is to hold up has come to it.
    fn is_held(&self) -> bool {
        self.s3.say("faults").trim() == "0"
    }

    /// All memory goes, and fresh memory comes.
    fn change_memory(&self) {
        let old: Vec<_> = self.segments().iter().map(|segment| segment["segment_id"].clone()).collect();
        change_memory(&self.rest, old, 64 * MIB);
    }

    fn used(&self) -> Option<u64> {
        metric(&fetch(&self.http, "/metrics"), "perilune_used_bytes")
    }

    fn segments(&self) -> Vec<Value> {
        let output = run(["segments", "--json", "--master", &self.rpc]);
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn page(&self, sk: &str, args: &[&str]) -> String {
        by_page(&self.http, sk, args)
    }
}

fn by_page(http: &str, sk: &str, args: &[&str]) -> String {
    let output = finish(perilune().args(args).args(["--http", http]).env("PERILUNE_META_TOKEN", TOKEN).env("PERILUNE_VAULT_SK", sk));
    assert!(output.status.success(), "{args:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_dropped_tenant_is_recycled_whoever_is_killed_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(25, dir.path(), "acme");
    let store = cluster.store();
    for n in 0..60 {
        assert_eq!(store.put(&key(n), &value(n), &PutConfig::default()), Ok(Put::Stored), "{n}");
    }
    assert!(cluster.offload("60s"));
    for n in 60..90 {
        assert_eq!(store.put(&key(n), &value(n), &PutConfig::default()), Ok(Put::Stored), "{n}");
    }
    assert_eq!(cluster.left().1, 60);
    // So that each step can be met: the bucket deletes nothing until all others are over.
    cluster.s3.say("fault refuse 503 100000 DELETE");
    cluster.s3.say("fault refuse 503 100000 delete");
    cluster.page("", &["tenants", "drop", "acme"]);
    cluster.master.again();
    cluster.page("", &["tenants", "recycle", "acme"]);
    cluster.master.again();
    // The objects leave in one round or in several; it is killed in each, and once they are gone.
    let objects = |http: &str| metric(&fetch(http, "/metrics"), r#"perilune_tenant_objects{tenant="acme"}"#);
    for _ in 0..3 {
        wait_for("a round", || objects(&cluster.http).is_some().then_some(()));
        cluster.master.again();
    }
    wait_for("the objects to leave", || (objects(&cluster.http) == Some(0)).then_some(()));
    cluster.master.again();
    wait_for("the memory to leave", || cluster.segments().is_empty().then_some(()));
    cluster.master.again();
    assert!(cluster.page("", &["tenants", "list", "--json"]).contains("DELETED"), "its vault holds it");
    cluster.s3.say("faults off");
    wait_for("some uploads to be deleted", || (cluster.left().1 < 60).then_some(()));
    cluster.master.again();
    wait_for("the dropped tenant to be gone", || (!cluster.page("", &["tenants", "list", "--json"]).contains("acme")).then_some(()));
    cluster.master.again();
    assert_eq!(cluster.left(), (0, 0), "its prefix is empty");
    assert_eq!(cluster.segments(), Vec::<Value>::new(), "nothing is lent to it");
    assert_eq!(cluster.used(), Some(0));
    let again = finish(perilune().args(["tenants", "create", "acme", "--http", &cluster.http]).env("PERILUNE_META_TOKEN", TOKEN));
    assert!(!again.status.success(), "a name is never given twice");
}

#[test]
fn uploads_that_a_killed_leader_ordered_go_with_their_tenant() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(48, dir.path(), "acme");
    let store = cluster.store();
    (0..3).for_each(|n| assert_eq!(store.put(&key(n), &value(n), &PutConfig::default()), Ok(Put::Stored), "{n}"));
    cluster.dies(Who::Master, "slow 3000 3 /objects/", |cluster| {
        wait_for("three uploads to be held up", || {
            cluster.offload("300ms");
            cluster.is_held().then_some(())
        });
        cluster.page("", &["tenants", "drop", "acme"]);
        cluster.page("", &["tenants", "recycle", "acme"]);
    });
    wait_for("the dropped tenant to be gone", || (!cluster.page("", &["tenants", "list", "--json"]).contains("acme")).then_some(()));
    let asked = cluster.s3.requests();
    let brought = |asked: &&Value| asked["method"] == "PUT" && asked["target"].as_str().unwrap().contains("/objects/");
    assert_eq!(asked.iter().filter(brought).count(), 3, "what was on its way has come");
    assert_eq!((cluster.left(), cluster.segments(), cluster.used()), ((0, 0), vec![], Some(0)), "and has gone");
}

#[test]
fn of_an_upload_in_parts_whose_node_is_killed_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(47, dir.path(), "acme");
    let large = vec![7; 30 * MIB];
    assert_eq!(cluster.store().put(&key(0), &large, &PutConfig::default()), Ok(Put::Stored));
    let killed = |cluster: &mut Cluster| {
        let held = "slow 600000 1 partNumber=2";
        cluster.dies(Who::Node, held, |cluster| {
            wait_for(held, || {
                cluster.offload("300ms");
                cluster.is_held().then_some(())
            });
        });
    };
    // What was sent is found by whoever collects, and where the tenant is dropped.
    killed(&mut cluster);
    assert_eq!((cluster.s3.uploads(), cluster.left().1), (1, 0));
    collect(&cluster.http);
    wait_for("the upload to be aborted", || (cluster.s3.uploads() == 0).then_some(()));
    killed(&mut cluster);
    cluster.page("", &["tenants", "drop", "acme"]);
    cluster.page("", &["tenants", "recycle", "acme"]);
    wait_for("the dropped tenant to be gone", || (!cluster.page("", &["tenants", "list", "--json"]).contains("acme")).then_some(()));
    assert_eq!((cluster.s3.uploads(), cluster.left()), (0, (0, 0)), "its prefix is empty");
}

#[test]
fn keys_are_rotated_whoever_is_killed_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(26, dir.path(), "default");
    let store = cluster.store();
    let pairs = [(AK, SK), OTHER, ("AKIATHIRD", "third+secret"), ("AKIAFOURTH", "fourth/secret")];
    for (nth, [old, new]) in pairs.array_windows().enumerate() {
        for n in 20 * nth..20 * nth + 20 {
            assert_eq!(store.put(&key(n), &value(n), &PutConfig::default()), Ok(Put::Stored), "{n}");
        }
        cluster.s3.say(&format!("key add {} {}", new.0, new.1));
        if nth == 0 {
            cluster.master.again();
        }
        cluster.s3.say(&format!("key remove {}", old.0));
        assert!(!cluster.offload("1s"), "the old pair is refused");
        cluster.node.again();
        cluster.page(new.1, &["vaults", "rotate", "default", "main", "--ak", new.0]);
        // Before any node has heard of it, and once one has.
        cluster.master.again();
        cluster.offload("1s");
        if nth % 2 == 0 {
            cluster.node.again()
        } else {
            cluster.master.again()
        }
        wait_for("all to be in the vault", || cluster.offload("20s").then_some(()));
    }
    wait_for("what was not named to be deleted", || (cluster.left().1 == 60).then_some(()));
    cluster.change_memory();
    for n in 0..60 {
        assert!(store.get(&key(n)).unwrap_or_else(|fault| panic!("{n}: {fault}")) == value(n), "{n}");
    }
    assert_eq!(metric(&fetch(&cluster.http, "/metrics"), "perilune_cold_lost_total"), Some(0));
}

#[test]
fn a_checkpoint_is_made_and_another_goes_whoever_is_killed_at_whichever_step() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(32, dir.path(), "default");
    let store = cluster.store();
    for n in 0..20 {
        assert_eq!(store.put(&key(n), &value(n), &PutConfig::default()), Ok(Put::Stored), "{n}");
    }
    assert!(cluster.offload("60s"));
    (0..2).for_each(|_| drop(checkpoint(&cluster.http)));
    let steps = [
        // Begun; its state; its names; its manifest; what the log says of it.
        "slow 600000 1 PUT /cold/default/objects",
        "slow 0 1 PUT /cold/default/objects then slow 600000 1 PUT /cold/default/objects",
        "slow 600000 1 PUT /cold/default/checkpoints",
        "late 600000 1 PUT /cold/default/checkpoints",
        // Whoever finds one begun: the mark in the place of its manifest.
        "late 600000 1 PUT /cold/default/objects",
        "slow 600000 1 PUT /cold/default/checkpoints",
        "late 600000 1 PUT /cold/default/checkpoints",
        // The oldest goes: its manifest, what the log says of it, what only it named.
        "slow 600000 1 delete",
        "late 600000 1 delete",
        "slow 0 1 delete then slow 600000 1 delete",
        "slow 0 1 delete then late 600000 1 delete",
    ];
    for (nth, step) in steps.into_iter().enumerate() {
        cluster.dies(Who::Master, step, |cluster| drop(page(&cluster.http, "upload")));
        // What the next step meets was left by this one.
        if nth != 4 && nth != 5 {
            wait_for("the checkpoint", || (page(&cluster.http, "checkpoints")["asked"] == false).then_some(()));
        }
    }
    checkpoint(&cluster.http);
    let made = checkpoint(&cluster.http);
    assert_eq!((made["objects"].as_u64(), made["saved"].as_u64()), (Some(20), Some(20)), "{made}");
    collect(&cluster.http);
    let checkpoints = || files(&cluster.s3.files().join("default/checkpoints")).len();
    wait_for("exactly what is named to be left", || (cluster.left().1 == 20 + 4 && checkpoints() == 2).then_some(()));
    cluster.change_memory();
    for n in 0..20 {
        assert!(store.get(&key(n)).unwrap_or_else(|fault| panic!("{n}: {fault}")) == value(n), "{n}");
    }
    assert_eq!(metric(&fetch(&cluster.http, "/metrics"), "perilune_cold_lost_total"), Some(0));
    store.remove(&(0..20).map(key).collect::<Vec<_>>(), true).into_iter().for_each(|outcome| outcome.unwrap());
    wait_for("all memory to be free", || (cluster.used() == Some(0)).then_some(()));
}

#[test]
fn objects_are_offloaded_and_deleted_whoever_is_killed_at_whichever_step() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(33, dir.path(), "default");
    let store = cluster.store();
    let steps = [
        // The order is taken; the upload is there; the log names it.
        (Who::Node, "slow 600000 1 PUT /cold/default/objects"),
        (Who::Master, "slow 600000 1 PUT /cold/default/objects"),
        (Who::Node, "late 600000 1 PUT /cold/default/objects"),
        (Who::Master, "late 600000 1 PUT /cold/default/objects"),
    ];
    for (nth, (who, step)) in steps.into_iter().enumerate() {
        cluster.dies(who, step, |cluster| {
            for n in 3 * nth..3 * nth + 3 {
                assert_eq!(store.put(&key(n), &value(n), &PutConfig::default()), Ok(Put::Stored), "{n}");
            }
            // Until it is under way: so short a question may be over before it was asked.
            wait_for(step, || {
                cluster.offload("300ms");
                cluster.is_held().then_some(())
            });
        });
    }
    wait_for("all to be in the vault", || cluster.offload("20s").then_some(()));
    wait_for("what was not named to be deleted", || (cluster.left().1 == 12).then_some(()));
    cluster.change_memory();
    for n in 0..12 {
        assert!(store.get(&key(n)).unwrap_or_else(|fault| panic!("{n}: {fault}")) == value(n), "{n}");
    }
    // Removed; deleted in the vault.
    for (nth, held) in ["slow", "late"].into_iter().enumerate() {
        let gone: Vec<_> = (6 * nth..6 * nth + 6).map(key).collect();
        cluster.dies(Who::Master, &format!("{held} 600000 1 delete"), |_| {
            store.remove(&gone, true).into_iter().for_each(|outcome| outcome.unwrap());
        });
    }
    wait_for("the vault to be empty", || (cluster.left().1 == 0).then_some(()));
    wait_for("all memory to be free", || (cluster.used() == Some(0)).then_some(()));
    assert_eq!(metric(&fetch(&cluster.http, "/metrics"), "perilune_cold_lost_total"), Some(0));
}
