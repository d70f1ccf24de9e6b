//! The cold tier as a whole, as a master says: a store node collects nothing, and keeps nothing of it.

use super::blocking;
use crate::node::Node;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use perilune_probe::remote::{self as page, Owner};
use perilune_probe::tiflash;
use perilune_protocol::rpc::cold::{Remote, RemoteAnswer};
use perilune_protocol::{FaultCode, Outcome};
use std::sync::Arc;
use std::time::Instant;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<Arc<Node>> {
    OpenApiRouter::default()
        .merge(tiflash(routes!(owner)))
        .merge(tiflash(routes!(resign)))
        .merge(tiflash(routes!(gc)))
        .merge(tiflash(routes!(upload)))
        .merge(tiflash(routes!(info)))
        .merge(tiflash(routes!(info_of)))
}

/// Asks a master, and answers with what `said` makes of it.
async fn ask(node: Arc<Node>, question: Remote, said: fn(RemoteAnswer) -> Response) -> Response {
    let ask = move |node: &Node| -> Response {
        let answer: Outcome<RemoteAnswer> = node.master.call(&question, Instant::now() + node.config.deadline);
        answer.map_or_else(
            |fault| {
                let status = match fault.code {
                    FaultCode::Forbidden => StatusCode::FORBIDDEN,
                    _ => StatusCode::SERVICE_UNAVAILABLE,
                };
                (status, format!("{fault}\n")).into_response()
            },
            said,
        )
    };
    blocking(node, ask).await
}

fn whose(answer: RemoteAnswer) -> Owner {
    match answer {
        RemoteAnswer::Owner(at) if at.is_empty() => Owner::Nobody,
        RemoteAnswer::Owner(at) => Owner::Other(at),
        _ => Owner::None,
    }
}

/// Which master collects garbage in the cold tier.
#[utoipa::path(
    get, path = "/tiflash/remote/owner/info", tag = "process",
    responses(
        (status = 200, description = "It is not this node, and who it is.", body = serde_json::Value),
        (status = 403, description = "Not for the tenant of this node.", body = String, content_type = "text/plain"),
        (status = 503, description = "No master says.", body = String, content_type = "text/plain")
    )
)]
async fn owner(State(node): State<Arc<Node>>) -> Response {
    ask(node, Remote::Owner, |answer| whose(answer).info()).await
}

/// Nothing that is this node's to give up.
#[utoipa::path(
    method(get, post), path = "/tiflash/remote/owner/resign", tag = "process",
    responses(
        (status = 200, description = "That it is not this node's to give up.", body = serde_json::Value),
        (status = 403, description = "Not for the tenant of this node.", body = String, content_type = "text/plain"),
        (status = 503, description = "No master says.", body = String, content_type = "text/plain")
    )
)]
async fn resign(State(node): State<Arc<Node>>) -> Response {
    ask(node, Remote::Owner, |answer| whose(answer).resigned(false)).await
}

/// Nothing: a master collects garbage.
#[utoipa::path(
    method(get, post), path = "/tiflash/remote/gc", tag = "process",
    responses(
        (status = 200, description = "Which master does, and that it was not asked.", body = serde_json::Value),
        (status = 403, description = "Not for the tenant of this node.", body = String, content_type = "text/plain"),
        (status = 503, description = "No master says.", body = String, content_type = "text/plain")
    )
)]
async fn gc(State(node): State<Arc<Node>>) -> Response {
    ask(node, Remote::Owner, |answer| whose(answer).gc()).await
}

/// Has everything brought to the cold tier, and then what the masters know.
#[utoipa::path(
    method(get, post), path = "/tiflash/remote/upload", tag = "process",
    responses(
        (status = 200, description = "`flag_set=true`, or `flag_set=false` where there is no vault for it.", body = serde_json::Value),
        (status = 403, description = "Not for the tenant of this node.", body = String, content_type = "text/plain"),
        (status = 503, description = "No master says.", body = String, content_type = "text/plain")
    )
)]
async fn upload(State(node): State<Arc<Node>>) -> Response {
    ask(node, Remote::Upload, |answer| match answer {
        RemoteAnswer::Upload(set) => page::upload(Some(set)),
        _ => page::upload(None),
    })
    .await
}

/// What is in the vaults of the cluster.
#[utoipa::path(
    get, path = "/tiflash/remote/info", tag = "process",
    responses(
        (status = 200, description = "As a master's page.", body = serde_json::Value),
        (status = 403, description = "Not for the tenant of this node.", body = String, content_type = "text/plain"),
        (status = 503, description = "No master says.", body = String, content_type = "text/plain")
    )
)]
async fn info(State(node): State<Arc<Node>>) -> Response {
    ask(node, Remote::Info(None), counted).await
}

/// The same of some of them.
#[utoipa::path(
    get, path = "/tiflash/remote/info/{ids}", tag = "process",
    params(("ids" = String, Path, description = "Their numbers, with commas between.")),
    responses(
        (status = 200, description = "As a master's page.", body = serde_json::Value),
        (status = 400, description = "These are no numbers."),
        (status = 403, description = "Not for the tenant of this node.", body = String, content_type = "text/plain"),
        (status = 503, description = "No master says.", body = String, content_type = "text/plain")
    )
)]
async fn info_of(State(node): State<Arc<Node>>, Path(ids): Path<String>) -> Response {
    match page::ids(&ids) {
        Some(ids) => ask(node, Remote::Info(Some(ids)), counted).await,
        None => StatusCode::BAD_REQUEST.into_response(),
    }
}

fn counted(answer: RemoteAnswer) -> Response {
    let stores = match answer {
        RemoteAnswer::Info(stores) => stores,
        _ => r#"{"stores":[]}"#.to_owned(),
    };
    ([(header::CONTENT_TYPE, "application/json")], stores).into_response()
}
