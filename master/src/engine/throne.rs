//! Begins and ends reigns as the log says who leads. A reign is a term and the state it began with.
//!
//! Whoever serves takes an [`Engine`] from here, which belongs to one reign for good: when that ends its proposals are refused, what it found
//! is not vouched for, and connections that were served with it are closed.

use super::{Engine, Inner, Reign};
use crate::feeds::Feeds;
use crate::log::Role;
use crate::work::cold::Cold;
use crate::work::evict::Evictor;
use crate::work::recycle::RecycleLog;
use crate::work::{Bell, jobs};
use perilune_protocol::Outcome;
use perilune_protocol::access::{Access, Token};
use perilune_state::State;
use perilune_state::reign::Overlap;
use perilune_state::shards::ShardJobs;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// The reign that is, and its workers.
pub(crate) struct Throne {
    pub(super) inner: Arc<Inner>,
    present: watch::Sender<Arc<Reign>>,
    workers: Mutex<Vec<JoinHandle<()>>>,
    handle: Handle,
    hire: Hire,
}

/// Begins the workers of a reign; gives those that began, also when one could not.
pub(crate) type Hire = fn(&Engine, &Handle, &mut Vec<JoinHandle<()>>) -> io::Result<()>;

impl Throne {
    /// Nobody reigns yet.
    pub(crate) fn new(inner: Arc<Inner>, handle: Handle, hire: Hire) -> Self {
        let nobody = nobody(&inner);
        Self { inner, present: watch::channel(nobody).0, workers: Mutex::default(), handle, hire }
    }

    /// The engine as of now.
    pub(crate) fn engine(&self) -> Engine {
        let reign = Arc::clone(&self.present.borrow());
        self.engine_of(reign)
    }

    /// That of the reign that is, and what changes when it is over.
    pub(crate) fn served(&self) -> (Engine, watch::Receiver<Arc<Reign>>) {
        let mut present = self.present.subscribe();
        let reign = Arc::clone(&present.borrow_and_update());
        (self.engine_of(reign), present)
    }

    /// The term of the reign that is; 0 is none.
    pub(super) fn term(&self) -> u64 {
        self.present.borrow().term
    }

    fn engine_of(&self, reign: Arc<Reign>) -> Engine {
        // What a member knows that follows is exchanged now and then.
        let reign = if reign.term > 0 { reign } else { Arc::new(Reign::new(0, self.inner.seat.state())) };
        Engine { inner: Arc::clone(&self.inner), reign }
    }

    fn workers(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the log's standing until `stop` changes. Then the reign is over, and the lead handed to another member.
    pub(crate) fn run(&self, mut stop: watch::Receiver<bool>) {
        let mut standing = self.inner.log.watch();
        loop {
            if let Err(e) = self.follow() {
                tracing::error!("this member cannot serve as the leader: {e}");
                // Another may. If there is none, nobody can.
                let _ = self.hand_over();
            }
            let stops = self.handle.block_on(async {
                tokio::select! {
                    biased;
                    _ = stop.changed() => true,
                    changed = standing.changed() => changed.is_err(),
                }
            });
            if stops {
                break;
            }
        }
        let led = self.term() > 0;
        self.end();
        if led
            && self.inner.is_group()
            && let Err(fault) = self.hand_over()
        {
            tracing::info!("the lead was not handed over: {fault}");
        }
    }

    /// Ends the reign that is over, and begins the one that is due; where none is, has what is known made ready for one.
    pub(crate) fn follow(&self) -> io::Result<()> {
        let standing = self.inner.log.watch().borrow().clone();
        let due = if standing.role == Role::Leader { standing.term } else { 0 };
        let term = self.term();
        if term != due && term > 0 {
            self.end();
        }
        if due == 0 {
            self.inner.seat.make_ready();
            return Ok(());
        }
        if term != due { self.begin(due) } else { Ok(()) }
    }

    fn begin(&self, term: u64) -> io::Result<()> {
        let Inner { seat, clock, .. } = &*self.inner;
        if let Some(what) = seat.unreadable() {
            return Err(io::Error::other(format!("its log holds what this release cannot read ({what}): start the newer release")));
        }
        // Otherwise the lead is lost already, and the standing about to say so.
        let Some((state, overlaps)) = seat.take(term, clock.now()) else { return Ok(()) };
        state.tso.stagger(clock.wall_ms());
        for overlap in overlaps {
            let Overlap { key, why, .. } = &overlap;
            match overlap.left() {
                0 => tracing::error!(%key, "a committed object overlaps another and was left out: {why}"),
                left => tracing::warn!(%key, left, "copies of a committed object overlap another and were left out: {why}"),
            }
        }
        let (objects, segments) = (state.index.len(), state.segments.table().len());
        tracing::info!(term, objects, segments, applied = self.inner.log.status().applied, "leading");
        let reign = Arc::new(Reign::new(term, state));
        let engine = self.engine_of(Arc::clone(&reign));
        // What is silent is so since now.
        engine.judge();
        let hired = (self.hire)(&engine, &self.handle, &mut self.workers());
        // Told before a failure is, so that `end` finds what there is to end.
        self.present.send_replace(reign);
        hired
    }

    /// From here on nobody is served; when this returns, nothing works for the old reign any more.
    pub(crate) fn end(&self) {
        let over = self.present.send_replace(nobody(&self.inner));
        if over.term > 0 {
            tracing::info!(term = over.term, "no longer leading");
        }
        over.housekeeping.stop();
        over.evictor.bell.stop();
        over.jobs.bell.stop();
        over.cold.stop();
        over.feeds.bell.stop();
        for worker in self.workers().drain(..) {
            let _ = worker.join();
        }
    }

    /// What opens the meta service.
    pub(crate) fn meta_token(&self) -> Option<Token> {
        self.inner.config.meta_token.clone()
    }

    /// What is asked of callers, over RPC and HTTP.
    pub(crate) fn access(&self) -> Access {
        self.inner.config.access()
    }

    /// Gives the lead away.
    pub(crate) fn hand_over(&self) -> Outcome<()> {
        self.inner.log.hand_over().wait()
    }

    /// Closes the log. What was acknowledged is stored.
    pub(crate) fn close(&self) {
        self.inner.log.close();
        self.inner.seat.close();
    }
}

/// Nobody reigns. What is known is with the seat, and not kept alive here.
fn nobody(inner: &Inner) -> Arc<Reign> {
    Arc::new(Reign::new(0, Arc::new(State::new(inner.config.rules()))))
}

impl Reign {
    fn new(term: u64, state: Arc<State>) -> Self {
        let (evictor, housekeeping, jobs) = (Evictor::default(), Bell::default(), jobs::Jobs::new(term));
        Self {
            term,
            state,
            evictor,
            housekeeping,
            jobs,
            cold: Cold::new(term),
            feeds: Feeds::default(),
            recycled: RecycleLog::default(),
            shard_jobs: ShardJobs::new(term),
        }
    }
}
