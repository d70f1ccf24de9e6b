//! What the heap holds, where the binary was built to be asked that.

use crate::status::text;
use axum::http::StatusCode;
use axum::response::Response;

/// What the heap holds.
#[utoipa::path(
    get, path = "/debug/pprof/heap", tag = "process",
    responses(
        (status = 200, description = "Gzipped protobuf, as pprof reads it.", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 404, description = "This process keeps none.", body = String, content_type = "text/plain"),
        (status = 500, description = "Another profile is being made.", body = String, content_type = "text/plain"),
    )
)]
pub(crate) async fn heap() -> Response {
    profile().await
}

#[cfg(feature = "heap")]
async fn profile() -> Response {
    use crate::cpu::{Turn, attachment};
    let _turn = match Turn::take() {
        Ok(turn) => turn,
        Err((status, why)) => return text(status, why),
    };
    let Some(control) = jemalloc_pprof::PROF_CTL.as_ref() else {
        let why = "no heap profile: the allocator keeps none; start with _RJEM_MALLOC_CONF=prof:true in the environment\n";
        return text(StatusCode::NOT_FOUND, why.into());
    };
    let control = std::sync::Arc::clone(control);
    let dumped = tokio::task::spawn_blocking(move || control.blocking_lock().dump_pprof()).await;
    match dumped {
        Ok(Ok(profile)) => attachment("heap_profile.pb.gz", "application/octet-stream", profile),
        Ok(Err(e)) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("no heap profile: {e}\n")),
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("no heap profile: {e}\n")),
    }
}

#[cfg(not(feature = "heap"))]
async fn profile() -> Response {
    text(StatusCode::NOT_FOUND, "no heap profile: this binary was built without it; build it with `--features heap`\n".into())
}
