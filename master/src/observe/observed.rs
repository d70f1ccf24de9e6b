//! What a page shows that nobody counts: asked for when somebody looks.

use crate::log::LogStatus;
use perilune_protocol::rpc::cluster::{ClusterStat, NodeState};
use perilune_protocol::rpc::segment::SegmentState;

/// The present state of a master, as its pages show it. Each answer is a snapshot; they may differ by a moment.
pub trait Observed: Send + Sync {
    /// The totals.
    fn stat(&self) -> ClusterStat;
    /// Every segment, sorted by name and id.
    fn segments(&self) -> Vec<SegmentState>;
    /// Every store node.
    fn nodes(&self) -> Vec<NodeState>;
    /// Objects that are soft-pinned.
    fn soft_pins(&self) -> u64;
    /// The replicated log.
    fn log(&self) -> LogStatus;
}
