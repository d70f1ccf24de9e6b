//! Makes room before it is needed, and at once when a put found none.
//!
//! Each tenant makes room for itself. One thread owns the orders of leaving. It evicts in small steps: condemn a few objects that nobody
//! reads, put their removal into the log, and look again whether more is needed. What is in a vault just leaves memory; what could be brought
//! to one is offered before it has to leave, and leaves without only for a put that finds no room while the vault does not work (`cold/waits.rs`).

use super::cold::Offer;
use super::{Bell, cold};
use crate::engine::Engine;
use perilune_protocol::{FaultCode, TenantId, VaultId};
use perilune_state::State;
use perilune_state::directory::ShardId;
use perilune_state::effect::RemoveReason;
use perilune_state::objects::Object;
use perilune_state::objects::recency::{LOOKED_AT, Order, Orders};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// Objects per step, at most.
const STEP: usize = 64;
/// Objects that are looked at for what is to be brought to a vault: more do not leave at a time.
const AHEAD_MAX: usize = 1 << 14;
/// Between two looks at all of a tenant's objects for what lies where nothing more is placed: in milliseconds, and as so many times what it took.
const RESCUE_EVERY_MS: u64 = 1000;
const RESCUE_REST: u64 = 10;
/// How often usage is looked at when nobody rings: leases lapse and segments leave without anybody telling.
const EVERY: Duration = Duration::from_secs(1);
/// So often whoever asks for room again asks for twice as much.
const DOUBLINGS: u32 = 6;
/// Between two complaints in the log, in milliseconds.
const COMPLAIN_MS: u64 = 10_000;
/// Pause after a round that found nothing.
const BARREN_PAUSE: Duration = Duration::from_millis(5);
/// Eviction goes this far below the high watermark, or a quota, as a share of what may be used, so that it does not run for every put.
const HYSTERESIS: f64 = 0.005;

/// The evicting worker as others see it.
///
/// `demand`: added to by puts, taken whole by the worker. `evicted`: written by the worker, Relaxed: a number to look at.
pub(crate) struct Evictor {
    pub(crate) bell: Bell,
    demand: Mutex<BTreeMap<TenantId, Demand>>,
    evicted: AtomicU64,
    rounds: watch::Sender<Round>,
    /// When is looked next for what lies where nothing more is placed. The worker's alone.
    rescue: Mutex<u64>,
    /// Written by the worker.
    unsaved: Mutex<Unsaved>,
}

/// Objects that left although they could have been brought to a vault first.
#[derive(Default)]
struct Unsaved {
    /// Since the reign began.
    by_vault: BTreeMap<VaultId, u64>,
    /// What the log was not told of yet, and when it is to be.
    untold: u64,
    due: u64,
}

/// What is asked of a tenant.
#[derive(Clone, Copy, Default)]
struct Demand {
    bytes: u64,
    /// Of those, what may be freed by losing what could be brought to a vault first.
    at_need: u64,
}

/// Whether objects may leave that could be brought to a vault first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// They stay.
    Never,
    /// Where nothing else can.
    AtNeed,
}

/// Bytes, by tenant.
type Bytes = BTreeMap<TenantId, u64>;

/// The last round that ended, and what all of them freed: whoever looks seldom misses nothing.
#[derive(Default)]
struct Round {
    number: u64,
    freed: Bytes,
}

impl Round {
    fn freed(&self, tenant: TenantId) -> u64 {
        self.freed.get(&tenant).copied().unwrap_or(0)
    }
}

impl Default for Evictor {
    fn default() -> Self {
        let rounds = watch::channel(Round::default()).0;
        Self {
            bell: Bell::default(),
            demand: Mutex::default(),
            evicted: AtomicU64::new(0),
            rounds,
            rescue: Mutex::default(),
            unsaved: Mutex::default(),
        }
    }
}

impl Evictor {
    fn demand(&self) -> MutexGuard<'_, BTreeMap<TenantId, Demand>> {
        self.demand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many objects left that this vault has not taken. Says so in the log now and then.
    fn lost_unsaved(&self, vault: VaultId, objects: u64, now: u64) {
        let mut unsaved = self.unsaved.lock().unwrap_or_else(PoisonError::into_inner);
        *unsaved.by_vault.entry(vault).or_default() += objects;
        unsaved.untold += objects;
        if now >= unsaved.due {
            let why = "it is away, refuses, or has taken nothing for 30 s; write_back = strict would refuse such puts";
            tracing::warn!(objects = unsaved.untold, %vault, "objects left memory that their vault has not taken: {why}");
            (unsaved.untold, unsaved.due) = (0, now + COMPLAIN_MS);
        }
    }

