//! How this face says no: an HTTP status that is the number of the error, and `{"error":...}`.

use super::json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use perilune_protocol::{Fault, FaultCode};
use serde::Serialize;
use utoipa::ToSchema;

/// A refusal in the words of the page.
#[derive(Debug)]
pub(super) struct Refusal {
    status: u16,
    error: String,
    /// Only errors in how something was asked have one.
    code: Option<&'static str>,
    /// What those words do not say; for the log.
    why: String,
}

impl Refusal {
    fn new(status: u16, error: impl Into<String>) -> Self {
        Self { status, error: error.into(), code: None, why: String::new() }
    }

    fn because(self, why: impl ToString) -> Self {
        Self { why: why.to_string(), ..self }
    }

    /// What was asked makes no sense.
    pub(super) fn illegal(why: impl ToString) -> Self {
        Self::new(400, "Illegal Arguments").because(why)
    }

    /// What was asked would do harm.
    pub(super) fn not_allowed(why: impl ToString) -> Self {
        Self::new(400, "Request Not Allow").because(why)
    }

    pub(super) fn not_found() -> Self {
        Self::new(404, "Not Found")
    }

    pub(super) fn duplicated(why: impl ToString) -> Self {
        Self::new(910, "duplicated member info").because(why)
    }

    pub(super) fn disk_not_found() -> Self {
        Self::new(911, "disk not found")
    }

    pub(super) fn system_config() -> Self {
        Self::new(933, "reject delete system config")
    }

    /// Why a master is not taken in, for whoever starts it.
    pub(super) fn joining(why: impl Into<String>) -> Self {
        Self::new(400, why)
    }

    /// Too much of this kind is under way.
    pub(super) fn busy() -> Self {
        Self::new(503, "too many long answers are under way: try again later")
    }

    /// The body was not read.
    pub(super) fn unread((status, detail): (StatusCode, String)) -> Self {
        Self { status: status.as_u16(), ..Self::argument(detail) }
    }

    /// What was said cannot be read.
    pub(super) fn argument(detail: impl Into<String>) -> Self {
        Self { code: Some("Argument"), ..Self::new(400, detail) }
    }

    /// A parameter that must be there is not.
    pub(super) fn omitted(args: &str, field: &str) -> Self {
        Self::argument(format!("args({args}) field({field}) do not omit"))
    }

    /// A change was not stored, or nobody knows whether it was.
    pub(super) fn propose(fault: &Fault) -> Self {
        Self::new(906, "raft propose error").because(fault)
    }

    /// Nobody confirmed that what would be told is current.
    pub(super) fn read_index(fault: &Fault) -> Self {
        Self::new(908, "raft read index error").because(fault)
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        match fault.code {
            FaultCode::NotLeader => Self::new(907, "no leader").because(fault),
            FaultCode::InvalidParams => Self::illegal(fault),
            FaultCode::WrongState | FaultCode::Timeout | FaultCode::Storage => Self::propose(&fault),
            _ => Self::new(900, "cm: unexpected error").because(fault),
        }
    }
}

/// How it is written.
#[derive(Serialize, ToSchema)]
pub(super) struct Body {
    error: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self { status, error, why, .. } = &self;
        match status {
            900 | 906 => tracing::warn!(status, why, "failed: {error}"),
            _ => tracing::info!(status, why, "refused: {error}"),
        }
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        json(status, &Body { error: self.error, code: self.code })
    }
}
