//! `perilune segments`: the memory that is lent.

use super::client::ClientArgs;
use crate::failure::Failure;
use crate::output;
use crate::settings::Global;
use perilune_benches::report::Table;
use perilune_protocol::ByteSize;
use perilune_protocol::rpc::segment::ListSegments;
use serde_json::json;

/// List the segments and how full they are
#[derive(clap::Args)]
pub(crate) struct Segments {
    #[command(flatten)]
    client: ClientArgs,
}

impl Segments {
    pub(crate) fn run(self, global: &Global) -> Result<(), Failure> {
        let segments = self.client.connect()?.call(&ListSegments {})?;
        let mut table =
            Table::new(["segment", "status", "size", "used", "protocol", "endpoint", "segment id"]).left(0).left(1).left(4).left(5).left(6);
        for state in &segments {
            let desc = &state.desc;
            if global.json {
                output::json(&json!({
                    "segment_id": desc.id, "name": desc.name, "node": desc.node, "status": state.status.as_str(), "size": desc.size,
                    "used": state.used, "protocol": desc.protocol.as_str(), "location": desc.location, "endpoint": desc.tcp_endpoint(),
                }))?;
            }
            table.row([
                desc.name.clone(),
                state.status.as_str().to_owned(),
                ByteSize(desc.size).to_string(),
                ByteSize(state.used).to_string(),
                desc.protocol.to_string(),
                desc.tcp_endpoint().to_owned(),
                desc.id.to_string(),
            ]);
        }
        if global.json { Ok(()) } else { output::bytes(table.to_string().as_bytes()) }
    }
}
