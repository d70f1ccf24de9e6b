//! A serving engine, a using engine, and a segment between them.

use perilune_protocol::{Capability, Endpoint, Extent, NodeId, Protocol, SegmentDesc, SegmentId};
use perilune_transfer_engine::transport::fake::{FakeNetwork, Faults};
use perilune_transfer_engine::{Engine, Memory, Outcome, RdmaSettings, Segment, TransferErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

pub(crate) const SIZE: u64 = 80 << 20;
/// Far longer than anything here takes.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// How the bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Fake,
    Tcp,
    Shm,
    Rdma,
}

/// Devices for the side that is told by `variable`: those it names, else all there are. `PERILUNE_RDMA_CONNECTION` says how they connect.
pub(crate) fn rdma(variable: &str) -> RdmaSettings {
    let devices = std::env::var(variable).map(|names| names.split(',').map(str::to_owned).collect()).unwrap_or_default();
    let connection = std::env::var("PERILUNE_RDMA_CONNECTION").map(|word| word.parse().unwrap()).unwrap_or_default();
    RdmaSettings { devices, connection, ..RdmaSettings::default() }
}

pub(crate) struct Rig {
    pub(crate) way: Way,
    pub(crate) server: Engine,
    pub(crate) client: Engine,
    pub(crate) memory: Arc<Memory>,
    pub(crate) segment: Segment,
    _dir: tempfile::TempDir,
}

/// A path for a unix socket of its own.
pub(crate) fn socket_in(dir: &tempfile::TempDir) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    dir.path().join(format!("engine-{}.sock", NEXT.fetch_add(1, Ordering::Relaxed)))
}

impl Rig {
    pub(crate) fn new(way: Way) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let network = FakeNetwork::new(0, Faults::default());
        let builder = Engine::builder();
        let server = match way {
            Way::Fake => builder,
            Way::Tcp => builder.listen_tcp("127.0.0.1:0".parse().unwrap()),
            Way::Shm => builder.listen_shm(socket_in(&dir)),
            Way::Rdma => builder.rdma(rdma("PERILUNE_RDMA_SERVER")).listen_rdma("127.0.0.1:0".parse().unwrap()),
        };
        let server = server.build().unwrap();
        let client = Engine::builder().deadline(LONG);
        let (client, endpoints) = match way {
            Way::Fake => (client.transport(network.family()), vec![network.attach("server", &server)]),
            Way::Tcp | Way::Shm => (client, server.endpoints()),
            Way::Rdma => (client.rdma(rdma("PERILUNE_RDMA_CLIENT")), server.endpoints()),
        };
        let client = client.build().unwrap();
        let memory = Memory::anonymous(SIZE).unwrap();
        let capability = Capability::random();
        let id = SegmentId::random();
        server.export(id, Arc::clone(&memory), capability).unwrap();
        if way == Way::Rdma {
            server.export_rdma(id).unwrap();
        }
        let segment = client.connect(&desc(id, SIZE, capability, endpoints));
        Self { way, server, client, memory, segment, _dir: dir }
    }

    /// The same segment, described with something wrong.
    pub(crate) fn described(&self, change: impl FnOnce(&mut SegmentDesc)) -> Segment {
        let mut desc = self.segment.desc().clone();
        change(&mut desc);
        self.client.connect(&desc)
    }
}

pub(crate) fn desc(id: SegmentId, size: u64, capability: Capability, endpoints: Vec<Endpoint>) -> SegmentDesc {
    let (name, node, location) = ("test".to_owned(), NodeId::random(), String::new());
    SegmentDesc { id, name, node, base: 0, size, protocol: Protocol::Tcp, location, endpoints, capability }
}

pub(crate) fn at(offset: u64, len: usize) -> Vec<Extent> {
    vec![Extent { offset, len: len as u64 }]
}

/// Bytes that differ from place to place and from seed to seed.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = vec![0; len];
    for byte in &mut bytes {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *byte = (x >> 56) as u8;
    }
    bytes
}

#[track_caller]
pub(crate) fn kind_of(mut outcomes: Vec<Outcome>) -> TransferErrorKind {
    assert_eq!(outcomes.len(), 1);
    outcomes.remove(0).expect_err("it must fail").kind
}
