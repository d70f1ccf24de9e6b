//! Answers too long to hold in memory: written by a thread of their own, read as fast as the peer reads.
//!
//! A full channel stops the writer, not the runtime. A peer that takes nothing for [`STALL`] loses the connection, so it
//! cannot keep the thread. An answer that breaks off is never ended properly: the peer sees an error, not a short list.

use super::{App, Facade};
use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// Bytes handed over at once.
const CHUNK_BYTES: usize = 64 << 10;
/// Chunks that may wait for the peer.
const CHUNKS_AHEAD: usize = 2;
/// How long a peer may take nothing.
const STALL: Duration = Duration::from_secs(30);

/// What the writer sends; only `Last` ends an answer properly.
enum Piece {
    More(Bytes),
    Last(Bytes),
}

/// Where the writing thread writes. An error means that nobody reads any more.
pub(super) struct Writer {
    pieces: mpsc::Sender<Piece>,
    pending: Vec<u8>,
    runtime: Handle,
    engine: Arc<dyn Facade>,
    /// The engine's when the answer was begun.
    term: u64,
}

impl Writer {
    fn send(&self, piece: Piece) -> io::Result<()> {
        self.runtime.block_on(self.engine.vouch(self.term)).map_err(io::Error::other)?;
        self.runtime.block_on(self.pieces.send_timeout(piece, STALL)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= CHUNK_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let full = std::mem::replace(&mut self.pending, Vec::with_capacity(CHUNK_BYTES));
        self.send(Piece::More(full.into()))
    }
}

/// Answers with what `write` writes. A short answer leaves whole, with its length; a long one in chunks.
pub(super) async fn answer<W>(app: &App, content_type: &'static str, write: W) -> Response
where
    W: FnOnce(&dyn Facade, &mut Writer) -> io::Result<()> + Send + 'static,
{
    let Ok(permit) = app.listings.clone().try_acquire_owned() else {
        let text = "too many long listings are under way: try again later";
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], text).into_response();
    };
    let (pieces, mut rest) = mpsc::channel(CHUNKS_AHEAD);
    let engine = app.engine.clone();
    let mut writer = Writer { pieces, pending: Vec::new(), runtime: Handle::current(), engine: engine.clone(), term: engine.term() };
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        if write(&*engine, &mut writer).is_ok() {
            let last = std::mem::take(&mut writer.pending);
            let _ = writer.send(Piece::Last(last.into()));
        }
    });
    let body = match rest.recv().await {
        Some(Piece::Last(all)) => Body::from(all),
        first => Body::from_stream(stream::unfold((first, Some(rest)), |(piece, rest)| async {
            let mut rest = rest?;
            let (bytes, rest) = match piece {
                Some(Piece::More(bytes)) => {
                    let next = rest.recv().await;
                    return Some((Ok(bytes), (next, Some(rest))));
                }
                Some(Piece::Last(bytes)) => (Ok(bytes), None),
                None => (Err(io::Error::other("the answer broke off")), None),
            };
            Some((bytes, (None, rest)))
        })),
    };
    ([(header::CONTENT_TYPE, content_type)], body).into_response()
}
