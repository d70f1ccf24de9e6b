//! What happens, for those who speak HTTP: a page as JSON, or all that comes as server-sent events or frames. Any master tells the same.

use super::App;
use super::extract::Query;
use super::face::{Face, Refusal, status};
use super::safepoints;
use crate::events::{EventLog, Wanted};
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use perilune_probe::Refusing;
use perilune_protocol::event::{EventFilter, Shown};
use perilune_protocol::rpc::watch::{From, WAIT_MAX, Watched};
use perilune_protocol::{Fault, FaultCode, ObjectKey, Outcome, Tso};
use serde::Serialize;
use serde_json::json;
use std::fmt::Write;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The face.
pub(super) struct Events;

const SSE: &str = "text/event-stream";
/// Each event as its length, four bytes, little-endian, and its postcard form; a length of 0 says that nothing happened for a while.
const FRAMES: &str = "application/vnd.perilune.events";
/// Bytes of the log that are read for a page.
const PAGE_BYTES: usize = 256 << 10;
/// A stream says so often that it is there.
const STILL_HERE: Duration = Duration::from_secs(10);
/// How long a peer may take nothing of one.
const STALL: Duration = Duration::from_secs(120);

impl Face for Events {
    fn routes() -> OpenApiRouter<App> {
        let safepoints = OpenApiRouter::default().routes(routes!(safepoints::list)).routes(routes!(safepoints::set, safepoints::forget));
        OpenApiRouter::default().routes(routes!(events)).merge(safepoints)
    }

    fn lookups() -> OpenApiRouter<App> {
        OpenApiRouter::default()
    }

    fn refusing() -> Refusing {
        Refusing::like::<serde_json::Value>(&[
            (400, "That is no place, or a place in another cluster's log."),
            (404, "There is no such tenant."),
            (409, "This master has not come so far: ask another, or later."),
            (410, "What followed that place is not kept any more."),
            (503, "Too many streams are open here, or no master leads."),
        ])
    }

    fn refuse(fault: &Fault) -> Response {
        (status(fault.code), Json(json!({ "error": fault.message, "code": fault.code.as_str() }))).into_response()
    }
}

/// A page.
#[derive(Serialize)]
struct Told<'a> {
    events: Vec<Shown<'a>>,
    next: String,
    resolved: u64,
    behind: u64,
}

/// What happened to objects, segments and nodes, in order: a page as JSON or, asked for with `Accept: text/event-stream`, all that comes, each event
/// with its cursor as its id. Whoever comes back with that (`Last-Event-ID`, or `from`) goes on there.
#[utoipa::path(
    get, path = "/api/v2/events", tag = "events",
    params(
        ("from" = Option<String>, Query, description = "A cursor, or a stamp, behind which it goes on; `oldest`, as far back as is kept; or `now`."),
        ("kind" = Option<String>, Query, description = "Kinds, separated by commas, such as `put,removed`; all without it."),
        ("prefix" = Option<String>, Query, description = "Only objects whose key begins so."),
        ("table" = Option<String>, Query, description = "Rules such as `db.*` or `!*.tmp`, separated by commas, the last one that matches deciding; \
                                                        what is about no object is of `system.segments`, `system.nodes` and `system.tenants`."),
        ("tenant_id" = Option<String>, Query, description = "Of this tenant; of all without it."),
        ("consumer" = Option<String>, Query, description = "As whom the caller is shown on the page of metrics, with how far it lags."),
        ("wait_ms" = Option<u32>, Query, description = "A page is waited for so long, at most 30000.")
    ),
    responses(
        (status = 200, description = "`events`, each with `event`, `cursor`, `commit_ts` and what its kind has; `next`, where to go on; `resolved`, up \
                                      to which stamp all is told; `behind`, how many entries of the log are still to come.", body = serde_json::Value)
    )
)]
async fn events(State(app): State<App>, query: Query, headers: HeaderMap) -> Result<Response, Refusal<Events>> {
    let filter = filter(&app, &query)?;
    Ok(tell(&app, Wanted::new(filter)?, From::Now, &query, &headers).await?)
}

