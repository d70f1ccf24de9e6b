//! The faces of the master, listed once.

mod app;
mod clustermgr;
mod events;
mod extract;
mod face;
pub(crate) mod forward;
mod metaservice;
mod mooncake;
mod safepoints;
pub mod serve;
mod stream;
mod tenant;
mod ticdc;
mod tiflash;

pub use crate::work::recycle::Recycled;
pub use app::{App, Boxed, Decide, Facade};
pub(crate) use clustermgr::join;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use face::Face;
use perilune_probe::within;
use perilune_protocol::FaultCode;
use std::time::Instant;
use utoipa_axum::router::OpenApiRouter;

/// Every face behind one door.
pub fn router(app: App) -> OpenApiRouter {
    let faces = OpenApiRouter::default()
        .merge(faces::<mooncake::Mooncake>(&app))
        .merge(faces::<clustermgr::Clustermgr>(&app))
        .merge(faces::<metaservice::MetaService>(&app))
        .merge(faces::<ticdc::Ticdc>(&app))
        .merge(faces::<tiflash::Tiflash>(&app))
        .merge(faces::<events::Events>(&app));
    let faces = within(faces, |faces| {
        faces
            .fallback(|method: Method, uri: Uri| async move { unknown(StatusCode::NOT_FOUND, &method, &uri) })
            .method_not_allowed_fallback(|method: Method, uri: Uri| async move { unknown(StatusCode::METHOD_NOT_ALLOWED, &method, &uri) })
            .layer(middleware::from_fn_with_state(app.clone(), admitted))
    });
    // Has a door of its own.
    let all = faces.merge(app.probe.router(app.access.clone()));
    all.layer(middleware::from_fn_with_state(app.clone(), measured)).with_state(app)
}

fn faces<F: Face>(app: &App) -> OpenApiRouter<App> {
    let lookups = within(F::lookups(), |lookups| match lookups.has_routes() {
        true => lookups.route_layer(middleware::from_fn_with_state(app.clone(), vouched::<F>)),
        // A layer on no route at all would be an error.
        false => lookups,
    });
    let routes = F::routes().merge(lookups).route_layer(middleware::from_fn_with_state(app.clone(), forward::forwarded::<F>));
    F::refusing().describe(routes)
}

/// What everybody may ask: whoever watches over processes has no token, and learns whether this one serves.
const OPEN: [&str; 2] = ["/health", "/api/v2/health"];

/// On requests of those who would not have been let in elsewhere.
#[derive(Clone)]
pub(crate) struct Stranger;

/// Lets in who may come in.
async fn admitted(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let header = |name: &str| request.headers().get(name).map(|value| value.as_bytes());
    let own_token = metaservice::guards(request.uri().path());
    let outcome = if own_token { app.access.admit_page(header).map(|()| None) } else { app.access.identify_http(header) };
    let outcome = match outcome {
        Ok(Some(principal)) => {
            tenant::may_ask(&app, &principal, request.uri().path()).map(|()| drop(request.extensions_mut().insert(principal)))
        }
        outcome => outcome.map(drop),
    };
    match outcome {
        Err(fault) if !OPEN.contains(&request.uri().path()) => {
            if request.uri().path().starts_with(ticdc::ROOT) {
                return ticdc::not_admitted(&fault, request.headers());
            }
            let body = axum::Json(serde_json::json!({ "error": fault.message }));
            (face::status(fault.code), [(header::WWW_AUTHENTICATE, "Bearer")], body).into_response()
        }
        outcome => {
            if outcome.is_err() {
                request.extensions_mut().insert(Stranger);
            }
            next.run(request).await
        }
    }
}

/// Lets an answer out only if this master surely led while it was found.
async fn vouched<F: Face>(State(app): State<App>, request: Request, next: Next) -> Response {
    let term = app.engine.term();
    let response = if term > 0 { Some(next.run(request).await) } else { None };
    match (app.engine.vouch(term).await, response) {
        (Ok(()), Some(response)) => response,
        (Ok(()), None) => F::refuse(&FaultCode::NotLeader.with("this master does not lead")),
        (Err(fault), _) => F::refuse(&fault),
    }
}

/// There is no such route, or not by this method.
fn unknown(status: StatusCode, method: &Method, uri: &Uri) -> Response {
    ticdc::unknown(method, uri).unwrap_or_else(|| bare(status))
}

/// A status and its name, without a content type, as Mooncake answers what it does not know.
fn bare(status: StatusCode) -> Response {
    let mut response = Response::new(Body::from(status.to_string()));
    *response.status_mut() = status;
    response
}

/// Counts each request under the pattern it matched.
async fn measured(State(app): State<App>, route: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let response = next.run(request).await;
    let route = route.as_ref().map_or("unmatched", MatchedPath::as_str);
    app.engine.metrics().http(route, response.status().as_u16(), started);
    response
}
