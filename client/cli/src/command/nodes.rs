//! `perilune nodes`: the store nodes.

use super::client::ClientArgs;
use crate::failure::Failure;
use crate::output;
use crate::settings::Global;
use perilune_benches::report::Table;
use perilune_protocol::rpc::cluster::ListNodes;

/// List the store nodes and when they were last heard
#[derive(clap::Args)]
pub(crate) struct Nodes {
    #[command(flatten)]
    client: ClientArgs,
}

impl Nodes {
    pub(crate) fn run(self, global: &Global) -> Result<(), Failure> {
        let nodes = self.client.connect()?.call(&ListNodes {})?;
        let mut table = Table::new(["node", "status", "silent", "segments", "rest", "node id"]).left(0).left(1).left(4).left(5);
        for node in &nodes {
            if global.json {
                output::json(node)?;
            }
            table.row([
                node.name.clone(),
                node.status.clone(),
                format!("{} ms", node.silent_ms),
                node.segments.to_string(),
                node.rest.clone(),
                node.node.to_string(),
            ]);
        }
        if global.json { Ok(()) } else { output::bytes(table.to_string().as_bytes()) }
    }
}
