//! What every command that talks to a master takes.

use crate::failure::Failure;
use crate::values::Span;
use perilune_client::{Store, StoreConfig, token};
use perilune_protocol::access::Token;
use std::path::{Path, PathBuf};

/// Which cluster, as whom, and how patiently.
#[derive(clap::Args)]
pub(crate) struct ClientArgs {
    /// The masters, separated by commas
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', default_value = "127.0.0.1:50051")]
    pub(crate) master: Vec<String>,
    /// Whose keys; without it those of the tenant of --unique-id, else of `default`
    #[arg(long, value_name = "NAME", default_value = "")]
    pub(crate) tenant: String,
    /// On whose behalf: puts go to the pool of this user, where there is room
    #[arg(long, value_name = "NAME", default_value = "")]
    pub(crate) user: String,
    /// What the caller is registered by in a pool, 1:TENANT:NAME: puts go to that pool, where there is room
    #[arg(long, value_name = "ID", default_value = "")]
    pub(crate) unique_id: String,
    /// How long one operation may take, retries included
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    pub(crate) deadline: Span,
    #[command(flatten)]
    pub(crate) token: TokenArgs,
}

/// The secret that a cluster which others can reach asks of its callers.
#[derive(clap::Args)]
pub(crate) struct TokenArgs {
    /// A file that holds the token asked of every caller, 16 to 1024 characters, or one made from it by `perilune tenants token`; without it
    /// PERILUNE_ADMIN_TOKEN holds the token itself
    #[arg(long, value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
}

impl TokenArgs {
    pub(crate) fn find(&self) -> Result<Option<Token>, Failure> {
        token::find(self.admin_token_file.as_deref()).map_err(Failure::Usage)
    }

    /// The header for curl, where a token was found.
    pub(crate) fn header(&self, found: Option<&Token>) -> String {
        let secret = in_shell(self.admin_token_file.as_deref(), token::VARIABLE);
        found.map_or_else(String::new, |_| format!(r#" -H "Authorization: Bearer {secret}""#))
    }
}

/// What a shell puts in the place of a secret, between double quotes: what is in the file, else in the environment.
pub(crate) fn in_shell(file: Option<&Path>, variable: &str) -> String {
    file.map_or_else(|| format!("${variable}"), |file| format!("$(cat {})", quoted(&file.display().to_string())))
}

/// What a shell takes as it is.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

impl ClientArgs {
    pub(crate) fn config(&self) -> Result<StoreConfig, Failure> {
        Ok(StoreConfig {
            masters: self.master.clone(),
            tenant: self.tenant.clone(),
            user: self.user.clone(),
            unique_id: self.unique_id.clone(),
            token: self.token.find()?,
            deadline: self.deadline.0,
            agent: format!("perilune/{}", env!("CARGO_PKG_VERSION")),
            ..StoreConfig::default()
        })
    }

    pub(crate) fn connect(&self) -> Result<Store, Failure> {
        Ok(Store::connect(self.config()?)?)
    }
}
