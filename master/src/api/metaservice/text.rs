//! Answers as text of a protobuf message, which the page shows for some calls.

use super::envelope::{Answer, Found, Refusal};
use super::tables::TabletStats;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// Calls that are answered as text of a message, and those that are answered by a text of their own.
const MESSAGES: [&str; 3] = ["get_tablet_stats", "abort_txn", "abort_tablet_job"];
const TEXTS: [&str; 3] = ["decode_key", "encode_key", "get_value"];

/// Whether a call is answered by the text of a message, unless its caller asks for JSON.
pub(super) fn is_message(call: &str) -> bool {
    MESSAGES.contains(&call)
}

/// Whether it may be that a call is answered by a text.
pub(super) fn is_answered_so(call: &str) -> bool {
    is_message(call) || TEXTS.contains(&call)
}

/// Whether a call is answered so: unless its caller asks for JSON.
pub(super) fn is_wanted(call: &str, headers: &HeaderMap) -> bool {
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    is_message(call) && !accepts.contains("application/json")
}

/// The whole answer.
pub(super) fn message(answer: Answer) -> Response {
    let (status, text) = match answer {
        Ok(found) => (StatusCode::OK, said("OK", "") + &stats(&found)),
        Err(refusal) => {
            let Refusal { status, msg, .. } = &refusal;
            (*status, said(refusal.name(), msg))
        }
    };
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

fn said(code: &str, msg: &str) -> String {
    format!("status {{\n  code: {code}\n  msg: {msg:?}\n}}\n")
}

fn stats(found: &Found) -> String {
    let Found::TabletStats(all) = found else { return String::new() };
    let mut text = String::new();
    let mut line = |said: String| text.extend([said.as_str(), "\n"]);
    for TabletStats { idx, counts } in &all.tablet_stats {
        line("tablet_stats {\n  idx {".into());
        idx.0.iter().for_each(|(name, number)| line(format!("    {name}: {number}")));
        line("  }".into());
        counts.0.iter().for_each(|(name, number)| line(format!("  {name}: {number}")));
        line("}".into());
    }
    text
}
