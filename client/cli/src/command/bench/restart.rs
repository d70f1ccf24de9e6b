//! `perilune bench restart`: how a master with a long log starts.

use super::{Scratch, tell, this_program};
use crate::failure::Failure;
use crate::settings::Global;
use perilune_benches::restart;
use perilune_protocol::ByteSize;
use serde_json::json;
use std::path::PathBuf;

/// Starts of a master that keeps a long log of what happened, beside those of one that has none
///
/// Puts and removes objects, whose values are never written, until the master's files have so many bytes; then kills the master and starts it again,
/// round after round. Tells how long it takes until it serves, and its memory then.
#[derive(clap::Args)]
pub(super) struct Restart {
    /// Starts that are measured
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    rounds: usize,
    /// Bytes of the master's files
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    bytes: ByteSize,
    /// A directory on the disk that is meant
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    disk: PathBuf,
}

impl Restart {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        if self.rounds == 0 || self.bytes.0 == 0 {
            return Err(Failure::Usage("--rounds and --bytes must be more than 0".into()));
        }
        let scratch = Scratch::within(&self.disk)?;
        let (program, dir) = (this_program()?, scratch.dir().into());
        let options = restart::Options { program, rounds: self.rounds, bytes: self.bytes.0, dir };
        let figures = restart::run(&options).map_err(|e| Failure::Failed(e.to_string()))?;
        tell(global, &figures, &figures.figures, &json!({ "origin": figures.origin }))
    }
}
