//! The one door to the state: stamps requests with time, ids and draws, proposes what must survive, and answers.

mod brain;
mod clock;
mod cluster;
mod facade;
mod feeds;
mod gc;
mod group;
mod objects;
mod tenants;
mod throne;
mod txn;
mod vaults;
mod walks;

pub use brain::Brain;
pub use clock::Clock;
#[cfg(feature = "simulation")]
pub(crate) use clock::Time;
pub(crate) use cluster::GRACE_MAX;
pub(crate) use group::{Group, Leader};
pub use objects::Asker;
pub(crate) use objects::NODE_PATIENCE;
pub use tenants::{Speaker, Unchanged};
pub(crate) use throne::Throne;
pub use txn::{NotAborted, OpenPut};
use walks::Walks;

use crate::config::MasterConfig;
use crate::events::EventLog;
use crate::feeds::Feeds;
use crate::log::{Log, Member, Proposal, Room};
use crate::observe::Metrics;
use crate::planted::{self, Defect};
use crate::secrets::SecretKeys;
use crate::work::Bell;
use crate::work::cold::Cold;
use crate::work::evict::Evictor;
use crate::work::jobs::Jobs;
use crate::work::recycle::RecycleLog;
pub(crate) use brain::Seat;
use perilune_protocol::{Fault, FaultCode, Outcome, Tso};
use perilune_state::shards::ShardJobs;
use perilune_state::{Applied, Effect, State};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::watch;

/// Pause before a proposal that was refused is repeated.
const AGAIN: Duration = Duration::from_millis(5);

/// What RPC and workers hold: the door to the state of one reign. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
    pub(crate) reign: Arc<Reign>,
}

/// What lasts as long as this member leads, in one term.
pub(crate) struct Reign {
    /// 0: it does not lead.
    pub(crate) term: u64,
    pub(crate) state: Arc<State>,
    pub(crate) evictor: Evictor,
    pub(crate) housekeeping: Bell,
    pub(crate) jobs: Jobs,
    pub(crate) cold: Cold,
    pub(crate) feeds: Feeds,
    pub(crate) recycled: RecycleLog,
    /// Whoever does something shard by shard says so here, and is told to stop.
    pub(crate) shard_jobs: ShardJobs,
}

pub(crate) struct Inner {
    pub(crate) seat: Arc<Seat>,
    pub(crate) log: Log<Brain>,
    pub(crate) events: Arc<EventLog>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Metrics,
    pub(crate) config: MasterConfig,
    /// Where the others, clients and people find this master; what is not known is empty.
    pub(crate) card: Member,
    pub(crate) secrets: SecretKeys,
    /// Rung when somebody asks the collector of the cold tier to look at once.
    pub(crate) collector: tokio::sync::Notify,
    /// Held while the members change.
    pub(crate) changes: tokio::sync::Mutex<()>,
    /// Held while a change of the directory is decided and logged, so that the next is decided upon it.
    directory: tokio::sync::Mutex<()>,
    pub(crate) walks: Walks,
    /// Counts the moments at which a node was heard (again); puts that found no node wait on it.
    pub(crate) heard: watch::Sender<u64>,
    draws: AtomicU64,
}

impl Inner {
    pub(crate) fn new(seat: Arc<Seat>, log: Log<Brain>, clock: Clock, config: MasterConfig, card: Member, secrets: SecretKeys) -> Self {
        let draws = AtomicU64::new(clock.wall_ms());
        let (changes, directory) = (tokio::sync::Mutex::new(()), tokio::sync::Mutex::new(()));
        let events = Arc::new(EventLog::new(log.cluster_id(), log.history(), Arc::clone(&seat), clock.clone()));
        let (collector, walks, heard) = (tokio::sync::Notify::new(), Walks::default(), watch::channel(0).0);
        let metrics = Metrics::new();
        Self { seat, log, events, clock, metrics, config, card, secrets, collector, changes, directory, walks, heard, draws }
    }

    /// Whether there is another member that could lead.
    pub(crate) fn is_group(&self) -> bool {
        self.log.members().voters().len() > 1
    }

    /// Why this member answers nothing, and who may.
    pub(crate) fn not_leader(&self) -> Fault {
        let leader = self.log.watch().borrow().leader.clone();
        FaultCode::NotLeader.with(match leader {
            Some(leader) if leader.id == self.config.member => "this master is only just taking the lead: try again".into(),
            Some(leader) => format!("this master does not lead: master {} at {} does", leader.id, leader.service),
            None => "this master does not lead, and no leader is known yet: try again".into(),
        })
    }
}

impl Engine {
    /// Whether its reign is not over, as far as the log has said.
    pub(crate) fn leads(&self) -> bool {
        self.reign.term > 0 && self.inner.seat.term() == self.reign.term
    }

    /// Whether what was found until now may be told: nobody else can have led in the meantime. Otherwise says who may lead.
    pub(crate) async fn vouch(&self) -> Outcome<()> {
        let log = &self.inner.log;
        // The lease first: it may be one of a later term, and then the other says so.
        if log.holds_lease() && self.leads() || self.leads() && log.read_barrier().await.is_ok() && self.leads() {
            return Ok(());
        }
        Err(self.inner.not_leader())
    }

    /// What happened.
    pub fn events(&self) -> &Arc<EventLog> {
        &self.inner.events
    }

