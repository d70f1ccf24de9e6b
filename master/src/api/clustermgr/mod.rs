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
use super::extract::unread;
use super::face::Face;
use crate::engine::Group;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, Request};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use error::Refusal;
use perilune_probe::Refusing;
use perilune_protocol::{Fault, FaultCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The face of CubeFS's cluster manager.
pub(super) struct Clustermgr;

/// The longest body it reads.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Nodes do not say yet in which zone they are.
const IDC: &str = "z0";

type Answer = Result<Response, Refusal>;

impl Face for Clustermgr {
    fn routes() -> OpenApiRouter<App> {
        OpenApiRouter::default()
            .routes(routes!(stat::stat))
            .routes(routes!(member::list))
            .routes(routes!(member::add))
            .routes(routes!(join::join))
            .routes(routes!(member::remove))
            .routes(routes!(leadership::transfer))
            .routes(routes!(config::get))
            .routes(routes!(config::list))
            .routes(routes!(config::set))
            .routes(routes!(config::delete))
            .routes(routes!(disk::list))
            .routes(routes!(disk::info))
            .routes(routes!(service::list))
            .routes(routes!(snapshot::dump))
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
    }

    fn lookups() -> OpenApiRouter<App> {
        OpenApiRouter::default()
    }

    fn refusing() -> Refusing {
        Refusing::like::<error::Body>(&[
            (400, "What was asked cannot be read, makes no sense, or would do harm."),
            (404, "There is no such setting."),
            (413, "The body is too long."),
            (501, "There is no group here."),
            (503, "Too much is under way."),
            (900, "Something else."),
            (906, "Nobody knows whether the change is stored."),
            (907, "There is no leader."),
            (908, "Nobody confirmed that what would be told is current."),
            (910, "There is such a member, or was."),
            (911, "There is no such disk."),
            (933, "That setting is not to be taken back."),
        ])
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
        let bytes = Bytes::from_request(request, app).await.map_err(|e| Refusal::unread(unread(&e, BODY_BYTES_MAX)))?;
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
