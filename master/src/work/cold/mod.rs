//! The cold tier: what is in memory only is brought to the vault of its tenant before it has to leave, and fetched again when somebody asks.
//!
//! ```text
//!  evictor, Offload ── offers ──► crew ── order ──► board ◄── polls ── store node ◄──► vault
//!  Recall, ReadThrough ─ wishes ►  │ ▲                │
//!                                  │ └─── outcome ────┘
//!                                  └── Cold, Replicas ──► log
//! ```
//!
//! A thread and a board of its own: no put, no lookup and no job waits for a vault, nor for anybody who does. All of it is soft: an upload that
//! no effect names is garbage, a room that nothing was fetched into dies with the reign.

mod alive;
mod checkpoint;
mod claim;
mod claims;
mod closing;
mod collect;
mod crew;
mod down;
mod empty;
mod errand;
mod health;
mod info;
mod kept;
mod landing;
mod manifest;
mod offers;
mod offload;
mod opened;
mod reseal;
#[cfg(test)]
pub(super) mod tests;
mod through;
mod up;
mod waits;

#[cfg(feature = "simulation")]
pub(crate) use checkpoint::Keeper;
pub(crate) use checkpoint::vault_for;
pub(crate) use claim::{before, succeed, take_over};
#[cfg(feature = "simulation")]
pub(crate) use claims::Claims;
pub(crate) use claims::key as claim_record;
pub(crate) use collect::{Answer as Garbage, Question as Listed, run as collect};
#[cfg(feature = "simulation")]
pub(crate) use collect::{Asks, Collector};
#[cfg(feature = "simulation")]
pub(crate) use crew::Crew;
pub(crate) use crew::run;
#[cfg(feature = "simulation")]
pub(crate) use errand::Errand;
pub(crate) use health::Finding;
pub(crate) use info::Stores;
pub(crate) use manifest::{Manifest, list as list_checkpoints};
pub(crate) use offers::Offer;
pub(crate) use reseal::{SecretKeysHeld, SecretKeysKnown, tell as tell_keys};
pub(crate) use waits::{moved, patience, waited_in_vain};

use super::board::{Board, Ended, Order};
use crate::engine::Engine;
use offers::Offers;
use perilune_protocol::rpc::cold::{ColdOrder, ColdOutcome, ColdWay, Recall, TakeCold};
use perilune_protocol::{ColdName, FaultCode, NodeId, Outcome, ReplicaPlace, RunId, TenantId, VaultId};
use perilune_state::State;
use perilune_state::directory::VaultRecord;
use perilune_state::objects::{Key, KeyRef, Object};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

/// The longest that a caller is let wait.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How often is looked for something to be done about vaults.
const EVERY: Duration = Duration::from_millis(250);
/// One request to a vault takes no longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// An order waits so long for its node to take it, in milliseconds.
const TAKEN_WITHIN_MS: u64 = 10_000;

/// The cold tier of a reign as others see it.
pub(crate) struct Cold {
    board: Board<ColdOrder>,
    /// Who waits for the outcome of which order.
    orders: Mutex<HashMap<u64, oneshot::Sender<Ended<ColdOutcome>>>>,
    pub(crate) offers: Offers,
    wishes: Mutex<Vec<Wish>>,
    /// Objects that are being uploaded, until the log has the outcome. Written by the crew.
    uploading: Mutex<HashSet<Key>>,
    /// Vaults that were looked at in this reign: ours, or those of another cluster. Others are neither written to nor cleaned.
    claims: Mutex<HashMap<VaultId, Claim>>,
    pub(crate) health: health::Health,
    waits: waits::Waits,
    /// The keys for secrets that the other masters say they have.
    pub(crate) held: reseal::Held,
    /// Uploads that may be named yet: where they go, and of how many bytes.
    naming: Mutex<HashMap<ColdName, (VaultId, u64)>>,
    /// Those that no name here stands for.
    landing: Mutex<landing::Landing>,
    /// What the checkpoints name, by their number. Written by whoever keeps them.
    kept: Mutex<BTreeMap<u64, kept::Named>>,
    /// Vaults that may be dropped any moment: nothing more is brought there, nor are they claimed.
    closing: Mutex<Vec<VaultId>>,
    /// Those that are looked at now, and may be claimed by that.
    looking: Mutex<HashSet<VaultId>>,
    /// Dropped tenants whose vaults could not be emptied: when they are tried again.
    emptied_later: Mutex<HashMap<TenantId, Instant>>,
    /// How far the emptying of a dropped tenant's vault is.
    emptying: Mutex<HashMap<VaultId, empty::Pass>>,
    /// What went wrong last with each tenant's, which is nobody else's to know; with checkpoints; and with anything.
    errors: Mutex<Errors>,
    news: Notify,
    /// An upload has ended, and nothing of its tenant waits.
    settled: Notify,
    stopped: AtomicBool,
}

