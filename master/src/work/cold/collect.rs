//! Deletes uploads that nothing refers to any more, on threads that may wait for vaults: those that are known to be such, soon; those that a
//! crash left, by looking at all that is in a vault now and then.

use super::{Claim, lock};
use crate::engine::Engine;
use crate::planted::{self, Defect};
use crate::work;
use perilune_protocol::{ColdName, VaultId};
use perilune_state::effect::ColdCopy;
use perilune_vault::{CLAIM, Class, ColdObject, Limits, Vault, Vaulted};
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often is looked for some.
const EVERY: Duration = Duration::from_millis(250);
/// So many are deleted at a look.
const LOOK: usize = 256;
/// One request takes no longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// A vault that could not be claimed is looked at again so much later.
const CLAIM_AGAIN: Duration = Duration::from_secs(2);
/// All of a vault is looked at so long after a reign began, and then so often.
const FIRST_SWEEP: Duration = Duration::from_secs(10);
const SWEEP_EVERY: Duration = Duration::from_secs(3600);
/// Names of one page, and so many of them are looked at in one sweep.
const PAGE: usize = 1000;
const SWEEP_MAX: usize = 1 << 20;

/// The vaults that were opened, each with what opened it.
type Opened = HashMap<VaultId, (u64, Vault)>;

/// Until the reign is over.
pub(super) async fn run(engine: Engine) {
    let mut collector = Collector::begin();
    loop {
        sleep(EVERY).await;
        collector.round(&engine).await;
    }
}

/// Knows what it opened, and when it looks next.
pub(crate) struct Collector {
    opened: Opened,
    look: Instant,
    sweep: Instant,
}

impl Collector {
    /// A reign begins.
    pub(crate) fn begin() -> Self {
        Self { opened: Opened::new(), look: Instant::now(), sweep: Instant::now() + FIRST_SWEEP }
    }

    /// Does once all that is due.
    pub(crate) async fn round(&mut self, engine: &Engine) {
        if !engine.leads() {
            return;
        }
        let mut opened = std::mem::take(&mut self.opened);
        if Instant::now() >= self.look {
            let missing;
            (missing, opened) = claim_all(engine, opened).await;
            self.look = Instant::now() + if missing { CLAIM_AGAIN } else { EVERY };
        }
        if Instant::now() >= self.sweep {
            self.sweep = Instant::now() + SWEEP_EVERY;
            opened = sweep_all(engine, opened).await;
        }
        if !engine.state().garbage.is_empty() {
            let worker = engine.clone();
            opened = aside(opened, move |opened| collect(&worker, opened)).await.1;
        }
        self.opened = opened;
    }
}

async fn aside<T: Send + Default + 'static>(mut opened: Opened, work: impl FnOnce(&mut Opened) -> T + Send + 'static) -> (T, Opened) {
    let done = work::aside(move || {
        let done = work(&mut opened);
        (done, opened)
    });
    done.await.unwrap_or_default()
}

/// What cannot be deleted now is tried again with the next look.
fn collect(engine: &Engine, opened: &mut Opened) {
    let garbage = &engine.state().garbage;
    let batch: Vec<ColdCopy> = std::iter::from_fn(|| garbage.take()).take(LOOK).collect();
    for copy in batch {
        match engine.reign.cold.claim(copy.vault) {
            Some(Claim::Ours) => {}
            // It may be named there.
            Some(Claim::Others) => continue,
            None if engine.state().directory.known().vault(copy.vault).is_none() => continue,
            None => {
                garbage.add(copy);
                continue;
            }
        }
        let Some(vault) = open(engine, opened, copy.vault) else { continue };
        let deleted = match vault {
            Ok(vault) if vault.is_away() => Err(String::new()),
            Ok(vault) => vault.delete(&ColdObject::path(copy.name.0), soon()).map_err(|fault| fault.message),
            Err(why) => Err(why),
        };
        match deleted {
            Ok(()) => engine.metrics().garbage_deleted(),
            Err(why) => {
                tracing::debug!(vault = %copy.vault, "an upload that nothing refers to was not deleted: {why}");
                garbage.add(copy);
            }
        }
    }
}

/// The vault, unless it was dropped: then nobody knows what opens it.
fn open(engine: &Engine, opened: &mut Opened, id: VaultId) -> Option<Result<Vault, String>> {
    let known = engine.state().directory.known();
    let record = known.vault(id)?;
    if let Some((_, vault)) = opened.get(&id).filter(|(revision, _)| *revision == record.revision) {
        return Some(Ok(vault.clone()));
    }
    let all = known.vaults_of(record.tenant)?;
    let limits = Limits { attempt: PATIENCE, ..Limits::default() };
    let safe = match engine.safe() {
        Ok(safe) => safe,
        Err(fault) => return Some(Err(fault.message)),
    };
    let vault = safe.vault(all, record, limits).map_err(|fault| fault.message);
    if let Ok(vault) = &vault {
        opened.insert(id, (record.revision, vault.clone()));
    }
    Some(vault)
}

