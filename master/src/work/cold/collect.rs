//! Deletes uploads that nothing refers to any more: those that the leader knows to be such, soon; those that a crash left, by looking at all that
//! is in every vault now and then. One master does so at a time, whoever has the lease for it (`engine/gc.rs`); it need not lead, and asks the
//! leader what may go. In each vault an errand of its own is done (`errand.rs`), so that one that is slow holds up none of the others.

use super::errand::{Cleaned, Errand, Reach, Sweep};
use super::usable;
use crate::api::forward;
use crate::engine::{Engine, Group};
use crate::log::Member;
use axum::http::Method;
use futures_util::stream::{FuturesUnordered, StreamExt};
use perilune_protocol::access::Token;
use perilune_protocol::{ColdName, FaultCode, Outcome, VaultId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
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
/// So many of a vault are tried again; those beyond are found by looking at the vault.
const AGAIN_MAX: usize = 1 << 16;
/// After what could not be deleted of a vault.
const REST: Duration = Duration::from_secs(1);
/// All of a vault is looked at so long after somebody began to collect, or to lead, and then so often.
const FIRST_SWEEP: Duration = Duration::from_secs(10);
pub(super) const SWEEP_EVERY: Duration = Duration::from_secs(3600);
/// Vaults in which something is done at a time: each has a thread meanwhile.
const AT_ONCE: usize = 32;

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
    let mut collector = Collector::begin(group.clone(), Called { token });
    let mut under_way = FuturesUnordered::new();
    loop {
        let at_once = tokio::select! {
            biased;
            _ = stop.changed() => return,
            () = group.asked_to_collect() => true,
            Some(cleaned) = under_way.next(), if !under_way.is_empty() => {
                collector.ended(cleaned);
                false
            }
            () = tokio::time::sleep(super::EVERY) => false,
        };
        under_way.extend(collector.due(at_once).await.into_iter().map(Errand::run));
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

impl Asks for Called {
    async fn ask(&self, leader: Member, question: Question) -> Outcome<Answer> {
        let body = serde_json::to_vec(&question).map_err(|e| FaultCode::Internal.with(e.to_string()))?;
        forward::call(&leader.http, self.token.as_ref(), Method::POST, PATH, body).await
    }
}

/// Knows what is to be done in each vault, and has it done when its turn comes.
pub(crate) struct Collector<A> {
    reach: Arc<Reach<A>>,
    bins: BTreeMap<VaultId, Bin>,
    /// The term in which it was decided when each vault is looked at, and how often that was decided anew for all.
    term: u64,
    looks: u64,
    /// Errands so far.
    errands: u64,
    ask: Instant,
}

/// What is to be done in one vault.
#[derive(Default)]
struct Bin {
    /// Uploads to be deleted, and until when they wait.
    names: Vec<ColdName>,
    rests: Option<Instant>,
    /// When all of it is looked at, if that has been decided.
    sweep: Option<Sweep>,
    /// Something is done there.
    busy: bool,
    /// The number of the last errand there: those that were served last are behind.
    served: u64,
}

impl Bin {
    /// What is to be done there now, if anything is.
    fn due(&mut self, now: Instant) -> Option<(Vec<ColdName>, Option<Sweep>)> {
        let names = if self.rests.is_none_or(|until| until <= now) {
            self.names.split_off(self.names.len().saturating_sub(LOOK))
        } else {
            Vec::new()
        };
        let sweep = self.sweep.clone().filter(|sweep| sweep.due <= now);
        (!names.is_empty() || sweep.is_some()).then_some((names, sweep))
    }
}

impl<A: Asks> Collector<A> {
    pub(crate) fn begin(group: Group, asks: A) -> Self {
        let reach = Arc::new(Reach::new(group, asks));
        Self { reach, bins: BTreeMap::new(), term: 0, looks: 0, errands: 0, ask: Instant::now() }
    }

    /// What is to be done now, to be run at one time; with `at_once` all vaults are looked at.
    pub(crate) async fn due(&mut self, at_once: bool) -> Vec<Errand<A>> {
        let reach = Arc::clone(&self.reach);
        if !reach.group.collects() {
            self.bins.retain(|_, bin| bin.busy);
            self.bins.values_mut().for_each(|bin| (bin.names, bin.sweep) = (Vec::new(), None));
            self.term = 0;
            return Vec::new();
        }
        let (engine, term, now) = (reach.group.engine(), reach.group.term(), Instant::now());
        if at_once || term != self.term {
            self.looks += 1;
            self.bins.values_mut().for_each(|bin| bin.sweep = None);
        }
        // What is left over by whoever did it before; a vault that is new has nothing yet.
        let first = match (at_once, term != self.term) {
            (true, _) => now,
            (false, true) => now + FIRST_SWEEP,
            (false, false) => now + SWEEP_EVERY,
        };
        self.term = term;
        for id in usable(&engine) {
            self.bins.entry(id).or_default().sweep.get_or_insert_with(|| Sweep::begin(first));
        }
        if at_once || now >= self.ask {
            self.take().await;
        }
        let known = engine.directory();
        self.bins.retain(|id, bin| bin.busy || known.vault(*id).is_some());
        self.errands_due(&reach, Instant::now())
    }

    /// Those who waited longest come first.
    fn errands_due(&mut self, reach: &Arc<Reach<A>>, now: Instant) -> Vec<Errand<A>> {
        let room = AT_ONCE.saturating_sub(self.bins.values().filter(|bin| bin.busy).count());
        let mut idle: Vec<_> = self.bins.iter_mut().filter(|(_, bin)| !bin.busy).collect();
        idle.sort_by_key(|(_, bin)| bin.served);
        let mut due = Vec::new();
        for (vault, bin) in idle {
            if due.len() == room {
                break;
            }
            let Some((names, sweep)) = bin.due(now) else { continue };
            self.errands += 1;
            (bin.busy, bin.served) = (true, self.errands);
            due.push(Errand { reach: Arc::clone(reach), vault: *vault, names, sweep, looks: self.looks });
        }
        due
    }

    /// What the leader knows to be garbage.
    async fn take(&mut self) {
        let taken = match self.reach.leader(Question { take: LOOK, listed: Vec::new() }).await {
            Ok(answer) => answer.taken,
            Err(fault) => {
                tracing::debug!("the leader does not say what is garbage: {fault}");
                Vec::new()
            }
        };
        if taken.is_empty() && !self.reach.group.leads() {
            self.ask = Instant::now() + ASK_EVERY;
        }
        for Taken { vault, name } in taken {
            self.bins.entry(vault).or_default().names.push(name);
        }
    }

    /// An errand was done.
    pub(crate) fn ended(&mut self, cleaned: Cleaned) {
        let Some(bin) = self.bins.get_mut(&cleaned.vault) else { return };
        bin.busy = false;
        bin.rests = (!cleaned.left.is_empty()).then(|| Instant::now() + REST);
        // The latest is tried first: what is tried in vain holds up nothing that came after it.
        bin.names.splice(..0, cleaned.left);
        bin.names.truncate(AGAIN_MAX);
        // Where it was decided anew meanwhile, all of it is yet to be looked at.
        if let Some(sweep) = cleaned.sweep.filter(|_| cleaned.looks == self.looks) {
            bin.sweep = Some(sweep);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::errand::SWEEP_AGAIN;
    use super::super::tests::{Stand, until};
    use super::*;
    use perilune_vault::ColdObject;
    use std::path::PathBuf;

    struct Nobody;

    impl Asks for Nobody {
        async fn ask(&self, _: Member, _: Question) -> Outcome<Answer> {
            Err(FaultCode::NotLeader.with("the leader is here"))
        }
    }

    /// An upload that nobody knows.
    fn orphan(stand: &Stand, folder: &str) -> PathBuf {
        let path = stand.folder(folder).join(ColdObject::path(ColdName::random().0));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "nobody's").unwrap();
        path
    }

    /// A collector that looks at no vault by itself for now.
    fn collector(stand: &Stand) -> Collector<Nobody> {
        let collector = Collector::begin(stand.master.group(), Nobody);
        until("this master to collect", || collector.reach.group.collects());
        collector
    }

    fn run(stand: &Stand, collector: &mut Collector<Nobody>, errands: Vec<Errand<Nobody>>) {
        for errand in errands {
            collector.ended(stand.runtime.block_on(errand.run()));
        }
    }

    fn round(stand: &Stand, collector: &mut Collector<Nobody>, at_once: bool) {
        let due = stand.runtime.block_on(collector.due(at_once));
        run(stand, collector, due);
    }

    fn sweep(collector: &mut Collector<Nobody>, vault: VaultId) -> &mut Sweep {
        collector.bins.get_mut(&vault).unwrap().sweep.as_mut().unwrap()
    }

    #[test]
    fn a_vault_that_is_away_is_tried_again_alone_and_ever_more_seldom() {
        let stand = Stand::start();
        let [main, gone] = ["main", "gone"].map(|name| stand.vault(name));
        let mut collector = collector(&stand);
        let away = stand.folder("away");
        std::fs::rename(stand.folder("gone"), &away).unwrap();
        let first = orphan(&stand, "main");
        round(&stand, &mut collector, true);
        assert!(!first.exists());
        for times in 2..5 {
            assert!(sweep(&mut collector, main).due > Instant::now() + SWEEP_EVERY / 2);
            assert_eq!(sweep(&mut collector, gone).pause, SWEEP_AGAIN * (1 << (times - 1)));
            sweep(&mut collector, gone).due = Instant::now();
            round(&stand, &mut collector, false);
        }
        std::fs::rename(&away, stand.folder("gone")).unwrap();
        let third = orphan(&stand, "gone");
        sweep(&mut collector, gone).due = Instant::now();
        round(&stand, &mut collector, false);
        assert!(!third.exists() && sweep(&mut collector, gone).due > Instant::now() + SWEEP_EVERY / 2);
    }

    #[test]
    fn a_vault_that_takes_long_holds_up_no_other_and_is_looked_at_again_if_that_was_asked_for_meanwhile() {
        let stand = Stand::start();
        let [slow, quick] = ["slow", "quick"].map(|name| stand.vault(name));
        let mut collector = collector(&stand);
        let due = stand.runtime.block_on(collector.due(true));
        let (long, short): (Vec<_>, Vec<_>) = due.into_iter().partition(|errand| errand.vault == slow);
        run(&stand, &mut collector, short);
        let left = orphan(&stand, "quick");
        let again = stand.runtime.block_on(collector.due(true));
        assert_eq!(again.iter().map(|errand| errand.vault).collect::<Vec<_>>(), [quick]);
        run(&stand, &mut collector, again);
        assert!(!left.exists());
        // It began before anybody asked for the second time.
        run(&stand, &mut collector, long);
        let late = orphan(&stand, "slow");
        round(&stand, &mut collector, false);
        assert!(!late.exists());
    }
}
