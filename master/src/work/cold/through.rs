//! From a vault to a reader, without a copy in memory: a node has the bytes for a moment, and whoever asked takes them there.

use super::down::confirm_lost;
use super::{Wish, lock, order, vault};
use crate::engine::{Engine, NODE_PATIENCE};
use crate::work::board::Ended;
use perilune_protocol::rpc::cold::{ColdOutcome, ColdWay, Passed, ReadThrough, Through};
use perilune_protocol::{FaultCode, NodeId, Outcome, ReplicaPlace, SegmentId, TenantId};
use perilune_state::State;
use perilune_state::objects::{KeyRef, Object};
use perilune_state::segments::Reach;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};
use uuid::Uuid;

/// Somebody wants some bytes of an object.
pub(super) struct Wanted {
    pub(super) object: Arc<Object>,
    offset: u64,
    pub(super) len: u64,
    taken: u64,
    limit_ms: u64,
    pub(super) tell: oneshot::Sender<Outcome<Passed>>,
}

impl Engine {
    /// Has bytes of an object brought to where the caller can take them.
    pub(crate) async fn read_through(&self, tenant: TenantId, question: ReadThrough) -> Outcome<Through> {
        let ReadThrough { key, offset, len, taken, wait_ms } = question;
        let state = self.state();
        let object = state.cold(KeyRef::new(tenant, &key)).ok_or_else(|| match state.peek(tenant, &key) {
            Ok(_) => FaultCode::WrongState.with(format!("{key} is in no vault: it is read from memory")),
            Err(fault) => fault,
        })?;
        let (size, checksum, asked) = (object.size, object.checksum, Arc::clone(&object));
        let len = len.min(Passed::BYTES_MAX).min(size.saturating_sub(offset));
        if len == 0 {
            return Err(FaultCode::InvalidParams.with(format!("{key} has {size} bytes, and none from {offset} on are asked for")));
        }
        let wait = Duration::from_millis(wait_ms).min(super::WAIT_MAX);
        let (tell, told) = oneshot::channel();
        // A node writes for nobody who has given up.
        let limit_ms = (wait.as_millis() as u64).min(state.rules.put_deadline_ms());
        lock(&self.reign.cold.wishes).push(Wish::Through(Wanted { object, offset, len, taken, limit_ms, tell }));
        self.reign.cold.ring();
        match timeout(wait, told).await {
            Ok(Ok(Err(_))) if state.was_replaced(&asked) => {
                Err(FaultCode::WrongState.with(format!("{key} was replaced while it was read")))
            }
            Ok(Ok(passed)) => Ok(Through { size, checksum, passed: passed? }),
            Ok(Err(_)) => Err(self.inner.not_leader()),
            Err(_) => Err(FaultCode::Timeout.with(format!("{key}: its vault did not give the bytes from {offset} on within {wait:.1?}"))),
        }
    }
}

/// Has a node pass some bytes.
pub(super) async fn pass(engine: &Engine, wanted: &Wanted) -> Outcome<Passed> {
    let Wanted { object, offset, len, taken, limit_ms, .. } = wanted;
    let key = object.key.to_object_key();
    let unread = |why: String| FaultCode::NoReadableReplica.with(format!("{key}: it is in its vault only, and {why}"));
    let Some(copy) = object.cold.clone() else { return Err(unread("is there no more".into())) };
    let target = vault(engine.state(), copy.vault).ok_or_else(|| unread(format!("vault {} is not known any more", copy.vault)))?;
    let node = reader_soon(engine, object, Duration::from_millis(*limit_ms)).await;
    let node = node.ok_or_else(|| unread("no store node of its tenant is there to read it".into()))?;
    let way = ColdWay::Through { offset: *offset, len: *len, taken: *taken };
    let bring = || {
        let place = ReplicaPlace { segment: SegmentId(Uuid::nil()), extents: Vec::new() };
        engine.reign.cold.order(node, order(object, way, place, target, copy.name, *limit_ms), engine.now())
    };
    match confirm_lost(&key, bring).await {
        Ended::Said(ColdOutcome::Passed(passed)) => {
            engine.metrics().passed(*len);
            Ok(*passed)
        }
        Ended::Said(ColdOutcome::Lost(why)) => super::down::lost(engine, object, &copy, &why).await,
        Ended::Said(ColdOutcome::Away(why) | ColdOutcome::Refused(why) | ColdOutcome::Wrong(why) | ColdOutcome::Failed(why)) => {
            Err(unread(why))
        }
        Ended::Said(ColdOutcome::Busy(why)) => Err(FaultCode::NoSpace.with(format!("{key}: {why}"))),
        Ended::Said(ColdOutcome::Done { .. }) => Err(unread("its node did something else".into())),
        Ended::Silence { .. } => Err(unread("the node that was to read it is silent: ask again".into())),
    }
}

/// The same, and waits for one that is to be heard again, as after the leader has changed.
pub(super) async fn reader_soon(engine: &Engine, object: &Object, limit: Duration) -> Option<NodeId> {
    let (tenant, until) = (object.key.as_ref().tenant, Instant::now() + NODE_PATIENCE.min(limit));
    let mut heard = engine.inner.heard.subscribe();
    loop {
        let node = reader(engine.state(), object);
        let is_awaited = || engine.state().segments.table().iter().any(|s| s.tenant() == tenant && s.reach() == Reach::Suspect);
        if node.is_some() || !is_awaited() || timeout_at(until, heard.changed()).await.is_err() {
            return node;
        }
    }
}

/// A node of the object's tenant, the same for all of its bytes as long as the nodes stay. Where none has memory of the tenant, one that would
/// lend it some: of a tenant over its budget none is taken.
fn reader(state: &State, object: &Object) -> Option<NodeId> {
    let (tenant, table) = (object.key.as_ref().tenant, state.segments.table());
    let own = table.iter().filter(|s| s.tenant() == tenant && s.reach() == Reach::Alive);
    let mut nodes: Vec<_> = own.map(|s| s.node()).collect();
    if nodes.is_empty() {
        nodes = state.willing(tenant);
    }
    nodes.sort_unstable();
    nodes.dedup();
    (!nodes.is_empty()).then(|| nodes[object.version.0 as usize % nodes.len()])
}
