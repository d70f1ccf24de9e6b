//! `perilune bench alloc`: what room in a segment costs.

use super::{sizes, tell};
use crate::failure::Failure;
use crate::settings::Global;
use crate::values::Span;
use perilune_benches::alloc;
use perilune_protocol::ByteSize;
use serde_json::json;

/// Taking and giving back room in a segment, and how much of a full segment is live
///
/// Runs in this process, without bytes behind the space. Beside the sizes given, random ones are measured.
#[derive(clap::Args)]
pub(super) struct Alloc {
    /// Rounds
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    rounds: usize,
    /// Bytes of the segment
    #[arg(long, value_name = "SIZE", default_value = "8GiB")]
    space: ByteSize,
    /// Sizes of values, separated by commas
    #[arg(long, value_name = "SIZE", value_delimiter = ',', default_value = "4KiB,64KiB,1MiB")]
    sizes: Vec<ByteSize>,
    /// Threads that share the space, separated by commas
    #[arg(long, value_name = "COUNT", value_delimiter = ',', default_value = "1,2")]
    threads: Vec<usize>,
    /// How long one measurement takes
    #[arg(long, value_name = "DURATION", default_value = "500ms")]
    time: Span,
}

impl Alloc {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let sizes = sizes(&self.sizes, 4 << 20)?;
        if self.rounds == 0 || self.time.0.is_zero() || self.threads.is_empty() || self.threads.iter().any(|n| !(1..=64).contains(n)) {
            return Err(Failure::Usage("--rounds and --time must be more than 0, --threads each between 1 and 64".into()));
        }
        if !(64 << 20..=64 << 30).contains(&self.space.0) {
            return Err(Failure::Usage("--space: between 64MiB and 64GiB".into()));
        }
        let sizes = sizes.into_iter().map(|size| size as u64).collect();
        let options = alloc::Options { rounds: self.rounds, space: self.space.0, sizes, threads: self.threads, time: self.time.0 };
        let figures = alloc::run(&options).map_err(|e| Failure::Failed(e.to_string()))?;
        tell(global, &figures, &figures.figures, &json!({ "origin": figures.origin, "space": figures.space }))
    }
}
