//! Pools with real processes and real bytes: who may lend, where puts go, what sleeps, and where the bytes of those go that leave.

use crate::cold::files;
use crate::group::{Process, Shared, at};
use crate::harness::{fetch, finish, metric, perilune, said, wait_for};
use crate::s3d::{AK, BUCKET, S3d, SK};
use crate::tenants::send;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

pub(crate) const TOKEN: &str = "0123456789abcdef";

/// A master at addresses that it keeps, with its data in `dir`.
pub(crate) struct Cluster {
    group: u8,
    dir: PathBuf,
    master: Process,
}

/// A store node, killed when dropped. Its memory is freed with `memory`.
pub(crate) struct Node {
    pub(crate) rest: String,
    pub(crate) transfer: String,
    _process: Process,
}

impl Cluster {
    /// `group`: whose addresses they are, see [`at`].
    pub(crate) fn start(group: u8, dir: &Path) -> Self {
        Self { group, dir: dir.into(), master: Self::master(group, dir) }
    }

    pub(crate) fn rpc(&self) -> String {
        at(self.group, 10_001)
    }

    pub(crate) fn http(&self) -> String {
        at(self.group, 30_001)
    }

    fn master(group: u8, dir: &Path) -> Process {
        let ready = dir.join("ready-master");
        let _ = std::fs::remove_file(&ready);
        let mut command = perilune();
        command.args(["master", "--rpc", &at(group, 10_001), "--http", &at(group, 30_001)]).env("PERILUNE_META_TOKEN", TOKEN);
        // What leaves is free once nobody may read it any more.
        command.args(["--lease", "1s"]).arg("--data-dir").arg(dir.join("master")).arg("--ready-file").arg(&ready).stdout(Stdio::null());
        let mut process = Process(command.spawn().unwrap());
        wait_for("the master to be up", || {
            assert_eq!(process.0.try_wait().unwrap(), None, "the master ended");
            ready.exists().then_some(())
        });
        process
    }

    /// `kill -9`, and another on the same data.
    fn restart_master(&mut self) {
        self.master.0.kill().unwrap();
        self.master.0.wait().unwrap();
        self.master = Self::master(self.group, &self.dir);
    }

    pub(crate) fn node(&self, name: &str, flags: &[&str]) -> Node {
        let ready = self.dir.join(format!("ready-{name}"));
        let _ = std::fs::remove_file(&ready);
        let mut store = perilune();
        store.args(["store", "--master", &self.rpc(), "--http", "127.0.0.1:0", "--segment-size", "64MiB"]).args(flags);
        store.arg("--data-dir").arg(self.dir.join(name)).arg("--ready-file").arg(&ready).stdout(Stdio::null());
        let _process = Process(store.spawn().unwrap());
        let addresses: Value = wait_for("a node to be up", || serde_json::from_slice(&std::fs::read(&ready).ok()?).ok());
        let of = |name: &str| addresses[name].as_str().unwrap().to_owned();
        Node { rest: of("rest"), transfer: of("transfer"), _process }
    }

    pub(crate) fn shared(&self, name: &str) -> Shared {
        Shared(self.dir.join(name))
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        finish(perilune().args(args).args(["--master", &self.rpc()]))
    }

    fn json(&self, args: &[&str]) -> Vec<Value> {
        let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
        lines(&self.run(&args))
    }

    /// A command about tenants or pools.
    fn meta(&self, args: &[&str]) -> Output {
        finish(perilune().args(args).args(["--http", &self.http()]).env("PERILUNE_META_TOKEN", TOKEN))
    }

    pub(crate) fn done(&self, args: &[&str]) {
        let output = self.meta(args);
        assert!(output.status.success(), "{args:?}: {}", said(&output));
    }

    fn pools(&self) -> Vec<Value> {
        lines(&self.meta(&["pools", "list", "acme", "--json"]))
    }

    /// Puts, and says at which node it is.
    fn put(&self, key: &str, who: &[&str]) -> String {
        let file = self.dir.join("value");
        std::fs::write(&file, format!("the value of {key}")).unwrap();
        let args = ["put", key, file.to_str().unwrap()];
        let output = self.run(&args.iter().chain(who).copied().collect::<Vec<_>>());
        assert!(output.status.success(), "{key} {who:?}: {}", said(&output));
        self.place(key)
    }

