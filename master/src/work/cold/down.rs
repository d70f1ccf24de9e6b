//! From a vault to memory.

use super::{Purpose, Target, order, vault};
use crate::engine::Engine;
use crate::work::board::Ended;
use crate::work::evict;
use perilune_protocol::rpc::cold::{ColdOutcome, ColdWay};
use perilune_protocol::{ByteSize, FaultCode, ObjectKey, Outcome, TenantId};
use perilune_state::State;
use perilune_state::effect::{ColdCopy, RemoveReason};
use perilune_state::meter::Promise;
use perilune_state::objects::Object;
use perilune_state::replicas::{CopyRefusal, CopyRoom};
use perilune_state::segments::{Phase, Reach, Segment};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// So long what is there may take to make room: whoever asked reads through a node instead.
const ROOM_PATIENCE: Duration = Duration::from_secs(1);
/// What is more than such a part of its tenant's memory has nothing leave for it.
const SHARE: u64 = 8;
/// Between two tries.
const AGAIN: Duration = Duration::from_millis(20);

/// Has an object that is in a vault only brought to memory.
pub(super) async fn fetch(engine: &Engine, object: &Arc<Object>, purpose: Purpose) -> Outcome<()> {
    let key = object.key.to_object_key();
    let Some(copy) = object.cold.clone() else { return Ok(()) };
    let unread = |why: String| FaultCode::NoReadableReplica.with(format!("{key}: it is in its vault only, and {why}"));
    let target = vault(engine.state(), copy.vault).ok_or_else(|| unread(format!("vault {} is not known any more", copy.vault)))?;
    let (promise, room) = find_room(engine, object, purpose).await?;
    let ended = confirm_lost(&key, || bring(engine, object, &copy, target, &room)).await;
    let state = engine.state();
    let give_up = |writes| state.copy_give_up(room.clone(), writes, engine.now());
    match ended {
        Ended::Said(ColdOutcome::Done { .. }) => {
            engine.commit(&State::replicas(object, Some(&room), None)).await?;
            drop(promise);
            engine.metrics().recalled(object.size);
            Ok(())
        }
        Ended::Said(ColdOutcome::Lost(why)) => {
            give_up(false);
            lost(engine, object, &copy, &why).await
        }
        Ended::Said(ColdOutcome::Away(why) | ColdOutcome::Refused(why) | ColdOutcome::Wrong(why)) => {
            give_up(false);
            Err(unread(why))
        }
        // A node that failed may have given up a transfer that is still on its way.
        Ended::Said(ColdOutcome::Failed(why)) => {
            give_up(true);
            Err(unread(why))
        }
        Ended::Said(ColdOutcome::Passed(_) | ColdOutcome::Busy(_)) => {
            give_up(true);
            Err(unread("its node did something else".into()))
        }
        Ended::Silence { taken, .. } => {
            give_up(taken);
            Err(unread("the node that was to fetch it is silent: ask again".into()))
        }
    }
}

/// One answer is not enough to give up what was acknowledged: bytes may have been altered on their way, or a gateway erred.
pub(super) async fn confirm_lost<F: Future<Output = Ended<ColdOutcome>>>(key: &ObjectKey, bring: impl Fn() -> F) -> Ended<ColdOutcome> {
    let ended = bring().await;
    let Ended::Said(ColdOutcome::Lost(why)) = &ended else { return ended };
    tracing::warn!(%key, "what is in a vault cannot be read, and is looked at once more: {why}");
    bring().await
}

async fn bring(engine: &Engine, object: &Object, copy: &ColdCopy, vault: Target, room: &CopyRoom) -> Ended<ColdOutcome> {
    // As long as a put may take: a new leader waits no longer for those who may write.
    let limit_ms = engine.state().rules.put_deadline_ms();
    let order = order(object, ColdWay::Down, room.place(), vault, copy.name, limit_ms);
    engine.reign.cold.order(room.segment().node(), order, engine.now()).await
}

