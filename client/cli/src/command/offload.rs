//! `perilune offload`: brings what is in memory only to the vault of its tenant, or what is in one of its vaults to the newest.

use super::client::ClientArgs;
use crate::failure::Failure;
use crate::output;
use crate::settings::Global;
use perilune_protocol::rpc::cold::{Offload as Question, OffloadFrom, Offloaded};
use perilune_protocol::{ByteSize, FaultCode};
use std::time::Duration;

/// Bring all objects of a tenant that are in memory only to its vault, and wait for it
///
/// They stay in memory as well until room is needed. Fails when some are left after --deadline.
#[derive(clap::Args)]
pub(crate) struct Offload {
    /// Bring what lies in this vault to the newest instead, by way of memory, so that this one can be dropped
    #[arg(long, value_name = "VAULT")]
    from: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

impl Offload {
    pub(crate) fn run(self, global: &Global) -> Result<(), Failure> {
        let store = self.client.connect()?;
        let found = match &self.from {
            None => store.call_waiting(|left| Question { wait_ms: wait_ms(left) }),
            Some(vault) => store.call_waiting(|left| OffloadFrom { vault: vault.clone(), wait_ms: wait_ms(left) }),
        };
        let found = found.map_err(|fault| match fault.code {
            FaultCode::Timeout | FaultCode::Unreachable | FaultCode::NotLeader => {
                fault.code.with(format!("{}; what was brought so far stays where it is: ask again for the rest", fault.message))
            }
            _ => fault,
        })?;
        if global.json {
            output::json(&found)?;
        }
        let Offloaded { left, left_bytes, saved, cold, last_error } = found;
        if left > 0 {
            let why = if last_error.is_empty() { String::new() } else { format!("; what went wrong last: {last_error}") };
            let place = self.from.map_or("in memory only".to_owned(), |vault| format!("in vault {vault:?} yet"));
            return Err(Failure::Failed(format!("{left} objects ({}) are {place}{why}", ByteSize(left_bytes))));
        }
        if global.json { Ok(()) } else { output::bytes(format!("{saved} objects are in a vault, {cold} of them only there\n").as_bytes()) }
    }
}

/// How long the master may take, where so long is left: the answer needs time on its way, a second where there is twice as much.
fn wait_ms(left: Duration) -> u64 {
    let wait = left - (left / 4).max(Duration::from_secs(1).min(left / 2));
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)
}
