//! A whole master over its RPC port: what it answers, what it refuses, what it finds again.

mod access;
mod events;
mod frames;
mod group;
mod jobs;
mod restart;
mod safepoints;
mod snapshots;
mod streams;
mod vaults;
#[path = "../wait/mod.rs"]
mod wait;

use perilune_master::{Master, MasterConfig};
use perilune_protocol::frame::{self, HEADER_BYTES};
use perilune_protocol::rpc::object::PutGrant;
use perilune_protocol::rpc::{self, Call, object, segment, session};
use perilune_protocol::{Capability, Endpoint, NodeId, Outcome, Protocol, PutConfig, SegmentDesc, SegmentId, WriterId};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

/// Nodes that tests play by hand are silent; with this much patience none is lost for it, however slow the disk.
fn config(dir: &Path) -> MasterConfig {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let hour = Duration::from_secs(3600);
    MasterConfig { data_dir: dir.into(), rpc: any, http: vec![any], suspect_after: hour, lost_after: 2 * hour, ..MasterConfig::default() }
}

fn start(dir: &Path) -> Master {
    Master::start(config(dir)).expect("the master starts")
}

/// Polls until it holds.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    wait::wait(what, || holds().then_some(()));
}

/// A client that speaks frames by hand.
struct Peer {
    stream: TcpStream,
    next: u64,
}

/// 64 MiB that a node of its own lends.
fn memory() -> SegmentDesc {
    SegmentDesc {
        id: SegmentId::random(),
        name: "127.0.0.1:15000".into(),
        node: NodeId::random(),
        base: 0,
        size: 64 << 20,
        protocol: Protocol::Tcp,
        location: String::new(),
        endpoints: vec![Endpoint::Tcp("127.0.0.1:15000".into())],
        capability: Capability(1),
    }
}

impl Peer {
    fn connect(master: &Master) -> Self {
        Self::reach(master.rpc_addr()).unwrap()
    }

    fn reach(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Ok(Self { stream, next: 1 })
    }

    fn hello(master: &Master) -> Self {
        let mut peer = Self::connect(master);
        peer.call(&session::Hello { agent: "test".into(), tenant: String::new() }).unwrap();
        peer
    }

    fn call<C: Call>(&mut self, question: &C) -> Outcome<C::Reply> {
        self.ask(question).expect("an answer")
    }

    /// `None` when the master closed the connection instead of answering.
    fn ask<C: Call>(&mut self, question: &C) -> Option<Outcome<C::Reply>> {
        let mut out = Vec::new();
        self.next += 1;
        rpc::encode_question(&mut out, self.next, question).unwrap();
        self.stream.write_all(&out).ok()?;
        let (id, body) = self.answer()?;
        assert_eq!(id, self.next);
        Some(rpc::decode::<Outcome<C::Reply>>(&body).unwrap())
    }

    /// The next frame, or `None` when the master closed the connection.
    fn answer(&mut self) -> Option<(u64, Vec<u8>)> {
        let mut head = [0; HEADER_BYTES];
        self.stream.read_exact(&mut head).ok()?;
        let header = frame::Header::decode(&head).unwrap();
        let mut body = vec![0; header.body_len as usize];
        self.stream.read_exact(&mut body).ok()?;
        header.check(&body).unwrap();
        Some((header.id, body))
    }

    /// Registers a node with one segment of 64 MiB.
    fn lend(&mut self) -> SegmentDesc {
        let desc = memory();
        self.register(&desc, false);
        self.call(&segment::Mount { segments: vec![desc.clone()] }).unwrap();
        desc
    }

    fn register(&mut self, desc: &SegmentDesc, intact: bool) -> session::Registered {
        let segments = if intact { vec![desc.clone()] } else { vec![] };
        self.call(&session::Register { node: desc.node, name: desc.name.clone(), rest: String::new(), segments }).unwrap()
    }

    fn put_start(&mut self, key: &str, size: u64) -> Outcome<PutGrant> {
        self.call(&object::PutStart { puts: vec![(key.into(), size)], config: PutConfig::default(), writer: WriterId::random() })
            .unwrap()
            .remove(0)
    }

    fn put(&mut self, key: &str, size: u64) -> PutGrant {
        let grant = self.put_start(key, size).unwrap();
        self.call(&object::PutEnd { puts: vec![(key.into(), grant.version, 7)] }).unwrap().remove(0).unwrap();
        grant
    }
}