    /// Objects that left since the reign began, and that this vault had not taken.
    pub(crate) fn unsaved(&self, vault: VaultId) -> u64 {
        self.unsaved.lock().unwrap_or_else(PoisonError::into_inner).by_vault.get(&vault).copied().unwrap_or(0)
    }

    /// Asks for about so many bytes of a tenant's and waits for a round that began after the question. False when it freed nothing.
    /// `tries` counts those that did: what is free may lie in pieces, so whoever asks again asks for more.
    pub(crate) async fn make_room(&self, tenant: TenantId, bytes: u64, loss: Loss, tries: &mut u32) -> bool {
        let bytes = bytes.saturating_mul(1 << (*tries).min(DOUBLINGS));
        let mut rounds = self.rounds.subscribe();
        // A round that runs now may have looked at the demand already; the one after it has not.
        let (enough, before) = {
            let round = rounds.borrow_and_update();
            (round.number + 2, round.freed(tenant))
        };
        {
            let mut demand = self.demand();
            let demand = demand.entry(tenant).or_default();
            demand.bytes += bytes;
            demand.at_need += if loss == Loss::AtNeed { bytes } else { 0 };
        }
        self.bell.ring();
        let mut freed = false;
        while rounds.changed().await.is_ok() {
            let number = {
                let round = rounds.borrow_and_update();
                freed = round.freed(tenant) > before;
                round.number
            };
            if freed || number >= enough {
                break;
            }
            self.bell.ring();
        }
        *tries += u32::from(freed);
        freed
    }

    /// A round has freed so much.
    fn end_round(&self, freed: &Bytes) {
        self.rounds.send_modify(|round| {
            round.number += 1;
            freed.iter().for_each(|(tenant, bytes)| *round.freed.entry(*tenant).or_default() += bytes);
        });
    }

    /// Objects evicted since the master began.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }
}

/// The worker's thread. `handle` runs its rounds.
pub(crate) fn run(engine: &Engine, handle: &Handle) {
    let mut orders = Orders::begin(&engine.state().recency, &*engine.state().index);
    while engine.reign.evictor.bell.wait(EVERY) {
        handle.block_on(round(engine, &mut orders));
    }
}

/// Looks once whether room is to be made, and makes it.
pub(crate) async fn round(engine: &Engine, orders: &mut Orders) {
    let evictor = &engine.reign.evictor;
    orders.refresh(&engine.state().recency, engine.state().index.len());
    ahead(engine, orders);
    let patient = |(tenant, bytes)| (tenant, Demand { bytes, at_need: 0 });
    let mut wanted: BTreeMap<_, _> = above_watermark(engine).into_iter().map(patient).collect();
    for (tenant, demand) in std::mem::take(&mut *evictor.demand()) {
        let wanted = wanted.entry(tenant).or_default();
        let some = (HYSTERESIS * memory_of(engine.state(), tenant) as f64) as u64;
        *wanted = Demand { bytes: demand.bytes.max(wanted.bytes).max(some), ..demand };
    }
    let mut freed = Bytes::new();
    for (tenant, wanted) in &wanted {
        // A removal that cannot be logged must not make an object unreadable.
        if engine.writable().is_ok() {
            freed.insert(*tenant, evict(engine, *tenant, orders.of(*tenant), *wanted).await);
        }
    }
    let barren = !wanted.is_empty() && freed.values().all(|bytes| *bytes == 0);
    evictor.end_round(&freed);
    if barren {
        // All is leased or pinned: looking again at once would only burn the processor.
        tokio::time::sleep(BARREN_PAUSE).await;
    }
}

/// After puts were given room: has it become tight?
pub(crate) fn ring_if_tight(engine: &Engine) {
    if !above_watermark(engine).is_empty() {
        engine.reign.evictor.bell.ring();
    }
}

fn above_watermark(engine: &Engine) -> Bytes {
    above(engine.state(), engine.inner.config.eviction_high_watermark)
}

/// Bytes that tenants use of their memory that can be allocated from, and bytes of that. What waits there to be free is on its way out already.
fn in_use(state: &State) -> BTreeMap<TenantId, (u64, u64)> {
    let mut by_tenant: BTreeMap<TenantId, (u64, u64)> = BTreeMap::new();
    for segment in state.segments.table().iter().filter(|s| s.allocatable()) {
        let (used, capacity) = by_tenant.entry(segment.tenant()).or_default();
        *used += segment.space().used().saturating_sub(segment.held());
        *capacity += segment.space().capacity();
    }
    by_tenant
}

/// Bytes that a tenant may use: of its memory that can be allocated from, and no more than its quota.
pub(crate) fn memory_of(state: &State, tenant: TenantId) -> u64 {
    let lent: u64 = state.segments.table().iter().filter(|s| s.tenant() == tenant && s.allocatable()).map(|s| s.space().capacity()).sum();
    quota_of(state, tenant).map_or(lent, |quota| lent.min(quota))
}

