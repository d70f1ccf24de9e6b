//! The commands: one file each, with its flags, its help and what it does.

mod bench;
mod client;
mod completions;
mod dev;
mod exists;
mod feeds;
mod get;
mod jobs;
mod ls;
mod man;
mod master;
mod members;
mod meta;
mod nodes;
mod offload;
mod pools;
mod put;
mod query;
mod replay;
mod rm;
mod segments;
mod stat;
mod status;
mod store;
mod tables;
mod tenants;
mod transports;
mod vaultfile;
mod vaults;
mod watch;

use crate::failure::Failure;
use crate::settings::Global;

/// What can be asked of the binary.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    Dev(dev::Dev),
    Master(master::Master),
    Store(store::Store),
    Put(put::Put),
    Get(get::Get),
    Rm(rm::Rm),
    Exists(exists::Exists),
    Ls(ls::Ls),
    Stat(stat::Stat),
    Status(status::Status),
    Query(query::Query),
    Segments(segments::Segments),
    Nodes(nodes::Nodes),
    Members(members::Members),
    Jobs(jobs::Jobs),
    Tenants(tenants::Tenants),
    Pools(pools::Pools),
    Tables(tables::Tables),
    Vaults(vaults::Vaults),
    Feeds(feeds::Feeds),
    Offload(offload::Offload),
    Watch(watch::Watch),
    Replay(Box<replay::Replay>),
    Bench(bench::Bench),
    Completions(completions::Completions),
    Man(man::Man),
}

impl Command {
    pub(crate) fn run(self, global: &Global) -> Result<(), Failure> {
        match self {
            Self::Dev(c) => c.run(global),
            Self::Master(c) => c.run(global),
            Self::Store(c) => c.run(global),
            Self::Put(c) => c.run(global),
            Self::Get(c) => c.run(global),
            Self::Rm(c) => c.run(global),
            Self::Exists(c) => c.run(global),
            Self::Ls(c) => c.run(global),
            Self::Stat(c) => c.run(global),
            Self::Status(c) => c.run(global),
            Self::Query(c) => c.run(global),
            Self::Segments(c) => c.run(global),
            Self::Nodes(c) => c.run(global),
            Self::Members(c) => c.run(global),
            Self::Jobs(c) => c.run(global),
            Self::Tenants(c) => c.run(global),
            Self::Pools(c) => c.run(global),
            Self::Tables(c) => c.run(global),
            Self::Vaults(c) => c.run(global),
            Self::Feeds(c) => c.run(global),
            Self::Offload(c) => c.run(global),
            Self::Watch(c) => c.run(global),
            Self::Replay(c) => c.run(global),
            Self::Bench(c) => c.run(global),
            Self::Completions(c) => c.run(),
            Self::Man(c) => c.run(),
        }
    }
}
