//! The cluster that has a vault says there that it is at work, so that nobody takes its place by mistake.

use super::checkpoint::vault_for;
use super::opened::Opened;
use super::{Claim, soon};
use crate::engine::Engine;
use crate::work::aside;
use perilune_protocol::{TenantId, VaultId};
use perilune_vault::{Class, Vault, Vaulted};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::time::Instant;

const ALIVE: &str = "owner/alive";
/// How often it is said, and how soon again where it was not heard.
const SAID_EVERY: Duration = Duration::from_secs(15);
const SAID_AGAIN: Duration = Duration::from_secs(10);
/// Whoever said so before this may be at work still, in milliseconds.
const LIVING_MS: u64 = 60_000;

#[derive(Serialize, Deserialize)]
struct Said {
    cluster: String,
    at_ms: u64,
}

/// Says that the cluster which has this vault is at work.
pub(super) fn say(vault: &Vault, cluster: &str, at_ms: u64) -> Vaulted<()> {
    let said = serde_json::to_vec(&Said { cluster: cluster.to_owned(), at_ms }).map_err(|e| Class::Invalid.with(e.to_string()))?;
    vault.put(ALIVE, said.into(), soon())
}

/// How many milliseconds ago a cluster said so, if it may be at work still.
pub(super) fn heard(vault: &Vault, cluster: &str, now_ms: u64) -> Vaulted<Option<u64>> {
    let said: Option<Said> = match vault.get(ALIVE, None, soon()) {
        Ok(got) => serde_json::from_slice(&got.bytes).ok(),
        Err(fault) if fault.class == Class::NoObject => None,
        Err(fault) => return Err(fault),
    };
    let ago = said.filter(|said| said.cluster == cluster).map(|said| now_ms.saturating_sub(said.at_ms));
    Ok(ago.filter(|ago| *ago < LIVING_MS))
}

/// Says so where checkpoints lie, until the reign is over. Whether anything can be logged or written meanwhile is another matter.
pub(super) async fn run(engine: Engine) {
    let opened = Opened::default();
    let (mut place, mut due): (Option<VaultId>, _) = (None, Instant::now());
    loop {
        tokio::time::sleep(super::EVERY).await;
        let to = vault_for(engine.state()).filter(|id| engine.reign.cold.claim(*id) == Some(Claim::Ours));
        let Some(id) = to.filter(|id| engine.leads() && (place != Some(*id) || due <= Instant::now())) else { continue };
        let (asker, opened, now_ms) = (engine.clone(), opened.clone(), engine.wall_ms());
        let said = aside(move || opened.open(&asker, id).map(|vault| say(&vault?, &asker.welcome().cluster, now_ms))).await;
        (place, due) = (Some(id), Instant::now() + SAID_EVERY);
        if let Ok(Some(Err(fault))) = said {
            due = Instant::now() + SAID_AGAIN;
            engine.reign.cold.failed(TenantId::default(), &format!("vault {id}: {fault}"));
            tracing::warn!(vault = %id, "it cannot be said there that this cluster is at work: {fault}");
        }
    }
}
