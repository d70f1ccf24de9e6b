//! `perilune bench outage`: kills and stops under load.

use super::{Scratch, tell, this_program};
use crate::failure::Failure;
use crate::settings::Global;
use crate::values::Span;
use perilune_benches::outage::{self, Fault};
use perilune_protocol::ByteSize;
use serde_json::json;
use std::path::PathBuf;

/// Masters and store nodes that are killed, stopped and restarted under load, and every acknowledged value checked
///
/// Starts a group of masters and store nodes of this build on free ports of loopback. Each round does one fault, and tells how long it took
/// until a lookup and a put were answered. Writers replace values and readers check them meanwhile; in the end every object is read. Fails
/// when a call failed, or when anything acknowledged is missing or wrong.
#[derive(clap::Args)]
pub(super) struct Outage {
    /// Faults in all
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    rounds: usize,
    /// Which faults, in turn: kill-leader, stop-leader, restart, kill-node, stop-node
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "kill-leader,stop-leader,kill-node,stop-node,restart")]
    faults: Vec<Fault>,
    /// Objects that are put first, and replaced again and again
    #[arg(long, value_name = "COUNT", default_value_t = 100_000)]
    objects: usize,
    /// Bytes of a value
    #[arg(long, value_name = "SIZE", default_value = "4KiB")]
    size: ByteSize,
    /// Masters: 1, 3 or 5
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    masters: usize,
    /// Store nodes; each object has two copies where there are two, and all of them always where there are three
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    nodes: usize,
    /// Threads that put, and as many that get
    #[arg(long, value_name = "COUNT", default_value_t = 2)]
    workers: usize,
    /// Pause of each of them after a call
    #[arg(long, value_name = "DURATION", default_value = "2ms")]
    pause: Span,
    /// How long one call may take, repetitions included
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    deadline: Span,
    /// Chooses what is replaced and read
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Keep data and logs in this directory, which must not exist
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

impl Outage {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let size = usize::try_from(self.size.0).ok().filter(|size| (16..=1 << 20).contains(size));
        let size = size.ok_or_else(|| Failure::Usage("--size: between 16 bytes and 1MiB".into()))?;
        if self.rounds == 0 || self.objects == 0 || self.nodes == 0 || self.workers == 0 || self.faults.is_empty() {
            return Err(Failure::Usage(
                "--rounds, --objects, --nodes and --workers must be more than 0, --faults name at least one".into(),
            ));
        }
        if ![1, 3, 5].contains(&self.masters) {
            return Err(Failure::Usage(format!("--masters {}: a group has 1, 3 or 5", self.masters)));
        }
        if self.masters == 1 && self.faults.contains(&Fault::StopLeader) {
            return Err(Failure::Usage("--faults stop-leader: nobody could take the lead of a master that is alone".into()));
        }
        let scratch = Scratch::new(self.keep)?;
        let options = outage::Options {
            program: this_program()?,
            rounds: self.rounds,
            faults: self.faults,
            objects: self.objects,
            size,
            masters: self.masters,
            nodes: self.nodes,
            workers: self.workers,
            pause: self.pause.0,
            deadline: self.deadline.0,
            seed: self.seed,
            dir: scratch.dir().into(),
        };
        let figures = outage::run(&options).map_err(|e| Failure::Failed(e.to_string()))?;
        tell(global, &figures, std::slice::from_ref(&figures), &json!({}))?;
        if figures.is_clean() {
            Ok(())
        } else {
            Err(Failure::Failed("calls failed, or something acknowledged was missing or wrong".into()))
        }
    }
}
