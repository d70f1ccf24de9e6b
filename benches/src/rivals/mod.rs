//! Who is measured beside each other: each starts its own server process and answers the same four questions.

mod floor;
mod memcached;
mod mooncake;
mod perilune;
mod redis;
mod wire;

pub use floor::{Memcpy, RawTcp, answer_raw};
pub use memcached::Memcached;
pub use mooncake::Mooncake;
pub use perilune::Perilune;
pub use redis::Redis;

use crate::pinned::Meter;
use crate::report::Latency;
use std::path::Path;
use std::time::{Duration, Instant};

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Op {
    /// Store values under keys that are new.
    Put,
    /// Read values into a buffer of the caller.
    Get,
}

impl Op {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Put, Self::Get];

    /// The word in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
        }
    }
}

/// One figure to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Case {
    /// Bytes of a value.
    pub size: usize,
    /// Values per call.
    pub batch: usize,
    /// What is asked.
    pub op: Op,
}

impl Case {
    /// How many values exist to be read: 256 MiB of them, at least two calls' worth, at most 2048.
    pub fn working_set(&self) -> usize {
        (READ_BYTES / self.size).clamp(2 * self.batch, 2048.max(2 * self.batch)) / self.batch * self.batch
    }

    /// How many calls of puts a measurement may make, so that what it stores fits beside the working set.
    pub fn calls_max(&self) -> usize {
        match self.op {
            Op::Put => (PUT_BYTES / (self.size * self.batch)).clamp(4, 50_000),
            Op::Get => usize::MAX,
        }
    }
}

const READ_BYTES: usize = 256 << 20;
const PUT_BYTES: usize = 512 << 20;

/// What one measurement gave.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Sample {
    /// Values moved.
    pub values: u64,
    /// Seconds.
    pub wall_s: f64,
    /// Half of the calls were shorter, in microseconds.
    pub p50_us: f64,
    /// 99 of 100 calls were shorter, in microseconds.
    pub p99_us: f64,
    /// Processor time of the asking process, in seconds.
    pub client_cpu_s: f64,
    /// Processor time of the answering processes, in seconds.
    pub server_cpu_s: f64,
}

impl Sample {
    /// Stops the meter: `values` were moved since it was started.
    pub(crate) fn of(values: u64, latency: &Latency, meter: Meter) -> Self {
        let (wall, client_cpu, server_cpu) = meter.stop();
        let told = latency.percentiles();
        Self {
            values,
            wall_s: wall.as_secs_f64(),
            p50_us: told.p50_us,
            p99_us: told.p99_us,
            client_cpu_s: client_cpu.as_secs_f64(),
            server_cpu_s: server_cpu.as_secs_f64(),
        }
    }
}

/// What can go wrong with a rival: a sentence.
pub type Trouble = Box<dyn std::error::Error + Send + Sync>;

/// Somebody to measure. Started when made, ended when dropped.
pub trait Rival {
    /// Its name in tables.
    fn name(&self) -> String;
    /// Measures for about `time`; what was stored by puts is removed again, untimed.
    fn measure(&mut self, case: &Case, time: Duration) -> Result<Sample, Trouble>;
}

/// Where rivals may be found and how they are started.
#[derive(Clone, Debug)]
pub struct Setting<'a> {
    /// This program, which starts its own master and store node.
    pub program: &'a Path,
    /// A directory for data, logs and sockets.
    pub dir: &'a Path,
    /// Where `benches/peers/setup` installed what Debian has not.
    pub peers: &'a Path,
    /// The core of servers; `None` leaves the choice to the kernel.
    pub server_core: Option<usize>,
}

/// A connection that moves values; [`measure`] drives it.
trait Connection {
    /// Stores `value` under each key.
    fn put(&mut self, keys: &[String], value: &[u8]) -> Result<(), Trouble>;
    /// Reads the values of the keys into `into`, one after the other.
    fn get(&mut self, keys: &[String], into: &mut [u8]) -> Result<(), Trouble>;
    /// Forgets what puts with this prefix stored.
    fn forget(&mut self, prefix: &str, keys: &[String]) -> Result<(), Trouble>;
    /// The answering processes.
    fn servers(&self) -> Vec<u32>;
    /// Whether a value that is read is the one that was put under its key: not so for what has no keys.
    fn keeps_values(&self) -> bool {
        true
    }
}

/// What [`measure`] keeps between measurements of one connection.
#[derive(Default)]
struct Bench {
    /// Sizes whose working set is stored.
    stored: std::collections::HashSet<usize>,
    value: Vec<u8>,
    into: Vec<u8>,
    round: u64,
}

/// Measures a case on a connection.
fn measure(bench: &mut Bench, connection: &mut impl Connection, case: &Case, time: Duration) -> Result<Sample, Trouble> {
    bench.round += 1;
    if bench.value.len() < case.size {
        let mut random = crate::random::Random::new(1);
        bench.value.resize_with(case.size, || random.bits() as u8);
    }
    let value = &bench.value[..case.size];
    bench.into.resize(bench.into.len().max(case.size * case.batch), 0);
    let into = &mut bench.into[..case.size * case.batch];
    let read_keys: Vec<String> = (0..case.working_set()).map(|i| format!("read-{}-{i}", case.size)).collect();
    if case.op == Op::Get && bench.stored.insert(case.size) {
        for keys in read_keys.chunks(case.batch) {
            connection.put(keys, value)?;
        }
    }
    if case.op == Op::Get {
        // Values that an earlier case with a smaller batch did not store, and values that were evicted meanwhile, are put again.
        for keys in read_keys.chunks(case.batch) {
            if connection.get(keys, into).is_err() {
                connection.put(keys, value)?;
            }
        }
    }
    // Formatting keys is the caller's work, not the store's: done before the clock starts.
    let prefix = format!("put-{}-", bench.round);
    let calls_max = case.calls_max();
    let new_keys: Vec<String> = match case.op {
        Op::Put => (0..calls_max * case.batch).map(|i| format!("{prefix}{i}")).collect(),
        Op::Get => Vec::new(),
    };
    let mut latency = Latency::default();
    let mut calls = 0;
    let servers = connection.servers();
    let meter = Meter::start(std::process::id(), &servers);
    let end = Instant::now() + time;
    while calls < calls_max {
        let asked = Instant::now();
        if asked > end && calls > 0 {
            break;
        }
        match case.op {
            Op::Put => connection.put(&new_keys[calls * case.batch..][..case.batch], value)?,
            Op::Get => {
                let at = calls * case.batch % read_keys.len();
                connection.get(&read_keys[at..at + case.batch], into)?;
            }
        }
        latency.record(asked.elapsed());
        calls += 1;
    }
    let sample = Sample::of((calls * case.batch) as u64, &latency, meter);
    if case.op == Op::Get && connection.keeps_values() && !into.chunks(case.size).all(|got| got == value) {
        return Err(format!("the values of {} bytes that were read are not those that were put", case.size).into());
    }
    if case.op == Op::Put {
        connection.forget(&prefix, &new_keys[..calls * case.batch])?;
    }
    Ok(sample)
}

/// A port of loopback that is free at the moment.
pub(crate) fn free_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Whether a program can be started by name.
pub(crate) fn is_installed(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// How long a server may take to start.
const START: Duration = Duration::from_secs(20);
