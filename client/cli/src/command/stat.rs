//! `perilune stat`: the totals of the cluster.

use super::client::ClientArgs;
use crate::failure::Failure;
use crate::output;
use crate::settings::Global;
use perilune_benches::report::Table;
use perilune_protocol::ByteSize;

/// Show the totals of the cluster
#[derive(clap::Args)]
pub(crate) struct Stat {
    #[command(flatten)]
    client: ClientArgs,
}

impl Stat {
    pub(crate) fn run(self, global: &Global) -> Result<(), Failure> {
        let stat = self.client.connect()?.call(&perilune_protocol::rpc::cluster::Stat {})?;
        if global.json {
            return output::json(&stat);
        }
        let percent = if stat.capacity == 0 { 0.0 } else { stat.used as f64 * 100.0 / stat.capacity as f64 };
        let mut table = Table::new(["", ""]).left(0);
        for (name, value) in [
            ("cluster", stat.cluster),
            ("release", stat.release),
            ("objects", stat.objects.to_string()),
            ("puts in progress", stat.puts.to_string()),
            ("store nodes", stat.nodes.to_string()),
            ("segments", stat.segments.to_string()),
            ("memory", format!("{} of {} used ({percent:.1} %)", ByteSize(stat.used), ByteSize(stat.capacity))),
            ("evictions", format!("{} since the master started", stat.evictions)),
            ("log", format!("{} entries applied", stat.applied)),
            ("up", format!("{} s", stat.uptime_s)),
        ] {
            table.row([name.to_owned(), value]);
        }
        output::bytes(table.to_string().as_bytes())
    }
}