/// Bytes that a tenant may have in memory, if that is limited.
fn quota_of(state: &State, tenant: TenantId) -> Option<u64> {
    state.directory.known().tenant(tenant)?.quota.bytes
}

/// Bytes that are used beyond a share of what may be, of memory or of the quota: whichever is nearer to being full.
fn beyond(state: &State, tenant: TenantId, (used, capacity): (u64, u64), share: f64) -> u64 {
    let above = |used: u64, most: u64| used.saturating_sub((share * most as f64) as u64);
    let of_quota = quota_of(state, tenant).map_or(0, |most| above(state.meters.of(tenant).bytes(), most));
    above(used, capacity).max(of_quota)
}

/// Bytes that tenants use beyond the `high` watermark.
fn above(state: &State, high: f64) -> Bytes {
    let above = in_use(state).into_iter().filter(|(_, (used, capacity))| *used as f64 > high * *capacity as f64);
    above.map(|(tenant, (used, capacity))| (tenant, used - ((high - HYSTERESIS).max(0.0) * capacity as f64) as u64)).collect()
}

/// Has what would leave next brought to vaults, as much as is in use beyond a share of what may be.
fn ahead(engine: &Engine, orders: &mut Orders) {
    let state = engine.state();
    let mark = state.settings.offload_above();
    for (tenant, memory) in in_use(state) {
        let excess = beyond(state, tenant, memory, mark);
        if excess > 0 && cold::has_vault(state, tenant) {
            offer(engine, orders.of(tenant).oldest(), excess);
        }
    }
    rescue(engine, orders);
}

/// Has brought to vaults what lies only where nothing more is placed: where a pool sleeps, its memory may go any time.
fn rescue(engine: &Engine, orders: &mut Orders) {
    let (state, cold, now) = (engine.state(), &engine.reign.cold, engine.now());
    let mut next = engine.reign.evictor.rescue.lock().unwrap_or_else(PoisonError::into_inner);
    if now < *next {
        return;
    }
    let table = state.segments.table();
    let tenants: BTreeSet<_> = table.iter().filter(|s| s.closed() && s.space().used() > 0).map(|s| s.tenant()).collect();
    drop(table);
    for tenant in tenants.into_iter().filter(|tenant| cold::has_vault(state, *tenant)) {
        let is_there = |object: &&Arc<Object>| {
            object.cold.is_none() && object.readable() && object.replicas.iter().all(|replica| replica.segment.closed())
        };
        for object in orders.of(tenant).oldest().filter(is_there) {
            let shard = state.shard_of(object.key.as_ref());
            if matches!(cold.offers.offer(object, shard, &engine.reign.shard_jobs), Offer::Full) {
                break;
            }
        }
        cold.ring();
    }
    *next = engine.now() + (engine.now() - now) * RESCUE_REST + RESCUE_EVERY_MS;
}

/// So many bytes of these are to be in a vault.
fn offer<'a>(engine: &Engine, objects: impl Iterator<Item = &'a Arc<Object>>, mut bytes: u64) {
    for object in objects.take(AHEAD_MAX) {
        let is_full = object.cold.is_none() && {
            let shard = engine.state().shard_of(object.key.as_ref());
            matches!(engine.reign.cold.offers.offer(object, shard, &engine.reign.shard_jobs), Offer::Full)
        };
        bytes = bytes.saturating_sub(object.frees());
        if bytes == 0 || is_full {
            break;
        }
    }
    engine.reign.cold.ring();
}

/// Evicts a tenant's objects until about so many bytes are free or nothing more can leave. Returns bytes freed.
async fn evict(engine: &Engine, tenant: TenantId, order: &mut Order, wanted: Demand) -> u64 {
    let state = engine.state();
    let vault = state.directory.known().usable_vault_of(tenant).map(|vault| vault.id);
    let mut left = Left::default();
    if vault.is_some() {
        // What is on its way from one vault to another would have to be fetched anew.
        let stays = |object: &Object| wanted.at_need == 0 && engine.reign.cold.is_uploading(&object.key);
        take_out(engine, order, wanted.bytes, |object| object.cold.is_some() && !stays(object), &mut left).await;
    }
    let may_lose = if vault.is_some() { wanted.at_need } else { wanted.bytes };
    take_out(engine, order, may_lose, |_| true, &mut left).await;
    if vault.is_some() && left.freed < wanted.bytes {
        // What somebody waits for may be in pieces where less is in use than is brought there ahead; and what is there may be leased.
        offer(engine, order.oldest().filter(|object| object.cold.is_none()), wanted.bytes - left.freed);
    }
    if left.demoted > 0 {
        cold::moved(engine, tenant);
    }
    left.shards.iter().for_each(|shard| engine.reign.shard_jobs.passed(*shard, |passes| passes.evictions += 1));
    let Left { freed, objects, demoted, .. } = left;
    engine.reign.evictor.evicted.fetch_add(objects, Ordering::Relaxed);
    engine.metrics().evicted(objects, freed);
    let unsaved = vault.map(|vault| (vault, objects - demoted)).filter(|(_, objects)| *objects > 0);
    engine.metrics().left_memory(demoted, unsaved.map_or(0, |(_, objects)| objects));
    if let Some((vault, objects)) = unsaved {
        engine.reign.evictor.lost_unsaved(vault, objects, engine.now());
    }
    if freed < wanted.bytes {
        tracing::debug!(wanted = wanted.bytes, freed, "everything that is left is leased, pinned, or in no vault yet");
    }
    freed
}

