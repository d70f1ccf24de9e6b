//! What a page shows that nobody counts: asked for when somebody looks.

use crate::events::Lag;
use crate::log::LogStatus;
use perilune_protocol::rpc::cluster::{ClusterStat, NodeState};
use perilune_protocol::rpc::job::JobState;
use perilune_protocol::rpc::segment::SegmentState;
use perilune_protocol::{TenantId, VaultId};

/// The present state of a master, as its pages show it. Each answer is a snapshot; they may differ by a moment.
pub trait Observed: Send + Sync {
    /// The totals.
    fn stat(&self) -> ClusterStat;
    /// Every segment, sorted by name and id.
    fn segments(&self) -> Vec<SegmentState>;
    /// Every store node.
    fn nodes(&self) -> Vec<NodeState>;
    /// Objects that are soft-pinned. Asked at every scrape: keep a count.
    fn soft_pins(&self) -> u64;
    /// Tenants that are not gone, by number.
    fn tenants(&self) -> Vec<TenantUse>;
    /// Pools, by number.
    fn pools(&self) -> Vec<PoolUse>;
    /// Vaults of which it is known how they are, by number; none on a member that does not lead.
    fn vaults(&self) -> Vec<VaultUse>;
    /// Background jobs; none on a member that does not lead.
    fn jobs(&self) -> Vec<JobState>;
    /// Changefeeds; none on a member that does not lead.
    fn feeds(&self) -> Vec<FeedUse>;
    /// The replicated log.
    fn log(&self) -> LogStatus;
    /// Those who are told what happened and have named themselves.
    fn consumers(&self) -> Vec<Lag> {
        Vec::new()
    }
}

/// What a tenant has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantUse {
    /// Its number.
    pub id: TenantId,
    /// Its name.
    pub name: String,
    /// Bytes of values in memory, each copy counted, and what is promised to puts in progress.
    pub bytes: u64,
    /// Objects, puts in progress among them.
    pub objects: u64,
}

/// What the nodes of a pool lend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolUse {
    /// The name of its tenant.
    pub tenant: String,
    /// Its name.
    pub name: String,
    /// How many segments.
    pub segments: u64,
    /// Bytes allocated in them, rounding included.
    pub used: u64,
    /// Bytes of them.
    pub capacity: u64,
}

/// How a vault is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultUse {
    /// The name of its tenant.
    pub tenant: String,
    /// Its number among all.
    pub id: VaultId,
    /// Its name; empty where it has none.
    pub name: String,
    /// `works`, `slow`, `away` or `refuses`.
    pub condition: &'static str,
    /// Whether objects can be brought there and back.
    pub up: bool,
    /// Since when it is so, in milliseconds since 1970.
    pub since_ms: u64,
}

/// How a changefeed fares. What is counted is so since this member leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedUse {
    /// The name of its tenant.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `normal`, `warning`, `pending`, `failed`, `stopped` or `finished`.
    pub state: &'static str,
    /// How long ago that was up to which everything is durable at its sink, in milliseconds.
    pub checkpoint_lag_ms: u64,
    /// The same for what is complete in the log, where it is to be delivered.
    pub resolved_lag_ms: u64,
    /// Rows that its sink took; what comes again counts again.
    pub rows: u64,
    /// Their bytes there.
    pub bytes: u64,
    /// How often all was made durable.
    pub flushes: u64,
    /// What that took together, in microseconds.
    pub flush_micros: u64,
    /// How often it ended with an error.
    pub errors: u64,
}

/// One look at everything, so that a page asks once and its numbers belong together.
pub(super) struct Look {
    pub(super) stat: ClusterStat,
    pub(super) segments: Vec<SegmentState>,
    pub(super) nodes: Vec<NodeState>,
    pub(super) soft_pins: u64,
    pub(super) tenants: Vec<TenantUse>,
    pub(super) pools: Vec<PoolUse>,
    pub(super) vaults: Vec<VaultUse>,
    pub(super) jobs: Vec<JobState>,
    pub(super) feeds: Vec<FeedUse>,
    pub(super) log: LogStatus,
    pub(super) consumers: Vec<Lag>,
}

impl Look {
    pub(super) fn at(observed: &dyn Observed) -> Self {
        Self {
            stat: observed.stat(),
            segments: observed.segments(),
            nodes: observed.nodes(),
            soft_pins: observed.soft_pins(),
            tenants: observed.tenants(),
            pools: observed.pools(),
            vaults: observed.vaults(),
            jobs: observed.jobs(),
            feeds: observed.feeds(),
            log: observed.log(),
            consumers: observed.consumers(),
        }
    }

    pub(super) fn nodes_in(&self, status: &str) -> usize {
        self.nodes.iter().filter(|node| node.status == status).count()
    }
}
