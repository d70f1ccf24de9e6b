//! How far the process is, in a word; whether it lives; whether it is ready, check by check.

use crate::Probe;
use crate::routes::Stranger;
use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::fmt::Write;

/// How far the process is, in a bare word.
#[utoipa::path(
    get, path = "/tiflash/store-status", tag = "process",
    responses((status = 200, description = "`Idle`, `Ready`, `Running`, `Stopping` or `Terminated`.", body = String, content_type = "text/plain"))
)]
pub(crate) async fn store_status(State(probe): State<Probe>) -> Response {
    text(StatusCode::OK, probe.stage().to_string())
}

/// Whoever answers lives.
#[utoipa::path(get, path = "/livez", tag = "process", responses((status = 200, description = "`ok`.", body = String, content_type = "text/plain")))]
pub(crate) async fn livez() -> Response {
    text(StatusCode::OK, "ok\n".into())
}

/// Whether this process does what it is for; with `verbose`, check by check.
///
/// Why not is told to those who may know.
#[utoipa::path(
    get, path = "/readyz", tag = "process",
    params(("verbose" = Option<String>, Query, description = "Given, whatever its value: a line for each check.")),
    responses(
        (status = 200, description = "It does.", body = String, content_type = "text/plain"),
        (status = 500, description = "It does not.", body = String, content_type = "text/plain"),
    )
)]
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
