//! Claims the vaults that there are, and notices when one was taken over. Nothing is brought to one before it is known whose it is: what is in
//! that of another cluster, that one may delete.
//!
//! That a vault was claimed is written down, once, as a setting of the group. From then on a claim that is missing is never made anew: what is
//! there is something else, such as the folder that a mount is to cover.

use super::health::{Asked, Condition};
use super::opened::Opened;
use super::{Claim, claim, lock};
use crate::engine::Engine;
use crate::work::aside;
use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use perilune_protocol::{Outcome, VaultId};
use perilune_state::Effect;
use perilune_state::directory::{TenantStatus, VaultRecord};
use perilune_state::settings::JOB_RECORD;
use perilune_vault::{Class, Vault, Vaulted};
use std::collections::{BTreeSet, HashMap};
use std::pin::Pin;
use std::time::Duration;
use tokio::time::Instant;

/// How often vaults are looked for that are not claimed; and one that is claimed is looked at again.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_secs(10);
/// Vaults that are looked at together: one that is away takes its time.
const AT_ONCE: usize = 64;
/// How the names begin, followed by the number of a vault, under which it is kept what became of it.
const RECORD: &str = "claimed.";
const CLAIMED: &str = "claimed";
const GIVEN_UP: &str = "given up";

/// What the log says of a vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing: it was never seen.
    New,
    /// It was claimed, by this cluster or one in whose place this one came.
    Claimed,
    /// It was emptied, and its claim may be gone.
    GivenUp,
}

/// Under which name it is kept.
pub(crate) fn key(id: VaultId) -> String {
    format!("{JOB_RECORD}{RECORD}{}", id.0)
}

impl Engine {
    pub(super) fn standing_of(&self, id: VaultId) -> Standing {
        match self.state().settings.get(&key(id)).as_deref() {
            None => Standing::New,
            Some(GIVEN_UP) => Standing::GivenUp,
            Some(_) => Standing::Claimed,
        }
    }

    async fn record_vault(&self, id: VaultId, value: Option<&str>) -> Outcome<()> {
        self.commit(&Effect::Setting { key: key(id), value: value.map(str::to_owned) }).await
    }

    /// Before its claim goes: nobody is to miss it.
    pub(super) async fn record_given_up(&self, id: VaultId) -> Outcome<()> {
        self.record_vault(id, Some(GIVEN_UP)).await
    }

    /// What was written down of vaults that are not known any more goes.
    async fn forget_dropped(&self) {
        let (known, settings) = (self.directory(), self.state().settings.map());
        let prefix = format!("{JOB_RECORD}{RECORD}");
        let recorded = settings.range(prefix.clone()..).map_while(|(key, _)| key.strip_prefix(&prefix));
        for id in recorded.filter_map(|number| number.parse().ok()).map(VaultId).filter(|id| known.vault(*id).is_none()) {
            if self.record_vault(id, None).await.is_err() {
                return;
            }
        }
    }
}

/// How a look at a vault ended; `None`: it was dropped. It is this cluster's, and those had it before.
type Looked = Option<Vaulted<BTreeSet<String>>>;
/// With what the log said of the vault before, and how long it took.
type Look = Pin<Box<dyn Future<Output = (VaultId, Standing, Looked, Duration)> + Send>>;

/// Knows what it opened, and when it looks next.
pub(crate) struct Claims {
    opened: Opened,
    looks: FuturesUnordered<Look>,
    /// When each is looked at again, and what revision of it was looked at.
    due: HashMap<VaultId, (u64, Instant)>,
    /// When those that were dropped are forgotten.
    tidy: Instant,
    /// The clusters in whose place this one came.
    before: BTreeSet<String>,
}

/// Until the reign is over.
pub(super) async fn run(engine: Engine) {
    let mut claims = Claims::begin();
    loop {
        tokio::select! {
            () = tokio::time::sleep(super::EVERY) => {}
            Some(look) = claims.looks.next(), if !claims.looks.is_empty() => claims.learn(&engine, look).await,
        }
        claims.round(&engine).await;
    }
}

