//! Clusters: pools and the nodes registered in them. What their life does to bytes is the directory's and the housekeeping's; here it is put
//! in the page's words.

use super::envelope::{Answer, Found, Refusal};
use super::instance;
use super::said;
use super::shown;
use crate::api::{App, Decide};
use crate::engine::Unchanged;
use perilune_state::directory::{Described, Known, Meant, NodeKind, PoolKind, PoolRefused, PoolStatus, Refused};
use perilune_state::settings::FRONTEND_SAFE_SECONDS;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What is asked of the clusters of an instance.
#[derive(Deserialize, ToSchema)]
#[schema(as = AskedOfCluster)]
pub(super) struct Asked {
    #[serde(default, deserialize_with = "said::text")]
    instance_id: String,
    #[serde(default, deserialize_with = "said::text")]
    cloud_unique_id: String,
    cluster: Option<Cluster>,
}

/// A cluster as callers describe it; written back where the page does so.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = Cluster)]
pub(super) struct Cluster {
    #[serde(default, deserialize_with = "said::text", skip_serializing_if = "String::is_empty")]
    pub(super) cluster_id: String,
    #[serde(default, deserialize_with = "said::text", skip_serializing_if = "String::is_empty")]
    pub(super) cluster_name: String,
    #[serde(default, rename = "type", deserialize_with = "said::text", skip_serializing_if = "String::is_empty")]
    kind: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) nodes: Vec<Node>,
    #[serde(default, deserialize_with = "said::texts", skip_serializing_if = "Vec::is_empty")]
    mysql_user_name: Vec<String>,
    #[serde(default, deserialize_with = "said::text", skip_serializing_if = "String::is_empty")]
    pub(super) cluster_status: String,
}

#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = ClusterNode)]
pub(super) struct Node {
    #[serde(default, deserialize_with = "said::text", skip_serializing_if = "String::is_empty")]
    pub(super) cloud_unique_id: String,
    #[serde(default, deserialize_with = "said::text", skip_serializing_if = "String::is_empty")]
    ip: String,
    #[serde(default, deserialize_with = "said::number", skip_serializing_if = "Option::is_none")]
    heartbeat_port: Option<u64>,
    #[serde(default, deserialize_with = "said::number", skip_serializing_if = "Option::is_none")]
    edit_log_port: Option<u64>,
    #[serde(default, deserialize_with = "said::text", skip_serializing_if = "String::is_empty")]
    node_type: String,
    #[serde(default, deserialize_with = "said::text", skip_serializing_if = "String::is_empty")]
    host: String,
}

/// What is asked, once it is known of which instance.
pub(super) struct Request<'a> {
    pub(super) app: &'a App,
    pub(super) call: Call,
    pub(super) instance: String,
    pub(super) cluster: &'a Cluster,
}

/// What changes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Add,
    Drop,
    Rename,
    AddNode,
    DropNode,
    Decommission,
    Users,
    Status,
}

pub(super) async fn change(app: &App, call: Call, asked: &Asked) -> Answer {
    let Some(cluster) = &asked.cluster else { return Err(not_given()) };
    if asked.instance_id.is_empty() && asked.cloud_unique_id.is_empty() {
        return Err(not_given());
    }
    let instance = owner(&app.engine.directory(), &asked.instance_id, &asked.cloud_unique_id)?;
    let request = Request { app, call, instance, cluster };
    match call {
        Call::Add => request.add().await,
        _ if cluster.cluster_id.is_empty() => Err(Refusal::argument("missing cluster_id=")),
        Call::Drop => request.decide(&|known, now_ms| known.drop_pool(request.meant(), safe_ms(app), now_ms)).await,
        Call::Rename => {
            let named = &cluster.cluster_name;
            request.decide(&|known, now_ms| known.rename_pool(&request.instance, &cluster.cluster_id, named, now_ms)).await
        }
        Call::Users => request.decide(&|known, now_ms| known.set_users(request.meant(), &cluster.mysql_user_name, now_ms)).await,
        Call::Status => {
            let status = status(&cluster.cluster_status)?;
            request.decide(&|known, now_ms| known.set_pool_status(request.meant(), status, now_ms)).await
        }
        Call::AddNode | Call::DropNode | Call::Decommission => request.nodes().await,
    }
}

/// The status that is meant. `STOPPED` stands on the page and is what the server calls `SUSPENDED`.
pub(super) fn status(said: &str) -> Result<PoolStatus, Refusal> {
    Ok(match said {
        "UNKNOWN" | "0" => PoolStatus::Unknown,
        "NORMAL" | "1" => PoolStatus::Normal,
        "SUSPENDED" | "STOPPED" | "2" => PoolStatus::Suspended,
        "TO_RESUME" | "3" => PoolStatus::ToResume,
        "MANUAL_SHUTDOWN" | "4" => PoolStatus::ManualShutdown,
        other => return Err(Refusal::argument(format!("invalid cluster_status, cluster_status={}", said::shortened(other)))),
    })
}

