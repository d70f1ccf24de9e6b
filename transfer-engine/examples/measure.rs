//! Rough figures of this machine: latency and throughput of reads and writes over TCP and shared memory, one caller, one request at a time.
//! `cargo run --release -p perilune-transfer-engine --example measure`

use perilune_protocol::{Capability, Endpoint, Extent, NodeId, Protocol, SegmentDesc, SegmentId};
use perilune_transfer_engine::{Engine, Job, Memory};
use std::error::Error;
use std::time::{Duration, Instant};

const SIZE: u64 = 256 << 20;
const DEADLINE: Duration = Duration::from_secs(10);

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::temp_dir().join(format!("perilune-measure-{}", std::process::id()));
    std::fs::create_dir(&dir)?;
    let server = Engine::builder().listen_tcp("127.0.0.1:0".parse()?).listen_shm(dir.join("sock")).build()?;
    let client = Engine::builder().build()?;
    let (id, capability, memory) = (SegmentId::random(), Capability::random(), Memory::anonymous(SIZE)?);
    server.export(id, memory, capability)?;
    for endpoint in server.endpoints() {
        let way = if matches!(endpoint, Endpoint::Tcp(_)) { "tcp" } else { "shm" };
        let (name, node, location) = (String::new(), NodeId::random(), String::new());
        let endpoints = vec![endpoint];
        let desc = SegmentDesc { id, name, node, base: 0, size: SIZE, protocol: Protocol::Tcp, location, endpoints, capability };
        let segment = client.connect(&desc);
        for (len, rounds) in [(4usize << 10, 20_000u64), (64 << 10, 10_000), (1 << 20, 2_000), (16 << 20, 100)] {
            let mut buffer = vec![1; len];
            for write in [true, false] {
                let mut took = Vec::new();
                for round in 0..rounds + rounds / 10 {
                    let extents = vec![Extent { offset: round * len as u64 % (SIZE - len as u64) / 4096 * 4096, len: len as u64 }];
                    let mut job = [if write { Job::write(&segment, extents, &buffer) } else { Job::read(&segment, extents, &mut buffer) }];
                    let begun = Instant::now();
                    client.run(&mut job, DEADLINE).remove(0)?;
                    if round >= rounds / 10 {
                        took.push(begun.elapsed());
                    }
                }
                let total: Duration = took.iter().sum();
                took.sort();
                let us = |share: usize| took[took.len() * share / 1000].as_secs_f64() * 1e6;
                let rate = rounds as f64 * len as f64 / total.as_secs_f64() / 1e9;
                let op = if write { "write" } else { "read" };
                println!("{way} {op:5} {len:>9} B   p50 {:8.1} us   p99 {:8.1} us   {rate:6.2} GB/s", us(500), us(990));
            }
        }
        // Many small reads in one batch.
        let mut buffers = vec![[0u8; 4096]; 1024];
        let begun = Instant::now();
        for _ in 0..50 {
            let mut jobs: Vec<Job<'_>> = buffers
                .iter_mut()
                .enumerate()
                .map(|(i, into)| Job::read(&segment, vec![Extent { offset: i as u64 * 8192, len: 4096 }], into))
                .collect();
            client.run(&mut jobs, DEADLINE).into_iter().collect::<Result<(), _>>()?;
        }
        println!("{way} read of 1024 x 4096 B in one batch: {:.2} us each", begun.elapsed().as_secs_f64() * 1e6 / 50.0 / 1024.0);
    }
    drop(server);
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
