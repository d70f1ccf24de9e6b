//! The node's own listener: the routes of the store, and what an operator wants to see of this process.

use super::door::{Door, admitted};
use super::{access, blocking, plain, remote, router};
use crate::node::Node;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use perilune_probe::sync::{self, OfTable};
use perilune_probe::{Probe, tiflash};
use perilune_protocol::rpc::cluster::SyncStatus;
use perilune_protocol::{FaultCode, Outcome};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tracing::{error, warn};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Requests under way get so long to finish when the node stops.
const FAREWELL: Duration = Duration::from_secs(2);

/// A listener that serves until it is dropped.
pub(crate) struct Server {
    addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Serves on `listener`, which does not block.
pub(crate) fn serve(listener: TcpListener, routes: Router) -> Outcome<Server> {
    let failed = |e: std::io::Error| FaultCode::Internal.with(format!("cannot serve REST: {e}"));
    let addr = listener.local_addr().map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("rest").enable_all().build().map_err(failed)?;
    let listener = runtime.block_on(async { tokio::net::TcpListener::from_std(listener) }).map_err(failed)?;
    let (stop, stopped) = oneshot::channel::<()>();
    let (told, mut leaving) = oneshot::channel::<()>();
    let serve = async move {
        let serving = axum::serve(listener, routes).with_graceful_shutdown(async move {
            // Dropping the sender says the same as sending.
            let _ = stopped.await;
            drop(told);
        });
        let late = async {
            let _ = (&mut leaving).await;
            tokio::time::sleep(FAREWELL).await;
        };
        tokio::select! {
            served = serving.into_future() => if let Err(e) = served { error!("REST stopped: {e}"); },
            () = late => warn!("REST stopped with requests unfinished"),
        }
    };
    let thread = thread::Builder::new().name("rest".into()).spawn(move || {
        runtime.block_on(serve);
        runtime.shutdown_background();
    });
    Ok(Server { addr, stop: Some(stop), thread: Some(thread.map_err(failed)?) })
}

impl Server {
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so already.
            let _ = thread.join();
        }
    }
}

/// All that a node's own listener serves once the node is up.
pub(crate) fn routes(node: &Arc<Node>, probe: &Probe) -> Router {
    let all = router(Arc::clone(node), probe).merge(own(Arc::clone(node))).merge(probe.router(access(&node.config)));
    perilune_probe::served(all.fallback(|| async { plain(StatusCode::NOT_FOUND) }))
}

fn own(node: Arc<Node>) -> OpenApiRouter {
    let asked = middleware::from_fn_with_state(Arc::new(Door::new(&node.config)), admitted);
    // Whoever watches over processes has no token, and learns nothing but that.
    let routes = OpenApiRouter::default().routes(routes!(own_metrics)).merge(tiflash(routes!(sync_status))).merge(remote::routes());
    routes.route_layer(asked).routes(routes!(health)).with_state(node)
}

/// How many shards of a table have a second copy that is at most two minutes behind, and which: as the master says.
#[utoipa::path(
    get, path = "/tiflash/sync-status/{*table}", tag = "process",
    params(("table" = String, Path, description = "The number of a table, or `keyspace/KEYSPACE/table/TABLE`.")),
    responses(
        (status = 200, description = "Their number, and in another line their ids.", body = String, content_type = "text/plain"),
        (status = 400, description = "That names no table."),
        (status = 503, description = "No master says.", body = String, content_type = "text/plain")
    )
)]
async fn sync_status(State(node): State<Arc<Node>>, table: Option<Path<String>>) -> Response {
    let Some(OfTable { keyspace, table }) = table.and_then(|Path(table)| OfTable::parse(&table)) else { return sync::wrong() };
    let ask = move |node: &Node| sync::answer(node.master.call(&SyncStatus { keyspace, table }, Instant::now() + node.config.deadline));
    blocking(node, ask).await
}

/// Whether the master hears this node.
#[utoipa::path(
    get, path = "/health", tag = "store",
    responses((status = 200, description = "`OK`.", body = String, content_type = "text/plain"), (status = 503, description = "It does not.", body = String, content_type = "text/plain"))
)]
async fn health(State(node): State<Arc<Node>>) -> Response {
    if node.is_heard() {
        "OK".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the master does not hear this node").into_response()
    }
}

/// What this node counted, for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "store", responses((status = 200, description = "The page.", body = String, content_type = "text/plain")))]
async fn own_metrics(node: State<Arc<Node>>) -> Response {
    metrics(node).await
}

/// The same; beside a master, as in `perilune dev`, `/metrics` is the master's.
#[utoipa::path(
    get, path = "/metrics/node", tag = "store",
    responses((status = 200, description = "The page.", body = String, content_type = "text/plain"))
)]
pub(super) async fn metrics(State(node): State<Arc<Node>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], node.metrics()).into_response()
}
