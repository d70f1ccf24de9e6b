//! Has uploads and fetches done, so many at a time. Each is a future that this thread polls, and ends with the reign.

use super::down::fetch;
use super::health::Asked;
use super::offers::{Fit, Offered};
use super::through::{Wanted, pass};
use super::up::{Uploaded, upload};
use super::{Claim, Cold, Purpose, Target, Wish, alive, checkpoint, claims, is_missing, lock, reseal, vault_of};
use crate::engine::Engine;
use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use perilune_protocol::{Fault, FaultCode, NodeId, Outcome, TenantId, VaultId};
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
/// Uploads of one node at a time, and fetches from one vault over all nodes: a third of the hands that a node has.
const AT_ONCE: usize = 32;
/// Fetches of a tenant from all its vaults at a time. A vault has at most as many as are still free after that, so that however many are slow,
/// they leave some to the next; the first is always free. With [`AT_ONCE`] uploads that is less than a node's hands.
const FETCHES: usize = 64;
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
    Up { object: Arc<Object>, node: NodeId, vault: Target, how: Uploaded, job: Arc<ShardJob> },
    Down { key: Key, size: u64, vault: VaultId, outcome: Outcome<()> },
    Through { tenant: TenantId, len: u64, vault: VaultId, failed: Option<Fault> },
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

/// What is read of a vault.
enum Read {
    /// An object, for all who want it, and what the first of them wants it for.
    Fetch(Arc<Object>, Purpose),
    Through(Wanted),
}

/// What is read of one.
struct Line {
    tenant: TenantId,
    waiting: VecDeque<Read>,
    under_way: Load,
}

impl Line {
    fn new(tenant: TenantId) -> Self {
        Self { tenant, waiting: VecDeque::new(), under_way: Load::default() }
    }

    /// Whether one more may begin, where so many of the tenant have.
    fn may_begin(&self, under_way: usize) -> bool {
        let objects = self.under_way.objects;
        objects == 0 || !self.under_way.is_full() && objects < FETCHES.saturating_sub(under_way)
    }
}

/// What has uploads and fetches done, turn by turn.
pub(crate) struct Crew {
    engine: Engine,
    flights: FuturesUnordered<Flight>,
    /// Uploads by node.
    uploads: HashMap<NodeId, Load>,
    /// Who wants an object that is being fetched, or is to be.
    wanted: HashMap<Key, Vec<oneshot::Sender<Outcome<()>>>>,
    lines: HashMap<VaultId, Line>,
    /// Until when a vault is left alone, and the pause after that. What another pair opens is another one.
    paused: HashMap<Target, (u64, u64)>,
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
        handle.spawn(reseal::run(engine.clone())),
    ];
    handle.block_on(Crew::begin(engine).run());
    others.iter().for_each(tokio::task::JoinHandle::abort);
}

impl Crew {
    pub(crate) fn begin(engine: &Engine) -> Self {
        engine.begin_landing();
        Self {
            engine: engine.clone(),
            flights: FuturesUnordered::new(),
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
            self.engine.say_limit();
            self.fetch_more();
            self.upload_more();
        }
    }

    fn take_wishes(&mut self) {
        for wish in std::mem::take(&mut *lock(&self.engine.reign.cold.wishes)) {
            let object = match &wish {
                Wish::Fetch(object, ..) => object,
                Wish::Through(wanted) => &wanted.object,
            };
            // Whoever made the wish has seen that there is one.
            let Some(vault) = object.cold.as_ref().map(|copy| copy.vault) else { continue };
            let waiting = &mut self.lines.entry(vault).or_insert_with(|| Line::new(object.key.as_ref().tenant)).waiting;
            match wish {
                Wish::Through(wanted) => waiting.push_back(Read::Through(wanted)),
                Wish::Fetch(object, purpose, tell) => {
                    let callers = self.wanted.entry(object.key.clone()).or_default();
                    callers.push(tell);
                    if callers.len() == 1 {
                        waiting.push_back(Read::Fetch(object, purpose));
                    }
                }
            }
        }
    }

