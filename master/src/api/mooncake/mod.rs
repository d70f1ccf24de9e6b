//! Mooncake's admin: its routes, and how it says no.

mod keys;
mod segments;
mod status;

use super::App;
use super::face::{self, Face, Refusal};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use perilune_probe::Refusing;
use perilune_protocol::{Fault, FaultCode};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// How this face says no: `error_message` is the name of the fault, or the sentence where a parameter is wrong; `message` is always the
/// sentence.
#[derive(Serialize, ToSchema)]
struct Body<'a> {
    success: bool,
    error_code: i32,
    error_message: &'a str,
    message: &'a str,
}

/// The face of Mooncake's master.
pub(super) struct Mooncake;

const TEXT: &str = "text/plain; version=0.0.4";
const WORD: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json; charset=utf-8";

type Answer = Result<Response, Refusal<Mooncake>>;

impl Face for Mooncake {
    fn routes() -> OpenApiRouter<App> {
        OpenApiRouter::default()
            .routes(routes!(status::metrics))
            .routes(routes!(status::summary))
            .routes(routes!(status::health))
            .routes(routes!(status::role))
            .routes(routes!(status::ha_status))
            .routes(routes!(status::leader))
            .routes(routes!(status::version))
    }

    fn lookups() -> OpenApiRouter<App> {
        OpenApiRouter::default()
            .routes(routes!(keys::query_key))
            .routes(routes!(keys::batch_query_keys))
            .routes(routes!(keys::get_all_keys))
            .routes(routes!(keys::remove_all))
            .routes(routes!(segments::get_all_segments))
            .routes(routes!(segments::query_segment))
            .routes(routes!(segments::get_segments_detail))
            .routes(routes!(segments::status))
    }

    fn refusing() -> Refusing {
        Refusing::like::<Body>(&[
            (400, "A parameter is wrong, or missing."),
            (404, "There is no such tenant, key or segment."),
            (410, "The tenant was dropped."),
            (500, "It was not done."),
            (503, "Nobody can tell at the moment: there is no leader, no copy can be read, or too much is under way."),
        ])
    }

    fn refuse(fault: &Fault) -> Response {
        let error_message = if fault.code == FaultCode::InvalidParams { &fault.message } else { fault.code.as_str() };
        let body = Body { success: false, error_code: fault.code.number(), error_message, message: &fault.message };
        let mut response = json(face::status(fault.code), &body);
        if response.status() == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
        }
        response
    }
}

fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => (status, [(header::CONTENT_TYPE, JSON)], bytes).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, WORD)], error.to_string()).into_response(),
    }
}

fn text(status: StatusCode, content_type: &'static str, body: impl Into<axum::body::Body>) -> Response {
    (status, [(header::CONTENT_TYPE, content_type)], body.into()).into_response()
}

/// Runs what may take milliseconds where it holds up nobody.
async fn aside<T: Send + 'static>(app: &App, look: impl FnOnce(&dyn super::Facade) -> T + Send + 'static) -> Result<T, Fault> {
    let engine = app.engine.clone();
    let looked = tokio::task::spawn_blocking(move || look(&*engine)).await;
    looked.map_err(|error| FaultCode::Internal.with(format!("the answer could not be made: {error}")))
}
