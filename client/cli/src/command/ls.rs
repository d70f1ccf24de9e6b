//! `perilune ls`: lists keys.

use super::client::ClientArgs;
use crate::failure::Failure;
use crate::output;
use crate::settings::Global;
use perilune_benches::report::Table;
use perilune_protocol::ByteSize;
use perilune_protocol::rpc::object::ListKeys;
use serde_json::json;

/// List keys and the sizes of their values
#[derive(clap::Args)]
pub(crate) struct Ls {
    /// A regular expression searched for in the key
    #[arg(default_value = "", hide_default_value = true)]
    pattern: String,
    /// Stop after so many keys; 0 means the master's own limit
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    pub(crate) limit: u64,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

impl Ls {
    pub(crate) fn run(self, global: &Global) -> Result<(), Failure> {
        let mut list = self.client.connect()?.call(&ListKeys { pattern: self.pattern, limit: self.limit })?;
        list.keys.sort();
        if global.json {
            for (key, size) in &list.keys {
                output::json(&json!({ "key": key.to_string(), "size": size }))?;
            }
        } else {
            let mut table = Table::new(["size", ""]);
            list.keys.iter().for_each(|(key, size)| table.row([ByteSize(*size).to_string(), key.to_string()]));
            output::bytes(table.to_string().as_bytes())?;
        }
        if list.more {
            eprintln!("perilune: there are more; these are {}, in no particular choice: raise --limit", list.keys.len());
        }
        Ok(())
    }
}
