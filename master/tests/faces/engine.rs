//! An engine small enough to be right by looking at it, and a server in front of it.

use crate::http::{self, Reply};
use perilune_master::api::serve::{self, Limits};
use perilune_master::api::{App, Boxed, Decide, Facade, Recycled, router};
use perilune_master::engine::{NotAborted, OpenPut, Unchanged};
use perilune_master::log::{LogStatus, Role};
use perilune_master::observe::{FeedUse, Metrics, Observed, PoolUse, TenantUse, VaultUse};
use perilune_protocol::access::Access;
use perilune_protocol::rpc::cluster::{ClusterStat, NodeState};
use perilune_protocol::rpc::job::{JobCounts, JobState};
use perilune_protocol::rpc::segment::SegmentState;
use perilune_protocol::*;
use perilune_state::directory::{Known, ShardId};
use perilune_state::effect::ObjectRecord;
use perilune_state::gc::GcOwner;
use perilune_state::segments::nodes::Seen;
use perilune_state::shards::{NoJob, Passes, ShardCount};
use perilune_state::txn::Txn;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// Objects and segments in plain maps.
#[derive(Default)]
pub(crate) struct Small {
    pub(crate) objects: Mutex<BTreeMap<ObjectKey, ObjectPlace>>,
    pub(crate) segments: Mutex<Vec<SegmentState>>,
    pub(crate) leased: Mutex<Vec<ObjectKey>>,
    pub(crate) poisoned: Mutex<Option<String>>,
    /// Keys that `for_each_key` has shown so far.
    pub(crate) shown: AtomicU64,
    metrics: Metrics,
}

impl Small {
    /// Adds a segment and says its id.
    pub(crate) fn mount(&self, name: &str, base: u64, size: u64, used: u64) -> SegmentId {
        let id = SegmentId::random();
        let desc = SegmentDesc {
            id,
            name: name.into(),
            node: NodeId::random(),
            base,
            size,
            protocol: Protocol::Tcp,
            location: String::new(),
            endpoints: vec![Endpoint::Tcp("127.0.0.1:17400".into())],
            capability: Capability(0),
        };
        self.segments.lock().unwrap().push(SegmentState { desc, status: SegmentStatus::Mounted, used });
        id
    }

    /// Publishes an object with one extent `(offset, len)` list for each replica.
    pub(crate) fn put(&self, key: impl Into<ObjectKey>, replicas: &[(SegmentId, &[(u64, u64)])]) {
        let replicas: Vec<_> = replicas
            .iter()
            .map(|(segment, extents)| ReplicaPlace {
                segment: *segment,
                extents: extents.iter().map(|(offset, len)| Extent { offset: *offset, len: *len }).collect(),
            })
            .collect();
        let size = replicas.first().map_or(0, |replica| replica.extents.iter().map(|extent| extent.len).sum());
        let place = ObjectPlace { version: Tso(1), size, checksum: 0, lease_ms: 0, replicas };
        self.objects.lock().unwrap().insert(key.into(), place);
    }
}

impl Observed for Small {
    fn vaults(&self) -> Vec<VaultUse> {
        Vec::new()
    }

    fn stat(&self) -> ClusterStat {
        let segments = self.segments.lock().unwrap();
        ClusterStat {
            cluster: "small".into(),
            release: "9.9.9".into(),
            objects: self.objects.lock().unwrap().len() as u64,
            puts: 3,
            nodes: 2,
            segments: segments.len() as u64,
            capacity: segments.iter().map(|s| s.desc.size).sum(),
            used: segments.iter().map(|s| s.used).sum(),
            evictions: 0,
            applied: 41,
            uptime_s: 7,
        }
    }

    fn segments(&self) -> Vec<SegmentState> {
        self.segments.lock().unwrap().clone()
    }

    fn nodes(&self) -> Vec<NodeState> {
        let node = |status: &str| NodeState {
            node: NodeId::random(),
            name: "n".into(),
            rest: String::new(),
            status: status.into(),
            silent_ms: 0,
            segments: 1,
        };
        vec![node("ALIVE"), node("LOST")]
    }

    fn jobs(&self) -> Vec<JobState> {
        let counts = JobCounts { copied: 3, copied_bytes: 4096, ..JobCounts::default() };
        vec![JobState { job: "balance".into(), on: true, state: "working".into(), permille: 250, counts, ..JobState::default() }]
    }

    fn tenants(&self) -> Vec<TenantUse> {
        vec![TenantUse { id: TenantId(0), name: "default".into(), bytes: 300, objects: 3 }]
    }

    fn pools(&self) -> Vec<PoolUse> {
        vec![PoolUse { tenant: "default".into(), name: "prefill".into(), segments: 1, used: 4096, capacity: 8192 }]
    }

    fn feeds(&self) -> Vec<FeedUse> {
        Vec::new()
    }

    fn soft_pins(&self) -> u64 {
        5
    }

    fn log(&self) -> LogStatus {
        LogStatus {
            role: Role::Leader,
            term: 2,
            applied: 41,
            commit: 42,
            poisoned: self.poisoned.lock().unwrap().clone(),
            ..Default::default()
        }
    }
}