    /// Where everything is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    pub(crate) fn state(&self) -> &State {
        &self.reign.state
    }

    pub(crate) fn now(&self) -> u64 {
        self.inner.clock.now()
    }

    /// Puts an effect into the log. Resolves when it has been committed and applied.
    /// Only in this reign.
    pub(crate) fn propose(&self, effect: &Effect) -> Proposal<Applied> {
        if self.reign.term == 0 {
            return Proposal::refused(self.inner.not_leader());
        }
        self.handing_in(|| self.inner.log.propose_in(self.reign.term, effect.encode()))
    }

    /// The same for several, each with a proposal of its own, in order.
    pub(crate) fn propose_all<'a>(&self, effects: impl IntoIterator<Item = &'a Effect>) -> Vec<Proposal<Applied>> {
        let effects = effects.into_iter();
        if self.reign.term == 0 {
            return effects.map(|_| Proposal::refused(self.inner.not_leader())).collect();
        }
        self.handing_in(|| self.inner.log.propose_all(self.reign.term, effects.map(Effect::encode)))
    }

    /// The log may make its proposers wait. Lookups and heartbeats on this worker must not wait with them.
    fn handing_in<T>(&self, propose: impl FnOnce() -> T) -> T {
        let is_crowded = self.inner.log.is_crowded();
        let may_leave = || Handle::try_current().is_ok_and(|h| h.runtime_flavor() == RuntimeFlavor::MultiThread);
        if is_crowded && may_leave() { tokio::task::block_in_place(propose) } else { propose() }
    }

    /// Whether changes can be stored. After the log failed, reads go on and nothing else does.
    pub(crate) fn writable(&self) -> Outcome<()> {
        let log = self.inner.log.status();
        match log.poisoned {
            None if self.inner.log.room().0 != Room::Brim => Ok(()),
            None => Err(FaultCode::Storage.with(log.crowded.unwrap_or_default())),
            Some(why) => {
                Err(FaultCode::Storage.with(format!("nothing can be stored any more: {why}; free the disk and restart the master")))
            }
        }
    }

    /// Whether the log has room for something new. While another member may take the lead that has, waits for that.
    pub(crate) async fn roomy(&self) -> Outcome<()> {
        loop {
            match self.inner.log.room() {
                (Room::Enough, _) => return Ok(()),
                _ if !self.leads() => return Err(self.inner.not_leader()),
                (_, true) => tokio::time::sleep(AGAIN).await,
                (_, false) => return Err(FaultCode::Storage.with(self.inner.log.status().crowded.unwrap_or_default())),
            }
        }
    }

    /// Proposes and waits, for async callers.
    pub(crate) async fn commit(&self, effect: &Effect) -> Outcome<()> {
        self.stored(effect, self.propose(effect)).await
    }

    /// `count` fresh stamps of the one clock, the first of them; asks the log for more room when needed.
    async fn stamps(&self, count: u64) -> Outcome<Tso> {
        loop {
            match self.state().tso.next(self.inner.clock.wall_ms(), count) {
                Ok(first) => return Ok(first),
                Err(need) => self.commit(&Effect::TsoLimit(need.0)).await?,
            }
        }
    }

    /// A number for placement; needs to differ, not to be secret.
    fn draw(&self) -> u64 {
        self.inner.draws.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)
    }

    /// What becomes of a proposal. One that is refused while the reign goes on (the lead may not have been taken from its hands after all, a
    /// majority is far behind, the disk is full) surely is not stored, and is proposed again: what it is about was already set aside for it.
    pub(crate) async fn stored(&self, effect: &Effect, mut proposal: Proposal<Applied>) -> Outcome<()> {
        if planted::is(Defect::EarlyAnswer) && matches!(effect, Effect::Commit(_)) {
            return Ok(());
        }
        loop {
            let outcome = proposal.await;
            if !self.is_worth_repeating(&outcome) {
                return self.settle(outcome);
            }
            tokio::time::sleep(AGAIN).await;
            proposal = self.propose(effect);
        }
    }

    /// The same for threads.
    pub(crate) fn wait_stored(&self, effect: &Effect, mut proposal: Proposal<Applied>) -> Outcome<()> {
        loop {
            let outcome = proposal.wait();
            if !self.is_worth_repeating(&outcome) {
                return self.settle(outcome);
            }
            std::thread::sleep(AGAIN);
            proposal = self.propose(effect);
        }
    }

    fn is_worth_repeating(&self, outcome: &Outcome<Applied>) -> bool {
        matches!(outcome, Err(fault) if fault.code == FaultCode::WrongState) && self.leads() && !self.reign.housekeeping.is_stopped()
    }

    /// One outcome from what the log says and what applying said. In a group, another member may take what the log here does not.
    fn settle(&self, outcome: Outcome<Applied>) -> Outcome<()> {
        match outcome {
            Ok(Applied::Done | Applied::Nothing) => Ok(()),
            Ok(Applied::Refused(fault)) => Err(fault),
            Err(Fault { code: FaultCode::WrongState | FaultCode::Timeout | FaultCode::Storage, message }) if self.inner.is_group() => {
                Err(FaultCode::NotLeader.with(message))
            }
            Err(fault) => Err(fault),
        }
    }
}
