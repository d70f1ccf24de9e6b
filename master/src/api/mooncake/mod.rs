//! Mooncake's admin: its routes, and how it says no.

mod keys;
mod segments;
mod status;

use super::App;
use super::face::{self, Face, Refusal};
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use perilune_protocol::{Fault, FaultCode};
use serde::Serialize;

/// The face of Mooncake's master.
pub(super) struct Mooncake;

const TEXT: &str = "text/plain; version=0.0.4";
const WORD: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json; charset=utf-8";

type Answer = Result<Response, Refusal<Mooncake>>;

impl Face for Mooncake {
    fn routes() -> Router<App> {
        Router::new()
            .route("/metrics", get(status::metrics))
            .route("/metrics/summary", get(status::summary))
            .route("/health", get(status::health))
            .route("/role", get(status::role))
            .route("/ha_status", get(status::ha_status))
            .route("/leader", get(status::leader))
            .route("/version", get(status::version))
    }

    fn lookups() -> Router<App> {
        Router::new()
            .route("/query_key", get(keys::query_key))
            .route("/batch_query_keys", get(keys::batch_query_keys))
            .route("/get_all_keys", get(keys::get_all_keys))
            .route("/api/v1/remove_all", post(keys::remove_all))
            .route("/get_all_segments", get(segments::get_all_segments))
            .route("/query_segment", get(segments::query_segment))
            .route("/get_segments_detail", get(segments::get_segments_detail))
            .route("/api/v1/segments/status", get(segments::status))
    }

    /// `error_message` is the name of the fault, or the sentence where a parameter is wrong; `message` is always the sentence.
    fn refuse(fault: &Fault) -> Response {
        #[derive(Serialize)]
        struct Body<'a> {
            success: bool,
            error_code: i32,
            error_message: &'a str,
            message: &'a str,
        }
        let error_message = if fault.code == FaultCode::InvalidParams { &fault.message } else { fault.code.as_str() };
        json(face::status(fault.code), &Body { success: false, error_code: fault.code.number(), error_message, message: &fault.message })
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
