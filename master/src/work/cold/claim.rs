//! Whose a vault is, as is written in it.
//!
//! ```text
//! owner/cluster     the first claim
//! owner/00000001    a later one: the highest number counts, and whoever is overtaken writes and deletes nothing more
//! owner/alive       when whoever has it was last at work, where it keeps checkpoints
//! ```

use super::opened::Opened;
use super::{Claim, lock, soon, usable};
use crate::engine::Engine;
use crate::work::aside;
use futures_util::future::join_all;
use perilune_protocol::VaultId;
use perilune_vault::{CLAIM, Class, Vault, VaultFault, Vaulted};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::time::Instant;

const FOLDER: &str = "owner";
const ALIVE: &str = "owner/alive";
/// Claims and the one other name in their folder.
const CLAIMS_MAX: usize = 1000;
/// How often those who have a vault say so.
pub(super) const ALIVE_EVERY: Duration = Duration::from_secs(15);
/// Whoever said so before this may be at work still, in milliseconds.
const LIVING_MS: u64 = 60_000;
/// How often vaults are looked for that are not claimed; and one that is claimed is looked at again.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_secs(10);

/// The claim that counts.
#[derive(Debug)]
struct Present {
    number: u64,
    cluster: String,
}

fn path(number: u64) -> String {
    if number == 0 { CLAIM.to_owned() } else { format!("{FOLDER}/{number:08}") }
}

fn number(name: &str) -> Option<u64> {
    if name == CLAIM { Some(0) } else { name.strip_prefix(FOLDER)?.strip_prefix('/')?.parse().ok() }
}

fn present(vault: &Vault) -> Vaulted<Option<Present>> {
    let listed = vault.list(FOLDER, None, CLAIMS_MAX, soon())?;
    let Some(number) = listed.iter().filter_map(|listed| number(&listed.name)).max() else { return Ok(None) };
    let bytes = vault.get(&path(number), None, soon())?.bytes;
    Ok(Some(Present { number, cluster: String::from_utf8_lossy(&bytes).into_owned() }))
}

/// Whether a vault is this cluster's. Claims nothing.
///
/// # Errors
/// [`Class::Invalid`]: it is another's. [`Class::NoObject`]: nobody's, so it may not be the one that was meant.
pub(super) fn check(vault: &Vault, cluster: &str) -> Vaulted<()> {
    match present(vault)? {
        Some(present) if present.cluster == cluster => Ok(()),
        Some(present) => Err(of_another(&present)),
        None => Err(Class::NoObject.with(format!("{CLAIM} is not there, so this may not be the vault it should be"))),
    }
}

/// The same; claims one that is nobody's.
pub(super) fn claim(vault: &Vault, cluster: &str) -> Vaulted<()> {
    match check(vault, cluster) {
        Err(fault) if fault.class == Class::NoObject => match vault.create(CLAIM, cluster.to_owned().into(), soon()) {
            // Somebody was faster.
            Err(fault) if fault.class == Class::Exists => check(vault, cluster),
            other => other,
        },
        other => other,
    }
}

fn of_another(present: &Present) -> VaultFault {
    let how = "give this one another bucket or prefix; if that cluster is gone for good, delete the folder";
    Class::Invalid.with(format!("it is the vault of cluster {:.100}: {how} {FOLDER} there", present.cluster))
}

/// Claims a vault for a cluster that takes the place of another: of whoever has it, or of `from` alone.
///
/// # Errors
/// [`Class::Invalid`]: whoever has it lives, and it was not said on purpose (`anyway`); or it is not `from`'s.
pub(crate) fn take_over(vault: &Vault, cluster: &str, from: Option<&str>, anyway: bool, now_ms: u64) -> Vaulted<()> {
    let Some(present) = present(vault)? else { return claim(vault, cluster) };
    if present.cluster == cluster {
        return Ok(());
    }
    if from.is_some_and(|from| from != present.cluster) {
        return Err(of_another(&present));
    }
    let seen = seen(vault)?.filter(|seen| seen.cluster == present.cluster).map(|seen| now_ms.saturating_sub(seen.at_ms));
    if let Some(ago) = seen.filter(|ago| *ago < LIVING_MS && !anyway) {
        return Err(Class::Invalid.with(format!(
            "it is the vault of cluster {}, which was at work there {} s ago: stop that cluster and ask again in a minute, or, if it is surely \
             gone or is to bring nothing there any more, say so with --take-over",
            present.cluster,
            ago / 1000
        )));
    }
    match vault.create(&path(present.number + 1), cluster.to_owned().into(), soon()) {
        Err(fault) if fault.class == Class::Exists => Err(Class::Invalid.with("another cluster has just claimed it: ask again")),
        other => other,
    }
}

