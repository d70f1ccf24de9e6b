//! A master and store nodes inside the test's process, with real sockets, real shared memory and a data directory of their own.
#![allow(dead_code, reason = "each test binary uses its part")]

use perilune_client::protocol::rpc::object::Locate;
use perilune_client::protocol::{NodeId, ObjectKey, ObjectPlace, Outcome, SegmentDesc};
use perilune_client::{NodeConfig, Store, StoreConfig, StoreNode};
use perilune_master::{Master, MasterConfig};
use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub(crate) const MIB: u64 = 1 << 20;
/// Nothing in these tests takes long; what takes longer than this hangs.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Cluster {
    dir: TempDir,
    pub(crate) config: MasterConfig,
    master: Option<Master>,
    nodes: RefCell<Vec<NodeId>>,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        Self::start_with(|_| {})
    }

    /// With short times, so that what waits for them ends soon.
    pub(crate) fn start_with(change: impl FnOnce(&mut MasterConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = MasterConfig {
            data_dir: dir.path().join("master"),
            rpc: ([127, 0, 0, 1], 0).into(),
            http: Vec::new(),
            heartbeat: Duration::from_millis(50),
            suspect_after: Duration::from_millis(500),
            lost_after: Duration::from_secs(10),
            ..MasterConfig::default()
        };
        change(&mut config);
        let master = Master::start(config.clone()).unwrap();
        config.rpc = master.rpc_addr();
        Self { dir, config, master: Some(master), nodes: RefCell::default() }
    }

    pub(crate) fn stop_master(&mut self) {
        self.master.take().unwrap().stop();
    }

    pub(crate) fn start_master(&mut self) {
        self.master = Some(Master::start(self.config.clone()).unwrap());
    }

    /// Sets something for the whole group.
    pub(crate) fn set(&self, key: &str, value: &str) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(self.master.as_ref().unwrap().engine().set(key, Some(value))).unwrap();
    }

    pub(crate) fn masters(&self) -> Vec<String> {
        vec![self.config.rpc.to_string()]
    }

    pub(crate) fn node_config(&self, name: &str, segment_size: u64) -> NodeConfig {
        NodeConfig {
            masters: self.masters(),
            data_dir: self.path(name),
            segment_size,
            rest: Some(([127, 0, 0, 1], 0).into()),
            ..NodeConfig::default()
        }
    }

    pub(crate) fn node(&self, name: &str, segment_size: u64) -> StoreNode {
        self.node_with(self.node_config(name, segment_size))
    }

    pub(crate) fn node_with(&self, config: NodeConfig) -> StoreNode {
        let node = StoreNode::start(config).unwrap();
        self.nodes.borrow_mut().push(node.id());
        node
    }

    pub(crate) fn store(&self) -> Store {
        self.store_with(|_| {})
    }

    pub(crate) fn store_with(&self, change: impl FnOnce(&mut StoreConfig)) -> Store {
        let mut config = StoreConfig { masters: self.masters(), ..StoreConfig::default() };
        change(&mut config);
        Store::connect(config).unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for Cluster {
    /// Shared memory outlives the process that made it, so a test takes its own away.
    fn drop(&mut self) {
        if let Some(master) = self.master.take() {
            master.stop();
        }
        for node in self.nodes.borrow().iter() {
            for object in objects_of(*node) {
                let _ = std::fs::remove_file(object);
            }
        }
    }
}

/// The shared memory that a node made.
pub(crate) fn objects_of(node: NodeId) -> Vec<PathBuf> {
    let prefix = format!("perilune-{node}-");
    let entries = std::fs::read_dir("/dev/shm").unwrap().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)).map(|entry| entry.path()).collect()
}

/// An object in `/dev/shm` that is removed with the value.
pub(crate) struct Object(pub(crate) String);

impl Object {
    pub(crate) fn new(tag: &str, size: u64) -> Self {
        let name = format!("perilune-test-{}-{tag}", std::process::id());
        File::create(format!("/dev/shm/{name}")).unwrap().set_len(size).unwrap();
        Self(name)
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(format!("/dev/shm/{}", self.0));
    }
}

/// Looks again until it is so.
pub(crate) fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < until, "it did not come to pass: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Bytes that tell their key, version and position apart.
pub(crate) fn value(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

pub(crate) fn locate(store: &Store, key: &ObjectKey) -> Outcome<ObjectPlace> {
    store.call(&Locate { keys: vec![key.clone()] })?.remove(0)
}

/// Flips one bit of a copy, behind everyone's back.
pub(crate) fn damage(segment: &SegmentDesc, place: &ObjectPlace) {
    let replica = place.replicas.iter().find(|r| r.segment == segment.id).expect("a copy lies there");
    let object = format!("/dev/shm/perilune-{}-{}", segment.node, segment.id);
    let file = File::options().read(true).write(true).open(object).unwrap();
    let at = replica.extents[0].offset + replica.extents[0].len / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}
