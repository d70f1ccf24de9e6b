//! `perilune bench master`: what questions cost a master.

use super::{Scratch, tell, this_program};
use crate::failure::Failure;
use crate::settings::Global;
use crate::values::Span;
use perilune_benches::master;
use serde_json::json;

/// Questions to a master, in a process of its own, with a store node that lends no bytes
///
/// Tells keys a second and processor time for lookups, puts and removals, and the memory of the master for one object.
#[derive(clap::Args)]
pub(super) struct Master {
    /// Rounds to count; one more is run first and not counted
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    rounds: usize,
    /// Objects in the table while questions are asked
    #[arg(long, value_name = "COUNT", default_value_t = 200_000)]
    objects: usize,
    /// Keys a call, separated by commas
    #[arg(long, value_name = "COUNT", value_delimiter = ',', default_value = "1,128")]
    batches: Vec<usize>,
    /// So many watch all that happens meanwhile
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    watchers: usize,
    /// How long one measurement takes
    #[arg(long, value_name = "DURATION", default_value = "500ms")]
    time: Span,
}

impl Master {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        if self.rounds == 0 || self.time.0.is_zero() || !(1..=4_000_000).contains(&self.objects) {
            return Err(Failure::Usage("--rounds and --time must be more than 0, --objects between 1 and 4000000".into()));
        }
        if self.batches.is_empty() || self.batches.iter().any(|batch| !(1..=1024).contains(batch)) {
            return Err(Failure::Usage("--batches: each between 1 and 1024".into()));
        }
        let scratch = Scratch::new(None)?;
        let options = master::Options {
            program: this_program()?,
            rounds: self.rounds,
            objects: self.objects,
            batches: self.batches,
            time: self.time.0,
            watchers: self.watchers,
            dir: scratch.dir().into(),
        };
        let figures = master::run(&options).map_err(|e| Failure::Failed(e.to_string()))?;
        let beside = json!({ "origin": figures.origin, "pinned": figures.pinned, "memory": figures.memory, "watched": figures.watched });
        tell(global, &figures, &figures.figures, &beside)
    }
}
