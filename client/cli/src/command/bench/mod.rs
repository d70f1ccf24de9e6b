//! `perilune bench`: measures this build, as a whole and part by part.

mod alloc;
mod commits;
mod feeds;
mod master;
mod outage;
mod restart;
mod store;
mod transfer;
mod vault;

use crate::failure::Failure;
use crate::output;
use crate::settings::Global;
use perilune_benches::rivals;
use perilune_protocol::ByteSize;
use serde::Serialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Measure this build, as a whole beside rivals, and part by part
#[derive(clap::Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    Store(store::Store),
    Transfer(transfer::Transfer),
    Master(master::Master),
    Alloc(alloc::Alloc),
    Outage(outage::Outage),
    Restart(restart::Restart),
    Commits(commits::Commits),
    Vault(vault::Vault),
    Feeds(feeds::Feeds),
    /// Answer questions of a plain socket: the other side of the physical floor
    #[command(hide = true)]
    AnswerRaw,
    #[command(hide = true)]
    TransferPeer(transfer::Peer),
    #[command(hide = true)]
    TransferRdmaPeer(transfer::RdmaPeer),
    #[command(hide = true)]
    TransferRdmaAsk(transfer::RdmaAsk),
}

impl Bench {
    pub(crate) fn run(self, global: &Global) -> Result<(), Failure> {
        match self.what {
            What::Store(c) => c.run(global),
            What::Transfer(c) => c.run(global),
            What::Master(c) => c.run(global),
            What::Alloc(c) => c.run(global),
            What::Outage(c) => c.run(global),
            What::Restart(c) => c.run(global),
            What::Commits(c) => c.run(global),
            What::Vault(c) => c.run(global),
            What::Feeds(c) => c.run(global),
            What::AnswerRaw => {
                let tell = |port| output::line(port).map_err(|_| std::io::Error::other("nobody reads the port"));
                rivals::answer_raw(tell).map_err(|e| Failure::of("answering", e))
            }
            What::TransferPeer(c) => c.run(),
            What::TransferRdmaPeer(c) => c.run(),
            What::TransferRdmaAsk(c) => c.run(),
        }
    }
}

/// Prints figures as a table, or each as a line of JSON with what `beside` says of all of them.
fn tell(global: &Global, table: &impl std::fmt::Display, figures: &[impl Serialize], beside: &Value) -> Result<(), Failure> {
    if !global.json {
        return output::bytes(table.to_string().as_bytes());
    }
    figures.iter().try_for_each(|figure| {
        let mut line = json!(figure);
        for (name, value) in beside.as_object().into_iter().flatten() {
            line[name] = value.clone();
        }
        output::json(&line)
    })
}

fn this_program() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|e| Failure::of("finding this program", e))
}

/// Where `benches/peers/setup` put the rivals.
fn peers(given: Option<PathBuf>) -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/perilune/peers"));
    given.or_else(home).unwrap_or_default()
}

/// Sizes from 1 byte to `most`.
fn sizes(given: &[ByteSize], most: usize) -> Result<Vec<usize>, Failure> {
    let sizes: Vec<usize> = given.iter().filter_map(|size| usize::try_from(size.0).ok()).filter(|size| (1..=most).contains(size)).collect();
    if sizes.is_empty() || sizes.len() < given.len() {
        return Err(Failure::Usage(format!("--sizes: each between 1 byte and {}", ByteSize(most as u64))));
    }
    Ok(sizes)
}

/// A directory of our own, removed when it drops unless it is to be kept.
struct Scratch {
    dir: PathBuf,
    keep: bool,
}

impl Scratch {
    fn new(keep: Option<PathBuf>) -> Result<Self, Failure> {
        match keep {
            Some(dir) => Self::make(dir, true),
            None => Self::within(&std::env::temp_dir()),
        }
    }

    fn within(parent: &Path) -> Result<Self, Failure> {
        Self::make(parent.join(format!("perilune-bench-{}", std::process::id())), false)
    }

    fn make(dir: PathBuf, keep: bool) -> Result<Self, Failure> {
        std::fs::create_dir(&dir).map_err(|e| Failure::of(format_args!("making {}", dir.display()), e))?;
        Ok(Self { dir, keep })
    }

    fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}
