//! What the collector does in one vault: it deletes uploads that nothing refers to, and looks for such at all that is there.

use super::collect::{Answer, Asks, LOOK, Question, SWEEP_EVERY};
use super::opened::Opened;
use super::{claim, soon};
use crate::engine::{Group, Leader};
use crate::work::aside;
use perilune_protocol::{ColdName, Outcome, VaultId};
use perilune_vault::{Class, ColdObject, Vault, Vaulted};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A vault that could not be looked at, or of which the leader could not say what may go, is tried again so much later, and each time twice as
/// long after that.
pub(super) const SWEEP_AGAIN: Duration = Duration::from_secs(5);
const SWEEP_AGAIN_MAX: Duration = Duration::from_secs(600);
/// Names of one page, and so many the leader is asked about at a time: it walks the index for them.
const PAGE: usize = 1000;
const ASKED: usize = 16_000;

/// A look at all of a vault.
#[derive(Clone)]
pub(crate) struct Sweep {
    pub(super) due: Instant,
    /// The pause after it was broken off, and where it goes on then.
    pub(super) pause: Duration,
    after: Option<String>,
}

impl Sweep {
    pub(super) fn begin(due: Instant) -> Self {
        Self { due, pause: SWEEP_AGAIN, after: None }
    }

    fn broken_off(self, after: Option<String>) -> Self {
        Self { due: Instant::now() + self.pause, pause: (2 * self.pause).min(SWEEP_AGAIN_MAX), after }
    }
}

/// Something to be done in one vault.
pub(crate) struct Errand<A> {
    pub(super) reach: Arc<Reach<A>>,
    pub(super) vault: VaultId,
    /// Uploads to be deleted.
    pub(super) names: Vec<ColdName>,
    /// All of it is to be looked at as well.
    pub(super) sweep: Option<Sweep>,
    /// Which decision to look at all vaults it follows.
    pub(super) looks: u64,
}

/// What came of it.
pub(crate) struct Cleaned {
    pub(super) vault: VaultId,
    /// What could not be deleted.
    pub(super) left: Vec<ColdName>,
    /// When it is looked at next, where it was looked at.
    pub(super) sweep: Option<Sweep>,
    pub(super) looks: u64,
}

impl<A: Asks> Errand<A> {
    /// Does it, however long the vault takes.
    pub(crate) async fn run(self) -> Cleaned {
        let Self { reach, vault, names, sweep, looks } = self;
        let mut left = reach.delete(vault, names).await;
        let sweep = match sweep {
            Some(sweep) => Some(reach.sweep(vault, sweep, &mut left).await),
            None => None,
        };
        Cleaned { vault, left, sweep, looks }
    }
}

/// How vaults and the leader are reached.
pub(super) struct Reach<A> {
    pub(super) group: Group,
    asks: A,
    opened: Opened,
}

impl<A: Asks> Reach<A> {
    pub(super) fn new(group: Group, asks: A) -> Self {
        Self { group, asks, opened: Opened::default() }
    }

    /// Deletes everything in a vault that nothing refers to; says when it is looked at next. What could not be deleted is `left`.
    async fn sweep(&self, id: VaultId, sweep: Sweep, left: &mut Vec<ColdName>) -> Sweep {
        let mut after = sweep.after.clone();
        if after.is_none()
            && let Err(fault) = self.abandon(id).await
        {
            tracing::debug!(vault = %id, "uploads that were begun could not be looked at: {fault}");
        }
        loop {
            let from = after.clone();
            let listed = match self.at(id, move |vault| list(vault, from)).await {
                Ok(listed) => listed,
                Err(fault) => {
                    tracing::debug!(vault = %id, "what is in a vault could not be looked at: {fault}");
                    // Another cluster's is none of ours; what is away is looked at when it is back.
                    let is_ours = fault.class != Class::Invalid;
                    return if is_ours { sweep.broken_off(after) } else { Sweep::begin(Instant::now() + SWEEP_EVERY) };
                }
            };
            let orphans = match self.leader(Question { take: 0, listed: listed.names }).await {
                Ok(answer) => answer.may_go,
                Err(fault) => {
                    tracing::debug!(vault = %id, "the leader does not say what may go: {fault}");
                    return sweep.broken_off(after);
                }
            };
            if !orphans.is_empty() {
                tracing::info!(vault = %id, orphans = orphans.len(), "uploads that nothing refers to are deleted");
                left.extend(self.delete(id, orphans).await);
            }
            match listed.after {
                None => return Sweep::begin(Instant::now() + SWEEP_EVERY),
                next => after = next,
            }
        }
    }

