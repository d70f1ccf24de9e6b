//! How far the process is, in a word; whether it lives; whether it is ready, check by check.

use crate::Probe;
use crate::routes::Stranger;
use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::fmt::Write;

/// `GET /tiflash/store-status`: the bare word.
pub(crate) async fn store_status(State(probe): State<Probe>) -> Response {
    text(StatusCode::OK, probe.stage().to_string())
}

/// `GET /livez`: whoever answers lives.
pub(crate) async fn livez() -> Response {
    text(StatusCode::OK, "ok\n".into())
}

/// `GET /readyz`: whether this process does what it is for; with `verbose`, check by check. Why not is told to those who may know.
pub(crate) async fn readyz(State(probe): State<Probe>, RawQuery(query): RawQuery, stranger: Option<Extension<Stranger>>) -> Response {
    let verbose = query.unwrap_or_default().split('&').any(|one| one.split('=').next() == Some("verbose"));
    let (mut page, mut ready) = (String::new(), true);
    for (name, wrong) in probe.look() {
        ready &= wrong.is_none();
        // Writing to a `String` does not fail.
        let _ = match wrong {
            None if verbose => writeln!(page, "[+]{name} ok"),
            None => Ok(()),
            Some(_) if stranger.is_some() => writeln!(page, "[-]{name} fail: ask with the token why"),
            Some(why) => writeln!(page, "[-]{name} fail: {why}"),
        };
    }
    page += if ready { "ok\n" } else { "fail\n" };
    text(if ready { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR }, page)
}

pub(crate) fn text(status: StatusCode, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response()
}
