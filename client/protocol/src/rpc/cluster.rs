//! The cluster as a whole.

use super::call;
use crate::NodeId;
use serde::{Deserialize, Serialize};

/// Totals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {}
call!(Stat = 40 "stat" -> ClusterStat);

/// What the master counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStat {
    /// Names the cluster's data.
    pub cluster: String,
    /// The release of the master.
    pub release: String,
    /// Objects that exist.
    pub objects: u64,
    /// Puts in progress.
    pub puts: u64,
    /// Store nodes registered.
    pub nodes: u64,
    /// Segments mounted.
    pub segments: u64,
    /// Bytes lent.
    pub capacity: u64,
    /// Bytes allocated, rounding included.
    pub used: u64,
    /// Objects evicted since the master started.
    pub evictions: u64,
    /// The last entry of the log that was applied.
    pub applied: u64,
    /// Seconds since the master started.
    pub uptime_s: u64,
}

/// All store nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListNodes {}
call!(ListNodes = 41 "list_nodes" -> Vec<NodeState>);

/// Which shards of a table have a second copy that is at most two minutes behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncStatus {
    /// The key space, by its number; the highest is that of `default`.
    pub keyspace: u32,
    /// The table, by its number.
    pub table: i64,
}
call!(SyncStatus = 42 "sync_status" -> Vec<u64>, LONG);

/// A store node as the master sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// The base URL of its REST listener, or empty.
    pub rest: String,
    /// `ALIVE`, `SUSPECT` or `LOST`.
    pub status: String,
    /// Milliseconds since it was last heard.
    pub silent_ms: u64,
    /// Segments it lends.
    pub segments: u64,
}
