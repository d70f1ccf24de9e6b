//! `perilune replay`: a KV-cache trace with real bytes, verified.

use super::client::ClientArgs;
use super::transports::TransportArgs;
use crate::failure::Failure;
use crate::output;
use crate::settings::Global;
use perilune_benches::replay::{self, Acked, Check, Options, Speed};
use perilune_benches::trace::{self, GENERATOR, Request};
use perilune_client::Store;
use perilune_protocol::ByteSize;
use std::path::PathBuf;

/// Replay a KV-cache trace with real bytes, every byte verified
///
/// For each request: look up the longest prefix of its blocks, read the blocks found, write the missing ones.
/// A trace is a file with one JSON object a line: {"timestamp": ms, "input_length": tokens, "output_length": tokens,
/// "hash_ids": [block, ...]}. Without a file, one of the same shape is generated from --seed.
/// The exit code is 1 when a byte was wrong, a call failed (a full store is counted, not a failure), or it stopped early.
#[derive(clap::Args)]
#[command(after_help = format!("The generated trace. {GENERATOR}"))]
pub(crate) struct Replay {
    /// The trace; without it, one is generated
    trace: Option<PathBuf>,
    /// How many requests to generate
    #[arg(long, value_name = "COUNT", default_value_t = 2000, conflicts_with = "trace")]
    generate: usize,
    /// Write the generated trace to this file instead of replaying it
    #[arg(long, value_name = "FILE", conflicts_with = "trace")]
    write_trace: Option<PathBuf>,
    /// Decides the bytes of the blocks, and the generated trace
    #[arg(long, value_name = "NUMBER", default_value_t = 7)]
    seed: u64,
    /// Bytes of a block
    #[arg(long, value_name = "SIZE", default_value = "64KiB")]
    block_size: ByteSize,
    /// How fast time passes: 1 as in the trace, 10x, or max
    #[arg(long, value_name = "SPEED", default_value = "max")]
    speed: Speed,
    /// Stop after so many requests; 0 means all
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    limit_requests: usize,
    /// Requests in flight at most
    #[arg(long, value_name = "COUNT", default_value_t = 4)]
    workers: usize,
    /// What keys begin with: the key of a block is PREFIX/ID
    #[arg(long, value_name = "PREFIX", default_value = "replay")]
    prefix: String,
    /// After the run, read back and verify every block that was acknowledged
    #[arg(long)]
    verify_all: bool,
    /// Append every acknowledged block to this file, for a later --check
    #[arg(long, value_name = "FILE")]
    acked: Option<PathBuf>,
    /// Replay nothing: read back and verify every block noted in this file of an earlier --acked
    #[arg(long, value_name = "FILE", conflicts_with_all = ["trace", "acked", "verify_all", "write_trace"])]
    check: Option<PathBuf>,
    /// Fail when an acknowledged block is gone, evicted or not
    #[arg(long)]
    expect_all: bool,
    #[command(flatten)]
    transports: TransportArgs,
    #[command(flatten)]
    client: ClientArgs,
}

/// The largest block: a call must fit into memory.
const BLOCK_BYTES_MAX: u64 = 1 << 30;
const WORKERS_MAX: usize = 1024;

impl Replay {
    pub(crate) fn run(self, global: &Global) -> Result<(), Failure> {
        if let Some(file) = &self.check {
            let (header, ids) = Acked::read(file).map_err(|e| Failure::Failed(e.to_string()))?;
            let check = Check::run(&self.transports.connect(&self.client)?, &header, &ids)?;
            if global.json {
                output::json(&check)?
            } else {
                output::bytes(check.to_string().as_bytes())?
            }
            return self.verdict(check.is_clean(), Some(&check));
        }
        let options = self.options()?;
        let requests = self.requests()?;
        if let Some(file) = &self.write_trace {
            trace::write(file, &requests).map_err(|e| Failure::Failed(e.to_string()))?;
            let shape = trace::Shape::of(&requests);
            return if global.json {
                output::json(&shape)
            } else {
                output::line(format_args!(
                    "{}: {} requests over {:.0} s, {:.1} blocks each, {:.1} % of the blocks occur once, best prefix hit {:.1} %",
                    file.display(),
                    shape.requests,
                    shape.seconds,
                    shape.blocks_per_request,
                    shape.seen_once * 100.0,
                    shape.best_hit * 100.0
                ))
            };
        }
        let store: Store = self.transports.connect(&self.client)?;
        let report = replay::run(&store, &requests, &options).map_err(|e| Failure::Failed(e.to_string()))?;
        if global.json {
            output::json(&report)?
        } else {
            output::bytes(report.to_string().as_bytes())?
        }
        self.verdict(report.is_clean(), report.check.as_ref())
    }

    fn verdict(&self, clean: bool, check: Option<&Check>) -> Result<(), Failure> {
        let all_there = !self.expect_all || check.is_none_or(|c| c.missing == 0);
        if clean && all_there { Ok(()) } else { Err(Failure::Said) }
    }

    fn options(&self) -> Result<Options, Failure> {
        if !(1..=BLOCK_BYTES_MAX).contains(&self.block_size.0) {
            return Err(Failure::Usage(format!("--block-size {}: a block has 1 byte to {}", self.block_size, ByteSize(BLOCK_BYTES_MAX))));
        }
        if !(1..=WORKERS_MAX).contains(&self.workers) {
            return Err(Failure::Usage(format!("--workers {}: between 1 and {WORKERS_MAX}", self.workers)));
        }
        Ok(Options {
            prefix: self.prefix.clone(),
            block_size: usize::try_from(self.block_size.0).unwrap_or(usize::MAX),
            speed: self.speed,
            workers: self.workers,
            seed: self.seed,
            verify_all: self.verify_all,
            acked: self.acked.clone(),
        })
    }

    fn requests(&self) -> Result<Vec<Request>, Failure> {
        let limit = if self.limit_requests == 0 { usize::MAX } else { self.limit_requests };
        match &self.trace {
            Some(file) => trace::read(file, limit).map_err(|e| Failure::Failed(e.to_string())),
            None if self.generate == 0 => Err(Failure::Usage("--generate 0: at least one request".into())),
            None => Ok(trace::generate(self.generate.min(limit), self.seed)),
        }
    }
}
