//! Deletes uploads that nothing refers to any more: those that the leader knows to be such, soon; those that a crash left, by looking at all that
//! is in every vault now and then. One master does so at a time, whoever has the lease for it (`engine/gc.rs`); it need not lead, and asks the
//! leader what may go.

use super::opened::Opened;
use super::{claim, soon, usable};
use crate::api::forward;
use crate::engine::{Engine, Group, Leader};
use crate::log::Member;
use crate::work::aside;
use axum::http::Method;
use futures_util::stream::{self, StreamExt};
use perilune_protocol::access::Token;
use perilune_protocol::{ColdName, FaultCode, Outcome, VaultId};
use perilune_vault::{Class, ColdObject, Vault, Vaulted};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use utoipa::ToSchema;

/// Where the leader is asked.
pub(crate) const PATH: &str = "/tiflash/remote/garbage";
/// How often it is, by another master.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// So many are deleted between two looks at whose the vault is.
pub(super) const LOOK: usize = 256;
/// So many are tried again; those beyond are found by looking at the vault.
const AGAIN_MAX: usize = 1 << 16;
/// All of a vault is looked at so long after somebody began to collect, or to lead, and then so often.
const FIRST_SWEEP: Duration = Duration::from_secs(10);
const SWEEP_EVERY: Duration = Duration::from_secs(3600);
/// A vault that could not be looked at, or of which the leader could not say what may go, is tried again so much later, and each time twice as
/// long after that.
const SWEEP_AGAIN: Duration = Duration::from_secs(5);
const SWEEP_AGAIN_MAX: Duration = Duration::from_secs(600);
/// Vaults that are looked at together.
const SWEPT_AT_ONCE: usize = 4;
/// Names of one page, and so many the leader is asked about at a time: it walks the index for them.
const PAGE: usize = 1000;
const ASKED: usize = 16_000;

/// What the leader is asked by the master that collects.
#[derive(Default, Serialize, Deserialize, ToSchema)]
#[schema(as = GarbageQuestion)]
pub(crate) struct Question {
    /// How many uploads that are known to be garbage it takes.
    #[serde(default)]
    #[schema(maximum = 4096)]
    pub(crate) take: usize,
    /// Uploads that it found in a vault.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub(crate) listed: Vec<ColdName>,
}

/// An upload that is garbage.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = GarbageTaken)]
pub(crate) struct Taken {
    /// The vault that it lies in.
    #[schema(value_type = u64)]
    vault: VaultId,
    /// What it is called there.
    #[schema(value_type = String)]
    name: ColdName,
}

/// What it says.
#[derive(Default, Serialize, Deserialize, ToSchema)]
#[schema(as = GarbageAnswer)]
pub(crate) struct Answer {
    /// What was asked for, and the vault that each lies in.
    pub(crate) taken: Vec<Taken>,
    /// Those of what was found that may be deleted.
    #[schema(value_type = Vec<String>)]
    pub(crate) may_go: Vec<ColdName>,
}

impl Engine {
    /// The leader's answer.
    pub(crate) async fn garbage(&self, question: Question) -> Outcome<Answer> {
        let may_go = if question.listed.is_empty() { Vec::new() } else { self.may_go(question.listed).await? };
        let taken = self.take_garbage(question.take.min(4096));
        Ok(Answer { taken: taken.into_iter().map(|copy| Taken { vault: copy.vault, name: copy.name }).collect(), may_go })
    }
}

/// Until the master stops.
pub(crate) async fn run(group: Group, token: Option<Token>, mut stop: watch::Receiver<bool>) {
    let mut collector = Collector::begin(group, Called { token });
    loop {
        let at_once = tokio::select! {
            biased;
            _ = stop.changed() => return,
            () = collector.group.asked_to_collect() => true,
            () = tokio::time::sleep(super::EVERY) => false,
        };
        collector.round(at_once).await;
    }
}

/// How a leader is asked that is another master.
pub(crate) trait Asks {
    /// # Errors
    /// As the leader says; or there is no answer.
    async fn ask(&self, leader: Member, question: Question) -> Outcome<Answer>;
}

