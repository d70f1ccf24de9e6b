//! TiCDC's changefeeds (`/api/v2`): paths, fields, texts and statuses are those of its page.
//!
//! A namespace is the name of a tenant: its feeds carry the events of that tenant. A capture is a master, the owner is the one that leads, and
//! there is one upstream, this cluster. Everything but what a master tells of itself is answered by the leader, whichever master is asked.

mod captures;
mod changefeeds;
mod error;
mod events;
mod models;
mod operator;
mod said;
mod steer;
mod synced;
mod update;
mod verify;

use super::App;
use super::face::Face;
use crate::engine::{Engine, Group};
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use error::Refusal;
use perilune_probe::Refusing;
use perilune_protocol::{Fault, FaultCode};
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The face of TiCDC.
pub(super) struct Ticdc;

/// Where it is.
pub(super) const ROOT: &str = "/api/v2/";
/// The longest body it reads.
const BODY_BYTES_MAX: usize = 256 << 10;
/// What a master tells of itself, or does by itself.
const OWN: [&str; 4] = ["status", "captures", "owner/resign", "log"];

type Answer = Result<Response, Refusal>;

impl Face for Ticdc {
    fn routes() -> OpenApiRouter<App> {
        OpenApiRouter::default()
            .routes(routes!(captures::status))
            .routes(routes!(captures::list))
            .routes(routes!(captures::resign))
            .routes(routes!(events::events))
            .routes(routes!(steer::pause))
            .routes(routes!(steer::resume))
            .routes(routes!(changefeeds::create))
            .routes(routes!(update::update))
            .routes(routes!(steer::delete))
            .routes(routes!(operator::drop_safepoints))
            .routes(routes!(operator::resolve_lock))
            .routes(routes!(operator::log))
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
    }

    fn lookups() -> OpenApiRouter<App> {
        OpenApiRouter::default()
            .routes(routes!(changefeeds::list))
            .routes(routes!(changefeeds::get))
            .routes(routes!(changefeeds::meta_info))
            .routes(routes!(changefeeds::status))
            .routes(routes!(synced::synced))
            .routes(routes!(verify::verify_table))
            .routes(routes!(captures::health))
            .routes(routes!(captures::processors))
            .routes(routes!(captures::processor))
            .routes(routes!(captures::drain))
            .routes(routes!(captures::tso))
            .routes(routes!(operator::metadata))
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
    }

    fn refusing() -> Refusing {
        Refusing::like::<error::Body>(&[
            (400, "What was asked cannot be read, cannot be, or is about what there is not."),
            (413, "The body is too long."),
            (500, "It was not done."),
            (503, "No master leads, or none that can be reached."),
        ])
    }

    fn refuse(fault: &Fault) -> Response {
        Refusal::from(fault.clone()).into_response()
    }

    /// How far feeds are is the leader's to say.
    fn acts(request: &Request) -> bool {
        request.uri().path().strip_prefix(ROOT).is_some_and(|rest| !OWN.contains(&rest) && !events::are_at(rest))
    }
}

/// Whether this is the path of what a feed carries.
pub(super) fn is_stream(path: &str) -> bool {
    path.strip_prefix(ROOT).is_some_and(events::are_at)
}

/// What is answered below [`ROOT`] where there is no such route, or not by this method; `None`: elsewhere.
pub(super) fn unknown(method: &Method, uri: &Uri) -> Option<Response> {
    let path = uri.path().strip_prefix(ROOT)?;
    if let Some(path) = path.strip_suffix('/').filter(|path| !path.is_empty()) {
        let status = if *method == Method::GET { StatusCode::MOVED_PERMANENTLY } else { StatusCode::TEMPORARY_REDIRECT };
        let query = uri.query().map_or_else(String::new, |query| format!("?{query}"));
        return Some((status, [(header::LOCATION, format!("{ROOT}{path}{query}"))]).into_response());
    }
    Some((StatusCode::NOT_FOUND, "404 page not found").into_response())
}

/// Whoever may not come in is told so in the words of this face.
pub(super) fn not_admitted(fault: &Fault, headers: &HeaderMap) -> Response {
    let says = headers.contains_key(header::AUTHORIZATION);
    let mut response = Refusal::not_admitted(fault, says).into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

fn group(app: &App) -> Result<&Group, Refusal> {
    app.group.as_ref().ok_or_else(|| FaultCode::NotSupported.with("this engine is served without a group of masters").into())
}

fn engine(app: &App) -> Result<Engine, Refusal> {
    group(app).map(Group::engine)
}

fn json(body: &impl Serialize) -> Answer {
    Ok(axum::Json(body).into_response())
}

/// How this face says that something was done.
fn done() -> Answer {
    json(&serde_json::json!({}))
}
