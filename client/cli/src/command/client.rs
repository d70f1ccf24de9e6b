//! What every command that talks to a master takes.

use crate::failure::Failure;
use crate::values::Span;
use perilune_client::{Store, StoreConfig};

/// Which cluster, as whom, and how patiently.
#[derive(clap::Args)]
pub(crate) struct ClientArgs {
    /// The masters, separated by commas
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', default_value = "127.0.0.1:50051")]
    pub(crate) master: Vec<String>,
    /// Whose keys
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub(crate) tenant: String,
    /// How long one operation may take, retries included
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    pub(crate) deadline: Span,
}

impl ClientArgs {
    pub(crate) fn config(&self) -> StoreConfig {
        StoreConfig {
            masters: self.master.clone(),
            tenant: self.tenant.clone(),
            deadline: self.deadline.0,
            agent: format!("perilune/{}", env!("CARGO_PKG_VERSION")),
            ..StoreConfig::default()
        }
    }

    pub(crate) fn connect(&self) -> Result<Store, Failure> {
        Ok(Store::connect(self.config())?)
    }
}
