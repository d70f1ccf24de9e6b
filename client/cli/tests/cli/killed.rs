//! kill -9 while something goes on that has several steps: nothing is lost, and in the end nothing is left over.

use crate::cold::{MIB, PATIENCE, Restarted, TOKEN, files, key, value};
use crate::group::{Shared, at};
use crate::harness::{fetch, finish, metric, perilune, run, said, wait_for};
use crate::s3d::{AK, BUCKET, S3d, SK};
use crate::tenants::send;
use crate::vaults::OTHER;
use perilune_client::{Put, Store, StoreConfig};
use perilune_protocol::PutConfig;
use serde_json::{Value, json};
use std::path::Path;

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
        let master = Restarted::start(dir, "master", &["--rpc", &rpc, "--http", &http, "--lease", "1s"]);
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
    assert_eq!(metric(&fetch(&cluster.http, "/metrics"), "perilune_used_bytes"), Some(0));
    let again = finish(perilune().args(["tenants", "create", "acme", "--http", &cluster.http]).env("PERILUNE_META_TOKEN", TOKEN));
    assert!(!again.status.success(), "a name is never given twice");
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
    let old: Vec<_> = cluster.segments().iter().map(|segment| segment["segment_id"].clone()).collect();
    let ask = |path: &str, body: &Value| send("POST", &format!("http://{}/api/{path}", cluster.rest), &body.to_string());
    assert_eq!(ask("unmount", &json!({ "segment_ids": old })).0, 200);
    assert_eq!(ask("mount", &json!({ "size": 64 * MIB })).0, 200);
    for n in 0..60 {
        assert!(store.get(&key(n)).unwrap_or_else(|fault| panic!("{n}: {fault}")) == value(n), "{n}");
    }
    assert_eq!(metric(&fetch(&cluster.http, "/metrics"), "perilune_cold_lost_total"), Some(0));
}
