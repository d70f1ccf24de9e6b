//! The one door to the state: stamps requests with time, ids and draws, proposes what must survive, and answers.

mod brain;
mod clock;
mod cluster;
mod facade;
mod objects;

pub use brain::Brain;
pub use clock::Clock;

use crate::config::MasterConfig;
use crate::log::Log;
use crate::observe::Metrics;
use crate::work::evict::Evictor;
use perilune_protocol::{FaultCode, Outcome, Tso};
use perilune_state::{Applied, Effect, State};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::watch;

/// What faces, RPC and workers hold. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) state: Arc<State>,
    pub(crate) log: Log<Brain>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Metrics,
    pub(crate) evictor: Evictor,
    pub(crate) config: MasterConfig,
    /// Where this master's RPC listener really is.
    pub(crate) rpc: SocketAddr,
    /// Counts the moments at which a node was heard (again); puts that found no node wait on it.
    pub(crate) heard: watch::Sender<u64>,
    draws: AtomicU64,
}

impl Engine {
    pub(crate) fn new(state: Arc<State>, log: Log<Brain>, clock: Clock, config: MasterConfig, rpc: SocketAddr) -> Self {
        let draws = AtomicU64::new(clock.wall_ms());
        let (metrics, evictor, heard) = (Metrics::new(), Evictor::default(), watch::channel(0).0);
        Self { inner: Arc::new(Inner { state, log, clock, metrics, evictor, config, rpc, heard, draws }) }
    }

    /// Where everything is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    pub(crate) fn state(&self) -> &State {
        &self.inner.state
    }

    pub(crate) fn now(&self) -> u64 {
        self.inner.clock.now()
    }

    /// Puts an effect into the log. Resolves when it has been committed and applied.
    pub(crate) fn propose(&self, effect: &Effect) -> crate::log::Proposal<Applied> {
        let bytes = effect.encode();
        if self.inner.log.is_crowded() && Handle::try_current().is_ok_and(|h| h.runtime_flavor() == RuntimeFlavor::MultiThread) {
            // The log may make its proposers wait. Lookups and heartbeats on this worker must not wait with them.
            return tokio::task::block_in_place(|| self.inner.log.propose(bytes));
        }
        self.inner.log.propose(bytes)
    }

    /// Whether changes can be stored. After the log failed, reads go on and nothing else does.
    pub(crate) fn writable(&self) -> Outcome<()> {
        match self.inner.log.status().poisoned {
            None => Ok(()),
            Some(why) => {
                Err(FaultCode::Storage.with(format!("nothing can be stored any more: {why}; free the disk and restart the master")))
            }
        }
    }

    /// Proposes and waits, for async callers.
    pub(crate) async fn commit(&self, effect: &Effect) -> Outcome<()> {
        settle(self.propose(effect).await)
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
}

/// One outcome from what the log says and what applying said.
pub(crate) fn settle(outcome: Outcome<Applied>) -> Outcome<()> {
    match outcome? {
        Applied::Done => Ok(()),
        Applied::Refused(fault) => Err(fault),
    }
}