/// A page, or all that comes, of what is wanted; from where the caller says, or else from `begin` on.
pub(super) async fn tell(app: &App, wanted: Wanted, begin: From, query: &Query, headers: &HeaderMap) -> Outcome<Response> {
    let group = app.group.as_ref().ok_or_else(|| FaultCode::NotSupported.with("this engine is served without a group of masters"))?;
    let log = Arc::clone(group.engine().events());
    let wanted = Arc::new(wanted.by(query.text("consumer").unwrap_or_default())?);
    let wait_ms = query.text("wait_ms").filter(|text| !text.is_empty()).map_or(Ok(0), |text| text.parse::<u32>());
    let wait_ms = wait_ms.map_err(|_| FaultCode::InvalidParams.with("wait_ms is no number of milliseconds"))?;
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let from = log.begin(place(last.or_else(|| query.text("from")).as_deref(), begin)?).await?;
    let accepts = |kind: &str| headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).is_some_and(|value| value.contains(kind));
    for (kind, write) in [(SSE, sse as fn(&Watched) -> Bytes), (FRAMES, frames)] {
        if accepts(kind) {
            // Before the answer begins, so that what is wrong can be told.
            let first = log.page(from, &wanted, PAGE_BYTES, Duration::ZERO).await?;
            return Ok(streamed(app, kind, Stream { log, wanted, first, write }));
        }
    }
    let wait = Duration::from_millis(u64::from(wait_ms).min(WAIT_MAX.0));
    let Watched { events, next, resolved, behind } = log.page(from, &wanted, PAGE_BYTES, wait).await?;
    let events = events.iter().map(Shown::from).collect();
    Ok(Json(Told { events, next: next.to_string(), resolved: resolved.0, behind }).into_response())
}

fn place(from: Option<&str>, begin: From) -> Outcome<From> {
    match from {
        None | Some("") => Ok(begin),
        Some("now") => Ok(From::Now),
        Some("oldest") => Ok(From::Oldest),
        Some(stamp) if stamp.bytes().all(|byte| byte.is_ascii_digit()) => {
            let stamp = stamp.parse().map_err(|_| FaultCode::InvalidParams.with(format!("{stamp:.40} is too large for a stamp")));
            stamp.map(|stamp| From::After(Tso(stamp)))
        }
        Some(cursor) => {
            cursor.parse().map(From::behind).map_err(|e| FaultCode::InvalidParams.with(format!("{e}; or say now, oldest, or a stamp")))
        }
    }
}

/// What a query string asks for.
pub(super) fn filter(app: &App, query: &Query) -> Outcome<EventFilter> {
    let named = |name: &str| query.text(name).filter(|text| !text.is_empty());
    let tenant = named("tenant_id").map(|name| app.engine.tenant(&name)).transpose()?;
    let kinds = named("kind").unwrap_or_default();
    let kinds = kinds.split(',').filter(|kind| !kind.is_empty()).map(str::parse).collect::<Result<_, String>>();
    let prefixes = named("prefix").map(ObjectKey::from).into_iter().collect();
    let tables = named("table").unwrap_or_default();
    let tables = tables.split(',').filter(|rule| !rule.is_empty()).map(str::to_owned).collect();
    Ok(EventFilter { tenant, prefixes, kinds: kinds.map_err(|e| FaultCode::InvalidParams.with(e))?, tables })
}

struct Stream {
    log: Arc<EventLog>,
    wanted: Arc<Wanted>,
    /// The first page, not yet sent.
    first: Watched,
    write: fn(&Watched) -> Bytes,
}

/// Page after page, each asked for when the one before was taken: who reads slowly lags behind. Ends when nothing more can be told here, or nobody
/// took anything for [`STALL`]: whoever comes back is told why, or goes on there.
fn streamed(app: &App, kind: &'static str, stream: Stream) -> Response {
    let Ok(permit) = app.streams.clone().try_acquire_owned() else {
        let text = "too many streams of events are open: try again later, or ask another master";
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], text).into_response();
    };
    let (pages, rest) = mpsc::channel(1);
    tokio::spawn(async move {
        let _permit = permit;
        let Stream { log, wanted, first: mut page, write } = stream;
        while pages.send_timeout(Ok(write(&page)), STALL).await.is_ok() {
            let next = tokio::select! {
                next = log.page(page.next, &wanted, PAGE_BYTES, STILL_HERE) => next,
                () = pages.closed() => return,
            };
            match next {
                Ok(next) => page = next,
                // Broken off rather than ended.
                Err(fault) => return drop(pages.send_timeout(Err(io::Error::other(fault)), STALL).await),
            }
        }
    });
    let pages = stream::unfold(rest, |mut rest| async { rest.recv().await.map(|page| (page, rest)) });
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")], Body::from_stream(pages)).into_response()
}

fn sse(page: &Watched) -> Bytes {
    let mut text = String::new();
    for event in &page.events {
        // Plain data always has a JSON form, without line breaks.
        let data = serde_json::to_string(&Shown::from(event)).unwrap_or_default();
        let _ = write!(text, "id: {}\nevent: {}\ndata: {data}\n\n", event.cursor, event.what.kind().as_str());
    }
    let Watched { next, resolved, behind, .. } = page;
    let _ = write!(text, "id: {next}\nevent: resolved\ndata: {{\"resolved\":{},\"behind\":{behind}}}\n\n", resolved.0);
    text.into()
}

fn frames(page: &Watched) -> Bytes {
    let mut bytes = Vec::new();
    for event in &page.events {
        // Serialising plain data into a vector has no way to fail.
        let body = postcard::to_stdvec(event).unwrap_or_default();
        bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&body);
    }
    if page.events.is_empty() {
        bytes.extend_from_slice(&[0; 4]);
    }
    bytes.into()
}