#[derive(Serialize, Deserialize)]
struct Seen {
    cluster: String,
    at_ms: u64,
}

fn seen(vault: &Vault) -> Vaulted<Option<Seen>> {
    match vault.get(ALIVE, None, soon()) {
        Ok(got) => Ok(serde_json::from_slice(&got.bytes).ok()),
        Err(fault) if fault.class == Class::NoObject => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// Says that the cluster which has this vault is at work.
pub(super) fn say_alive(vault: &Vault, cluster: &str, at_ms: u64) -> Vaulted<()> {
    let seen = serde_json::to_vec(&Seen { cluster: cluster.to_owned(), at_ms }).map_err(|e| Class::Invalid.with(e.to_string()))?;
    vault.put(ALIVE, seen.into(), soon())
}

/// Gives a vault up in which nothing is left.
pub(super) fn give_up(vault: &Vault) -> Vaulted<()> {
    // The first one last: while another is there, it counts.
    let listed = vault.list(FOLDER, None, CLAIMS_MAX, soon())?;
    listed.iter().filter(|listed| listed.name != CLAIM).try_for_each(|listed| vault.delete(&listed.name, soon()))?;
    vault.delete(CLAIM, soon())
}

/// Claims the vaults that there are, and notices when one was taken over, until the reign is over. Nothing is brought to one before it is
/// known whose it is: what is in that of another cluster, that one may delete.
pub(super) async fn run(engine: Engine) {
    let mut claims = Claims::begin();
    loop {
        tokio::time::sleep(super::EVERY).await;
        claims.round(&engine).await;
    }
}

/// Knows what it opened, and when it looks next.
pub(crate) struct Claims {
    opened: Opened,
    look: Instant,
    again: Instant,
}

impl Claims {
    /// A reign begins.
    pub(crate) fn begin() -> Self {
        Self { opened: Opened::default(), look: Instant::now(), again: Instant::now() }
    }

    /// Does once all that is due.
    pub(crate) async fn round(&mut self, engine: &Engine) {
        if !engine.leads() {
            return;
        }
        let now = Instant::now();
        let (all, missing) = (now >= self.again, now >= self.look);
        let cold = &engine.reign.cold;
        let due = |id: &VaultId| match cold.claim(*id) {
            None => true,
            Some(Claim::Ours) => all,
            Some(Claim::Others) => missing,
        };
        let usable = usable(engine);
        cold.health.keep(&usable);
        let due = usable.into_iter().filter(due);
        if missing {
            self.look = now + LOOK_EVERY;
        }
        if all {
            self.again = now + AGAIN;
        }
        // All together: one that is slow holds up none of the others.
        let looks = due.map(|id| {
            let (worker, opened) = (engine.clone(), self.opened.clone());
            // What was claimed and has no claim any more may not be mounted: then another folder lies there, and stays nobody's.
            let how = if cold.claim(id) == Some(Claim::Ours) { check } else { claim };
            async move {
                let began = Instant::now();
                let claimed = aside(move || Some(opened.open(&worker, id)?.and_then(|vault| how(&vault, &worker.welcome().cluster))));
                learn(engine, id, claimed.await.ok().flatten(), began.elapsed());
            }
        });
        join_all(looks).await;
    }
}

fn learn(engine: &Engine, id: VaultId, claimed: Option<Vaulted<()>>, took: Duration) {
    let (cold, now_ms) = (&engine.reign.cold, engine.wall_ms());
    match claimed {
        None => {}
        Some(Ok(())) => {
            cold.health.did(id, Some(took), now_ms);
            let before = lock(&cold.claims).insert(id, Claim::Ours);
            if before != Some(Claim::Ours) {
                cold.ring();
            }
        }
        Some(Err(fault)) => {
            cold.failed(&format!("vault {id}: {}", fault.message));
            cold.health.did_not(id, (&fault).into(), &fault.message, now_ms);
            if fault.class == Class::Invalid && lock(&cold.claims).insert(id, Claim::Others) != Some(Claim::Others) {
                tracing::warn!(vault = %id, "nothing is brought there nor deleted there: {fault}");
            }
        }
    }
}