    /// Forgets uploads in parts that nobody is at any more.
    async fn abandon(&self, id: VaultId) -> Vaulted<()> {
        let begun = self.at(id, begun).await?;
        if begun.is_empty() {
            return Ok(());
        }
        let answer = self.leader(Question { take: 0, listed: begun }).await.map_err(|fault| Class::Away.with(fault.message))?;
        self.at(id, move |vault| abandon(vault, &answer.may_go)).await
    }

    /// Deletes uploads; gives those that could not be.
    async fn delete(&self, id: VaultId, names: Vec<ColdName>) -> Vec<ColdName> {
        let mut left = Vec::new();
        // Whoever was overtaken is to notice soon.
        for some in names.chunks(LOOK) {
            left.extend(self.delete_some(id, some.to_vec()).await);
        }
        left
    }

    async fn delete_some(&self, id: VaultId, names: Vec<ColdName>) -> Vec<ColdName> {
        let (engine, asked) = (self.group.engine(), names.clone());
        let deleted = self.at(id, move |vault| {
            let one = |name: ColdName| vault.delete(&ColdObject::path(name.0), soon()).map(|()| engine.metrics().garbage_deleted());
            Ok(asked.into_iter().filter_map(|name| one(name).err().map(|fault| (name, fault.message))).collect::<Vec<_>>())
        });
        match deleted.await {
            Ok(failed) => {
                if let Some((_, why)) = failed.first() {
                    tracing::debug!(vault = %id, "an upload that nothing refers to was not deleted: {why}");
                }
                failed.into_iter().map(|(name, _)| name).collect()
            }
            // It was dropped, or another cluster may name what is there.
            Err(fault) if [Class::NoBucket, Class::Invalid].contains(&fault.class) => Vec::new(),
            Err(_) => names,
        }
    }

    /// Asks a vault that is surely this cluster's something, off the threads that serve.
    async fn at<T: Send + 'static>(&self, id: VaultId, ask: impl FnOnce(&Vault) -> Vaulted<T> + Send + 'static) -> Vaulted<T> {
        let (engine, opened) = (self.group.engine(), self.opened.clone());
        let asked = aside(move || {
            let vault = opened.open(&engine, id).unwrap_or_else(|| Err(Class::NoBucket.with("it was dropped")))?;
            if vault.is_away() {
                return Err(Class::Away.with("it is away"));
            }
            claim::check(&vault, &engine.welcome().cluster)?;
            ask(&vault)
        });
        asked.await.unwrap_or_else(|fault| Err(Class::Away.with(fault.message)))
    }

    /// Asks the leader.
    pub(super) async fn leader(&self, question: Question) -> Outcome<Answer> {
        match self.group.settled().await? {
            Leader::Here => self.group.engine().garbage(question).await,
            Leader::There(leader) => self.asks.ask(leader, question).await,
        }
    }
}

/// Uploads in parts that were begun.
pub(super) fn begun(vault: &Vault) -> Vaulted<Vec<ColdName>> {
    Ok(vault.begun(soon())?.into_iter().map(ColdName).collect())
}

/// Forgets such of them.
pub(super) fn abandon(vault: &Vault, names: &[ColdName]) -> Vaulted<()> {
    if !names.is_empty() {
        tracing::info!(uploads = names.len(), "uploads that were begun and that nobody is at any more are aborted: {vault:?}");
    }
    names.iter().try_for_each(|name| vault.abandon(name.0, soon()))
}

/// Some of what is in a vault, and behind which name to go on.
pub(super) struct Listed {
    pub(super) names: Vec<ColdName>,
    pub(super) after: Option<String>,
}

pub(super) fn list(vault: &Vault, mut after: Option<String>) -> Vaulted<Listed> {
    let mut names = Vec::new();
    loop {
        after = page(vault, after, &mut |name, _| names.push(name))?;
        if after.is_none() || names.len() + PAGE > ASKED {
            return Ok(Listed { names, after });
        }
    }
}

/// Shows all uploads in a vault, and the bytes of each.
pub(super) fn for_each(vault: &Vault, visit: &mut dyn FnMut(ColdName, u64)) -> Vaulted<()> {
    let mut after = page(vault, None, visit)?;
    while after.is_some() {
        after = page(vault, after, visit)?;
    }
    Ok(())
}

/// The next page of them; gives behind which name to go on.
fn page(vault: &Vault, after: Option<String>, visit: &mut dyn FnMut(ColdName, u64)) -> Vaulted<Option<String>> {
    let page = vault.list("objects", after.as_deref(), PAGE, soon())?;
    for listed in &page {
        if let Some(name) = listed.name.rsplit('/').next().and_then(|name| name.parse().ok()) {
            visit(name, listed.size);
        }
    }
    let whole = page.len() == PAGE;
    Ok(page.into_iter().next_back().map(|listed| listed.name).filter(|_| whole))
}
