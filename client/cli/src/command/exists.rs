//! `perilune exists`: whether objects exist.

use super::client::ClientArgs;
use crate::failure::Failure;
use crate::output;
use crate::settings::Global;
use perilune_protocol::ObjectKey;
use serde_json::json;

/// Say whether objects exist; the exit code is 1 when any of them does not
#[derive(clap::Args)]
pub(crate) struct Exists {
    /// The keys
    #[arg(required = true)]
    key: Vec<String>,
    #[command(flatten)]
    client: ClientArgs,
}

impl Exists {
    pub(crate) fn run(self, global: &Global) -> Result<(), Failure> {
        let keys: Vec<ObjectKey> = self.key.iter().map(|k| ObjectKey::from(k.as_str())).collect();
        let found = self.client.connect()?.exists(&keys)?;
        for (key, exists) in self.key.iter().zip(&found) {
            if global.json {
                output::json(&json!({ "key": key, "exists": exists }))?;
            } else {
                output::line(format_args!("{} {key}", if *exists { "yes" } else { "no " }))?;
            }
        }
        if found.iter().all(|exists| *exists) { Ok(()) } else { Err(Failure::Said) }
    }
}
