//! Has uploads and fetches done, so many at a time. Each is a future that this thread polls, and ends with the reign.

use super::down::fetch;
use super::offers::{Fit, Offered};
use super::up::{Uploaded, upload};
use super::{Claim, Cold, Target, Wish, alive, checkpoint, claims, is_dirty, lock, vault_of};
use crate::engine::Engine;
use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use perilune_protocol::{FaultCode, NodeId, Outcome, TenantId, VaultId};
use perilune_state::objects::{Key, Object, Replica};
use perilune_state::segments::Reach;
use perilune_state::shards::ShardJob;
use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// How often is looked whether there is something to do, when nobody rings.
const EVERY: Duration = Duration::from_millis(100);
/// Uploads of one node at a time, and fetches from one vault over all nodes: a third of the hands that a node has, so that a vault that is slow
/// leaves some to others.
const AT_ONCE: usize = 32;
/// The bytes that these have in hand together.
const BYTES_MAX: u64 = 256 << 20;
/// Of one object, no more is in hand than this.
const IN_HAND_MAX: u64 = 40 << 20;
/// Offers of a tenant that are looked at for one whose node has a hand free.
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
    Up { object: Arc<Object>, node: NodeId, vault: VaultId, how: Uploaded, job: Arc<ShardJob> },
    Down { key: Key, size: u64, vault: VaultId, outcome: Outcome<()> },
}

/// What is under way.
#[derive(Clone, Copy, Default)]
struct Load {
    objects: usize,
    bytes: u64,
}

impl Load {
    fn is_full(&self) -> bool {
        self.objects >= AT_ONCE || self.bytes >= BYTES_MAX
    }

    fn begin(&mut self, size: u64) {
        self.objects += 1;
        self.bytes += size.min(IN_HAND_MAX);
    }

    fn end(&mut self, size: u64) {
        self.objects -= 1;
        self.bytes -= size.min(IN_HAND_MAX);
    }
}

/// Fetches from a vault.
#[derive(Default)]
struct Line {
    waiting: VecDeque<Arc<Object>>,
    under_way: Load,
}

/// What has uploads and fetches done, turn by turn.
pub(crate) struct Crew {
    engine: Engine,
    flights: FuturesUnordered<Flight>,
    /// Objects that are being uploaded, and uploads by node.
    uploading: HashSet<Key>,
    uploads: HashMap<NodeId, Load>,
    /// Who wants an object that is being fetched, or is to be.
    wanted: HashMap<Key, Vec<oneshot::Sender<Outcome<()>>>>,
    lines: HashMap<VaultId, Line>,
    /// Until when a vault is left alone, and the pause after that.
    paused: HashMap<VaultId, (u64, u64)>,
    /// Until when an object is.
    resting: HashMap<Key, u64>,
    complained: u64,
}

/// The worker's thread. `handle` runs it.
pub(crate) fn run(engine: &Engine, handle: &Handle) {
    let others = [
        handle.spawn(claims::run(engine.clone())),
        handle.spawn(checkpoint::run(engine.clone())),
        handle.spawn(alive::run(engine.clone())),
    ];
    handle.block_on(Crew::begin(engine).run());
    others.iter().for_each(tokio::task::JoinHandle::abort);
}

impl Crew {
    pub(crate) fn begin(engine: &Engine) -> Self {
        Self {
            engine: engine.clone(),
            flights: FuturesUnordered::new(),
            uploading: HashSet::new(),
            uploads: HashMap::new(),
            wanted: HashMap::new(),
            lines: HashMap::new(),
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
            self.turn();
        }
    }

    /// Hears what has ended, and begins what there is room for.
    pub(crate) fn turn(&mut self) {
        while let Some(Some(landed)) = self.flights.next().now_or_never() {
            self.landed(landed);
        }
        let engine = &self.engine;
        let table = engine.state().segments.table();
        let lost: HashSet<NodeId> = table.iter().filter(|s| s.reach() == Reach::Lost).map(|s| s.node()).collect();
        drop(table);
        engine.reign.cold.hear(engine.now(), |node| lost.contains(&node));
        self.take_wishes();
        // What cannot be logged is not begun.
        if self.engine.writable().is_ok() && self.engine.leads() {
            self.fetch_more();
            self.upload_more();
        }
    }

    fn take_wishes(&mut self) {
        for Wish { object, tell } in std::mem::take(&mut *lock(&self.engine.reign.cold.wishes)) {
            let Some(vault) = object.cold.as_ref().map(|copy| copy.vault) else {
                let _ = tell.send(Ok(()));
                continue;
            };
            let callers = self.wanted.entry(object.key.clone()).or_default();
            if callers.is_empty() {
                self.lines.entry(vault).or_default().waiting.push_back(object);
            }
            callers.push(tell);
        }
    }