    fn fetch_more(&mut self) {
        let mut under_way: HashMap<TenantId, usize> = HashMap::new();
        for line in self.lines.values() {
            *under_way.entry(line.tenant).or_default() += line.under_way.objects;
        }
        for (&vault, line) in &mut self.lines {
            let under_way = under_way.entry(line.tenant).or_default();
            while line.may_begin(*under_way)
                && let Some(read) = line.waiting.pop_front()
            {
                let engine = self.engine.clone();
                let (object, purpose) = match read {
                    Read::Fetch(object, purpose) => (object, purpose),
                    Read::Through(wanted) if wanted.tell.is_closed() => continue,
                    Read::Through(wanted) => {
                        let (tenant, len) = (line.tenant, wanted.len);
                        line.under_way.begin(len);
                        *under_way += 1;
                        self.flights.push(Box::pin(async move {
                            let passed = pass(&engine, &wanted).await;
                            let failed = passed.as_ref().err().cloned();
                            // Whoever has given up leaves it to the next.
                            let _ = wanted.tell.send(passed);
                            Landed::Through { tenant, len, vault, failed }
                        }));
                        continue;
                    }
                };
                let (key, size) = (object.key.clone(), object.size);
                // Whoever has given up wants nothing fetched that may push out what others read.
                if self.wanted.get(&key).is_none_or(|callers| callers.iter().all(oneshot::Sender::is_closed)) {
                    self.wanted.remove(&key);
                    continue;
                }
                line.under_way.begin(size);
                *under_way += 1;
                let flight = async move {
                    let outcome = match engine.state().standing(key.as_ref()) {
                        Some(object) if engine.state().is_at_hand(&object) => Ok(()),
                        Some(object) if object.cold.is_some() => match fetch(&engine, &object, purpose).await {
                            // Whoever asked locates what is there now.
                            Err(_) if engine.state().was_replaced(&object) => Ok(()),
                            outcome => outcome,
                        },
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
            lock(&engine.reign.cold.uploading).insert(object.key.clone());
            self.uploads.entry(node).or_default().begin(object.size);
            let engine = engine.clone();
            let flight = async move {
                let how = upload(&engine, &object, &replica, vault).await;
                Landed::Up { object, node, vault, how, job }
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
        let key = offered.object.key.as_ref();
        let Some(vault) = vault_of(state, key.tenant) else { return Fit::Never };
        let Some(object) = state.standing(key).filter(|object| is_missing(object, vault.id)) else { return Fit::Never };
        if self.engine.reign.cold.claim(vault.id) != Some(Claim::Ours) {
            return Fit::Never;
        }
        if self.engine.reign.cold.is_uploading(&object.key)
            || self.resting.contains_key(&object.key)
            || self.paused.get(&vault).is_some_and(|(until, _)| *until > now)
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
                // What is not admitted is read through a node.
                if let Err(fault) = &outcome
                    && fault.code != FaultCode::NoSpace
                {
                    self.engine.metrics().recall_failed();
                    self.complain(key.as_ref().tenant, &fault.message);
                }
                for caller in self.wanted.remove(&key).unwrap_or_default() {
                    let _ = caller.send(outcome.clone());
                }
            }
            Landed::Through { tenant, len, vault, failed } => {
                if let Some(line) = self.lines.get_mut(&vault) {
                    line.under_way.end(len);
                }
                if let Some(fault) = failed.filter(|fault| fault.code != FaultCode::NoSpace) {
                    self.engine.metrics().recall_failed();
                    self.complain(tenant, &fault.message);
                }
            }
            Landed::Up { object, node, vault, how, job } => {
                lock(&self.engine.reign.cold.uploading).remove(&object.key);
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

    fn uploaded(&mut self, object: &Object, vault: Target, how: Uploaded) {
        let (now, tenant) = (self.engine.now(), object.key.as_ref().tenant);
        match how {
            Uploaded::Saved => {
                self.engine.reign.cold.health.wrote(vault.id, self.engine.wall_ms());
                self.engine.reign.cold.waits.moved(vault.id);
                self.paused.remove(&vault);
                self.engine.metrics().offloaded(object.size);
            }
            Uploaded::Moot => self.engine.reign.cold.waits.moved(vault.id),
            Uploaded::Away(condition, why) => {
                self.engine.reign.cold.health.did_not(vault.id, Asked::Write, condition, &why, self.engine.wall_ms());
                self.engine.metrics().offload_failed();
                let pause = self.paused.get(&vault).map_or(PAUSE_MS, |(_, pause)| *pause);
                // Those that were begun together fail together.
                if self.paused.get(&vault).is_none_or(|(until, _)| *until <= now) {
                    self.paused.retain(|other, _| other.id != vault.id);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_vaults_are_slow_the_next_has_a_hand() {
        let mut lines: Vec<Line> = (0..10).map(|_| Line::new(TenantId(1))).collect();
        // Each in turn has as much to fetch as it may, and none of it ends.
        for nth in 0..lines.len() {
            let all = |lines: &[Line]| lines.iter().map(|line| line.under_way.objects).sum::<usize>();
            let before = all(&lines);
            while lines[nth].may_begin(all(&lines)) {
                lines[nth].under_way.begin(1);
            }
            assert!(all(&lines) > before, "vault {nth} has none");
        }
        let counts: Vec<_> = lines.iter().map(|line| line.under_way.objects).collect();
        assert_eq!((counts[0], counts[1], counts[2]), (32, 16, 8));
        assert!(counts.iter().sum::<usize>() + AT_ONCE <= 104, "{counts:?}: a node has 104 hands");
    }
}
