//! Lets peers reach the memory of a segment: exports it, and registers it with the RDMA devices where that was asked for.

use super::record::Kept;
use perilune_protocol::{Capability, Endpoint, FaultCode, NodeId, Outcome, Protocol, SegmentDesc, SegmentId};
use perilune_transfer_engine::{Engine, Memory};
use std::sync::Arc;
use tracing::warn;

/// What serves the segments.
pub(crate) struct Lender {
    pub(crate) engine: Engine,
    /// Why RDMA peers are not served, where they are not.
    pub(crate) no_rdma: Option<String>,
}

impl Lender {
    /// Exports a segment. Nobody knows its capability yet, so no byte moves until it is announced. Registering memory pins it,
    /// which takes long where there is much: never called under a lock.
    pub(crate) fn export(&self, kept: &Kept, memory: &Arc<Memory>, node: NodeId) -> Outcome<SegmentDesc> {
        let mut desc = self.export_without_rdma(kept, memory, node)?;
        if kept.protocol == Protocol::Rdma {
            self.add_rdma(&mut desc).inspect_err(|_| self.withdraw(kept.id))?;
        }
        Ok(desc)
    }

    /// Exports memory that holds objects already: what RDMA refuses is still lent to the peers of the other transports.
    pub(crate) fn export_again(&self, kept: &Kept, memory: &Arc<Memory>, node: NodeId) -> Outcome<SegmentDesc> {
        let mut desc = self.export_without_rdma(kept, memory, node)?;
        if kept.protocol == Protocol::Rdma
            && let Err(fault) = self.add_rdma(&mut desc)
        {
            warn!(segment = %kept.id, "lent over the other transports only: {fault}");
        }
        Ok(desc)
    }

    /// Ends the loan of a segment: after this no byte of it moves. May take seconds.
    pub(crate) fn withdraw(&self, id: SegmentId) {
        self.engine.withdraw(id);
    }

    /// Exports memory that is in no record, to peers over TCP and of this host.
    pub(crate) fn export_unnamed(&self, memory: &Arc<Memory>, node: NodeId) -> Outcome<SegmentDesc> {
        self.export_as(self.desc(SegmentId::random(), Protocol::Tcp, memory, node), memory)
    }

    fn export_without_rdma(&self, kept: &Kept, memory: &Arc<Memory>, node: NodeId) -> Outcome<SegmentDesc> {
        let mut desc = SegmentDesc { location: kept.location.clone(), ..self.desc(kept.id, kept.protocol, memory, node) };
        if !kept.owned {
            kept.object.clone_into(&mut desc.name);
        }
        self.export_as(desc, memory)
    }

    fn desc(&self, id: SegmentId, protocol: Protocol, memory: &Memory, node: NodeId) -> SegmentDesc {
        let mut endpoints = self.engine.endpoints();
        endpoints.retain(|endpoint| !matches!(endpoint, Endpoint::Rdma(_)));
        let (name, location, capability) = (String::new(), String::new(), Capability::random());
        let mut desc = SegmentDesc { id, name, node, base: memory.base(), size: memory.len(), protocol, location, endpoints, capability };
        desc.name = desc.tcp_endpoint().to_owned();
        desc
    }

    fn export_as(&self, desc: SegmentDesc, memory: &Arc<Memory>) -> Outcome<SegmentDesc> {
        let exported = self.engine.export(desc.id, Arc::clone(memory), desc.capability);
        exported.map_err(|error| FaultCode::Internal.with(error.to_string()))?;
        Ok(desc)
    }

    fn add_rdma(&self, desc: &mut SegmentDesc) -> Outcome<()> {
        if let Some(why) = &self.no_rdma {
            return Err(FaultCode::InvalidParams.with(format!("this node cannot lend memory for RDMA: {why}")));
        }
        self.engine.export_rdma(desc.id).map_err(|error| FaultCode::Internal.with(error.to_string()))?;
        desc.endpoints = self.engine.endpoints();
        Ok(())
    }
}