#[derive(Default)]
struct Errors {
    last: String,
    of_checkpoints: String,
    by_tenant: HashMap<TenantId, (String, Instant)>,
}

/// What somebody wants of a vault.
enum Wish {
    /// An object in memory.
    Fetch(Arc<Object>, Purpose, oneshot::Sender<Outcome<()>>),
    /// Some bytes of one.
    Through(through::Wanted),
}

/// What something is fetched for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Somebody reads it, who else reads it through a node.
    Read,
    /// It is to be brought to another vault, for which there is no other way.
    Move,
}

impl Order for ColdOrder {
    type Outcome = ColdOutcome;

    fn id(&mut self) -> &mut u64 {
        &mut self.id
    }

    fn limit_ms(&self) -> u64 {
        self.limit_ms
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cold {
    pub(crate) fn new(term: u64) -> Self {
        Self {
            board: Board::new(term),
            orders: Mutex::default(),
            offers: Offers::default(),
            wishes: Mutex::default(),
            uploading: Mutex::default(),
            claims: Mutex::default(),
            health: health::Health::default(),
            waits: waits::Waits::default(),
            held: reseal::Held::default(),
            naming: Mutex::default(),
            landing: Mutex::default(),
            kept: Mutex::default(),
            closing: Mutex::default(),
            looking: Mutex::default(),
            emptied_later: Mutex::default(),
            emptying: Mutex::default(),
            errors: Mutex::default(),
            news: Notify::new(),
            settled: Notify::new(),
            stopped: AtomicBool::new(false),
        }
    }

    /// The worker is to end.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.news.notify_one();
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// There is something to do.
    pub(crate) fn ring(&self) {
        self.news.notify_one();
    }

    /// A node has begun anew.
    pub(crate) fn begin_run(&self, node: NodeId, run: RunId) {
        if self.board.begin_run(node, run) {
            self.ring();
        }
    }

    /// Has a node do something, and waits for how it ends.
    async fn order(&self, node: NodeId, order: ColdOrder, now: u64) -> Ended<ColdOutcome> {
        let (tell, told) = oneshot::channel();
        {
            let mut orders = lock(&self.orders);
            orders.insert(self.board.put(node, order, now + TAKEN_WITHIN_MS), tell);
        }
        told.await.unwrap_or(Ended::Silence { taken: true, for_ms: 0 })
    }

    /// Tells those who wait what became of their orders.
    fn hear(&self, now: u64, lost: impl Fn(NodeId) -> bool) {
        for (id, ended) in self.board.ended(now, lost) {
            if let Some(tell) = lock(&self.orders).remove(&id) {
                // Whoever waits no longer has given up.
                let _ = tell.send(ended);
            }
        }
    }

    /// A name that no upload had. In a simulation it follows from the term.
    fn fresh_name(&self) -> ColdName {
        #[cfg(feature = "simulation")]
        if tokio::runtime::Handle::current().runtime_flavor() == tokio::runtime::RuntimeFlavor::CurrentThread {
            return ColdName(uuid::Uuid::from_u128(u128::from(self.board.fresh())));
        }
        ColdName::random()
    }

    /// Whether an object may have a copy in its vault any moment.
    pub(crate) fn is_uploading(&self, key: &Key) -> bool {
        lock(&self.uploading).contains(key)
    }

    fn claim(&self, vault: VaultId) -> Option<Claim> {
        lock(&self.claims).get(&vault).copied()
    }

    /// How a vault is, as far as is known.
    pub(crate) fn finding(&self, vault: VaultId, now_ms: u64) -> Option<Finding> {
        let found = self.health.of(vault, now_ms)?;
        Some(Finding { though_listed: found.though_listed || self.claim(vault) == Some(Claim::Others), ..found })
    }

    fn failed(&self, tenant: TenantId, why: &str) {
        let (mut errors, why) = (lock(&self.errors), one_line(why));
        errors.last.clone_from(&why);
        errors.by_tenant.insert(tenant, (why, Instant::now()));
    }

    /// The same with a checkpoint.
    fn checkpoint_failed(&self, why: &str) {
        self.failed(TenantId::default(), why);
        lock(&self.errors).of_checkpoints = one_line(why);
    }

    /// What went wrong last with a checkpoint; or, while one `waits`, with anything that it may be waiting for.
    pub(crate) fn checkpoint_error(&self, waits: bool) -> String {
        let errors = lock(&self.errors);
        if waits { &errors.last } else { &errors.of_checkpoints }.clone()
    }

    /// What went wrong last with what is a tenant's, if it was after `since`.
    fn last_error_of(&self, tenant: TenantId, since: Instant) -> Option<String> {
        lock(&self.errors).by_tenant.get(&tenant).filter(|(_, at)| *at >= since).map(|(why, _)| why.clone())
    }
}

/// What a bucket says may be a page of XML.
pub(crate) fn one_line(why: &str) -> String {
    why.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whose a vault is, as is written in it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Claim {
    Ours,
    Others,
}

/// A vault as it is now.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Target {
    id: VaultId,
    revision: u64,
}

impl From<&VaultRecord> for Target {
    fn from(record: &VaultRecord) -> Self {
        Self { id: record.id, revision: record.revision }
    }
}

/// Where uploads of a tenant go, if it has a vault.
fn vault_of(state: &State, tenant: TenantId) -> Option<Target> {
    state.directory.known().usable_vault_of(tenant).map(Target::from)
}

/// Vaults that this release can use, of all tenants.
fn usable(engine: &Engine) -> Vec<VaultId> {
    let known = engine.state().directory.known();
    known.all_vaults().filter(|vault| vault.target.is_usable()).map(|vault| vault.id).collect()
}

fn soon() -> std::time::Instant {
    std::time::Instant::now() + PATIENCE
}

/// A vault that objects refer to.
fn vault(state: &State, id: VaultId) -> Option<Target> {
    state.directory.known().vault(id).map(Target::from)
}

/// Whether objects of a tenant may be brought somewhere.
pub(crate) fn has_vault(state: &State, tenant: TenantId) -> bool {
    vault_of(state, tenant).is_some()
}

fn health_of(engine: &Engine, id: VaultId) -> Option<Finding> {
    engine.reign.cold.health.of(id, engine.wall_ms())
}

fn order(object: &Object, way: ColdWay, place: ReplicaPlace, vault: Target, name: ColdName, limit_ms: u64) -> ColdOrder {
    ColdOrder {
        id: 0,
        limit_ms,
        way,
        place,
        vault: vault.id,
        revision: vault.revision,
        name,
        tenant: object.key.as_ref().tenant,
        key: object.key.to_object_key(),
        version: object.version,
        size: object.size,
        checksum: object.checksum,
    }
}

/// Whether it is in memory and nowhere else.
fn is_dirty(object: &Object) -> bool {
    object.cold.is_none() && object.readable()
}

/// Whether it is in memory and not in this vault: what is in another one only is brought here when somebody asks for it.
fn is_missing(object: &Object, vault: VaultId) -> bool {
    object.readable() && object.cold.as_ref().is_none_or(|copy| copy.vault != vault)
}

impl Engine {
    /// A node says what it did, and gets more to do.
    pub(crate) async fn take_cold(&self, question: TakeCold, run: Option<RunId>) -> Vec<ColdOrder> {
        let cold = &self.reign.cold;
        if !question.done.is_empty() {
            cold.board.say(question.node, question.done.into_iter().map(|done| (done.id, done.outcome)));
            cold.ring();
        }
        if question.room == 0 {
            // It only tells: it is to be answered, and to keep no news from who waits for some.
            return Vec::new();
        }
        cold.board.take_waiting((question.node, run), question.room as usize, question.wait_ms, || self.now()).await
    }

    /// Has objects fetched from their vaults.
    pub(crate) async fn recall(&self, tenant: TenantId, question: Recall) -> Vec<Outcome<()>> {
        let (cold, state) = (&self.reign.cold, self.state());
        let until = Instant::now() + Duration::from_millis(question.wait_ms).min(WAIT_MAX);
        let mut waiting = Vec::with_capacity(question.keys.len());
        for key in &question.keys {
            let away = state.cold(KeyRef::new(tenant, key)).filter(|object| !state.is_at_hand(object));
            waiting.push(away.map_or_else(
                || state.peek(tenant, key).map(|_| None),
                |object| {
                    let (tell, told) = oneshot::channel();
                    lock(&cold.wishes).push(Wish::Fetch(object, Purpose::Read, tell));
                    Ok(Some(told))
                },
            ));
        }
        cold.ring();
        let mut outcomes = Vec::with_capacity(waiting.len());
        for (waits, key) in waiting.into_iter().zip(&question.keys) {
            outcomes.push(match waits {
                Ok(None) => Ok(()),
                Ok(Some(told)) => match timeout_at(until, told).await {
                    Ok(Ok(outcome)) => outcome,
                    Ok(Err(_)) => Err(self.inner.not_leader()),
                    Err(_) => {
                        let why = format!("{key}: it is in its vault only, and was not fetched within {} ms", question.wait_ms);
                        Err(FaultCode::Timeout.with(why))
                    }
                },
                Err(fault) => Err(fault),
            });
        }
        outcomes
    }
}