impl Facade for Small {
    fn locate(&self, tenant: TenantId, keys: &[ObjectKey]) -> Vec<Outcome<ObjectPlace>> {
        let place = |key: &ObjectKey| {
            let place = self.peek(tenant, key)?;
            self.leased.lock().unwrap().push(key.clone());
            Ok(place)
        };
        keys.iter().map(place).collect()
    }

    fn peek(&self, _: TenantId, key: &ObjectKey) -> Outcome<ObjectPlace> {
        let found = self.objects.lock().unwrap().get(key).cloned();
        found.ok_or_else(|| FaultCode::ObjectNotFound.with(format!("there is no object `{key}`")))
    }

    fn object(&self, _: TenantId, _: &ObjectKey) -> Option<ObjectRecord> {
        None
    }

    fn for_each_key(&self, _: TenantId, visit: &mut dyn FnMut(&ObjectKey, u64) -> ControlFlow<()>) {
        let keys: Vec<_> = self.objects.lock().unwrap().iter().map(|(key, place)| (key.clone(), place.size)).collect();
        for (key, size) in keys {
            self.shown.fetch_add(1, Ordering::Relaxed);
            if visit(&key, size).is_break() {
                return;
            }
        }
    }

    fn describe(&self, _: TenantId, id: SegmentId) -> Option<Arc<SegmentDesc>> {
        self.segments.lock().unwrap().iter().find(|s| s.desc.id == id).map(|s| Arc::new(s.desc.clone()))
    }

    fn tenant(&self, name: &str) -> Outcome<TenantId> {
        let known = Known::default();
        known
            .named(if name.is_empty() { "default" } else { name })
            .map(|t| t.id)
            .ok_or_else(|| FaultCode::TenantNotFound.with("none of that name"))
    }

    fn seen(&self) -> Vec<Seen> {
        Vec::new()
    }

    fn recycled(&self, _: TenantId) -> Recycled {
        Recycled::default()
    }

    fn count_shards(&self, _: TenantId, _: BTreeSet<ShardId>) -> Boxed<'_, Outcome<BTreeMap<ShardId, ShardCount>>> {
        Box::pin(async { Ok(BTreeMap::new()) })
    }

    fn shard_passes(&self, _: ShardId) -> Passes {
        Passes::default()
    }

    fn shard_jobs(&self) -> Vec<(ShardId, u64)> {
        Vec::new()
    }

    fn stop_shard_job(&self, _: ShardId, _: &str) -> Result<(), NoJob> {
        Err(NoJob::None)
    }

    fn open_puts(&self, _: TenantId) -> Vec<OpenPut> {
        Vec::new()
    }

    fn abort(&self, _: TenantId, _: Txn, _: Option<u64>, _: bool) -> Boxed<'_, Result<u64, NotAborted>> {
        Box::pin(async { Err(NotAborted::NoVersion) })
    }

    fn in_step(&self, _: u32, _: i64) -> Boxed<'_, Outcome<Vec<u64>>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn has_vaults(&self) -> bool {
        false
    }

    fn gc_owner(&self) -> Option<GcOwner> {
        None
    }

    fn resign_gc(&self, _: u64) -> Boxed<'_, Outcome<bool>> {
        Box::pin(async { Ok(false) })
    }

    fn wall_ms(&self) -> u64 {
        0
    }

    fn directory(&self) -> Arc<Known> {
        Arc::default()
    }

    fn decide<'a>(&'a self, _: &'a Decide<'a>) -> Boxed<'a, Result<(), Unchanged>> {
        Box::pin(async { Err(FaultCode::NotSupported.with("there is no log").into()) })
    }

    fn setting(&self, _: &str) -> Option<String> {
        None
    }

    fn remove_matching<'a>(&'a self, _: TenantId, pattern: &'a str, force: bool) -> Boxed<'a, Outcome<u64>> {
        Box::pin(async move {
            assert_eq!(pattern, "");
            let leased = self.leased.lock().unwrap().clone();
            let mut objects = self.objects.lock().unwrap();
            let before = objects.len();
            objects.retain(|key, _| !force && leased.contains(key));
            Ok((before - objects.len()) as u64)
        })
    }

    fn leader(&self) -> Option<String> {
        Some("127.0.0.1:50051".into())
    }

    fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

/// A served engine.
pub(crate) struct Served {
    pub(crate) engine: Arc<Small>,
    pub(crate) addr: SocketAddr,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) runtime: Runtime,
    pub(crate) server: tokio::task::JoinHandle<()>,
}

impl Served {
    pub(crate) fn start() -> Self {
        Self::within(Limits::default())
    }

    pub(crate) fn within(limits: Limits) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let addr = listener.local_addr().unwrap();
        let engine = Arc::new(Small::default());
        let (stop, stopped) = watch::channel(false);
        let routes = perilune_probe::served(router(App::new(engine.clone(), Access::default())));
        let server = runtime.spawn(serve::run_within(limits, listener, routes, stopped));
        Self { engine, addr, stop, runtime, server }
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        http::ask(self.addr, "GET", path)
    }

    pub(crate) fn post(&self, path: &str) -> Reply {
        http::ask(self.addr, "POST", path)
    }
}
