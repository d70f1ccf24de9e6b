//! `perilune bench transfer --operations`: one operation after the other and nothing beside, so that callgrind and strace see what one costs.

use super::asker::Asker;
use super::rdma::{asker_on, write_by_ticket};
use crate::report::{Origin, Table};
use crate::rivals::{Setting, Trouble};
use perilune_protocol::{ByteSize, Extent, Protocol};
use perilune_transfer_engine::{Engine, Job, Segment, rdma_counts};
use serde::Serialize;
use std::path::Path;
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(60);
/// Connections are made and tables filled before anything counts.
const WARM: u64 = 20;

/// Who asks for an operation, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// By one call that returns when the bytes are written.
    Write,
    /// By one call that returns when the bytes are read.
    Read,
    /// A write by a ticket that is waited for at once.
    Ticket,
}

impl How {
    fn as_str(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::Ticket => "write by a ticket",
        }
    }
}

/// What one operation costs the asking process.
#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    /// `tcp`, `shm` or `rdma`.
    pub protocol: Protocol,
    /// `write`, `read` or `write by a ticket`.
    pub how: &'static str,
    /// Bytes.
    pub size: usize,
    /// How many were counted.
    pub operations: u64,
    /// Microseconds, the mean.
    pub us: f64,
    /// How often a thread went to sleep.
    pub switches: f64,
    /// Work requests were handed to an RDMA device.
    pub doorbells: f64,
    /// A completion queue was armed.
    pub arms: f64,
    /// A lane slept until a device called.
    pub sleeps: f64,
}

/// All costs of a run, and where they were counted.
#[derive(Clone, Debug, Serialize)]
pub struct Costs {
    /// The machine and the commit.
    pub origin: Origin,
    /// One for each transport, size and way to ask.
    pub costs: Vec<Cost>,
}

/// Runs `operations` operations by each transport, with bytes of each size. Nothing is pinned.
pub fn run(options: &super::Options, devices: &[String], peer_devices: &[String], operations: u64) -> Result<Costs, Trouble> {
    let setting = Setting { program: &options.program, dir: &options.dir, peers: Path::new(""), server_core: None };
    let mut costs = Vec::new();
    for protocol in options.protocols.iter().copied() {
        if protocol == Protocol::Rdma {
            let mut asker = asker_on(&setting, devices, peer_devices)?;
            let (engine, segment, buffer) = asker.parts();
            all(options, operations, (protocol, engine, segment, buffer), &mut costs)?;
        } else {
            let asker = Asker::start(&setting, protocol)?;
            let (engine, segment) = asker.parts();
            let mut buffer = vec![1; options.sizes.iter().copied().max().unwrap_or(1)];
            all(options, operations, (protocol, engine, segment, &mut buffer), &mut costs)?;
        }
    }
    Ok(Costs { origin: Origin::here(), costs })
}

fn all(
    options: &super::Options,
    operations: u64,
    (protocol, engine, segment, buffer): (Protocol, &Engine, &Segment, &mut [u8]),
    costs: &mut Vec<Cost>,
) -> Result<(), Trouble> {
    for size in options.sizes.iter().copied() {
        let buffer = buffer.get_mut(..size).ok_or_else(|| format!("{} bytes at most", ByteSize(super::rdma::LENT)))?;
        for how in [How::Write, How::Read, How::Ticket] {
            some(engine, segment, buffer, how, WARM)?;
            let (before, slept, started) = (rdma_counts(), switches()?, Instant::now());
            one_by_one(engine, segment, buffer, how, operations)?;
            let (us, after) = (started.elapsed().as_secs_f64() * 1e6, rdma_counts());
            let each = |after: u64, before: u64| after.saturating_sub(before) as f64 / operations as f64;
            costs.push(Cost {
                protocol,
                how: how.as_str(),
                size,
                operations,
                us: us / operations as f64,
                switches: each(switches()?, slept),
                doorbells: each(after.doorbells, before.doorbells),
                arms: each(after.arms, before.arms),
                sleeps: each(after.sleeps, before.sleeps),
            });
        }
    }
    Ok(())
}

/// What callgrind is told to count: its name stays in the program.
#[inline(never)]
fn one_by_one(engine: &Engine, segment: &Segment, buffer: &mut [u8], how: How, operations: u64) -> Result<(), Trouble> {
    some(engine, segment, buffer, how, operations)
}

fn some(engine: &Engine, segment: &Segment, buffer: &mut [u8], how: How, operations: u64) -> Result<(), Trouble> {
    for _ in 0..operations {
        let whole = || vec![Extent { offset: 0, len: buffer.len() as u64 }];
        let mut job = match how {
            How::Write => Job::write(segment, whole(), buffer),
            How::Read => Job::read(segment, whole(), buffer),
            How::Ticket => {
                write_by_ticket(engine, segment, buffer, DEADLINE)?;
                continue;
            }
        };
        engine.run_one(&mut job, DEADLINE)?;
    }
    Ok(())
}

/// How often threads of this process went to sleep so far.
fn switches() -> Result<u64, Trouble> {
    let mut sum = 0;
    for task in std::fs::read_dir("/proc/self/task")? {
        // A thread may end meanwhile.
        let text = std::fs::read_to_string(task?.path().join("status")).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse::<u64>().ok());
        sum += count.unwrap_or(0);
    }
    Ok(sum)
}

impl std::fmt::Display for Costs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}", self.origin)?;
        writeln!(f, "One operation at a time; what each costs the asking process, on the average.\n")?;
        let header = ["transport", "operation", "size", "count", "time", "sleeps of threads", "doorbells", "arms", "sleeps of the lane"];
        let mut table = Table::new(header).left(0).left(1);
        for cost in &self.costs {
            table.row([
                cost.protocol.to_string(),
                cost.how.into(),
                ByteSize(cost.size as u64).to_string(),
                cost.operations.to_string(),
                crate::report::Percentiles::show(cost.us),
                format!("{:.3}", cost.switches),
                format!("{:.3}", cost.doorbells),
                format!("{:.3}", cost.arms),
                format!("{:.3}", cost.sleeps),
            ]);
        }
        write!(f, "{table}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_sleeps_is_counted() {
        let before = switches().unwrap();
        std::thread::sleep(Duration::from_millis(1));
        assert!(switches().unwrap() > before);
    }
}