impl Claims {
    /// A reign begins.
    pub(crate) fn begin() -> Self {
        let (opened, looks, tidy) = (Opened::default(), FuturesUnordered::new(), Instant::now());
        let (due, before) = (HashMap::new(), BTreeSet::new());
        Self { opened, looks, due, tidy, before }
    }

    /// Begins all that is due, and hears what has ended.
    pub(crate) async fn round(&mut self, engine: &Engine) {
        if !engine.leads() {
            return;
        }
        let now = Instant::now();
        if now >= self.tidy {
            self.tidy = now + AGAIN;
            engine.forget_dropped().await;
            engine.reign.cold.health.keep(&engine.directory().all_vaults().map(|vault| vault.id).collect::<Vec<_>>());
        }
        for record in engine.directory().all_vaults() {
            if !record.target.is_usable() {
                say_unusable(engine, record);
                continue;
            }
            let (id, revision, claimed) = (record.id, record.revision, engine.reign.cold.claim(record.id));
            let is_ours = claimed == Some(Claim::Ours);
            // Another key may open it at last.
            let is_due = self.due.get(&id).is_none_or(|(known, due)| *due <= now || (*known != revision && !is_ours));
            if self.looks.len() < AT_ONCE
                && is_due
                && let Some(standing) = begins_to_look(engine, id)
            {
                let next = (revision, now + if is_ours { AGAIN } else { LOOK_EVERY });
                if self.due.insert(id, next).is_some_and(|(known, _)| known != revision) {
                    engine.reign.cold.health.forget_writes(id);
                }
                self.begin_look(engine, id, standing, claimed);
            }
        }
        while let Some(Some(look)) = self.looks.next().now_or_never() {
            self.learn(engine, look).await;
        }
    }

    fn begin_look(&self, engine: &Engine, id: VaultId, standing: Standing, claimed: Option<Claim>) {
        let (engine, opened, before) = (engine.clone(), self.opened.clone(), self.before.clone());
        let work = move || {
            let cluster = engine.welcome().cluster;
            let vault = match opened.open(&engine, id)? {
                Err(fault) if fault.class == Class::NoBucket && standing == Standing::New => {
                    make_folder(&engine, id).and_then(|()| opened.open(&engine, id).unwrap_or(Err(fault)))
                }
                other => other,
            };
            Some(vault.and_then(|vault| {
                look(&vault, &cluster, standing, &before)?;
                // Once for each: nobody comes before others that are there.
                if claimed == Some(Claim::Ours) { Ok(BTreeSet::new()) } else { claim::before(&vault, &cluster) }
            }))
        };
        self.looks.push(Box::pin(async move {
            let began = Instant::now();
            (id, standing, aside(work).await.ok().flatten(), began.elapsed())
        }));
    }

    async fn learn(&mut self, engine: &Engine, (id, standing, looked, took): (VaultId, Standing, Looked, Duration)) {
        // Emptied meanwhile, its claim may be gone since: it is looked at again.
        if engine.standing_of(id) == standing {
            self.note(engine, id, looked, took).await;
        }
        lock(&engine.reign.cold.looking).remove(&id);
    }

