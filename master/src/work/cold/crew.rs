//! Has uploads and fetches done, so many at a time. Each is a future that this thread polls, and ends with the reign.

use super::down::fetch;
use super::offers::Fit;
use super::up::{Uploaded, upload};
use super::{Claim, Cold, Target, Wish, checkpoint, claim, is_dirty, lock, vault_of};
use crate::engine::Engine;
use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use perilune_protocol::{FaultCode, NodeId, Outcome, VaultId};
use perilune_state::objects::{Key, Object, Replica};
use perilune_state::segments::Reach;
use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// How often is looked whether there is something to do, when nobody rings.
const EVERY: Duration = Duration::from_millis(100);
/// Uploads of one node at a time: less than the hands it has, so that a vault that is slow to take leaves some to fetch with.
const UPLOADS_MAX: usize = 4;
/// Fetches at a time, over all nodes.
const FETCHES_MAX: usize = 32;
/// Offers that are looked at for one whose node has a hand free.
const LOOK: usize = 256;
/// The pause after a vault did not do something, which doubles up to the longest while it goes on, in milliseconds.
const PAUSE_MS: u64 = 100;
const PAUSE_MAX_MS: u64 = 30_000;
/// Before an object that could not be uploaded is tried again, in milliseconds.
const REST_MS: u64 = 5000;
/// Between two complaints in the log, in milliseconds.
const COMPLAIN_MS: u64 = 1000;

type Flight = Pin<Box<dyn Future<Output = Landed> + Send>>;

/// What has ended.
enum Landed {
    Up { object: Arc<Object>, node: NodeId, vault: VaultId, how: Uploaded },
    Down { key: Key, outcome: Outcome<()> },
}

struct Crew {
    engine: Engine,
    flights: FuturesUnordered<Flight>,
    /// Objects that are being uploaded, and uploads by node.
    uploading: HashSet<Key>,
    uploads: HashMap<NodeId, usize>,
    /// Who wants an object that is being fetched, or is to be.
    wanted: HashMap<Key, Vec<oneshot::Sender<Outcome<()>>>>,
    to_fetch: VecDeque<Arc<Object>>,
    fetches: usize,
    /// Until when a vault is left alone, and the pause after that.
    paused: HashMap<VaultId, (u64, u64)>,
    /// Until when an object is.
    resting: HashMap<Key, u64>,
    complained: u64,
}

/// The worker's thread. `handle` runs it.
pub(crate) fn run(engine: &Engine, handle: &Handle) {
    let others = [handle.spawn(claim::run(engine.clone())), handle.spawn(checkpoint::run(engine.clone()))];
    handle.block_on(Crew::begin(engine).run());
    others.iter().for_each(tokio::task::JoinHandle::abort);
}

impl Crew {
    fn begin(engine: &Engine) -> Self {
        Self {
            engine: engine.clone(),
            flights: FuturesUnordered::new(),
            uploading: HashSet::new(),
            uploads: HashMap::new(),
            wanted: HashMap::new(),
            to_fetch: VecDeque::new(),
            fetches: 0,
            paused: HashMap::new(),
            resting: HashMap::new(),
            complained: 0,
        }
    }

    async fn run(mut self) {
        let engine = self.engine.clone();
        let cold: &Cold = &engine.reign.cold;
        loop {
            tokio::select! {
                () = cold.news.notified() => {}
                Some(landed) = self.flights.next(), if !self.flights.is_empty() => self.landed(landed),
                () = tokio::time::sleep(EVERY) => {}
            }
            if cold.is_stopped() {
                return;
            }
            while let Some(Some(landed)) = self.flights.next().now_or_never() {
                self.landed(landed);
            }
            let table = engine.state().segments.table();
            let lost: HashSet<NodeId> = table.iter().filter(|s| s.reach() == Reach::Lost).map(|s| s.node()).collect();
            drop(table);
            cold.hear(engine.now(), |node| lost.contains(&node));
            self.take_wishes();
            // What cannot be logged is not begun.
            if engine.writable().is_ok() && engine.leads() {
                self.fetch_more();
                self.upload_more();
            }
        }
    }

    fn take_wishes(&mut self) {
        for Wish { object, tell } in std::mem::take(&mut *lock(&self.engine.reign.cold.wishes)) {
            let callers = self.wanted.entry(object.key.clone()).or_default();
            if callers.is_empty() {
                self.to_fetch.push_back(object);
            }
            callers.push(tell);
        }
    }