/// What left memory.
#[derive(Default)]
struct Left {
    freed: u64,
    objects: u64,
    /// Of those, what is in a vault.
    demoted: u64,
    /// The shards they are of.
    shards: BTreeSet<ShardId>,
}

async fn take_out(engine: &Engine, order: &mut Order, wanted: u64, may_go: impl Fn(&Object) -> bool, left: &mut Left) {
    let mut barren = 0;
    // A step looks at a bounded number of objects; when all of them are leased the next step looks further on.
    let barren_max = order.len() / LOOKED_AT + 2;
    while left.freed < wanted && barren < barren_max {
        // Objects on nodes that are silent are left alone: their going would free nothing, and they may return.
        let (state, now) = (engine.state(), engine.now());
        let short = wanted - left.freed;
        let leaving = order.next(now, STEP, short, |object| object.frees() > 0 && state.inherited(object) <= now && may_go(object));
        barren = if leaving.is_empty() { barren + 1 } else { 0 };
        let effect = |object: &Arc<Object>| match object.cold {
            Some(_) => State::demotion(object),
            None => State::removal(object, RemoveReason::Evicted),
        };
        let effects: Vec<_> = leaving.iter().map(effect).collect();
        for ((object, effect), proposal) in leaving.iter().zip(&effects).zip(engine.propose_all(&effects)) {
            match engine.stored(effect, proposal).await {
                Ok(()) => {
                    left.freed += object.frees();
                    left.objects += 1;
                    left.demoted += u64::from(object.cold.is_some());
                    left.shards.insert(state.shard_of(object.key.as_ref()));
                }
                // Its copy in the vault was lost just now, or it was removed: it stays as it is, or is gone.
                Err(fault) if matches!(fault.code, FaultCode::WrongState | FaultCode::ObjectNotFound) && object.cold.is_some() => {}
                Err(fault) => {
                    tracing::error!("an eviction could not be logged: {fault}");
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::sample::{MIB, sample};
    use futures_util::FutureExt;
    use perilune_state::Effect;
    use std::pin::pin;

    #[test]
    fn what_a_round_freed_is_seen_also_when_the_next_has_ended() {
        let (evictor, tenant, mut tries) = (Evictor::default(), TenantId(3), 0);
        for (freed, told) in [(Some(5), Some(true)), (None, Some(false))] {
            let mut asks = pin!(evictor.make_room(tenant, 1, Loss::Never, &mut tries));
            assert_eq!(asks.as_mut().now_or_never(), None);
            evictor.end_round(&freed.map(|bytes| (tenant, bytes)).into_iter().chain([(TenantId(4), 5)]).collect());
            evictor.end_round(&Bytes::new());
            assert_eq!(asks.now_or_never(), told);
        }
        assert_eq!(tries, 1);
    }

    #[test]
    fn what_waits_on_a_segment_that_leaves_makes_no_room_on_the_others() {
        let (state, [stays, leaves]) = sample([10 * MIB, 10 * MIB], &[("a", &[0]), ("b", &[0]), ("c", &[1]), ("d", &[1])], 4 * MIB);
        let above = |high| above(&state, high).get(&TenantId(0)).copied().unwrap_or(0);
        assert_eq!(above(0.7) >> 20, 2, "16 of 20 MiB, and there may be 14");
        state.apply(Effect::Drain { segment: leaves, grace_ms: 60_000 }, 1);
        assert_eq!(above(0.7) >> 20, 1, "8 of 10, and there may be 7");
        // Somebody reads them until a while from now.
        for key in ["c", "d"] {
            state.apply(state.remove(Default::default(), &key.into(), true, 2).unwrap(), 2);
        }
        assert_eq!(above(0.7) >> 20, 1, "nothing has left the segment that stays");
        state.apply(state.remove(Default::default(), &"a".into(), true, 2).unwrap(), 2);
        assert_eq!((state.segments.table().get(stays).unwrap().held(), above(0.7)), (4 * MIB, 0));
    }
}
