//! `perilune bench store`: put and get beside rivals and the physical floor.

use super::{Scratch, peers, sizes, tell, this_program};
use crate::failure::Failure;
use crate::settings::Global;
use crate::values::Span;
use perilune_benches::store;
use perilune_client::Transports;
use perilune_protocol::{ByteSize, Protocol};
use serde_json::json;
use std::path::PathBuf;

/// Put and get, by each transport alone, beside Redis, memcached and Mooncake
///
/// Starts everything itself, on private ports of loopback: a master and a store node of this build, redis-server and
/// memcached where they are installed, Mooncake's wheel where `benches/peers/setup` was run. Needs about 20 GiB of memory
/// for all of them; fewer --sizes need less.
#[derive(clap::Args)]
pub(super) struct Store {
    /// Rounds to count; one more is run first and not counted
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    rounds: usize,
    /// Sizes of values, separated by commas
    #[arg(long, value_name = "SIZE", value_delimiter = ',', default_value = "4KiB,64KiB,1MiB,4MiB")]
    sizes: Vec<ByteSize>,
    /// Values per call of the batch cases
    #[arg(long, value_name = "COUNT", default_value_t = 32)]
    batch: usize,
    /// How long one measurement takes
    #[arg(long, value_name = "DURATION", default_value = "500ms")]
    time: Span,
    /// Only those whose name contains one of these, such as `perilune,redis`
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// By which transports this build is measured, each alone: shm, rdma, tcp; all that this machine has, unless given
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    transports: Vec<Protocol>,
    /// Where `benches/peers/setup` put its rivals; ~/.cache/perilune/peers when not given
    #[arg(long, value_name = "DIR")]
    peers: Option<PathBuf>,
    /// Keep data and logs in this directory, which must not exist
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

impl Store {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let sizes = sizes(&self.sizes, 64 << 20)?;
        if self.rounds == 0 || !(1..=1024).contains(&self.batch) || self.time.0.is_zero() {
            return Err(Failure::Usage("--rounds and --time must be more than 0, --batch between 1 and 1024".into()));
        }
        let transports = if self.transports.is_empty() { Transports::here().transports } else { self.transports };
        let scratch = Scratch::new(self.keep)?;
        let options = store::Options {
            program: this_program()?,
            rounds: self.rounds,
            sizes,
            batch: self.batch,
            time: self.time.0,
            only: self.only,
            transports,
            peers: peers(self.peers),
            dir: scratch.dir().into(),
        };
        let figures = store::run(&options).map_err(|e| Failure::Failed(e.to_string()))?;
        drop(scratch);
        tell(global, &figures, &figures.figures, &json!({ "origin": figures.origin, "pinned": figures.pinned }))?;
        if global.json {
            figures.skipped.iter().for_each(|who| eprintln!("perilune: skipped {who}"));
        }
        Ok(())
    }
}
