//! `perilune status`: what this build and this machine can do.

use crate::failure::Failure;
use crate::output;
use crate::settings::Global;
use perilune_client::Transports;

/// Show what this build can move bytes with on this machine, and its RDMA devices or why there are none
///
/// Asks no master; `perilune stat` shows the cluster. A running store node tells its own at /transports.
#[derive(clap::Args)]
pub(crate) struct Status {}

impl Status {
    pub(crate) fn run(self, global: &Global) -> Result<(), Failure> {
        let here = Transports::here();
        if global.json { output::json(&here) } else { output::line(&here) }
    }
}
