//! `/snapshot/dump`: everything the masters know, as a file that `perilune master --restore` makes a new group from.

use super::{Answer, Refusal, group};
use crate::api::App;
use crate::log::Dump;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use futures_util::stream;
use std::io;

/// Bytes read at once.
const CHUNK_BYTES: u64 = 256 << 10;

/// Everything the masters know, as a file that `perilune master --restore` makes a new group from.
///
/// A snapshot of the log, made by whoever is asked. It holds everything that was acknowledged before, and each object as it was at some
/// moment since; length and checksums are in the file.
#[utoipa::path(
    get, path = "/snapshot/dump", tag = "masters",
    responses((status = 200, description = "The file.", body = Vec<u8>, content_type = "application/octet-stream"))
)]
pub(super) async fn dump(State(app): State<App>) -> Answer {
    let group = group(&app)?;
    let permit = app.listings.clone().try_acquire_owned().map_err(|_| Refusal::busy())?;
    group.catch_up().await.map_err(|fault| Refusal::read_index(&fault))?;
    let dump = group.dump().await?;
    let name = format!("attachment; filename=\"perilune-{}-{}.snapshot\"", group.cluster(), dump.index);
    let headers = [
        (header::CONTENT_TYPE.as_str(), "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH.as_str(), dump.bytes.to_string()),
        (header::CONTENT_DISPOSITION.as_str(), name),
        ("raft-snapshot-index", dump.index.to_string()),
        ("raft-snapshot-term", dump.term.to_string()),
        ("raft-snapshot-name", format!("{}-{}", dump.index, dump.term)),
    ];
    let chunks = stream::try_unfold((dump, 0, permit), |(dump, at, permit)| async move {
        let read = tokio::task::spawn_blocking(move || read(dump, at)).await.map_err(io::Error::other)?;
        let (dump, chunk) = read?;
        let next = at + chunk.len() as u64;
        Ok::<_, io::Error>((!chunk.is_empty()).then_some((chunk, (dump, next, permit))))
    });
    Ok((StatusCode::OK, headers, Body::from_stream(chunks)).into_response())
}

fn read(dump: Dump, at: u64) -> io::Result<(Dump, Bytes)> {
    let mut chunk = vec![0; CHUNK_BYTES.min(dump.bytes - at) as usize];
    dump.read_at(&mut chunk, at)?;
    Ok((dump, chunk.into()))
}