/// By what is called over HTTP.
struct Called {
    token: Option<Token>,
}

/// Knows what it opened, and when it looks next.
pub(crate) struct Collector<A> {
    group: Group,
    asks: A,
    opened: Opened,
    /// What could not be deleted, to be tried again.
    again: Vec<(VaultId, ColdName)>,
    /// When all of each vault is looked at, while this master collects; and the term that was decided in.
    sweeps: HashMap<VaultId, Sweep>,
    term: u64,
    ask: Instant,
}

/// A look at all of a vault.
#[derive(Clone)]
struct Sweep {
    due: Instant,
    /// The pause after it was broken off, and where it goes on then.
    pause: Duration,
    after: Option<String>,
}

impl Sweep {
    fn begin(due: Instant) -> Self {
        Self { due, pause: SWEEP_AGAIN, after: None }
    }

    fn broken_off(self, after: Option<String>) -> Self {
        Self { due: Instant::now() + self.pause, pause: (2 * self.pause).min(SWEEP_AGAIN_MAX), after }
    }
}

impl<A: Asks> Collector<A> {
    pub(crate) fn begin(group: Group, asks: A) -> Self {
        Self { group, asks, opened: Opened::default(), again: Vec::new(), sweeps: HashMap::new(), term: 0, ask: Instant::now() }
    }

    /// Does once all that is due.
    pub(crate) async fn round(&mut self, at_once: bool) {
        if !self.group.collects() {
            self.again.clear();
            self.sweeps.clear();
            self.term = 0;
            return;
        }
        let (term, now, all) = (self.group.term(), Instant::now(), usable(&self.group.engine()));
        if at_once || term != self.term {
            self.sweeps.clear();
        }
        // What is left over by whoever did it before; a vault that is new has nothing yet.
        let first = match (at_once, term != self.term) {
            (true, _) => now,
            (false, true) => now + FIRST_SWEEP,
            (false, false) => now + SWEEP_EVERY,
        };
        self.term = term;
        self.sweeps.retain(|id, _| self.group.engine().directory().vault(*id).is_some());
        for id in &all {
            self.sweeps.entry(*id).or_insert_with(|| Sweep::begin(first));
        }
        self.sweep_due(all).await;
        if at_once || Instant::now() >= self.ask {
            self.collect().await;
        }
    }

    /// What the leader knows to be garbage.
    async fn collect(&mut self) {
        let taken = match self.leader(Question { take: LOOK, listed: Vec::new() }).await {
            Ok(answer) => answer.taken,
            Err(fault) => {
                tracing::debug!("the leader does not say what is garbage: {fault}");
                Vec::new()
            }
        };
        if taken.is_empty() && !self.group.leads() {
            self.ask = Instant::now() + ASK_EVERY;
        }
        let mut all = std::mem::take(&mut self.again);
        all.extend(taken.into_iter().map(|taken| (taken.vault, taken.name)));
        self.again = self.delete(all).await;
        self.again.truncate(AGAIN_MAX);
    }

    /// Looks at the vaults whose turn it is, a few together.
    async fn sweep_due(&mut self, all: Vec<VaultId>) {
        let now = Instant::now();
        let due = |id: VaultId| self.sweeps.get(&id).filter(|sweep| sweep.due <= now).map(|sweep| (id, sweep.clone()));
        let due: Vec<(VaultId, Sweep)> = all.into_iter().filter_map(due).collect();
        let swept: Vec<_> = {
            let this = &*self;
            let each = due.into_iter().map(|(id, sweep)| async move {
                let mut left = Vec::new();
                (id, this.sweep(id, sweep, &mut left).await, left)
            });
            stream::iter(each).buffer_unordered(SWEPT_AT_ONCE).collect().await
        };
        for (id, sweep, left) in swept {
            self.sweeps.insert(id, sweep);
            self.again.extend(left);
        }
    }

