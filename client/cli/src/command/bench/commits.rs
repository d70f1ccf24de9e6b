//! `perilune bench commits`: what masters acknowledge, beside etcd.

use super::{Scratch, tell, this_program};
use crate::failure::Failure;
use crate::settings::Global;
use crate::values::Span;
use perilune_benches::commits;
use serde_json::json;
use std::path::PathBuf;

/// Objects acknowledged a second by one and three masters, at each durability, beside etcd
///
/// Starts everything itself on free ports of loopback. etcd comes from Debian's etcd-server; without it only this build is measured.
#[derive(clap::Args)]
pub(super) struct Commits {
    /// Rounds to count; one more is run first and not counted
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    rounds: usize,
    /// How many masters, separated by commas
    #[arg(long, value_name = "COUNT", value_delimiter = ',', default_value = "1,3")]
    members: Vec<usize>,
    /// Objects a call, separated by commas
    #[arg(long, value_name = "COUNT", value_delimiter = ',', default_value = "1,32")]
    batches: Vec<usize>,
    /// Calls under way at a time, each on a connection of its own
    #[arg(long, value_name = "COUNT", default_value_t = 16)]
    askers: usize,
    /// How long one measurement takes
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    time: Span,
    /// A directory on a disk
    #[arg(long, value_name = "DIR", default_value = ".")]
    disk: PathBuf,
    /// A directory in memory
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    memory: PathBuf,
}

impl Commits {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let within = |given: &[usize], most| !given.is_empty() && given.iter().all(|n| (1..=most).contains(n));
        if self.rounds == 0 || self.time.0.is_zero() || !within(&[self.askers], 1024) {
            return Err(Failure::Usage("--rounds and --time must be more than 0, --askers between 1 and 1024".into()));
        }
        // etcd takes 128 operations in a transaction.
        if !within(&self.batches, 128) || !within(&self.members, 5) {
            return Err(Failure::Usage("--batches: each between 1 and 128; --members: each between 1 and 5".into()));
        }
        let (disk, memory) = (Scratch::within(&self.disk)?, Scratch::within(&self.memory)?);
        let options = commits::Options {
            program: this_program()?,
            rounds: self.rounds,
            members: self.members,
            batches: self.batches,
            askers: self.askers,
            time: self.time.0,
            disk: disk.dir().into(),
            memory: memory.dir().into(),
        };
        let figures = commits::run(&options).map_err(|e| Failure::Failed(e.to_string()))?;
        tell(global, &figures, &figures.figures, &json!({ "origin": figures.origin, "askers": figures.askers }))
    }
}