    fn fetch_more(&mut self) {
        while self.fetches < FETCHES_MAX
            && let Some(object) = self.to_fetch.pop_front()
        {
            let key = object.key.clone();
            // Whoever has given up wants nothing fetched that may push out what others read.
            if self.wanted.get(&key).is_none_or(|callers| callers.iter().all(oneshot::Sender::is_closed)) {
                self.wanted.remove(&key);
                continue;
            }
            self.fetches += 1;
            let engine = self.engine.clone();
            let flight = async move {
                let outcome = match engine.state().standing(key.as_ref()) {
                    Some(object) if object.readable() => Ok(()),
                    Some(object) if object.cold.is_some() => fetch(&engine, &object).await,
                    _ => Err(FaultCode::ObjectNotFound.with(format!("{}: it was removed meanwhile", key.to_object_key()))),
                };
                Landed::Down { key, outcome }
            };
            self.flights.push(Box::pin(flight));
        }
    }

    fn upload_more(&mut self) {
        let (engine, now) = (self.engine.clone(), self.engine.now());
        self.resting.retain(|_, until| *until > now);
        while let Some((object, replica, vault)) = engine.reign.cold.offers.take(LOOK, |offered| self.fits(offered, now)) {
            let node = replica.segment.node();
            self.uploading.insert(object.key.clone());
            *self.uploads.entry(node).or_default() += 1;
            let engine = engine.clone();
            let flight = async move {
                let how = upload(&engine, &object, &replica, vault).await;
                Landed::Up { object, node, vault: vault.id, how }
            };
            self.flights.push(Box::pin(flight));
        }
    }

    /// Whether an object that was offered can be uploaded now: what, from where, and where to.
    fn fits(&self, offered: &Arc<Object>, now: u64) -> Fit<(Arc<Object>, Replica, Target)> {
        let state = self.engine.state();
        let Some(object) = state.standing(offered.key.as_ref()).filter(|object| is_dirty(object)) else { return Fit::Never };
        let Some(vault) = vault_of(state, object.key.as_ref().tenant) else { return Fit::Never };
        if self.engine.reign.cold.claim(vault.id) != Some(Claim::Ours) {
            return Fit::Never;
        }
        if self.uploading.contains(&object.key)
            || self.resting.contains_key(&object.key)
            || self.paused.get(&vault.id).is_some_and(|(until, _)| *until > now)
        {
            return Fit::Never;
        }
        let busy = |r: &&Replica| self.uploads.get(&r.segment.node()).copied().unwrap_or(0);
        let alive = object.replicas.iter().filter(|r| r.segment.readable() && r.segment.reach() == Reach::Alive);
        match alive.min_by_key(busy) {
            None => Fit::Never,
            Some(replica) if busy(&replica) >= UPLOADS_MAX => Fit::Later,
            Some(replica) => {
                let replica = replica.clone();
                Fit::Now((object, replica, vault))
            }
        }
    }

    fn landed(&mut self, landed: Landed) {
        match landed {
            Landed::Down { key, outcome } => {
                self.fetches -= 1;
                if let Err(fault) = &outcome {
                    self.engine.metrics().recall_failed();
                    self.complain(&fault.message);
                }
                for caller in self.wanted.remove(&key).unwrap_or_default() {
                    let _ = caller.send(outcome.clone());
                }
            }
            Landed::Up { object, node, vault, how } => {
                self.uploading.remove(&object.key);
                if let Some(uploads) = self.uploads.get_mut(&node) {
                    *uploads -= 1;
                    if *uploads == 0 {
                        self.uploads.remove(&node);
                    }
                }
                self.uploaded(&object, vault, how);
            }
        }
    }

    fn uploaded(&mut self, object: &Object, vault: VaultId, how: Uploaded) {
        let now = self.engine.now();
        match how {
            Uploaded::Saved => {
                self.paused.remove(&vault);
                self.engine.metrics().offloaded(object.size);
                if self.engine.reign.cold.offers.is_empty() {
                    // It knows what comes next.
                    self.engine.reign.evictor.bell.ring();
                }
            }
            Uploaded::Moot => {}
            Uploaded::Away(why) => {
                self.engine.metrics().offload_failed();
                let pause = self.paused.get(&vault).map_or(PAUSE_MS, |(_, pause)| *pause);
                // Those that were begun together fail together.
                if self.paused.get(&vault).is_none_or(|(until, _)| *until <= now) {
                    self.paused.insert(vault, (now + pause, (2 * pause).min(PAUSE_MAX_MS)));
                }
                self.complain(&why);
            }
            Uploaded::Failed(why) => {
                self.engine.metrics().offload_failed();
                self.resting.insert(object.key.clone(), now + REST_MS);
                self.complain(&why);
            }
        }
    }

    fn complain(&mut self, why: &str) {
        self.engine.reign.cold.failed(why);
        let now = self.engine.now();
        if now >= self.complained + COMPLAIN_MS {
            self.complained = now;
            tracing::warn!("the cold tier: {why}");
        }
    }
}
