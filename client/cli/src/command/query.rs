//! `perilune query`: where the bytes of an object are.

use super::client::ClientArgs;
use crate::failure::Failure;
use crate::output;
use crate::settings::Global;
use perilune_benches::report::Table;
use perilune_protocol::rpc::cold::{Saved, SavedCopy};
use perilune_protocol::rpc::object::Locate;
use perilune_protocol::rpc::segment::Describe;
use perilune_protocol::{ByteSize, FaultCode, ObjectKey};
use serde_json::{Value, json};

/// Show where the copies of an object are
///
/// Like any lookup this grants a lease, so the object is not evicted in the next seconds.
#[derive(clap::Args)]
pub(crate) struct Query {
    /// The key
    key: String,
    #[command(flatten)]
    client: ClientArgs,
}

impl Query {
    pub(crate) fn run(self, global: &Global) -> Result<(), Failure> {
        let store = self.client.connect()?;
        let mut places = store.call(&Locate { keys: vec![ObjectKey::from(self.key.as_str())] })?;
        let place = places.pop().ok_or_else(|| Failure::Failed("the master answered nothing about the key".into()))??;
        let saved = match store.call(&Saved { keys: vec![ObjectKey::from(self.key.as_str())] }) {
            // Masters of earlier releases do not tell.
            Err(fault) if fault.code == FaultCode::NotSupported => None,
            saved => saved?.pop().flatten(),
        };
        let segments = store.call(&Describe { segments: place.replicas.iter().map(|r| r.segment).collect() })?;

        let mut table = Table::new(["segment", "offset", "length", "segment id", "endpoint"]).left(0).left(3).left(4);
        let mut replicas: Vec<Value> = Vec::new();
        for (replica, segment) in place.replicas.iter().zip(&segments) {
            // A segment may be unmounted between the two questions.
            let (name, endpoint) = segment.as_ref().map_or(("(gone)", ""), |s| (s.name.as_str(), s.tcp_endpoint()));
            for extent in &replica.extents {
                let id = replica.segment.to_string();
                table.row([name.to_owned(), extent.offset.to_string(), extent.len.to_string(), id, endpoint.to_owned()]);
            }
            let extents: Vec<Value> = replica.extents.iter().map(|e| json!({ "offset": e.offset, "length": e.len })).collect();
            replicas.push(json!({ "segment_id": replica.segment, "segment": name, "endpoint": endpoint, "extents": extents }));
        }
        if global.json {
            return output::json(&json!({
                "key": self.key, "size": place.size, "version": place.version.0, "checksum": format!("{:016x}", place.checksum),
                "lease_ms": place.lease_ms, "replicas": replicas, "vault": saved,
            }));
        }
        output::line(format_args!(
            "{}: {}, checksum {:016x}, version {}, leased for {} ms",
            self.key,
            ByteSize(place.size),
            place.checksum,
            place.version.0,
            place.lease_ms
        ))?;
        if let Some(SavedCopy { vault, vault_name, name, stored }) = saved {
            output::line(format_args!("in vault {vault} {vault_name:?}: {}, stored as {name}", ByteSize(stored)))?;
        }
        if place.replicas.is_empty() {
            return output::line(format_args!("not in memory: whoever reads it has it fetched"));
        }
        output::bytes(table.to_string().as_bytes())
    }
}
