//! The routes of a probe, in one table, and who may ask.

use crate::described::within;
use crate::status::{self, text};
use crate::{Probe, Stage, cpu, heap};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use perilune_protocol::FaultCode;
use perilune_protocol::access::Access;
use std::sync::Arc;
use utoipa::openapi::Paths;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};
use utoipa_axum::routes;

/// Every route, all of them GET: its path, and whether everybody may ask it. Who watches over processes has no token.
pub const ROUTES: [(&str, bool); 16] = [
    ("/livez", true),
    ("/readyz", true),
    ("/tiflash/store-status", true),
    ("/tiflash/store-status/", true),
    ("/tiflash/livez", true),
    ("/tiflash/livez/", true),
    ("/tiflash/readyz", true),
    ("/tiflash/readyz/", true),
    // As the document of these routes spells them.
    ("/tifash/store-status", true),
    ("/tifash/store-status/", true),
    ("/tifash/livez", true),
    ("/tifash/livez/", true),
    ("/tifash/readyz", true),
    ("/tifash/readyz/", true),
    ("/debug/pprof/profile", false),
    ("/debug/pprof/heap", false),
];

fn handler(path: &str) -> UtoipaMethodRouter<Probe> {
    let (schemas, described, handler) = match path.trim_end_matches('/').rsplit('/').next() {
        Some("livez") => routes!(status::livez),
        Some("readyz") => routes!(status::readyz),
        Some("profile") => routes!(cpu::profile),
        Some("heap") => routes!(heap::heap),
        _ => routes!(status::store_status),
    };
    // The same under each of its names.
    let mut paths = Paths::new();
    paths.paths.extend(described.paths.into_values().map(|item| (path.to_owned(), item)));
    (schemas, paths, handler)
}

/// A route of TiFlash's page, in both spellings. One `/` at its end changes nothing, and is not described.
pub fn tiflash<S: Clone + Send + Sync + 'static>((schemas, described, handler): UtoipaMethodRouter<S>) -> OpenApiRouter<S> {
    let mut routes = OpenApiRouter::default();
    for (path, item) in described.paths {
        // What is asked by POST as well acts.
        let handler = if item.post.is_some() && item.get.is_some() { acting(handler.clone(), "GET,POST") } else { handler.clone() };
        for spelled in ["/tiflash/", "/tifash/"] {
            let path = path.replacen("/tiflash/", spelled, 1);
            // The rest of a path may have its own, and may be nothing.
            let slashed = path.split_once("{*").map_or_else(|| format!("{path}/"), |(folder, _)| folder.to_owned());
            let mut paths = Paths::new();
            paths.paths.insert(path, item.clone());
            routes = routes.routes((schemas.clone(), paths, handler.clone())).route(&slashed, handler.clone());
        }
    }
    routes
}

/// What acts also by GET does not by HEAD, which nobody sends who wants something done: that is 405, with the `methods` that are answered.
pub fn acting<S: Clone + Send + Sync + 'static>(handler: MethodRouter<S>, methods: &'static str) -> MethodRouter<S> {
    handler.head(move || async move { (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, methods)]) })
}

/// On requests of those who would not have been let in elsewhere.
#[derive(Clone)]
pub(crate) struct Stranger;

impl Probe {
    /// The routes of [`ROUTES`], to be merged into others.
    pub fn router<S: Clone + Send + Sync + 'static>(&self, access: Arc<Access>) -> OpenApiRouter<S> {
        let routes = ROUTES.iter().fold(OpenApiRouter::default(), |routes, (path, _)| match handler(path) {
            // The same as without it.
            (_, _, handler) if path.ends_with('/') => routes.route(path, handler),
            handler => routes.routes(handler),
        });
        let refused = || async { text(StatusCode::METHOD_NOT_ALLOWED, "405: only GET is answered here\n".into()) };
        within(routes, |routes| {
            routes
                .method_not_allowed_fallback(refused)
                .route_layer(middleware::from_fn_with_state(access, admitted))
                .with_state(self.clone())
        })
    }

    /// The same where there is nothing else, not yet or not any more: all others are told how far the process is.
    pub fn alone(&self, access: Arc<Access>) -> Router {
        let probe = self.clone();
        Router::from(self.router(access)).fallback(move || async move { unavailable(probe.stage()) })
    }
}

async fn admitted(State(access): State<Arc<Access>>, mut request: Request, next: Next) -> Response {
    if let Err(fault) = access.admit_http(|name| request.headers().get(name).map(|value| value.as_bytes())) {
        if !ROUTES.contains(&(request.uri().path(), true)) {
            let status = if fault.code == FaultCode::Unauthorized { StatusCode::UNAUTHORIZED } else { StatusCode::FORBIDDEN };
            let body = axum::Json(serde_json::json!({ "error": fault.message }));
            return (status, [(header::WWW_AUTHENTICATE, "Bearer")], body).into_response();
        }
        request.extensions_mut().insert(Stranger);
    }
    next.run(request).await
}

/// A layer for routes that act: once the process stops, nothing but reading is begun, and the stop waits for what was.
pub async fn refuse_when_stopping(State(probe): State<Probe>, request: Request, next: Next) -> Response {
    if [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method()) {
        return next.run(request).await;
    }
    match probe.begin() {
        Ok(_act) => next.run(request).await,
        Err(stage) => unavailable(stage),
    }
}

/// On refusals of a process that does not run, not yet or not any more: nothing of what was asked was begun.
pub const STAGE: HeaderName = HeaderName::from_static("x-perilune-stage");

fn unavailable(stage: Stage) -> Response {
    let body = axum::Json(serde_json::json!({ "error": format!("this process is {stage}: try again later, or another") }));
    (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1".to_owned()), (STAGE, stage.to_string())], body).into_response()
}
