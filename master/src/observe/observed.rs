//! What a page shows that nobody counts: asked for when somebody looks.

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
    fn log(&self) -> LogState;
}

/// Where the replicated log stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// Whether this master leads.
    pub leads: bool,
    /// `host:port` of the leader's RPC listener, where it is known.
    pub leader: Option<String>,
    /// The term of the leader.
    pub term: u64,
    /// The last entry applied.
    pub applied: u64,
    /// The last entry committed.
    pub committed: u64,
    /// The first entry still kept.
    pub first: u64,
    /// Entries since the last snapshot.
    pub since_snapshot: u64,
    /// Why the log takes no more entries, if it does not.
    pub fault: Option<String>,
}
