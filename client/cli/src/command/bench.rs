//! `perilune bench`: measures this build beside rivals and the physical floor.

use crate::failure::Failure;
use crate::output;
use crate::settings::Global;
use crate::values::Span;
use perilune_benches::{rivals, store};
use perilune_protocol::ByteSize;
use serde_json::json;
use std::path::PathBuf;

/// Measure this build beside rivals and the physical floor
#[derive(clap::Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    Store(Store),
    /// Answer questions of a plain socket: the other side of the physical floor
    #[command(hide = true)]
    AnswerRaw,
}

/// Put and get, over TCP and shared memory, beside Redis, memcached and Mooncake
///
/// Starts everything itself, on private ports of loopback: a master and a store node of this build, redis-server and
/// memcached where they are installed, Mooncake's wheel where `benches/peers/setup` was run. Needs about 20 GiB of memory
/// for all of them; fewer --sizes need less.
#[derive(clap::Args)]
struct Store {
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
    /// Where `benches/peers/setup` put its rivals; ~/.cache/perilune/peers when not given
    #[arg(long, value_name = "DIR")]
    peers: Option<PathBuf>,
    /// Keep data and logs in this directory, which must not exist
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

impl Bench {
    pub(crate) fn run(self, global: &Global) -> Result<(), Failure> {
        match self.what {
            What::Store(c) => c.run(global),
            What::AnswerRaw => {
                let tell = |port| output::line(port).map_err(|_| std::io::Error::other("nobody reads the port"));
                rivals::answer_raw(tell).map_err(|e| Failure::of("answering", e))
            }
        }
    }
}

/// Removes a directory of our own when it drops.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Store {
    fn run(self, global: &Global) -> Result<(), Failure> {
        let sizes: Vec<usize> = self.sizes.iter().filter_map(|s| usize::try_from(s.0).ok()).collect();
        if sizes.is_empty() || sizes.iter().any(|size| !(1..=64 << 20).contains(size)) {
            return Err(Failure::Usage("--sizes: each between 1 byte and 64MiB".into()));
        }
        if self.rounds == 0 || !(1..=1024).contains(&self.batch) || self.time.0.is_zero() {
            return Err(Failure::Usage("--rounds and --time must be more than 0, --batch between 1 and 1024".into()));
        }
        let program = std::env::current_exe().map_err(|e| Failure::of("finding this program", e))?;
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/perilune/peers"));
        let dir = self.keep.clone().unwrap_or_else(|| std::env::temp_dir().join(format!("perilune-bench-{}", std::process::id())));
        std::fs::create_dir(&dir).map_err(|e| Failure::of(format_args!("making {}", dir.display()), e))?;
        let scratch = self.keep.is_none().then(|| Scratch(dir.clone()));
        let options = store::Options {
            program,
            rounds: self.rounds,
            sizes,
            batch: self.batch,
            time: self.time.0,
            only: self.only,
            peers: self.peers.or_else(home).unwrap_or_default(),
            dir,
        };
        let figures = store::run(&options).map_err(|e| Failure::Failed(e.to_string()))?;
        drop(scratch);
        if !global.json {
            return output::bytes(figures.to_string().as_bytes());
        }
        for figure in &figures.figures {
            let mut line = json!(figure);
            line["origin"] = json!(figures.origin);
            line["pinned"] = json!(figures.pinned);
            output::json(&line)?;
        }
        figures.skipped.iter().for_each(|who| eprintln!("perilune: skipped {who}"));
        Ok(())
    }
}
