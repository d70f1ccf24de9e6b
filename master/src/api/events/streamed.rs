//! Pages sent one after the other, each asked for when the one before was taken: who reads slowly lags behind.

use super::reader::{Page, Reader};
use crate::api::App;
use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use perilune_protocol::Fault;
use perilune_protocol::event::{Event, Streamed};
use std::convert::Infallible;
use std::fmt::Write;
use std::time::Duration;
use tokio::sync::mpsc;

/// A stream says so often that it is there.
const STILL_HERE: Duration = Duration::from_secs(10);
/// So many events are written at once: a part of all that there is has thousands.
const PIECE: usize = 128;

/// How a stream is written.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// `id`, `event` and `data` in lines; `resolved` behind each page, `ended` where nothing more comes.
    Sse,
    /// [`Streamed`].
    Frames,
}

impl Kind {
    pub(super) const ALL: [Self; 2] = [Self::Sse, Self::Frames];

    pub(super) fn mime(self) -> &'static str {
        match self {
            Self::Sse => "text/event-stream",
            Self::Frames => "application/vnd.perilune.events",
        }
    }

    fn events(self, page: &Page, events: Vec<Event>) -> Bytes {
        match self {
            Self::Sse => page.show(&events).fold(String::new(), |mut text, shown| {
                // Without one, who comes back is told this part of all that there is once more.
                if !shown.cursor.is_empty() {
                    let _ = writeln!(text, "id: {}", shown.cursor);
                }
                // Plain data always has a JSON form, without line breaks.
                let data = serde_json::to_string(&shown).unwrap_or_default();
                let _ = write!(text, "event: {}\ndata: {data}\n\n", shown.event);
                text
            }),
            Self::Frames => return frames(events.into_iter().map(Streamed::Event)),
        }
        .into()
    }

    fn mark(self, page: &Page) -> Bytes {
        match self {
            Self::Sse => {
                let data = serde_json::to_string(&page.progress()).unwrap_or_default();
                format!("id: {}\nevent: resolved\ndata: {data}\n\n", page.next).into()
            }
            Self::Frames => frames([Streamed::Mark(page.mark())]),
        }
    }

    async fn ended(self, reader: &Reader, fault: Fault) -> Bytes {
        match self {
            Self::Sse => format!("event: ended\ndata: {}\n\n", reader.refused(&fault).await).into(),
            Self::Frames => frames([Streamed::Ended(fault)]),
        }
    }
}

fn frames(all: impl IntoIterator<Item = Streamed>) -> Bytes {
    let mut bytes = Vec::new();
    for frame in all {
        // Serialising plain data into a vector has no way to fail.
        let body = postcard::to_stdvec(&frame).unwrap_or_default();
        bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&body);
    }
    bytes.into()
}

/// All that comes, beginning with this page. Ends when nothing more can be told here, and says why; or with its connection, which is cut when the peer
/// takes nothing for long ([`crate::api::serve::Limits`]).
pub(super) fn answer(app: &App, kind: Kind, reader: Reader, first: Page) -> Response {
    let Ok(permit) = app.streams.clone().try_acquire_owned() else {
        let text = "too many streams of events are open: try again later, or ask another master";
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], text).into_response();
    };
    let (pieces, rest) = mpsc::channel(1);
    tokio::spawn(async move {
        let _permit = permit;
        // The connection is no more: nobody is to be told.
        let _ = send(kind, reader, first, &pieces).await;
    });
    let pieces = stream::unfold(rest, |mut rest| async { rest.recv().await.map(|piece| (Ok::<_, Infallible>(piece), rest)) });
    ([(header::CONTENT_TYPE, kind.mime()), (header::CACHE_CONTROL, "no-cache")], Body::from_stream(pieces)).into_response()
}

async fn send(kind: Kind, mut reader: Reader, mut page: Page, pieces: &mpsc::Sender<Bytes>) -> Result<(), mpsc::error::SendError<Bytes>> {
    loop {
        let mut events = std::mem::take(&mut page.events).into_iter();
        while events.len() > 0 {
            pieces.send(kind.events(&page, events.by_ref().take(PIECE).collect())).await?;
        }
        pieces.send(kind.mark(&page)).await?;
        // What follows all that there is says when it is exact, also where nothing happens.
        let wait = if page.is_listed() { Duration::ZERO } else { STILL_HERE };
        let next = tokio::select! {
            next = reader.page(page.next, wait) => next,
            () = pieces.closed() => return Ok(()),
        };
        match next {
            Ok(next) => page = next,
            Err(fault) => return pieces.send(kind.ended(&reader, fault).await).await,
        }
    }
}
