//! How this face says no: `{"error_msg": "[CODE]...", "error_code": "CODE"}`, four blanks deep.

use crate::engine::Unchanged;
use crate::feeds::{Code, Failure};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use perilune_protocol::{Fault, FaultCode};
use perilune_state::directory::{FeedRefused, Refused};
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};
use utoipa::ToSchema;

/// A refusal in the words of the page.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
}

/// How it is written.
#[derive(Serialize, ToSchema)]
#[schema(as = ChangefeedError)]
pub(super) struct Body {
    /// `[CODE]` and a sentence.
    error_msg: String,
    /// Its kind; empty where it has none.
    error_code: String,
}

/// The codes of what callers did wrong. All others are 500, also where one would not expect it (`CDC:ErrChangeFeedAlreadyExists`).
fn is_callers(code: Code) -> bool {
    matches!(
        code,
        Code::ApiInvalidParam
            | Code::SinkUriInvalid
            | Code::StartTsBeforeGc
            | Code::NotExists
            | Code::TargetTsBeforeStartTs
            | Code::FilterRuleInvalid
            | Code::UpdateRefused
            | Code::CaptureNotExist
            | Code::SchedulerRequestFailed
    )
}

impl Refusal {
    pub(super) fn parameter(what: &str, said: &str) -> Self {
        Code::ApiInvalidParam.with(format!("invalid {what}: {said:.200}")).into()
    }

    /// The body was not read.
    pub(super) fn unread((status, why): (StatusCode, String)) -> Self {
        Self { status, ..Self::from(Code::ApiInvalidParam.with(format!("invalid api parameter: {why}"))) }
    }

    pub(super) fn not_exists(namespace: &str, name: &str) -> Self {
        Code::NotExists.with(format!("changefeed not exists, {namespace:.200}/{name:.200}")).into()
    }

    /// Of somebody who may not ask this, who said who it is or did not.
    pub(super) fn not_admitted(fault: &Fault, says_who: bool) -> Self {
        let status = crate::api::face::status(fault.code);
        let (code, message) = match says_who || status != StatusCode::UNAUTHORIZED {
            true => (Code::Unauthorized, format!("user unauthorized, error: {}", fault.message)),
            false => {
                let how = "please specify the user and password via authorization header";
                (Code::CredentialNotFound, format!("credential not found: {how}, the token being the password, or as a bearer's"))
            }
        };
        Self { status, code: code.text(), message }
    }

    /// The same of a change of a feed.
    pub(super) fn of_update(why: impl std::fmt::Display) -> Self {
        Code::UpdateRefused.with(format!("changefeed update error: {why}")).into()
    }
}

impl From<Failure> for Refusal {
    fn from(Failure { code, message }: Failure) -> Self {
        let status = match code {
            Code::NotReady => StatusCode::SERVICE_UNAVAILABLE,
            code if is_callers(code) => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, code: code.text(), message }
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        match fault.code {
            FaultCode::NotLeader => {
                tracing::debug!("no leader: {fault}");
                Code::NotReady.with("cdc server is not ready").into()
            }
            _ => Self { status: StatusCode::INTERNAL_SERVER_ERROR, code: "", message: fault.to_string() },
        }
    }
}

impl From<Unchanged> for Refusal {
    fn from(unchanged: Unchanged) -> Self {
        match unchanged {
            Unchanged::Refused(Refused::Feed(FeedRefused::Exists(name))) => {
                Code::AlreadyExists.with(format!("changefeed already exists, {name}")).into()
            }
            Unchanged::Refused(Refused::Feed(FeedRefused::Unknown)) => Code::NotExists.with("changefeed not exists").into(),
            Unchanged::Refused(Refused::Feed(FeedRefused::Runs)) => runs(),
            Unchanged::Refused(refused @ Refused::Feed(FeedRefused::Changed)) => Self::of_update(refused),
            // The page has no words for these.
            Unchanged::Refused(refused @ (Refused::Feed(FeedRefused::Full) | Refused::Unknown(_) | Refused::Dropped(_))) => {
                Code::ApiInvalidParam.with(format!("invalid api parameter: {refused}")).into()
            }
            Unchanged::Refused(refused) => Fault::from(refused).into(),
            Unchanged::Fault(fault) => fault.into(),
        }
    }
}

/// Only what stands still is changed.
pub(super) fn runs() -> Refusal {
    Refusal::of_update("can only update changefeed config when it is stopped or failed")
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self { status, code, message } = self;
        tracing::info!(code, "refused: {message}");
        let error_msg = if code.is_empty() { message } else { format!("[{code}]{message}") };
        let body = Body { error_msg, error_code: code.to_owned() };
        let mut bytes = Vec::new();
        match body.serialize(&mut Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(b"    "))) {
            Ok(()) => (status, [(header::CONTENT_TYPE, "application/json; charset=utf-8")], bytes).into_response(),
            Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
        }
    }
}