    /// Deletes everything in a vault that nothing refers to; says when it is looked at next. What could not be deleted is `left`.
    async fn sweep(&self, id: VaultId, sweep: Sweep, left: &mut Vec<(VaultId, ColdName)>) -> Sweep {
        let mut after = sweep.after.clone();
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
                left.extend(self.delete(orphans.into_iter().map(|name| (id, name)).collect()).await);
            }
            match listed.after {
                None => return Sweep::begin(Instant::now() + SWEEP_EVERY),
                next => after = next,
            }
        }
    }

    /// Deletes uploads; gives those that could not be.
    async fn delete(&self, all: Vec<(VaultId, ColdName)>) -> Vec<(VaultId, ColdName)> {
        let mut by_vault: BTreeMap<u64, Vec<ColdName>> = BTreeMap::new();
        all.into_iter().for_each(|(vault, name)| by_vault.entry(vault.0).or_default().push(name));
        let mut left = Vec::new();
        for (vault, names) in by_vault {
            // Whoever was overtaken is to notice soon.
            for some in names.chunks(LOOK) {
                left.extend(self.delete_some(VaultId(vault), some.to_vec()).await);
            }
        }
        left
    }

    async fn delete_some(&self, id: VaultId, names: Vec<ColdName>) -> Vec<(VaultId, ColdName)> {
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
                failed.into_iter().map(|(name, _)| (id, name)).collect()
            }
            // It was dropped, or another cluster may name what is there.
            Err(fault) if [Class::NoBucket, Class::Invalid].contains(&fault.class) => Vec::new(),
            Err(_) => names.into_iter().map(|name| (id, name)).collect(),
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
    async fn leader(&self, question: Question) -> Outcome<Answer> {
        match self.group.settled().await? {
            Leader::Here => self.group.engine().garbage(question).await,
            Leader::There(leader) => self.asks.ask(leader, question).await,
        }
    }
}

impl Asks for Called {
    async fn ask(&self, leader: Member, question: Question) -> Outcome<Answer> {
        let body = serde_json::to_vec(&question).map_err(|e| FaultCode::Internal.with(e.to_string()))?;
        forward::call(&leader.http, self.token.as_ref(), Method::POST, PATH, body).await
    }
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

#[cfg(test)]
mod tests {
    use super::super::tests::{Stand, until};
    use super::*;

    struct Nobody;

    impl Asks for Nobody {
        async fn ask(&self, _: Member, _: Question) -> Outcome<Answer> {
            Err(FaultCode::NotLeader.with("the leader is here"))
        }
    }

    #[test]
    fn a_vault_that_is_away_is_tried_again_alone_and_ever_more_seldom() {
        let stand = Stand::start();
        let [main, gone] = ["main", "gone"].map(|name| stand.vault(name));
        let mut collector = Collector::begin(stand.master.group(), Nobody);
        until("this master to collect", || collector.group.collects());
        let away = stand.folder("away");
        std::fs::rename(stand.folder("gone"), &away).unwrap();
        let orphan = |folder: &str| {
            let path = stand.folder(folder).join(ColdObject::path(ColdName::random().0));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "nobody's").unwrap();
            path
        };
        let first = orphan("main");
        stand.runtime.block_on(collector.round(true));
        assert!(!first.exists());
        for times in 2..5 {
            let sweep = |id| &collector.sweeps[&id];
            assert!(sweep(main).due > Instant::now() + SWEEP_EVERY / 2 && sweep(gone).pause == SWEEP_AGAIN * (1 << (times - 1)));
            collector.sweeps.get_mut(&gone).unwrap().due = Instant::now();
            stand.runtime.block_on(collector.round(false));
        }
        std::fs::rename(&away, stand.folder("gone")).unwrap();
        let third = orphan("gone");
        collector.sweeps.get_mut(&gone).unwrap().due = Instant::now();
        stand.runtime.block_on(collector.round(false));
        assert!(!third.exists() && collector.sweeps[&gone].due > Instant::now() + SWEEP_EVERY / 2);
    }
}
