//! Which pool a segment is of and whether that lets it take new bytes: follows from the directory and from what its node presents, and is
//! worked out anew, by apply alone, whenever either changes.

use crate::apply::State;
use crate::directory::{Known, NodeRecord, PoolRecord, PoolStatus};
use crate::segments::{Phase, Segment};
use perilune_protocol::{NodeId, SegmentId, TenantId};

impl State {
    /// Apply: a segment was lent or described anew.
    pub(crate) fn belong(&self, segment: &Segment) {
        settle(&self.directory.known(), segment);
    }

    /// Apply: the directory changed.
    pub(crate) fn belong_all(&self) {
        let known = self.directory.known();
        self.segments.table().iter().for_each(|segment| settle(&known, segment));
    }

    /// Nodes that are heard and may lend memory to a tenant, as far as they are concerned: whether it may have more is not asked.
    pub fn willing(&self, tenant: TenantId) -> Vec<NodeId> {
        let strict = self.settings.strict_membership();
        let mut nodes = self.nodes.heard_of(tenant);
        nodes.retain(|(_, said)| self.directory.may_lend(tenant, &said.unique_id, &said.name, strict).is_ok());
        nodes.into_iter().map(|(node, _)| node).collect()
    }

    /// Segments that were lent by nodes which may lend nothing more: they are to be emptied.
    pub fn to_empty(&self) -> Vec<SegmentId> {
        let (known, table) = (self.directory.known(), self.segments.table());
        let leaves =
            |s: &Segment| s.phase() == Phase::Mounted && s.unique_id().is_some() && !member(&known, s).is_some_and(|(_, n)| n.lends());
        table.iter().filter(|s| leaves(s)).map(|s| s.id()).collect()
    }

    /// Nodes that are to be emptied and lend nothing any more.
    pub fn emptied(&self) -> Vec<(PoolRecord, NodeRecord)> {
        let (known, table) = (self.directory.known(), self.segments.table());
        let leaving = known.pools().flat_map(|pool| pool.nodes.iter().map(move |node| (pool, node)));
        let leaving = leaving.filter(|(_, node)| node.status == crate::directory::NodeStatus::Decommissioning);
        let lends = |node: &NodeRecord| table.iter().any(|s| member(&known, s).is_some_and(|(_, of)| std::ptr::eq(of, node)));
        leaving.filter(|(_, node)| !lends(node)).map(|(pool, node)| (pool.clone(), node.clone())).collect()
    }
}

fn settle(known: &Known, segment: &Segment) {
    match (segment.unique_id(), member(known, segment)) {
        (None, _) => segment.set_pool(None, false),
        (Some(_), None) => segment.set_pool(None, true),
        (Some(_), Some((pool, node))) => segment.set_pool(Some(pool.id), !node.lends() || pool.status != PoolStatus::Normal),
    }
}

/// The node that lends a segment, as it was registered for the tenant whose it is.
fn member<'a>(known: &'a Known, segment: &Segment) -> Option<(&'a PoolRecord, &'a NodeRecord)> {
    let unique_id = segment.unique_id()?;
    known.member(&unique_id, segment.desc().tcp_endpoint()).filter(|(pool, _)| pool.tenant == segment.tenant())
}