    fn place(&self, key: &str) -> String {
        let found = self.json(&["query", key, "--tenant", "acme"]);
        found[0]["replicas"][0]["endpoint"].as_str().unwrap().to_owned()
    }

    fn is_right(&self, key: &str) -> bool {
        let output = self.run(&["get", key, "--tenant", "acme"]);
        output.stdout == format!("the value of {key}").as_bytes()
    }

    fn lent_by(&self, node: &Node) -> bool {
        self.json(&["segments"]).iter().any(|segment| segment["endpoint"] == node.transfer.as_str())
    }

    fn set(&self, key: &str, value: &str) {
        let body = json!({"key": key, "value": value}).to_string();
        assert_eq!(send("POST", &format!("http://{}/config/set", self.http()), &body).0, 200);
    }
}

fn lines(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", said(output));
    String::from_utf8(output.stdout.clone()).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn mount(node: &Node) -> (u16, String) {
    send("POST", &format!("http://{}/api/mount", node.rest), r#"{"size": 16777216}"#)
}

#[test]
fn pools_say_who_lends_where_puts_go_and_what_sleeps() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(20, dir.path());
    cluster.done(&["tenants", "create", "acme"]);
    let _memory = ["p", "d", "plain"].map(|name| cluster.shared(name));

    // Nobody lends before it is registered, and then without being started again.
    let p = cluster.node("p", &["--unique-id", "1:acme:p"]);
    let refused = mount(&p);
    assert!(refused.0 == 403 && refused.1.contains("1:acme:p") && refused.1.contains("is not registered"), "{refused:?}");
    assert!(!cluster.lent_by(&p));
    let life = || send("GET", &format!("http://{}/tiflash/store-status", p.rest), "").1;
    assert_eq!(life(), "Ready", "it lends nothing yet");
    cluster.done(&["pools", "add", "acme", "prefill", "--default-of", "jack", "--node", "1:acme:p@127.0.0.1:9050"]);
    wait_for("the memory of p to be lent", || cluster.lent_by(&p).then_some(()));
    wait_for("it to run", || (life() == "Running").then_some(()));
    // It knows by what it presents whose it is.
    let named = |tenant: &str| send("GET", &format!("http://{}/api/exist/nothing?tenant_id={tenant}", p.rest), "");
    assert_eq!((named("acme"), named("default").0), (named(""), 400));
    cluster.done(&["pools", "add", "acme", "decode", "--default-of", "lx"]);
    cluster.done(&["pools", "add-node", "acme", "decode", "1:acme:d@127.0.0.1:9051"]);
    let d = cluster.node("d", &["--unique-id", "1:acme:d", "--tenant", "acme"]);
    wait_for("the memory of d to be lent", || cluster.lent_by(&d).then_some(()));

    // Where a put goes: to the pool of who puts, else of its user.
    let (jack, lx) = (["--tenant", "acme", "--user", "jack"], ["--tenant", "acme", "--user", "lx"]);
    for n in 0..4 {
        assert_eq!(cluster.put(&format!("jack{n}"), &jack), p.transfer);
        assert_eq!(cluster.put(&format!("lx{n}"), &lx), d.transfer);
        assert_eq!(cluster.put(&format!("there{n}"), &["--unique-id", "1:acme:d", "--user", "jack"]), d.transfer);
    }
    cluster.done(&["pools", "users", "acme", "prefill", "lx"]);
    cluster.done(&["pools", "users", "acme", "decode", "jack"]);
    assert_eq!((cluster.put("jack-moved", &jack), cluster.put("lx-moved", &lx)), (d.transfer.clone(), p.transfer.clone()));
    let page = fetch(&cluster.http(), "/metrics");
    assert!(metric(&page, r#"perilune_pool_used_bytes{tenant="acme",pool="prefill"}"#) > Some(0), "{page}");

    // What sleeps is read and takes nothing, and it is woken step by step; a master that was killed knows.
    cluster.done(&["pools", "suspend", "acme", "prefill"]);
    assert_eq!(cluster.put("lx-elsewhere", &lx), d.transfer);
    let before = cluster.pools();
    cluster.restart_master();
    assert_eq!(cluster.pools(), before);
    wait_for("the nodes to be heard", || (cluster.lent_by(&p) && cluster.is_right("jack0") && cluster.is_right("lx0")).then_some(()));
    assert_eq!(cluster.put("lx-still-elsewhere", &lx), d.transfer);
    let woken = cluster.meta(&["pools", "normal", "acme", "prefill"]);
    assert!(said(&woken).contains("original cluster is SUSPENDED and want set NORMAL"), "{}", said(&woken));
    cluster.done(&["pools", "resume", "acme", "prefill"]);
    assert_eq!(cluster.put("lx-not-yet", &lx), d.transfer);
    cluster.done(&["pools", "normal", "acme", "prefill"]);
    assert_eq!(cluster.put("lx-again", &lx), p.transfer);

    // A node that was killed lends what it lent, for the pool it was of.
    drop(p);
    let p = cluster.node("p", &["--unique-id", "1:acme:p"]);
    wait_for("what p has to be read again", || cluster.is_right("jack0").then_some(()));
    assert_eq!(cluster.put("lx-back", &lx), p.transfer);

    // Whoever presents nothing lends, unless nobody may.
    cluster.set("strict_membership", "Enable");
    let plain = cluster.node("plain", &["--tenant", "acme"]);
    let refused = mount(&plain);
    assert!(refused.0 == 403 && refused.1.contains("strict_membership"), "{refused:?}");
    cluster.set("strict_membership", "Disable");
    wait_for("the memory of one that presents nothing to be lent", || cluster.lent_by(&plain).then_some(()));
    let strange = cluster.run(&["get", "jack0", "--tenant", "acme", "--unique-id", "1:other:x"]);
    assert!(!strange.status.success() && said(&strange).contains("TENANT_NOT_FOUND"), "{}", said(&strange));
}

#[test]
fn what_a_node_lends_that_leaves_is_read_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(21, dir.path());
    cluster.done(&["tenants", "create", "acme"]);
    let _memory = ["p", "d"].map(|name| cluster.shared(name));
    cluster.done(&["pools", "add", "acme", "all", "--node", "1:acme:p@127.0.0.1:9050", "--node", "1:acme:d@127.0.0.1:9051"]);
    cluster.done(&["pools", "add", "acme", "second"]);
    let p = cluster.node("p", &["--unique-id", "1:acme:p"]);
    wait_for("the memory of p to be lent", || cluster.lent_by(&p).then_some(()));
    let keys: Vec<String> = (0..30).map(|n| format!("k{n}")).collect();
    for key in &keys {
        assert_eq!(cluster.put(key, &["--tenant", "acme"]), p.transfer);
    }
    let d = cluster.node("d", &["--unique-id", "1:acme:d"]);
    wait_for("the memory of d to be lent", || cluster.lent_by(&d).then_some(()));

    // Dropped, and the master is killed before it is empty: the next one goes on.
    cluster.done(&["pools", "drop-node", "acme", "all", "1:acme:p@127.0.0.1:9050"]);
    cluster.restart_master();
    wait_for("p to be empty", || (!cluster.lent_by(&p)).then_some(()));
    assert!(keys.iter().all(|key| cluster.is_right(key)), "read elsewhere");
    let refused = mount(&p);
    assert!(refused.0 == 403 && refused.1.contains("is not registered"), "{refused:?}");
    assert_eq!(cluster.put("after", &["--tenant", "acme"]), d.transfer);

    // Registered in another pool it lends again; then the other one is told to leave and says when it is empty.
    cluster.done(&["pools", "add-node", "acme", "second", "1:acme:p@127.0.0.1:9050"]);
    assert_eq!(mount(&p).0, 200);
    cluster.done(&["pools", "decommission-node", "acme", "all", "1:acme:d@127.0.0.1:9051"]);
    let node = |cluster: &Cluster| cluster.pools()[0]["nodes"][0]["status"].clone();
    wait_for("d to be empty", || (node(&cluster) == "NODE_STATUS_DECOMMISSIONED").then_some(()));
    assert!(!cluster.lent_by(&d) && keys.iter().all(|key| cluster.is_right(key)), "read where they were first");
    let refused = mount(&d);
    assert!(refused.0 == 403 && refused.1.contains("decommissioned"), "{refused:?}");

    let nobody = cluster.meta(&["pools", "list", "nobody"]);
    assert!(!nobody.status.success() && said(&nobody).contains("there is no tenant nobody"), "{}", said(&nobody));

    // What is stopped by hand serves again without a word before.
    cluster.done(&["pools", "shutdown", "acme", "second"]);
    assert_eq!(cluster.pools()[1]["cluster_status"], "MANUAL_SHUTDOWN");
    cluster.done(&["pools", "normal", "acme", "second"]);

    // Frontends are of a pool of their own.
    cluster.done(&["pools", "add", "acme", "fe", "--frontend", "master=1:acme:fe1@127.0.0.1:9010"]);
    cluster.done(&["pools", "add-node", "acme", "fe", "--frontend", "observer=1:acme:fe2@127.0.0.1:9011"]);
    let frontends = || cluster.pools().into_iter().find(|pool| pool["cluster_id"] == "fe").unwrap();
    let nodes = frontends()["nodes"].as_array().unwrap().clone();
    let kinds: Vec<_> = nodes.iter().map(|node| (node["node_type"].as_str().unwrap(), node["edit_log_port"].as_u64().unwrap())).collect();
    assert_eq!((frontends()["type"].as_str(), kinds), (Some("SQL"), vec![("FE_MASTER", 9010), ("FE_OBSERVER", 9011)]));
    cluster.set("frontend_safe_seconds", "0");
    cluster.done(&["pools", "drop-node", "acme", "fe", "--frontend", "observer=1:acme:fe2@127.0.0.1:9011"]);
    assert_eq!(frontends()["nodes"].as_array().unwrap().len(), 1);
    cluster.done(&["pools", "drop", "acme", "fe"]);
    for wrong in ["1:acme:fe2@127.0.0.1:9011", "leader=1:acme:fe2@127.0.0.1:9011", "observer=1:acme:fe2"] {
        let refused = cluster.meta(&["pools", "add-node", "acme", "fe", "--frontend", wrong]);
        assert!(refused.status.code() == Some(2) && said(&refused).contains("ROLE=ID@HOST:PORT"), "{wrong}: {}", said(&refused));
    }

    // The same as curl does it.
    let shown = cluster.meta(&["pools", "suspend", "acme", "second", "--curl"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    let done = finish(std::process::Command::new("sh").args(["-c", &shown]).env("PERILUNE_META_TOKEN", TOKEN));
    assert!(done.status.success() && said(&done).contains("OK"), "{shown}: {}", said(&done));
    assert_eq!(cluster.pools()[1]["cluster_status"], "SUSPENDED");
}

#[test]
fn what_a_pool_that_sleeps_has_is_brought_to_the_vault() {
    let dir = tempfile::tempdir().unwrap();
    let (cluster, s3) = (Cluster::start(25, dir.path()), S3d::start());
    cluster.done(&["tenants", "create", "acme"]);
    let bucket = ["--bucket", BUCKET, "--endpoint", s3.url(), "--prefix", "kv", "--ak", AK];
    let mut add = perilune();
    add.args(["vaults", "add", "acme", "main", "--http", &cluster.http()]).args(bucket);
    let added = finish(add.env("PERILUNE_META_TOKEN", TOKEN).env("PERILUNE_VAULT_SK", SK));
    assert!(added.status.success(), "{}", said(&added));
    let _memory = ["p", "d"].map(|name| cluster.shared(name));
    cluster.done(&["pools", "add", "acme", "prefill", "--default-of", "jack", "--node", "1:acme:p@127.0.0.1:9050"]);
    cluster.done(&["pools", "add", "acme", "decode", "--default-of", "lx", "--node", "1:acme:d@127.0.0.1:9051"]);
    let [p, d] = ["p", "d"].map(|name| cluster.node(name, &["--unique-id", &format!("1:acme:{name}"), "--tenant", "acme"]));
    let (jack, lx) = (["--tenant", "acme", "--user", "jack"], ["--tenant", "acme", "--user", "lx"]);
    for n in 0..5 {
        assert_eq!(cluster.put(&format!("jack{n}"), &jack), p.transfer);
        assert_eq!(cluster.put(&format!("lx{n}"), &lx), d.transfer);
    }
    let uploads = || files(&s3.files().join("kv/objects")).len();
    assert_eq!(uploads(), 0, "there is room enough");
    cluster.done(&["pools", "suspend", "acme", "prefill"]);
    wait_for("what is there to be saved", || (uploads() == 5).then_some(()));
    assert!((0..5).all(|n| cluster.is_right(&format!("jack{n}")) && cluster.is_right(&format!("lx{n}"))));
    cluster.done(&["pools", "suspend", "acme", "decode"]);
    wait_for("what is there to be saved, too", || (uploads() == 10).then_some(()));
}
