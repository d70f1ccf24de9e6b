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
use perilune_protocol::access::Token;
use perilune_protocol::{ColdName, FaultCode, Outcome, VaultId};
use perilune_vault::{Class, ColdObject, Vault, Vaulted};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use utoipa::ToSchema;

/// Where the leader is asked.
pub(crate) const PATH: &str = "/tiflash/remote/garbage";
/// How often it is, by another master.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// So many are deleted at a look.
const LOOK: usize = 256;
/// So many are tried again; those beyond are found by looking at the vault.
const AGAIN_MAX: usize = 1 << 16;
/// All of a vault is looked at so long after somebody began to collect, or to lead, and then so often.
const FIRST_SWEEP: Duration = Duration::from_secs(10);
const SWEEP_EVERY: Duration = Duration::from_secs(3600);
/// Where the leader could not say what may go, it is asked again so much later.
const SWEEP_AGAIN: Duration = Duration::from_secs(5);
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
    /// When all of every vault is looked at, while this master collects; and the term that was decided in.
    sweep: Option<Instant>,
    term: u64,
    ask: Instant,
}

impl<A: Asks> Collector<A> {
    pub(crate) fn begin(group: Group, asks: A) -> Self {
        Self { group, asks, opened: Opened::default(), again: Vec::new(), sweep: None, term: 0, ask: Instant::now() }
    }

    /// Does once all that is due.
    pub(crate) async fn round(&mut self, at_once: bool) {
        if !self.group.collects() {
            self.again.clear();
            self.sweep = None;
            return;
        }
        let term = self.group.term();
        if self.sweep.is_none() || term != self.term {
            // What is left over by whoever did it before.
            self.sweep = Some(Instant::now() + FIRST_SWEEP);
            self.term = term;
        }
        if at_once || self.sweep.is_some_and(|due| due <= Instant::now()) {
            let done = self.sweep_all().await;
            self.sweep = Some(Instant::now() + if done { SWEEP_EVERY } else { SWEEP_AGAIN });
        }
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

    /// Everything in every vault that is ours and that nothing refers to. False: not all of it was looked at.
    async fn sweep_all(&mut self) -> bool {
        let mut whole = true;
        for id in usable(&self.group.engine()) {
            let mut after = None;
            loop {
                let listed = match self.at(id, move |vault| list(vault, after)).await {
                    Ok(listed) => listed,
                    Err(fault) => {
                        // Another cluster's is none of ours; what is away is looked at when it is back.
                        whole &= fault.class == Class::Invalid;
                        tracing::debug!(vault = %id, "what is in a vault could not be looked at: {fault}");
                        break;
                    }
                };
                let orphans = match self.leader(Question { take: 0, listed: listed.names }).await {
                    Ok(answer) => answer.may_go,
                    Err(fault) => {
                        tracing::debug!(vault = %id, "the leader does not say what may go: {fault}");
                        whole = false;
                        break;
                    }
                };
                if !orphans.is_empty() {
                    tracing::info!(vault = %id, orphans = orphans.len(), "uploads that nothing refers to are deleted");
                    let left = self.delete(orphans.into_iter().map(|name| (id, name)).collect()).await;
                    self.again.extend(left);
                }
                match listed.after {
                    None => break,
                    next => after = next,
                }
            }
        }
        whole
    }

    /// Deletes uploads; gives those that could not be.
    async fn delete(&self, all: Vec<(VaultId, ColdName)>) -> Vec<(VaultId, ColdName)> {
        let mut vaults: Vec<VaultId> = all.iter().map(|(vault, _)| *vault).collect();
        vaults.sort_unstable_by_key(|vault| vault.0);
        vaults.dedup();
        let mut left = Vec::new();
        for id in vaults {
            let names: Vec<ColdName> = all.iter().filter(|(vault, _)| *vault == id).map(|(_, name)| *name).collect();
            let metrics = self.group.engine();
            let asked = names.clone();
            let deleted = self.at(id, move |vault| {
                let one = |name: ColdName| vault.delete(&ColdObject::path(name.0), soon()).map(|()| metrics.metrics().garbage_deleted());
                Ok(asked.into_iter().filter_map(|name| one(name).err().map(|fault| (name, fault.message))).collect::<Vec<_>>())
            });
            match deleted.await {
                Ok(failed) => {
                    if let Some((_, why)) = failed.first() {
                        tracing::debug!(vault = %id, "an upload that nothing refers to was not deleted: {why}");
                    }
                    left.extend(failed.into_iter().map(|(name, _)| (id, name)));
                }
                // It was dropped, or another cluster may name what is there.
                Err(fault) if [Class::NoBucket, Class::Invalid].contains(&fault.class) => {}
                Err(_) => left.extend(names.into_iter().map(|name| (id, name))),
            }
        }
        left
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
struct Listed {
    names: Vec<ColdName>,
    after: Option<String>,
}

fn list(vault: &Vault, mut after: Option<String>) -> Vaulted<Listed> {
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
