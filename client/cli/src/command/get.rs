//! `perilune get`: reads a value.

use super::client::ClientArgs;
use super::transports::TransportArgs;
use crate::failure::Failure;
use crate::output;
use crate::settings::Global;
use perilune_protocol::{ByteSize, ObjectKey};
use serde_json::json;
use std::path::PathBuf;

/// Read the value of a key, to the standard output unless -o is given
#[derive(clap::Args)]
pub(crate) struct Get {
    /// The key
    key: String,
    /// Write the value to this file
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    transports: TransportArgs,
    #[command(flatten)]
    client: ClientArgs,
}

impl Get {
    pub(crate) fn run(self, global: &Global) -> Result<(), Failure> {
        let value = self.transports.connect(&self.client)?.get(&ObjectKey::from(self.key.as_str()))?;
        let Some(file) = self.output else { return output::bytes(&value) };
        std::fs::write(&file, &value).map_err(|e| Failure::of(format_args!("writing {}", file.display()), e))?;
        if global.json {
            return output::json(&json!({ "key": self.key, "size": value.len(), "file": file.display().to_string() }));
        }
        output::line(format_args!("{} ({}) is in {}", self.key, ByteSize(value.len() as u64), file.display()))
    }
}