/// Which instance is meant: by its id, or by what one of its nodes presents.
pub(super) fn owner(known: &Known, instance_id: &str, unique_id: &str) -> Result<String, Refusal> {
    if !instance_id.is_empty() {
        return Ok(instance_id.to_owned());
    }
    match (known.owner(unique_id), instance::named_by(known, unique_id)) {
        (Some(tenant), _) => Ok(tenant.name.clone()),
        (None, None) => Err(Refusal::argument("empty instance_id")),
        (None, Some(_)) => {
            let unique_id = said::shortened(unique_id);
            Err(Refusal::argument(format!("use degrade cloud_unique_id, but instance_id invalid, cloud_unique_id={unique_id}")))
        }
    }
}

/// How long frontends are kept after they were registered, in milliseconds.
fn safe_ms(app: &App) -> u64 {
    let set = app.engine.setting(FRONTEND_SAFE_SECONDS).and_then(|value| value.parse().ok());
    u64::saturating_mul(set.unwrap_or_default(), 1000)
}

fn not_given() -> Refusal {
    Refusal::argument("invalid request instance_id or cluster not given")
}

impl Request<'_> {
    fn meant(&self) -> Meant<'_> {
        Meant { tenant: &self.instance, cluster_id: &self.cluster.cluster_id, name: &self.cluster.cluster_name }
    }

    async fn add(&self) -> Answer {
        let cluster = self.cluster;
        let kind = match cluster.kind.as_str() {
            "" => return Err(Refusal::argument("cluster must have type arg")),
            kind => self.kind(kind)?,
        };
        if cluster.cluster_name.is_empty() {
            return Err(Refusal::argument("not have cluster name"));
        }
        if cluster.cluster_id.is_empty() {
            return Err(Refusal::argument("not have cluster id"));
        }
        let nodes = self.described(kind)?;
        self.decide(&|known, now_ms| known.add_pool(self.meant(), kind, &cluster.mysql_user_name, &nodes, now_ms)).await
    }

    async fn nodes(&self) -> Answer {
        let known = self.app.engine.directory();
        let tenant = known.named(&self.instance);
        let pool = tenant.and_then(|tenant| known.pools_of(tenant.id).find(|pool| pool.cluster_id == self.cluster.cluster_id));
        let said = &self.cluster.kind;
        let kind = pool.map(|pool| pool.kind);
        if !said.is_empty() && kind.is_some() && kind != Some(self.kind(said)?) {
            return Err(Refusal::argument(format!("the cluster is not of type {}", said::shortened(said))));
        }
        let nodes = self.described(kind.unwrap_or(PoolKind::Compute))?;
        let safe_ms = safe_ms(self.app);
        self.decide(&|known, now_ms| match self.call {
            Call::AddNode => known.add_nodes(self.meant(), &nodes, now_ms),
            Call::DropNode => known.drop_nodes(self.meant(), &nodes, safe_ms, now_ms),
            _ => known.decommission(self.meant(), &nodes, now_ms),
        })
        .await
    }

    fn kind(&self, said: &str) -> Result<PoolKind, Refusal> {
        match said {
            "SQL" | "0" => Ok(PoolKind::Sql),
            "COMPUTE" | "1" => Ok(PoolKind::Compute),
            other => Err(Refusal::argument(format!("type is SQL or COMPUTE, not {}", said::shortened(other)))),
        }
    }

    fn described(&self, kind: PoolKind) -> Result<Vec<Described>, Refusal> {
        let described = |node: &Node| {
            let port = if kind == PoolKind::Sql { node.edit_log_port } else { node.heartbeat_port };
            let port = port.map(u16::try_from).transpose();
            let port = match self.call {
                Call::Add | Call::AddNode => port.map_err(|_| self.malformed())?,
                // None is registered there.
                _ => port.map_err(|_| self.no_node(&node.cloud_unique_id))?,
            };
            let kind = match node.node_type.as_str() {
                "" | "UNKNOWN" | "0" => None,
                "FE_MASTER" | "1" => Some(NodeKind::Master),
                "FE_OBSERVER" | "2" => Some(NodeKind::Observer),
                "FE_FOLLOWER" | "3" => Some(NodeKind::Follower),
                _ => return Err(self.malformed()),
            };
            let Node { cloud_unique_id, ip, host, .. } = node;
            Ok(Described { unique_id: cloud_unique_id.clone(), ip: ip.clone(), host: host.clone(), port, kind })
        };
        self.cluster.nodes.iter().map(described).collect()
    }

    pub(super) fn malformed(&self) -> Refusal {
        Refusal::argument(format!("add node input args node invalid, cluster={}", shown::json(self.cluster)))
    }

    async fn decide(&self, decide: &Decide<'_>) -> Answer {
        match self.app.engine.decide(decide).await {
            Ok(()) => Ok(Found::Nothing),
            Err(Unchanged::Refused(Refused::Pool(refused))) => Err(self.told(refused)),
            // Where there is no instance there is no cluster, either.
            Err(Unchanged::Refused(Refused::Unknown(_))) if self.call != Call::Add => Err(self.told(PoolRefused::Unknown)),
            other => instance::told(&self.instance, other),
        }
    }
}
