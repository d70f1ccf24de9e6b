//! What a face is: its routes, and how it says no.

use super::App;
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use perilune_probe::Refusing;
use perilune_protocol::{Fault, FaultCode};
use std::marker::PhantomData;
use utoipa_axum::router::OpenApiRouter;

/// One of the HTTP languages the master speaks. A face translates and stores nothing.
pub(super) trait Face: Sized + 'static {
    /// Routes that any master answers, about itself; without fallbacks: those are shared. What [`Face::acts`] reaches only a leader.
    fn routes() -> OpenApiRouter<App>;
    /// Routes that only a master answers that surely leads: what they tell is true for the whole group.
    fn lookups() -> OpenApiRouter<App>;
    /// How [`Face::refuse`] looks, and what each status means.
    fn refusing() -> Refusing;
    /// A fault in its own words.
    fn refuse(fault: &Fault) -> Response;
    /// Whether a request is for the leader to carry out.
    fn acts(request: &Request) -> bool {
        ![Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method())
    }
}

/// A fault on its way out through the face `F`, so that handlers write `?`.
pub(super) struct Refusal<F>(Fault, PhantomData<F>);

impl<F> From<Fault> for Refusal<F> {
    fn from(fault: Fault) -> Self {
        Self(fault, PhantomData)
    }
}

impl<F: Face> IntoResponse for Refusal<F> {
    fn into_response(self) -> Response {
        F::refuse(&self.0)
    }
}

/// The HTTP status of a kind of fault, the same in every face that has no table of its own.
pub(super) fn status(code: FaultCode) -> StatusCode {
    match code {
        FaultCode::InvalidParams | FaultCode::InvalidVersion => StatusCode::BAD_REQUEST,
        FaultCode::Unauthorized => StatusCode::UNAUTHORIZED,
        FaultCode::Forbidden | FaultCode::TenantOverdue => StatusCode::FORBIDDEN,
        FaultCode::TenantNotFound => StatusCode::NOT_FOUND,
        FaultCode::TenantDeleted | FaultCode::OutOfRange => StatusCode::GONE,
        FaultCode::ObjectNotFound | FaultCode::SegmentNotFound | FaultCode::NodeNotFound => StatusCode::NOT_FOUND,
        FaultCode::WrongState | FaultCode::ObjectExists | FaultCode::SegmentExists | FaultCode::ObjectLeased | FaultCode::InvalidWrite => {
            StatusCode::CONFLICT
        }
        FaultCode::NotSupported => StatusCode::NOT_IMPLEMENTED,
        FaultCode::NoReadableReplica | FaultCode::NotLeader | FaultCode::Unreachable | FaultCode::Timeout => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        FaultCode::NoSpace | FaultCode::QuotaExceeded => StatusCode::INSUFFICIENT_STORAGE,
        FaultCode::Internal | FaultCode::LeaseExpired | FaultCode::TransferFailed | FaultCode::ChecksumMismatch | FaultCode::Storage => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}
