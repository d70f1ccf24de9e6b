//! A trace against a store: look up the longest prefix, read what is there, write what is missing, verify every byte.
//!
//! ```text
//! mod     the options; starts the workers, adds up what they saw
//! worker  one request after the other, in trace order, not before it is due
//! tally   what was seen, in all and per minute of the trace        report  tells it
//! acked   the file of acknowledged blocks                          check   reads acknowledged blocks back
//! ```

mod acked;
mod check;
mod report;
mod tally;
mod worker;

pub use acked::{Acked, AckedError, AckedHeader};
pub use check::Check;
pub use report::Report;
pub use tally::{Minute, Tally};

use crate::payload::Payload;
use crate::report::Percentiles;
use crate::trace::{Request, Shape};
use indicatif::{ProgressBar, ProgressStyle};
use perilune_client::Store;
use perilune_protocol::rpc::cluster::Stat;
use perilune_protocol::{Fault, ObjectKey};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize};
use std::sync::{Mutex, OnceLock};
use std::time::Instant;

/// How to replay.
#[derive(Clone, Debug)]
pub struct Options {
    /// The key of a block is `<prefix>/<hash id>`.
    pub prefix: String,
    /// Bytes of a block.
    pub block_size: usize,
    /// How fast time passes.
    pub speed: Speed,
    /// Requests in flight at most.
    pub workers: usize,
    /// Decides the bytes of the blocks.
    pub seed: u64,
    /// After the run, read back and verify every block that was acknowledged.
    pub verify_all: bool,
    /// Where acknowledged blocks are noted, for a later check.
    pub acked: Option<PathBuf>,
}

/// How fast the time of a trace passes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// So many times as fast as it was.
    Times(f64),
    /// A request starts when a worker is free.
    Max,
}

impl FromStr for Speed {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "max" {
            return Ok(Self::Max);
        }
        match text.strip_suffix('x').unwrap_or(text).parse() {
            Ok(times) if times > 0.0 && times < 1e9 => Ok(Self::Times(times)),
            _ => Err(format!("`{text}` is not a speed: write 1, 10x or max")),
        }
    }
}

impl std::fmt::Display for Speed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Times(times) => write!(f, "{times}x"),
            Self::Max => f.write_str("max"),
        }
    }
}

/// Why a replay could not be run, as opposed to what went wrong in it.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The file of acknowledged blocks.
    #[error(transparent)]
    Acked(#[from] AckedError),
    /// The store.
    #[error(transparent)]
    Store(#[from] Fault),
}

/// Bytes that one call of a worker moves at most, so that its buffer stays small.
const CALL_BYTES_MAX: usize = 32 << 20;

/// How many blocks of `block_size` go into one call.
fn blocks_per_call(block_size: usize) -> usize {
    (CALL_BYTES_MAX / block_size).clamp(1, 256)
}

/// The key of a block.
fn key_of(prefix: &str, id: u64) -> ObjectKey {
    format!("{prefix}/{id}").into()
}

/// What the workers of a run share.
struct Run<'a> {
    store: &'a Store,
    requests: &'a [Request],
    options: &'a Options,
    payload: Payload,
    progress: ProgressBar,
    started: Instant,
    /// The next request to take; workers only add to it. Relaxed: each value is handed out once, and nothing else hangs on it.
    next: AtomicUsize,
    /// Lookups in a row that found no master; relaxed, a hint.
    unanswered: AtomicU32,
    /// Set once, by whoever finds out that going on is pointless; relaxed, workers may notice one request late.
    stop: AtomicBool,
    why_stopped: OnceLock<String>,
    acked: Mutex<BTreeSet<u64>>,
    acked_file: Option<Acked>,
}

/// Replays `requests` against `store`.
pub fn run(store: &Store, requests: &[Request], options: &Options) -> Result<Report, ReplayError> {
    let header = AckedHeader { prefix: options.prefix.clone(), seed: options.seed, block_size: options.block_size };
    let acked_file = options.acked.as_deref().map(|file| Acked::append(file, &header)).transpose()?;
    let before = store.call(&Stat {})?;
    let run = Run {
        store,
        requests,
        options,
        payload: Payload::new(options.seed, options.block_size),
        progress: progress(requests.len(), "requests"),
        started: Instant::now(),
        next: AtomicUsize::new(0),
        unanswered: AtomicU32::new(0),
        stop: AtomicBool::new(false),
        why_stopped: OnceLock::new(),
        acked: Mutex::default(),
        acked_file,
    };
    let mut tally = Tally::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..options.workers.max(1)).map(|_| scope.spawn(|| worker::work(&run))).collect();
        for worker in workers {
            match worker.join() {
                Ok(seen) => tally.add(&seen),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    let wall = run.started.elapsed();
    run.progress.finish_and_clear();
    let acked = run.acked.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    // The count of evictions belongs to one life of the master: after a restart it begins anew.
    let after = store.call(&Stat {}).ok();
    let evictions = after.and_then(|after| after.evictions.checked_sub(before.evictions));
    let check = match options.verify_all && run.why_stopped.get().is_none() {
        true => Some(Check::run(store, &header, &acked)?),
        false => None,
    };
    Ok(Report {
        shape: Shape::of(requests),
        block_size: options.block_size as u64,
        speed: options.speed.to_string(),
        wall_s: wall.as_secs_f64(),
        requests_per_s: tally.requests as f64 / wall.as_secs_f64(),
        read_bytes_per_s: tally.read_bytes as f64 / wall.as_secs_f64(),
        written_bytes_per_s: tally.written_bytes as f64 / wall.as_secs_f64(),
        prefix_hit: if tally.blocks == 0 { 0.0 } else { tally.hits as f64 / tally.blocks as f64 },
        lookup: tally.lookup.percentiles(),
        get: tally.get.percentiles(),
        put: tally.put.percentiles(),
        evictions,
        acknowledged: acked.len() as u64,
        stopped: run.why_stopped.into_inner(),
        check,
        tally,
    })
}

/// A bar on a terminal, nothing elsewhere.
fn progress(len: usize, what: &'static str) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}  {per_sec}  {eta} left").unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(len as u64).with_style(style).with_message(what)
}

/// The percentiles of a kind of call as one line for people.
fn told(p: &Percentiles) -> [String; 4] {
    [Percentiles::show(p.p50_us), Percentiles::show(p.p99_us), Percentiles::show(p.p999_us), p.count.to_string()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_read_as_people_write_them() {
        assert_eq!(("1".parse(), "10x".parse(), "max".parse()), (Ok(Speed::Times(1.0)), Ok(Speed::Times(10.0)), Ok(Speed::Max)));
        for text in ["", "0", "-1x", "nan", "inf", "x", "fast"] {
            assert!(text.parse::<Speed>().is_err(), "{text}");
        }
    }
}
