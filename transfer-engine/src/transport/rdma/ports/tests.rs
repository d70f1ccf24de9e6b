//! Completion queues too small for what is asked of them.

use super::*;
use crate::engine::Engine;
use crate::memory::Memory;
use crate::rdma::RdmaSettings;
use crate::request::Job;
use crate::transport::rdma::{Devices, Rdma};
use crate::{Segment, TransferError};
use perilune_protocol::{Capability, Extent, NodeId, Protocol, SegmentDesc, SegmentId};
use std::process::Command;
use std::time::Instant;

const LONG: Duration = Duration::from_secs(30);
/// Jobs in a batch, each of eight bytes.
const JOBS: usize = 1500;

fn link(words: [&str; 2]) {
    let status = Command::new("rxe-link").args(words).status().expect("rxe-link is a command of the guest: scripts/rxe-vm");
    assert!(status.success(), "rxe-link {words:?}");
}

fn settings(device: &str) -> RdmaSettings {
    RdmaSettings { devices: vec![device.to_owned()], completions: 16, queue_pairs: 4, ..RdmaSettings::default() }
}

/// A peer, the memory it lends, and the segment as `client` knows it.
fn peer(client: &Engine) -> (Engine, Arc<Memory>, Segment) {
    let server = Engine::builder().rdma(settings("rxe_vb")).listen_rdma("127.0.0.1:0".parse().unwrap()).build().unwrap();
    let (size, id, capability) = (8 * JOBS as u64, SegmentId::random(), Capability::random());
    let memory = Memory::anonymous(size).unwrap();
    server.export(id, Arc::clone(&memory), capability).unwrap();
    server.export_rdma(id).unwrap();
    let (name, node, location, endpoints) = ("test".to_owned(), NodeId::random(), String::new(), server.endpoints());
    let desc = SegmentDesc { id, name, node, base: 0, size, protocol: Protocol::Rdma, location, endpoints, capability };
    let segment = client.connect(&desc);
    (server, memory, segment)
}

/// Thousands of writes to two peers by turns, far more at a time than the completion queue holds, while links come and go: the device never
/// reports that the queue overflowed, so nothing that came back was lost.
#[test]
#[ignore = "needs RDMA devices on a cable: scripts/rxe-vm --net pairs"]
fn a_small_completion_queue_never_overflows() {
    let devices = Arc::new(Devices::new(settings("rxe_va")).unwrap());
    // Only ours: the engine's own RDMA has devices of its own, whose events we could not see.
    let family = Arc::new(Rdma::new(Arc::clone(&devices)));
    let client = Engine::builder().transport(family).only(&["shm"]).lanes(1).deadline(LONG).build().unwrap();
    let peers = [peer(&client), peer(&client)];
    let overflowed = || std::iter::from_fn(|| devices.get().unwrap()[0].context.next_event()).find(|event| event.contains("overflow"));
    let batch = |round: u64| -> Vec<Result<(), TransferError>> {
        let values: Vec<[u8; 8]> = (0..JOBS as u64).map(|i| (i << 8 | round).to_le_bytes()).collect();
        let write = |(i, value): (usize, &'_ [u8; 8])| {
            let extents = vec![Extent { offset: 8 * i as u64, len: 8 }];
            (extents, *value, i % 2)
        };
        let parts: Vec<_> = values.iter().enumerate().map(write).collect();
        let mut jobs: Vec<Job<'_>> = parts.iter().map(|(extents, value, of)| Job::write(&peers[*of].2, extents.clone(), value)).collect();
        let outcomes = client.run(&mut jobs, LONG);
        for (i, (_, value, of)) in parts.iter().enumerate().filter(|(i, _)| outcomes[*i].is_ok()) {
            let mut there = [0; 8];
            assert!(peers[*of].1.read_at(8 * i as u64, &mut there) && there == *value, "job {i} of round {round}");
        }
        outcomes
    };
    let all_well = |outcomes: Vec<Result<(), TransferError>>| assert_eq!(outcomes.into_iter().find_map(Result::err), None);
    all_well(batch(1));
    assert_eq!(overflowed(), None);
    for round in 2..5 {
        std::thread::scope(|scope| {
            let mover = scope.spawn(|| batch(round));
            link(["down", "va"]);
            // Whoever is cut off is told: nothing waits for a completion that was lost.
            let told = mover.join().unwrap();
            assert!(told.iter().flatten().count() <= JOBS);
            assert!(told.iter().all(|outcome| !outcome.as_ref().is_err_and(|e| e.kind == TransferErrorKind::Timeout)), "{told:?}");
        });
        link(["up", "va"]);
        let up = Instant::now();
        while batch(round).iter().any(Result::is_err) {
            assert!(up.elapsed() < LONG, "it works again when the link is up");
        }
        assert_eq!(overflowed(), None);
    }
    all_well(batch(9));
    assert_eq!(overflowed(), None);
}
