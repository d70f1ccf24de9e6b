//! How this face says no.

use super::json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use perilune_probe::Refusing;
use perilune_protocol::{Fault, FaultCode};
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A status and a sentence.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    body: Body,
}

#[derive(Debug, Serialize, ToSchema)]
struct Body {
    error: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed_segment_ids: Option<Vec<String>>,
    /// Why each of them failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    reasons: Option<BTreeMap<String, String>>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, body: Body { error: error.into(), failed_segment_ids: None, reasons: None } }
    }

    /// What the store said, after the words that clients of this face know.
    pub(super) fn of(words: &str, fault: &Fault) -> Self {
        Self::new(status(fault.code), format!("{words}: {fault}"))
    }

    /// Some segments could not be unmounted.
    pub(super) fn of_segments(words: &str, failed: Vec<(String, Fault)>) -> Self {
        let status = failed.first().map_or(StatusCode::INTERNAL_SERVER_ERROR, |(_, fault)| status(fault.code));
        let ids = failed.iter().map(|(id, _)| id.clone()).collect();
        let reasons = failed.into_iter().map(|(id, fault)| (id, fault.to_string())).collect();
        Self { status, body: Body { error: words.into(), failed_segment_ids: Some(ids), reasons: Some(reasons) } }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        json::reply(self.status, &self.body)
    }
}

/// How all routes of this face may refuse.
pub(super) fn refusing() -> Refusing {
    Refusing::like::<Body>(&[
        (400, "What was asked cannot be read, or makes no sense."),
        (403, "Its caller may not, or its tenant is over its budget."),
        (404, "There is no such key or segment."),
        (409, "It is being read, or is there already."),
        (410, "The tenant of this node was dropped."),
        (413, "The body is too long."),
        (416, "The value has no byte of the range that is asked for."),
        (500, "It was not done."),
        (501, "This node cannot do that."),
        (503, "There is no room, or nobody to ask, at the moment."),
        (504, "It was not done in time."),
        (507, "The tenant of this node is at its quota."),
    ])
}

/// Whose mistake it is, and whether trying again helps.
fn status(code: FaultCode) -> StatusCode {
    match code {
        FaultCode::InvalidParams => StatusCode::BAD_REQUEST,
        FaultCode::Unauthorized => StatusCode::UNAUTHORIZED,
        FaultCode::Forbidden | FaultCode::TenantOverdue => StatusCode::FORBIDDEN,
        FaultCode::ObjectNotFound | FaultCode::SegmentNotFound | FaultCode::TenantNotFound => StatusCode::NOT_FOUND,
        FaultCode::TenantDeleted => StatusCode::GONE,
        FaultCode::ObjectExists | FaultCode::ObjectLeased | FaultCode::SegmentExists | FaultCode::WrongState => StatusCode::CONFLICT,
        FaultCode::NoSpace | FaultCode::NoReadableReplica | FaultCode::NotLeader | FaultCode::Unreachable | FaultCode::NodeNotFound => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        FaultCode::QuotaExceeded => StatusCode::INSUFFICIENT_STORAGE,
        FaultCode::Timeout => StatusCode::GATEWAY_TIMEOUT,
        FaultCode::NotSupported => StatusCode::NOT_IMPLEMENTED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
