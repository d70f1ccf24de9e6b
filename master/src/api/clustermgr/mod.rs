//! CubeFS's cluster manager: who the masters are, how they stand, and what the group is set to.
//!
//! Paths, fields and statuses are those of its page. Requests that change something are carried out by the leader, whoever is asked;
//! everything else is answered by whoever is asked, as far as it knows.

mod config;
mod disk;
mod error;
pub(crate) mod join;
mod leadership;
mod member;
mod service;
mod snapshot;
mod space;
mod stat;

use super::App;
use super::face::Face;
use crate::engine::Group;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, Request};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use error::Refusal;
use perilune_protocol::{Fault, FaultCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// The face of CubeFS's cluster manager.
pub(super) struct Clustermgr;

/// The longest body it reads.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Nodes do not say yet in which zone they are.
const IDC: &str = "z0";

type Answer = Result<Response, Refusal>;

impl Face for Clustermgr {
    fn routes() -> Router<App> {
        Router::new()
            .route("/stat", get(stat::stat))
            .route("/member/list", get(member::list))
            .route("/member/add", post(member::add))
            .route("/member/join", post(join::join))
            .route("/member/remove", post(member::remove))
            .route("/leadership/transfer", post(leadership::transfer))
            .route("/config/get", get(config::get))
            .route("/config/list", get(config::list))
            .route("/config/set", post(config::set))
            .route("/config/delete", post(config::delete))
            .route("/disk/list", get(disk::list))
            .route("/disk/info", get(disk::info))
            .route("/service/list", get(service::list))
            .route("/snapshot/dump", get(snapshot::dump))
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
    }

    fn lookups() -> Router<App> {
        Router::new()
    }

    fn refuse(fault: &Fault) -> Response {
        Refusal::from(fault.clone()).into_response()
    }
}

/// A body of JSON, whatever the content type says.
struct Said<T>(T);

impl<T: DeserializeOwned> FromRequest<App> for Said<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, app: &App) -> Result<Self, Refusal> {
        let bytes = Bytes::from_request(request, app).await.map_err(|e| Refusal::argument(e.body_text()))?;
        // By way of an object: a list would do for a struct otherwise.
        let object = serde_json::from_slice::<Map<String, Value>>(&bytes);
        let said = object.and_then(|object| serde_json::from_value(Value::Object(object)));
        said.map(Self).map_err(|e| Refusal::argument(e.to_string()))
    }
}

fn group(app: &App) -> Result<&Group, Refusal> {
    app.group.as_ref().ok_or_else(|| FaultCode::NotSupported.with("this engine is served without a group of masters").into())
}

fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => (status, [(header::CONTENT_TYPE, "application/json")], bytes).into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    }
}

fn ok(body: &impl Serialize) -> Answer {
    Ok(json(StatusCode::OK, body))
}

/// How this face says that something was done: with nothing.
fn done() -> Answer {
    Ok(StatusCode::OK.into_response())
}
