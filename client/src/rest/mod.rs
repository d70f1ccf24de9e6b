//! The store over REST: the routes of Mooncake's store service, its fields and texts, and statuses that say what is wrong.

mod door;
mod json;
mod memory;
mod objects;
mod range;
mod refuse;
mod remote;
mod server;

pub(crate) use server::{Server, routes, serve};

use crate::node::Node;
use crate::{NodeConfig, Transports};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use door::{Door, admitted};
use perilune_probe::{Probe, refuse_when_stopping, within};
use perilune_protocol::access::Access;
use refuse::Refusal;
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The largest body.
const BODY_BYTES_MAX: usize = 100 << 20;

/// The routes below `/api/`, what this process moves bytes with, and what the node counted. A key may contain slashes and percent-escapes; an empty one is refused with a sentence.
pub(crate) fn router(node: Arc<Node>, probe: &Probe) -> OpenApiRouter {
    let door = Arc::new(Door::new(&node.config));
    let empty = || any(|| async { Refusal::new(StatusCode::BAD_REQUEST, "Missing key: the path ends where the key should be") });
    let routes = OpenApiRouter::default()
        .routes(routes!(objects::put))
        .routes(routes!(objects::get))
        .routes(routes!(objects::exist))
        .routes(routes!(objects::remove))
        .routes(routes!(objects::remove_all))
        .route("/api/get/", empty())
        .route("/api/exist/", empty())
        .route("/api/remove/", empty())
        .routes(routes!(memory::mount))
        .routes(routes!(memory::unmount))
        .routes(routes!(memory::mount_shm))
        .routes(routes!(memory::unmount_shm))
        .routes(routes!(server::metrics))
        .routes(routes!(transports));
    let routes = refuse::refusing().describe(routes);
    within(routes, |routes| {
        routes
            .method_not_allowed_fallback(|| async { plain(StatusCode::METHOD_NOT_ALLOWED) })
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
            .route_layer(middleware::from_fn_with_state(probe.clone(), refuse_when_stopping))
            .layer(middleware::from_fn_with_state(door, admitted))
            .with_state(node)
    })
}

/// What this process moves bytes with.
#[utoipa::path(get, path = "/transports", tag = "store", responses((status = 200, description = "All it has.", body = Object)))]
async fn transports(State(node): State<Arc<Node>>) -> Response {
    blocking(node, |_| json::reply(StatusCode::OK, &Transports::here())).await
}

/// What is asked of callers.
pub(crate) fn access(config: &NodeConfig) -> Arc<Access> {
    Arc::new(Access::new(config.token.clone(), config.insecure))
}

/// Runs what blocks off the threads that serve sockets.
async fn blocking<R: IntoResponse + Send + 'static>(node: Arc<Node>, work: impl FnOnce(&Node) -> R + Send + 'static) -> Response {
    match tokio::task::spawn_blocking(move || work(&node)).await {
        Ok(reply) => reply.into_response(),
        Err(error) => Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the request was not finished: {error}")).into_response(),
    }
}

/// The answer for what is not there: a line of text, such as `404: Not Found`.
fn plain(status: StatusCode) -> Response {
    let text = format!("{}: {}", status.as_u16(), status.canonical_reason().unwrap_or("Error"));
    (status, text).into_response()
}
