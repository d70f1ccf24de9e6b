//! What the page asks of its frontends: how the nodes of a tenant's pools are, for an administrator (HTTP Basic, no token).

use super::instance;
use crate::api::App;
use crate::api::extract::Query;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use perilune_protocol::Endpoint;
use perilune_protocol::tenant;
use perilune_state::directory::{NodeKind, NodeRecord, PoolKind};
use perilune_state::segments::nodes::Seen;
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;

/// Where it is.
pub(super) const CLUSTER_STATUS: &str = "/rest/v2/manager/cluster/cluster_info/cloud_cluster_status";

/// Not heard, or without such a listener.
const NO_PORT: i32 = -1;

/// A node of a pool, as registered and as seen.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    host: String,
    heartbeat_port: u16,
    /// Of the transfer engine.
    be_port: i32,
    /// Of REST.
    http_port: i32,
    /// Where peers connect for RDMA.
    brpc_port: i32,
    /// Transfers of peers that the node serves, and puts in progress that may write to its memory.
    current_fragment_num: u64,
    /// When it was heard last, in milliseconds.
    last_fragment_update_time: u64,
}

/// Every pool of store nodes of a tenant.
#[utoipa::path(
    get, path = "/rest/v2/manager/cluster/cluster_info/cloud_cluster_status", tag = "tenants",
    params(("instance_id" = Option<String>, Query, description = "The tenant; `default` where it is left out.")),
    responses(
        (status = 200, description = "The nodes of each pool, as they were heard last.", body = serde_json::Value),
        (status = 401, description = "Not an administrator, by HTTP Basic.", body = serde_json::Value),
        (status = 404, description = "There is no such tenant.", body = serde_json::Value)
    )
)]
pub(super) async fn cluster_status(State(app): State<App>, query: Query, headers: HeaderMap) -> Response {
    let authorization = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
    if let Err(fault) = app.access.admit_basic(authorization, app.meta_token.as_ref()) {
        let refusal = refused(StatusCode::UNAUTHORIZED, &fault.message);
        return ([(header::WWW_AUTHENTICATE, "Basic realm=\"perilune\"")], refusal).into_response();
    }
    let (known, seen, now_ms) = (app.engine.directory(), app.engine.seen(), app.engine.wall_ms());
    let asked = query.text("instance_id").filter(|id| !id.is_empty());
    let owner = match instance::living(&known, asked.as_deref().unwrap_or(tenant::DEFAULT)) {
        Ok(tenant) => tenant.id,
        Err(refusal) => return refused(refusal.status, &refusal.msg),
    };
    let rdma: BTreeMap<_, _> =
        app.engine.segments().into_iter().filter_map(|s| Some((s.desc.node, rdma_port(&s.desc.endpoints)?))).collect();
    let mut data: BTreeMap<&str, Vec<Node>> = BTreeMap::new();
    for pool in known.pools_of(owner).filter(|pool| pool.kind == PoolKind::Compute) {
        let nodes = data.entry(&pool.cluster_id).or_default();
        for node in pool.nodes.iter().filter(|node| node.kind == NodeKind::Compute) {
            // Of those that present the same, the one that is registered where this one is.
            let is_it =
                |seen: &&Seen| known.member(&seen.said.unique_id, &seen.said.name).is_some_and(|(_, found)| std::ptr::eq(found, node));
            let seen = seen.iter().filter(is_it).min_by_key(|seen| seen.silent_ms);
            nodes.push(Node::of(node, seen, now_ms, seen.and_then(|seen| rdma.get(&seen.node)).copied()));
        }
    }
    Json(json!({"msg": "success", "code": 0, "data": data, "count": 0})).into_response()
}

fn refused(status: StatusCode, why: &str) -> Response {
    let msg = status.canonical_reason();
    (status, Json(json!({"msg": msg, "code": status.as_u16(), "data": why, "count": 0}))).into_response()
}

impl Node {
    fn of(node: &NodeRecord, seen: Option<&Seen>, now_ms: u64, rdma: Option<u16>) -> Self {
        let port = |of: &str| of.trim_end_matches('/').rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(NO_PORT);
        Self {
            host: if node.host.is_empty() { node.ip.clone() } else { node.host.clone() },
            heartbeat_port: node.port,
            be_port: seen.map_or(NO_PORT, |seen| port(&seen.said.name)),
            http_port: seen.map_or(NO_PORT, |seen| port(&seen.said.rest)),
            brpc_port: rdma.map_or(NO_PORT, i32::from),
            current_fragment_num: seen.map_or(0, |seen| seen.serves + seen.writes),
            last_fragment_update_time: seen.map_or(0, |seen| now_ms.saturating_sub(seen.silent_ms)),
        }
    }
}

fn rdma_port(endpoints: &[Endpoint]) -> Option<u16> {
    endpoints.iter().find_map(|endpoint| match endpoint {
        Endpoint::Rdma(at) => at.to_string().rsplit_once(':')?.1.parse().ok(),
        Endpoint::Tcp(_) | Endpoint::Shm { .. } => None,
    })
}