    async fn note(&mut self, engine: &Engine, id: VaultId, looked: Looked, took: Duration) {
        let (cold, now_ms) = (&engine.reign.cold, engine.wall_ms());
        let Some(tenant) = engine.directory().vault(id).map(|record| record.tenant) else { return };
        match looked {
            None => {}
            Some(Ok(before)) => {
                cold.health.looked(id, took, now_ms);
                self.before.extend(before);
                // Written down before anything is brought there.
                if engine.standing_of(id) != Standing::Claimed
                    && let Err(fault) = engine.record_vault(id, Some(CLAIMED)).await
                {
                    return cold.failed(tenant, &format!("vault {id}: it cannot be written down that it is claimed: {fault}"));
                }
                if lock(&cold.claims).insert(id, Claim::Ours) != Some(Claim::Ours) {
                    cold.ring();
                }
            }
            Some(Err(fault)) => {
                cold.failed(tenant, &format!("vault {id}: {}", fault.message));
                cold.health.did_not(id, Asked::Look, (&fault).into(), &fault.message, now_ms);
                match fault.class {
                    Class::Invalid if lock(&cold.claims).insert(id, Claim::Others) != Some(Claim::Others) => {
                        tracing::warn!(vault = %id, "nothing is brought there nor deleted there: {fault}");
                    }
                    // Another folder lies there, or none.
                    Class::NoObject | Class::NoBucket if lock(&cold.claims).remove(&id).is_some() => {
                        tracing::warn!(vault = %id, "nothing is brought there until it is back: {fault}");
                    }
                    _ => {}
                }
            }
        }
    }
}

/// Nobody is to take a vault that this release has no client for for one that works.
fn say_unusable(engine: &Engine, record: &VaultRecord) {
    let cold = &engine.reign.cold;
    if cold.health.of(record.id, engine.wall_ms()).is_none() {
        let why = format!("{}: this release has no client for it, so nothing is brought there", record.target);
        tracing::warn!(vault = %record.id, "{why}");
        cold.failed(record.tenant, &why);
        cold.health.did_not(record.id, Asked::Look, Condition::Refuses, &why, engine.wall_ms());
    }
}

/// Whether a vault is looked at from now on, and what the log says of it. Whoever drops one closes it first, whoever empties those of a tenant has
/// dropped that one first; both wait for looks under way after that, so of what is not claimed one of the two sees the other. A look at what is
/// claimed makes no claim.
pub(super) fn begins_to_look(engine: &Engine, id: VaultId) -> Option<Standing> {
    let cold = &engine.reign.cold;
    if !lock(&cold.looking).insert(id) {
        return None;
    }
    let is_known = engine.directory().vault(id).is_some();
    let standing = engine.standing_of(id);
    let looks = is_known && !lock(&cold.closing).contains(&id) && is_wanted(engine, id, standing);
    if !looks {
        lock(&cold.looking).remove(&id);
    }
    looks.then_some(standing)
}

/// Whether a vault is to be looked at. What a dropped tenant never had claimed has nothing of it, nor is to have.
fn is_wanted(engine: &Engine, id: VaultId, standing: Standing) -> bool {
    let known = engine.directory();
    let tenant = known.vault(id).and_then(|vault| known.tenant(vault.tenant));
    let lives = tenant.is_some_and(|tenant| tenant.status != TenantStatus::Deleted);
    match standing {
        Standing::New => lives,
        // Somebody was about to drop it, and did not. What an earlier leader had begun to delete is deleted by then: the claim with it.
        Standing::GivenUp => lives && engine.upload_may_land_for(id).is_none(),
        Standing::Claimed => true,
    }
}

/// Whether a vault is this cluster's; claims one that is new, or that is left over from whoever had what this cluster has now.
fn look(vault: &Vault, cluster: &str, standing: Standing, before: &BTreeSet<String>) -> Vaulted<()> {
    match standing {
        Standing::New | Standing::GivenUp => claim::claim(vault, cluster),
        Standing::Claimed => claim::check(vault, cluster).or_else(|fault| match fault.class {
            Class::Invalid => claim::succeed(vault, cluster, before),
            _ => Err(fault),
        }),
    }
}

fn make_folder(engine: &Engine, id: VaultId) -> Vaulted<()> {
    let known = engine.directory();
    let record = known.vault(id).ok_or_else(|| Class::NoBucket.with("it was dropped"))?;
    engine.safe().map_err(|fault| Class::Refused.with(fault.message))?.make_folder(record)
}
