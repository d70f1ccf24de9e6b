//! `perilune rm`: removes objects.

use super::client::ClientArgs;
use crate::failure::Failure;
use crate::output;
use crate::settings::Global;
use perilune_protocol::ObjectKey;
use serde_json::json;

/// Remove objects
///
/// An object that a reader holds a lease on stays, unless --force is given.
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("which").required(true).multiple(false).args(["key", "regex", "all"])))]
pub(crate) struct Rm {
    /// The keys
    key: Vec<String>,
    /// Remove every object whose key matches, a regular expression searched for in the key
    #[arg(long, value_name = "PATTERN")]
    regex: Option<String>,
    /// Remove every object of the tenant
    #[arg(long)]
    all: bool,
    /// Even when leased
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    client: ClientArgs,
}

impl Rm {
    pub(crate) fn run(self, global: &Global) -> Result<(), Failure> {
        if self.regex.as_deref() == Some("") {
            return Err(Failure::Usage("--regex `` would match every key: write --all if you mean that".into()));
        }
        let store = self.client.connect()?;
        if self.all || self.regex.is_some() {
            let removed = store.remove_matching(self.regex.as_deref().unwrap_or(""), self.force)?;
            return if global.json {
                output::json(&json!({ "removed": removed }))
            } else {
                output::line(format_args!("removed {removed} objects"))
            };
        }
        let keys: Vec<ObjectKey> = self.key.iter().map(|k| ObjectKey::from(k.as_str())).collect();
        let outcomes = store.remove(&keys, self.force);
        let failed = outcomes.iter().filter(|o| o.is_err()).count();
        for (key, outcome) in self.key.iter().zip(outcomes) {
            match outcome {
                _ if global.json => {
                    let fault = outcome.as_ref().err();
                    output::json(
                        &json!({ "key": key, "removed": fault.is_none(), "code": fault.map(|f| f.code.number()), "error": fault.map(|f| &f.message) }),
                    )?;
                }
                Ok(()) => output::line(format_args!("removed {key}"))?,
                Err(fault) => eprintln!("perilune: {fault}"),
            }
        }
        if failed > 0 { Err(Failure::Said) } else { Ok(()) }
    }
}