/// Room in the tenant's memory, and as much of its quota. What is there makes room if it can do so without being lost, but not so that somebody
/// may read what takes much of the memory: then, or where there is none soon, it is [`FaultCode::NoSpace`].
async fn find_room(engine: &Engine, object: &Object, purpose: Purpose) -> Outcome<(Promise, CopyRoom)> {
    let (state, tenant, key) = (engine.state(), object.key.as_ref().tenant, object.key.to_object_key());
    let (until, mut tries) = (Instant::now() + ROOM_PATIENCE, 0);
    loop {
        let lacking = match state.promise_copy(tenant, object.size) {
            Ok(promise) => match take_room(engine, object).await? {
                Some(room) => return Ok((promise, room)),
                None => "no segment has room for it".to_owned(),
            },
            Err(fault) => fault.message,
        };
        let no_space = |why: &str| Err(FaultCode::NoSpace.with(format!("{key}: it is in its vault only, and {lacking}, {why}")));
        let memory = evict::memory_of(state, tenant);
        if purpose == Purpose::Read && object.size > memory / SHARE {
            return no_space(&format!("and nothing leaves for what is more than {} of memory", ByteSize(memory / SHARE)));
        }
        if Instant::now() >= until {
            return no_space("nor did as much leave memory just now");
        }
        if !engine.reign.evictor.make_room(tenant, object.size, evict::Loss::Never, &mut tries).await {
            sleep(AGAIN).await;
        }
    }
}

async fn take_room(engine: &Engine, object: &Object) -> Outcome<Option<CopyRoom>> {
    let state = engine.state();
    for target in targets(state, object) {
        loop {
            match state.copy_room(object.size, &target, engine.now()) {
                Ok(room) => {
                    evict::ring_if_tight(engine);
                    return Ok(Some(room));
                }
                Err(CopyRefusal::Full) => break,
                Err(CopyRefusal::NeedWindow(window)) => engine.commit(&window).await?,
            }
        }
    }
    Ok(None)
}

/// The most bytes that an object may have to be moved by way of memory: what is brought there stays below where eviction begins.
pub(super) fn movable(engine: &Engine, tenant: TenantId) -> u64 {
    let table = engine.state().segments.table();
    let own = table.iter().filter(|s| s.tenant() == tenant && s.allocatable());
    let largest = own.map(|s| s.space().capacity()).max().unwrap_or(0).min(evict::memory_of(engine.state(), tenant));
    (engine.inner.config.eviction_high_watermark * largest as f64) as u64
}

/// Segments that it may go to, the emptiest first.
fn targets(state: &State, object: &Object) -> Vec<Arc<Segment>> {
    let table = state.segments.table();
    let tenant = object.key.as_ref().tenant;
    let fits =
        |s: &Arc<Segment>| s.tenant() == tenant && s.allocatable() && s.reach() == Reach::Alive && object.replica_on(s.id()).is_none();
    let mut targets: Vec<_> = table.iter().filter(|s| fits(s)).cloned().collect();
    targets.sort_by_cached_key(|s| s.space().used() * 1000 / s.space().capacity().max(1));
    targets
}

/// What is in the vault is not what was put there. Where that was all there is, nor will be, the object is gone.
pub(super) async fn lost<T>(engine: &Engine, object: &Arc<Object>, copy: &ColdCopy, why: &str) -> Outcome<T> {
    let (state, key) = (engine.state(), object.key.to_object_key());
    if state.standing(object.key.as_ref()).is_none() || state.was_replaced(object) {
        // With the version its upload goes; with the vault it was moved.
        return Err(FaultCode::ObjectNotFound.with(format!("{key}: it was removed or replaced while it was fetched")));
    }
    tracing::error!(%key, "what was brought to a vault is lost there: {why}");
    engine.metrics().cold_lost();
    engine.reign.cold.failed(object.key.as_ref().tenant, why);
    engine.commit(&State::cold_copy(object, copy.clone(), false)).await?;
    let left = state.standing(object.key.as_ref()).filter(|now| now.version == object.version && now.cold.is_none());
    if let Some(left) = left.filter(|now| now.replicas.iter().all(|r| r.segment.phase() == Phase::Gone)) {
        // Nothing can be read of it, so no lease is worth waiting for.
        let _ = left.condemn(engine.now(), true);
        engine.commit(&State::removal(&left, RemoveReason::Damaged)).await?;
    }
    Err(FaultCode::ObjectNotFound.with(format!("{key}: it was in its vault only, and is lost there: {why}")))
}
