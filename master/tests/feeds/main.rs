//! Changefeeds of whole masters, over real HTTP: what is asked and refused, and what arrives at sinks.

mod deliver;
#[path = "../faces/http.rs"]
mod http;
#[cfg(feature = "kafka")]
mod kafka;
#[allow(dead_code, reason = "each test binary uses its part")]
#[path = "../../../client/vault/tests/vault/s3d.rs"]
mod s3d;
mod trouble;
mod vectors;
#[path = "../wait/mod.rs"]
mod wait;
mod webhook;

use http::Reply;
use perilune_master::engine::{Asker, Speaker};
use perilune_master::{Engine, Master, MasterConfig};
use perilune_protocol::rpc::object::{PutEnd, PutStart};
use perilune_protocol::rpc::segment::Mount;
use perilune_protocol::rpc::session::Register;
use perilune_protocol::*;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// Sinks lie in `sinks` below its directory.
fn config(dir: &Path) -> MasterConfig {
    let any = "127.0.0.1:0".parse().unwrap();
    let hour = Duration::from_secs(3600);
    let sinks = dir.join("sinks");
    std::fs::create_dir_all(&sinks).unwrap();
    MasterConfig {
        data_dir: dir.join("data"),
        rpc: any,
        http: vec![any],
        vault_root: Some(sinks),
        feed_backoff: Duration::from_millis(100),
        feed_patience: Duration::from_millis(300),
        suspect_after: hour,
        lost_after: 2 * hour,
        ..MasterConfig::default()
    }
}

struct Served {
    master: Master,
    dir: tempfile::TempDir,
}

impl Served {
    fn start() -> Self {
        Self::start_with(|_| {})
    }

    fn start_with(change: impl FnOnce(&mut MasterConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        change(&mut config);
        Self { master: Master::start(config).unwrap(), dir }
    }

    /// The same master, after it was stopped.
    fn restarted(self) -> Self {
        let Self { master, dir } = self;
        drop(master);
        Self { master: Master::start(config(dir.path())).unwrap(), dir }
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> Reply {
        http::send(self.master.http_addrs()[0], method, &format!("/api/v2/{path}"), body)
    }

    fn get(&self, path: &str) -> Value {
        let reply = self.ask("GET", path, "");
        assert_eq!(reply.status, 200, "{path}: {}", reply.body);
        reply.json()
    }

    fn create(&self, body: Value) -> Value {
        let reply = self.ask("POST", "changefeeds", &body.to_string());
        assert_eq!(reply.status, 200, "{body}: {}", reply.body);
        reply.json()
    }

    /// What a refusal says, with its status before it.
    fn refused(&self, method: &str, path: &str, body: &str) -> String {
        let reply = self.ask(method, path, body);
        assert!(reply.body.starts_with("{\n    \"error_msg\": "), "{}", reply.body);
        let said = reply.json();
        let message = said["error_msg"].as_str().unwrap();
        assert!(message.starts_with(&format!("[{}]", said["error_code"].as_str().unwrap())), "{message}");
        format!("{} {message}", reply.status)
    }

    fn until_state(&self, feed: &str, state: &str) -> Value {
        wait::wait(&format!("{feed} is {state}"), || {
            let found = self.get(&format!("changefeeds/{feed}/status"));
            (found["state"] == state).then_some(found)
        })
    }

    /// A stamp of now.
    fn now(&self) -> u64 {
        let said = self.ask("POST", "tso", "{}").json();
        said["timestamp"].as_u64().unwrap() << 18 | said["logic_time"].as_u64().unwrap()
    }

    /// Up to which stamp everything is at the sink.
    fn checkpoint(&self, feed: &str) -> u64 {
        self.get(&format!("changefeeds/{feed}/status"))["checkpoint_ts"].as_u64().unwrap()
    }

    /// Until everything until now is at the sink.
    fn until_delivered(&self, feed: &str) {
        let now = self.now();
        wait::wait(&format!("{feed} has what there is"), || (self.checkpoint(feed) >= now).then_some(()));
    }

    /// A segment that some node lends.
    fn lend(&self) -> SegmentId {
        self.lend_to(TenantId::default())
    }

    /// The same to a tenant.
    fn lend_to(&self, tenant: TenantId) -> SegmentId {
        let desc = SegmentDesc {
            id: SegmentId::random(),
            name: "127.0.0.1:15000".into(),
            node: NodeId::random(),
            base: 0,
            size: 16 << 20,
            protocol: Protocol::Tcp,
            location: String::new(),
            endpoints: vec![Endpoint::Tcp("127.0.0.1:15000".into())],
            capability: Capability(1),
        };
        let engine = self.master.engine();
        on_runtime(async {
            let node = Register { node: desc.node, name: "n".into(), rest: String::new(), segments: Vec::new() };
            let speaker = Speaker { tenant, ..Speaker::default() };
            engine.register(1, &speaker, node).await.unwrap();
            engine.mount(1, &speaker, Mount { segments: vec![desc.clone()] }).await.unwrap();
        });
        desc.id
    }

    fn put(&self, keys: &[&str]) {
        put(&self.master.engine(), keys.iter().map(|key| ObjectKey::from(*key)).collect());
    }

    fn remove(&self, pattern: &str) {
        self.master.engine().remove_matching(TenantId::default(), pattern, true).unwrap();
    }

    /// Where the sink `name` is, as a URI of this protocol.
    fn sink(&self, name: &str, protocol: &str) -> String {
        format!("file://{}/{name}?protocol={protocol}", self.dir.path().join("sinks").display())
    }
}

fn on_runtime<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Objects of 100 bytes.
fn put(engine: &Engine, keys: Vec<ObjectKey>) {
    on_runtime(async {
        let puts = keys.iter().map(|key| (key.clone(), 100)).collect();
        let start = PutStart { puts, config: PutConfig::default(), writer: WriterId::random() };
        let grants = engine.put_start(TenantId::default(), Asker::default(), start).await;
        let ends = keys.into_iter().zip(grants).map(|(key, grant)| (key, grant.unwrap().version, 7)).collect();
        for outcome in engine.put_end(TenantId::default(), PutEnd { puts: ends }).await {
            outcome.unwrap();
        }
    });
}

/// A body of JSON.
fn body(value: Value) -> String {
    value.to_string()
}
