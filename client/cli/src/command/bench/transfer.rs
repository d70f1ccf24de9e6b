//! `perilune bench transfer`: the transfer engine alone, beside a plain copy and a plain socket.

use super::{Scratch, sizes, tell, this_program};
use crate::failure::Failure;
use crate::output;
use crate::settings::Global;
use crate::values::Span;
use perilune_benches::transfer;
use perilune_protocol::ByteSize;
use serde_json::json;
use std::path::PathBuf;

/// Read and write of the transfer engine, over TCP and shared memory, beside a plain copy and a plain socket
///
/// The other sides are processes of this program. Each size is moved with one job a call and with several; one case more moves 128 pieces
/// of 4 KiB as one job. Every measurement ends with bytes that are written, read back and compared.
#[derive(clap::Args)]
pub(super) struct Transfer {
    /// Rounds to count; one more is run first and not counted
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    rounds: usize,
    /// Bytes of a job, separated by commas
    #[arg(long, value_name = "SIZE", value_delimiter = ',', default_value = "4KiB,64KiB,1MiB,4MiB")]
    sizes: Vec<ByteSize>,
    /// Jobs of a call in the cases with several
    #[arg(long, value_name = "COUNT", default_value_t = 16)]
    in_flight: usize,
    /// How long one measurement takes
    #[arg(long, value_name = "DURATION", default_value = "500ms")]
    time: Span,
}

/// Lend memory until the standard input closes: the other side of `perilune bench transfer`
#[derive(clap::Args)]
pub(super) struct Peer {
    /// Where the socket goes
    dir: PathBuf,
}

impl Transfer {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let sizes = sizes(&self.sizes, 64 << 20)?;
        if self.rounds == 0 || self.in_flight == 0 || self.time.0.is_zero() {
            return Err(Failure::Usage("--rounds, --in-flight and --time must be more than 0".into()));
        }
        if sizes.iter().any(|size| size.saturating_mul(self.in_flight) as u64 > transfer::LENT) {
            let lent = ByteSize(transfer::LENT);
            return Err(Failure::Usage(format!("--sizes and --in-flight: a call moves at most {lent}, take less of one of them")));
        }
        let scratch = Scratch::new(None)?;
        let options = transfer::Options {
            program: this_program()?,
            rounds: self.rounds,
            sizes,
            in_flight: self.in_flight,
            time: self.time.0,
            dir: scratch.dir().into(),
        };
        let figures = transfer::run(&options).map_err(|e| Failure::Failed(e.to_string()))?;
        tell(global, &figures, &figures.figures, &json!({ "origin": figures.origin, "pinned": figures.pinned }))
    }
}

impl Peer {
    pub(super) fn run(self) -> Result<(), Failure> {
        let lending = |desc: &_| output::json(desc).map_err(|_| "nobody reads the segment".into());
        transfer::serve(&self.dir, lending, std::io::stdin()).map_err(|e| Failure::Failed(e.to_string()))
    }
}
