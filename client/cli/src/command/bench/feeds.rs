//! `perilune bench feeds`: events delivered to sinks.

use super::{Scratch, tell, this_program};
use crate::failure::Failure;
use crate::settings::Global;
use crate::values::Span;
use perilune_benches::feeds;
use perilune_benches::vault::Place;
use serde_json::json;
use std::path::PathBuf;

/// Events a second that changefeeds deliver, and how late they are, beside the library of each kind of sink, used bare
///
/// Starts a master of this build on free ports of loopback. The sinks are none (blackhole), a directory, a bucket where one can be served, and a
/// listener of HTTP.
#[derive(clap::Args)]
pub(super) struct Feeds {
    /// Rounds to count; one more is run first and not counted
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    rounds: usize,
    /// Events that are in the log already, and delivered as fast as can be
    #[arg(long, value_name = "COUNT", default_value_t = 100_000)]
    events: usize,
    /// Events of each round that are delivered as they happen
    #[arg(long, value_name = "COUNT", default_value_t = 500)]
    watched: usize,
    /// Pause between two of those
    #[arg(long, value_name = "DURATION", default_value = "5ms")]
    pause: Span,
    /// Where the directory is made, and the data of the S3 server
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    dir: PathBuf,
    /// Measure with the S3 server of the tests as well: `scripts/s3d`, built with --release
    #[arg(long, value_name = "FILE")]
    s3d: Option<PathBuf>,
}

/// The log keeps no more for whoever comes late, unless it is told to.
const EVENTS_MAX: usize = 500_000;

impl Feeds {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        if self.rounds == 0 || self.watched == 0 || !(1..=EVENTS_MAX).contains(&self.events) {
            return Err(Failure::Usage(format!("--rounds and --watched must be more than 0, --events between 1 and {EVENTS_MAX}")));
        }
        let mut places = vec![Place::Directory(self.dir.clone())];
        places.extend(self.s3d.map(|program| Place::Served { program, below: self.dir }));
        let scratch = Scratch::new(None)?;
        let options = feeds::Options {
            program: this_program()?,
            rounds: self.rounds,
            events: self.events,
            watched: self.watched,
            pause: self.pause.0,
            places,
            dir: scratch.dir().into(),
        };
        let figures = feeds::run(&options).map_err(|e| Failure::Failed(e.to_string()))?;
        tell(global, &figures, &figures.figures, &json!({ "origin": figures.origin }))
    }
}
