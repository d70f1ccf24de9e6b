//! How this face answers: `{"code", "msg"[, "result"]}`, four blanks deep, and a status that goes with the code.

use super::instance::Instance;
use super::lookup::{All, Details};
use super::recycler::Job;
use super::shown::Cluster;
use super::stored::ObjStore;
use super::tables::{AllStats, Table};
use super::txn::Open;
use super::vaults;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use perilune_protocol::{Fault, FaultCode};
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};
use utoipa::ToSchema;

/// What was found, or nothing to say.
pub(super) type Answer = Result<Found, Refusal>;

/// What a call may find.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Found {
    /// It was done.
    Nothing,
    Instance(Box<Instance>),
    Instances(Vec<Instance>),
    Cluster(Box<Cluster>),
    Clusters(All),
    Statuses(Details),
    RecycleJob(Job),
    Tables(Vec<Table>),
    TabletStats(AllStats),
    Transactions(Vec<Open>),
    /// Said as it is.
    Text(String),
    ObjStore(Box<ObjStore>),
    Vaults(vaults::All),
}

/// Why something was not done.
#[derive(Debug)]
pub(super) struct Refusal {
    code: &'static str,
    /// What it is called where it is not JSON, if that is something else.
    name: Option<&'static str>,
    pub(super) status: StatusCode,
    pub(super) msg: String,
    /// One of the six that the page answers as if the server were at fault.
    on_the_page: bool,
}

impl Refusal {
    pub(super) fn argument(msg: impl Into<String>) -> Self {
        Self { code: "INVALID_ARGUMENT", status: StatusCode::BAD_REQUEST, msg: msg.into(), name: None, on_the_page: false }
    }

    pub(super) fn not_found(msg: impl Into<String>) -> Self {
        Self { code: "NOT_FOUND", status: StatusCode::NOT_FOUND, msg: msg.into(), name: None, on_the_page: false }
    }

    pub(super) fn existed(msg: impl Into<String>) -> Self {
        Self { code: "ALREADY_EXISTED", status: StatusCode::CONFLICT, msg: msg.into(), name: None, on_the_page: false }
    }

    pub(super) fn internal(msg: impl Into<String>) -> Self {
        Self { code: "INTERNAL_ERROR", status: StatusCode::INTERNAL_SERVER_ERROR, msg: msg.into(), name: None, on_the_page: false }
    }

    /// The same, of which there is a name of its own.
    pub(super) fn called(self, name: &'static str) -> Self {
        Self { name: Some(name), ..self }
    }

    /// The most exact name of it.
    pub(super) fn name(&self) -> &'static str {
        self.name.unwrap_or(self.code)
    }

    /// Marks one of the six.
    pub(super) fn on_the_page(self) -> Self {
        Self { on_the_page: true, ..self }
    }

    /// What it is where the page is followed to the letter.
    pub(super) fn by_the_letter(self) -> Self {
        if self.on_the_page { Self::internal(self.msg) } else { self }
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        match fault.code {
            FaultCode::InvalidParams => Self::argument(fault.message),
            _ => Self::internal(fault.to_string()),
        }
    }
}

/// How every call answers.
#[derive(Serialize, ToSchema)]
pub(super) struct Envelope<'a> {
    /// `OK`, or what kind of refusal this is.
    code: &'a str,
    /// Why it was refused.
    msg: &'a str,
    /// What was found, where something was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    result: Option<Found>,
}

/// The whole answer.
pub(super) fn envelope(answer: Answer) -> Response {
    match answer {
        Ok(Found::Text(text)) => (StatusCode::OK, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response(),
        Ok(Found::Nothing) => written(StatusCode::OK, &Envelope { code: "OK", msg: "", result: None }),
        Ok(found) => written(StatusCode::OK, &Envelope { code: "OK", msg: "", result: Some(found) }),
        Err(Refusal { code, status, msg, .. }) => written(status, &Envelope { code, msg: &msg, result: None }),
    }
}

fn written(status: StatusCode, envelope: &Envelope<'_>) -> Response {
    let mut body = Vec::new();
    match envelope.serialize(&mut Serializer::with_formatter(&mut body, PrettyFormatter::with_indent(b"    "))) {
        Ok(()) => {
            body.push(b'\n');
            (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
        }
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    }
}
