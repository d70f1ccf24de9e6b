//! Clusters as the page shows them. Seconds are texts, ports are numbers, what is not set is left out.

use perilune_state::directory::{NodeKind, NodeRecord, NodeStatus, PoolKind, PoolRecord, PoolStatus, is_unshown};
use serde::Serialize;

#[derive(Serialize)]
pub(super) struct Cluster {
    cluster_id: String,
    cluster_name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nodes: Vec<Node>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mysql_user_name: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_status: Option<&'static str>,
    ctime: String,
    mtime: String,
}

#[derive(Serialize)]
pub(super) struct Node {
    cloud_unique_id: String,
    ip: String,
    ctime: String,
    mtime: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    heartbeat_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    edit_log_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_type: Option<&'static str>,
    #[serde(skip_serializing_if = "String::is_empty")]
    host: String,
}

/// A cluster where only its status was asked for.
#[derive(Serialize)]
pub(super) struct Brief {
    cluster_id: String,
    cluster_name: String,
    cluster_status: &'static str,
}

impl Cluster {
    pub(super) fn of(pool: &PoolRecord) -> Self {
        let is_compute = pool.kind == PoolKind::Compute;
        Self {
            cluster_id: pool.cluster_id.clone(),
            cluster_name: pool.name.clone(),
            kind: if is_compute { "COMPUTE" } else { "SQL" },
            nodes: pool.nodes.iter().map(Node::of).collect(),
            mysql_user_name: pool.users.clone(),
            cluster_status: is_compute.then(|| status(pool.status)),
            ctime: seconds(pool.ctime_ms),
            mtime: seconds(pool.mtime_ms),
        }
    }
}

impl Node {
    pub(super) fn of(node: &NodeRecord) -> Self {
        let is_compute = node.kind == NodeKind::Compute;
        Self {
            cloud_unique_id: node.unique_id.clone(),
            ip: node.ip.clone(),
            ctime: seconds(node.ctime_ms),
            mtime: seconds(node.mtime_ms),
            status: match node.status {
                NodeStatus::Unknown => None,
                NodeStatus::Running => Some("NODE_STATUS_RUNNING"),
                NodeStatus::Shutdown => Some("NODE_STATUS_SHUTDOWN"),
                NodeStatus::Decommissioning => Some("NODE_STATUS_DECOMMISSIONING"),
                NodeStatus::Decommissioned => Some("NODE_STATUS_DECOMMISSIONED"),
            },
            heartbeat_port: is_compute.then_some(node.port),
            edit_log_port: (!is_compute).then_some(node.port),
            node_type: match node.kind {
                NodeKind::Compute => None,
                NodeKind::Master => Some("FE_MASTER"),
                NodeKind::Observer => Some("FE_OBSERVER"),
                NodeKind::Follower => Some("FE_FOLLOWER"),
            },
            host: node.host.clone(),
        }
    }
}

impl Brief {
    pub(super) fn of(pool: &PoolRecord) -> Self {
        Self { cluster_id: pool.cluster_id.clone(), cluster_name: pool.name.clone(), cluster_status: status(pool.status) }
    }
}

pub(super) fn status(status: PoolStatus) -> &'static str {
    match status {
        PoolStatus::Unknown => "UNKNOWN",
        PoolStatus::Normal => "NORMAL",
        PoolStatus::Suspended => "SUSPENDED",
        PoolStatus::ToResume => "TO_RESUME",
        PoolStatus::ManualShutdown => "MANUAL_SHUTDOWN",
    }
}

/// As it stands in messages.
pub(super) fn json(shown: &impl Serialize) -> String {
    serde_json::to_string(shown).unwrap_or_default().replace(is_unshown, "")
}

pub(super) fn seconds(ms: u64) -> String {
    (ms / 1000).to_string()
}