fn usable(engine: &Engine) -> Vec<VaultId> {
    let known = engine.state().directory.known();
    let all = known.tenants().filter_map(|tenant| known.vaults_of(tenant.id)).flat_map(|all| &all.vaults);
    all.filter(|vault| vault.target.is_usable()).map(|vault| vault.id).collect()
}

/// Nothing is brought to a vault before it is known whose it is: what is in that of another cluster, that one may delete. Says whether it is
/// not known of one, or is not ours.
async fn claim_all(engine: &Engine, mut opened: Opened) -> (bool, Opened) {
    let (cold, mut missing) = (&engine.reign.cold, false);
    for id in usable(engine).into_iter().filter(|id| cold.claim(*id) != Some(Claim::Ours)) {
        let (worker, cluster) = (engine.clone(), engine.welcome().cluster);
        let (claimed, now) = aside(opened, move |opened| {
            Some(open(&worker, opened, id)?.map_err(|why| Class::Away.with(why)).and_then(|vault| claim(&vault, &cluster)))
        })
        .await;
        opened = now;
        match claimed {
            None => {}
            Some(Ok(())) => {
                lock(&cold.claims).insert(id, Claim::Ours);
                cold.ring();
            }
            Some(Err(fault)) => {
                missing = true;
                let others = fault.class == Class::Invalid;
                cold.failed(&format!("vault {id}: {}", fault.message));
                if others && lock(&cold.claims).insert(id, Claim::Others).is_none() {
                    tracing::warn!(vault = %id, "nothing is brought there: {fault}");
                }
            }
        }
    }
    (missing, opened)
}

async fn sweep_all(engine: &Engine, mut opened: Opened) -> Opened {
    for id in usable(engine) {
        let (worker, cluster) = (engine.clone(), engine.welcome().cluster);
        let (left, now) = aside(opened, move |opened| {
            let listed = open(&worker, opened, id)?.and_then(|vault| look(&vault, &cluster).map_err(|fault| fault.message));
            Some(listed.map(|listed| orphans(&worker, listed)))
        })
        .await;
        opened = now;
        let orphans = match left {
            None => continue,
            Some(Ok(orphans)) => orphans,
            Some(Err(why)) => {
                tracing::debug!(vault = %id, "what is in a vault could not be looked at: {why}");
                continue;
            }
        };
        // What another leader has named meanwhile, this one does not know.
        if orphans.is_empty() || engine.vouch().await.is_err() {
            continue;
        }
        tracing::info!(vault = %id, orphans = orphans.len(), "uploads that nothing refers to are deleted");
        orphans.into_iter().for_each(|name| engine.state().garbage.add(ColdCopy { vault: id, name, stored: 0 }));
    }
    opened
}

/// Names of all uploads in a vault that is ours.
pub(super) fn look(vault: &Vault, cluster: &str) -> Vaulted<Vec<ColdName>> {
    claim(vault, cluster).and_then(|()| {
        let (mut names, mut after): (Vec<ColdName>, Option<String>) = (Vec::new(), None);
        loop {
            let page = vault.list("objects", after.as_deref(), PAGE, soon())?;
            let whole = page.len() == PAGE;
            names.extend(page.iter().filter_map(|listed| listed.name.rsplit('/').next()?.parse::<ColdName>().ok()));
            after = page.into_iter().next_back().map(|listed| listed.name);
            if !whole || names.len() >= SWEEP_MAX {
                return Ok(names);
            }
        }
    })
}

fn claim(vault: &Vault, cluster: &str) -> Vaulted<()> {
    let bytes = bytes::Bytes::copy_from_slice(cluster.as_bytes());
    match vault.create(CLAIM, bytes.clone(), soon()) {
        Err(fault) if fault.class == Class::Exists => {
            let owner = vault.get(CLAIM, None, soon())?.bytes;
            if owner == bytes {
                return Ok(());
            }
            Err(Class::Invalid.with(format!(
                "it is the vault of cluster {:.100}: give this one another bucket or prefix; if that cluster is gone for good, delete {CLAIM} there",
                String::from_utf8_lossy(&owner)
            )))
        }
        other => other,
    }
}

/// Those that nothing refers to nor may yet. They were listed before: what was being uploaded then is being named now, or named.
pub(super) fn orphans(engine: &Engine, listed: Vec<ColdName>) -> Vec<ColdName> {
    let mut known: HashSet<ColdName> = lock(&engine.reign.cold.naming).keys().copied().collect();
    engine.state().index.for_each(&mut |object| {
        known.extend(object.cold.as_ref().filter(|_| !planted::is(Defect::CarelessSweep)).map(|copy| copy.name));
        ControlFlow::Continue(())
    });
    listed.into_iter().filter(|name| !known.contains(name)).collect()
}

pub(super) fn soon() -> std::time::Instant {
    std::time::Instant::now() + PATIENCE
}
