//! `perilune put`: stores a value.

use super::client::ClientArgs;
use super::transports::TransportArgs;
use crate::failure::Failure;
use crate::output;
use crate::settings::Global;
use clap::ValueEnum;
use perilune_protocol::{ByteSize, ObjectKey, Pin, PutConfig};
use serde_json::json;
use std::io::Read;
use std::path::PathBuf;

/// Store a value under a key
///
/// A key that exists keeps its value, unless --upsert is given; the command succeeds either way and says which.
#[derive(clap::Args)]
pub(crate) struct Put {
    /// The key: 1 to 4096 bytes
    key: String,
    /// The file that holds the value, or `-` for the standard input
    file: PathBuf,
    /// Copies to keep, each on a segment of its own
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    replicas: u8,
    /// Be content with fewer copies where there are not enough segments
    #[arg(long)]
    best_effort: bool,
    /// How strongly the object resists eviction
    #[arg(long, value_name = "STRENGTH", default_value = "none")]
    pin: PinArg,
    /// Replace the value of a key that exists
    #[arg(long)]
    upsert: bool,
    #[command(flatten)]
    transports: TransportArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum PinArg {
    /// Leaves when it is the oldest
    None,
    /// Leaves only when nothing unpinned is left
    Soft,
    /// Never evicted
    Hard,
}

impl Put {
    pub(crate) fn run(self, global: &Global) -> Result<(), Failure> {
        let mut value = Vec::new();
        if self.file.as_os_str() == "-" {
            std::io::stdin().lock().read_to_end(&mut value).map_err(|e| Failure::of("reading the standard input", e))?;
        } else {
            value = std::fs::read(&self.file).map_err(|e| Failure::of(format_args!("reading {}", self.file.display()), e))?;
        }
        let config = PutConfig {
            replicas: self.replicas,
            best_effort: self.best_effort,
            pin: match self.pin {
                PinArg::None => Pin::None,
                PinArg::Soft => Pin::Soft,
                PinArg::Hard => Pin::Hard,
            },
            upsert: self.upsert,
            ..PutConfig::default()
        };
        let key = ObjectKey::from(self.key.as_str());
        let stored = self.transports.connect(&self.client)?.put(&key, &value, &config)? == perilune_client::Put::Stored;
        if global.json {
            return output::json(&json!({ "key": self.key, "size": value.len(), "stored": stored }));
        }
        let size = ByteSize(value.len() as u64);
        output::line(if stored {
            format!("stored {} ({size})", self.key)
        } else {
            format!("{} exists already and keeps its value", self.key)
        })
    }
}
