//! The engine as faces and pages see it.

use super::Engine;
use crate::api::{Boxed, Facade};
use crate::log::LogStatus;
use crate::observe::{Metrics, Observed};
use perilune_protocol::rpc::cluster::{ClusterStat, NodeState};
use perilune_protocol::rpc::segment::SegmentState;
use perilune_protocol::{FaultCode, ObjectKey, ObjectPlace, Outcome, SegmentDesc, SegmentId, TenantId};
use std::ops::ControlFlow;
use std::sync::Arc;

impl Observed for Engine {
    fn stat(&self) -> ClusterStat {
        Engine::stat(self)
    }

    fn segments(&self) -> Vec<SegmentState> {
        Engine::segments(self)
    }

    fn nodes(&self) -> Vec<NodeState> {
        Engine::nodes(self)
    }

    fn soft_pins(&self) -> u64 {
        self.state().soft_pins()
    }

    fn log(&self) -> LogStatus {
        self.inner.log.status()
    }
}

impl Facade for Engine {
    fn locate(&self, tenant: TenantId, keys: &[ObjectKey]) -> Vec<Outcome<ObjectPlace>> {
        Engine::locate(self, tenant, keys)
    }

    fn peek(&self, tenant: TenantId, key: &ObjectKey) -> Outcome<ObjectPlace> {
        self.state().peek(tenant, key)
    }

    fn for_each_key(&self, tenant: TenantId, visit: &mut dyn FnMut(&ObjectKey, u64) -> ControlFlow<()>) {
        Engine::for_each_key(self, tenant, visit);
    }

    fn describe(&self, id: SegmentId) -> Option<Arc<SegmentDesc>> {
        Engine::describe(self, id)
    }

    fn remove_matching<'a>(&'a self, tenant: TenantId, pattern: &'a str, force: bool) -> Boxed<'a, Outcome<u64>> {
        let (engine, pattern) = (self.clone(), pattern.to_owned());
        Box::pin(async move {
            let work = tokio::task::spawn_blocking(move || Engine::remove_matching(&engine, tenant, &pattern, force));
            work.await.unwrap_or_else(|e| Err(FaultCode::Internal.with(format!("the removal stopped: {e}"))))
        })
    }

    fn leader(&self) -> Option<String> {
        Some(self.inner.rpc.to_string())
    }

    fn metrics(&self) -> &Metrics {
        Engine::metrics(self)
    }
}
