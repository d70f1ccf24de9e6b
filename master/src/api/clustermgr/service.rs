//! `/service/list`: the store nodes.

use super::{Answer, IDC, group, ok};
use crate::api::App;
use axum::extract::State;
use perilune_protocol::NodeId;
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// What upstream calls the kind of a service.
const NAME: &str = "STORE";

#[derive(Serialize, ToSchema)]
struct Node {
    cluster_id: String,
    name: &'static str,
    host: String,
    idc: &'static str,
    node_id: String,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Nodes {
    nodes: Vec<Node>,
}

/// The store nodes that the leader hears. Whoever follows hears none, and lists those whose segments it knows.
#[utoipa::path(
    get, path = "/service/list", tag = "masters",
    responses((status = 200, description = "All of them.", body = Nodes))
)]
pub(super) async fn list(State(app): State<App>) -> Answer {
    let group = group(&app)?;
    let engine = group.engine();
    let hosts: BTreeMap<NodeId, String> = if group.leads() {
        let live = engine.nodes().into_iter().filter(|n| n.status != "LOST");
        live.map(|n| (n.node, if n.rest.is_empty() { n.name } else { n.rest })).collect()
    } else {
        engine.segments().into_iter().map(|s| (s.desc.node, s.desc.tcp_endpoint().to_owned())).collect()
    };
    let node = |(id, host): (NodeId, String)| Node { cluster_id: group.cluster(), name: NAME, host, idc: IDC, node_id: id.to_string() };
    ok(&Nodes { nodes: hosts.into_iter().map(node).collect() })
}