    fn fetch_more(&mut self) {
        for (&vault, line) in &mut self.lines {
            while !line.under_way.is_full()
                && let Some(object) = line.waiting.pop_front()
            {
                let (key, size) = (object.key.clone(), object.size);
                // Whoever has given up wants nothing fetched that may push out what others read.
                if self.wanted.get(&key).is_none_or(|callers| callers.iter().all(oneshot::Sender::is_closed)) {
                    self.wanted.remove(&key);
                    continue;
                }
                line.under_way.begin(size);
                let engine = self.engine.clone();
                let flight = async move {
                    let outcome = match engine.state().standing(key.as_ref()) {
                        Some(object) if object.readable() => Ok(()),
                        Some(object) if object.cold.is_some() => fetch(&engine, &object).await,
                        _ => Err(FaultCode::ObjectNotFound.with(format!("{}: it was removed meanwhile", key.to_object_key()))),
                    };
                    Landed::Down { key, size, vault, outcome }
                };
                self.flights.push(Box::pin(flight));
            }
        }
        self.lines.retain(|_, line| line.under_way.objects > 0 || !line.waiting.is_empty());
    }

    fn upload_more(&mut self) {
        let (engine, now) = (self.engine.clone(), self.engine.now());
        self.resting.retain(|_, until| *until > now);
        loop {
            let free = self.free();
            let next = engine.reign.cold.offers.take(LOOK, |tenant| free.contains(&tenant), |offered| self.fits(offered, now));
            let Some((job, (object, replica, vault))) = next else { return };
            let node = replica.segment.node();
            self.uploading.insert(object.key.clone());
            self.uploads.entry(node).or_default().begin(object.size);
            let engine = engine.clone();
            let flight = async move {
                let how = upload(&engine, &object, &replica, vault).await;
                Landed::Up { object, node, vault: vault.id, how, job }
            };
            self.flights.push(Box::pin(flight));
        }
    }

    /// Tenants with a node that can take an upload: what is offered of others need not be looked at.
    fn free(&self) -> HashSet<TenantId> {
        let table = self.engine.state().segments.table();
        let free = table.iter().filter(|s| s.reach() == Reach::Alive && self.uploads.get(&s.node()).is_none_or(|load| !load.is_full()));
        free.map(|s| s.tenant()).collect()
    }

    /// Whether an object that was offered can be uploaded now: what, from where, and where to.
    fn fits(&self, offered: &Offered, now: u64) -> Fit<(Arc<Object>, Replica, Target)> {
        let state = self.engine.state();
        let Some(object) = state.standing(offered.object.key.as_ref()).filter(|object| is_dirty(object)) else { return Fit::Never };
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
        let load = |r: &Replica| self.uploads.get(&r.segment.node()).copied().unwrap_or_default();
        let alive = object.replicas.iter().filter(|r| r.segment.readable() && r.segment.reach() == Reach::Alive);
        match alive.min_by_key(|r| load(r).bytes) {
            None => Fit::Never,
            Some(replica) if load(replica).is_full() => Fit::Later,
            Some(replica) => {
                let replica = replica.clone();
                Fit::Now((object, replica, vault))
            }
        }
    }

    fn landed(&mut self, landed: Landed) {
        match landed {
            Landed::Down { key, size, vault, outcome } => {
                if let Some(line) = self.lines.get_mut(&vault) {
                    line.under_way.end(size);
                }
                if let Err(fault) = &outcome {
                    self.engine.metrics().recall_failed();
                    self.complain(key.as_ref().tenant, &fault.message);
                }
                for caller in self.wanted.remove(&key).unwrap_or_default() {
                    let _ = caller.send(outcome.clone());
                }
            }
            Landed::Up { object, node, vault, how, job } => {
                self.uploading.remove(&object.key);
                if let Some(load) = self.uploads.get_mut(&node) {
                    load.end(object.size);
                    if load.objects == 0 {
                        self.uploads.remove(&node);
                    }
                }
                self.uploaded(&object, vault, how);
                drop(job);
                if self.engine.reign.cold.offers.is_empty(object.key.as_ref().tenant) {
                    // They know what comes next.
                    self.engine.reign.cold.settled.notify_waiters();
                    self.engine.reign.evictor.bell.ring();
                }
            }
        }
    }

    fn uploaded(&mut self, object: &Object, vault: VaultId, how: Uploaded) {
        let (now, tenant) = (self.engine.now(), object.key.as_ref().tenant);
        match how {
            Uploaded::Saved => {
                self.paused.remove(&vault);
                self.engine.metrics().offloaded(object.size);
            }
            Uploaded::Moot => {}
            Uploaded::Away(why) => {
                self.engine.metrics().offload_failed();
                let pause = self.paused.get(&vault).map_or(PAUSE_MS, |(_, pause)| *pause);
                // Those that were begun together fail together.
                if self.paused.get(&vault).is_none_or(|(until, _)| *until <= now) {
                    self.paused.insert(vault, (now + pause, (2 * pause).min(PAUSE_MAX_MS)));
                }
                self.complain(tenant, &why);
            }
            Uploaded::Failed(why) => {
                self.engine.metrics().offload_failed();
                self.resting.insert(object.key.clone(), now + REST_MS);
                self.complain(tenant, &why);
            }
        }
    }

    fn complain(&mut self, tenant: TenantId, why: &str) {
        self.engine.reign.cold.failed(tenant, why);
        let now = self.engine.now();
        if now >= self.complained + COMPLAIN_MS {
            self.complained = now;
            tracing::warn!("the cold tier: {why}");
        }
    }
}
