//! What happens, for those who speak HTTP: a page as JSON, or all that comes as server-sent events or frames. Any master tells the same.
//!
//! | file | what |
//! |---|---|
//! | `mod` | the question: from where on, and what is wanted |
//! | `reader` | page after page: parts of all that there is, then what happens |
//! | `streamed` | pages sent as fast as they are taken, and how they are written |

mod reader;
mod streamed;

use super::App;
use super::extract::Query;
use super::face::{Face, Refusal, status};
use super::safepoints;
use crate::events::{SNAPSHOT, Wanted};
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use perilune_probe::Refusing;
use perilune_protocol::event::EventFilter;
use perilune_protocol::rpc::watch::{From, WAIT_MAX};
use perilune_protocol::{Fault, FaultCode, ObjectKey, Outcome, Tso};
use reader::{Begin, Reader};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use streamed::Kind;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The face.
pub(super) struct Events;

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
            (403, "The token is one of another tenant."),
            (404, "There is no such tenant."),
            (409, "This master has not come so far: ask another, or later."),
            (
                410,
                "What followed that place is not kept any more: `snapshot` is what to ask for as `from` to be right again, `oldest` the first place of all that \
                   is kept.",
            ),
            (503, "Too many streams are open here, or no master leads."),
        ])
    }

    fn refuse(fault: &Fault) -> Response {
        (status(fault.code), Json(refused(fault))).into_response()
    }
}

/// What happened to objects, segments and nodes, in order: a page as JSON or, asked for with `Accept: text/event-stream`, all that comes, each event
/// with its cursor as its id. Whoever comes back with that (`Last-Event-ID`, or `from`) goes on there.
#[utoipa::path(
    get, path = "/api/v2/events", tag = "events",
    params(
        ("from" = Option<String>, Query, description = "A cursor, or a stamp, behind which it goes on; `oldest`, as far back as is kept; \
                                                       `snapshot`, all that there is and then what happens; or `now`."),
        ("kind" = Option<String>, Query, description = "Kinds, separated by commas, such as `put,removed`; all without it."),
        ("prefix" = Option<String>, Query, description = "Only objects whose key begins so."),
        ("table" = Option<String>, Query, description = "Rules such as `db.*` or `!*.tmp`, separated by commas, the last one that matches deciding; \
                                                        what is about no object is of `system.segments`, `system.nodes` and `system.tenants`."),
        ("tenant_id" = Option<String>, Query, description = "Of this tenant; of all without it. With a token of a tenant: of that."),
        ("consumer" = Option<String>, Query, description = "As whom the caller is shown on the page of metrics, with how far it lags."),
        ("wait_ms" = Option<u32>, Query, description = "A page is waited for so long, at most 30000.")
    ),
    responses(
        (status = 200, description = "`events`, each with `event`, `cursor`, `commit_ts` and what its kind has; `next`, where to go on; `resolved`, up \
                                      to which stamp all is told; `behind`, how many entries of the log are still to come. Parts of a snapshot have \
                                      no cursors, and `settled`: what was told is exact once `resolved` is not below that.", body = serde_json::Value)
    )
)]
async fn events(State(app): State<App>, query: Query, headers: HeaderMap) -> Result<Response, Refusal<Events>> {
    let filter = filter(&app, &query)?;
    Ok(tell(&app, Wanted::new(filter)?, From::Now, &query, &headers).await?)
}

/// A page, or all that comes, of what is wanted; from where the caller says, or else from `begin` on.
pub(super) async fn tell(app: &App, wanted: Wanted, begin: From, query: &Query, headers: &HeaderMap) -> Outcome<Response> {
    let group = app.group.as_ref().ok_or_else(|| FaultCode::NotSupported.with("this engine is served without a group of masters"))?;
    let wanted = Arc::new(wanted.by(query.text("consumer").unwrap_or_default())?);
    let wait_ms = query.text("wait_ms").filter(|text| !text.is_empty()).map_or(Ok(0), |text| text.parse::<u32>());
    let wait_ms = wait_ms.map_err(|_| FaultCode::InvalidParams.with("wait_ms is no number of milliseconds"))?;
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let begin = place(last.or_else(|| query.text("from")).as_deref(), begin)?;
    let accepts =
        |kind: &Kind| headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).is_some_and(|value| value.contains(kind.mime()));
    let kind = Kind::ALL.into_iter().find(accepts);
    // Of a stream the first page is read before the answer begins, so that what is wrong can be told.
    let wait = if kind.is_some() { Duration::ZERO } else { Duration::from_millis(u64::from(wait_ms).min(WAIT_MAX.0)) };
    let mut reader = Reader::new(group.engine(), wanted, query.principal().cloned());
    Ok(match (reader.first(begin, wait).await, kind) {
        (Ok(page), Some(kind)) => streamed::answer(app, kind, reader, page),
        (Ok(page), None) => Json(page.shown()).into_response(),
        (Err(fault), _) => (status(fault.code), Json(reader.refused(&fault).await)).into_response(),
    })
}

/// What is answered to whoever is told no.
fn refused(fault: &Fault) -> Value {
    json!({ "error": fault.message, "code": fault.code.as_str() })
}

fn place(from: Option<&str>, begin: From) -> Outcome<Begin> {
    let wrong = |why: String| FaultCode::InvalidParams.with(why);
    Ok(Begin::At(match from {
        None | Some("") => begin,
        Some("now") => From::Now,
        Some("oldest") => From::Oldest,
        Some(listing) if listing.starts_with(SNAPSHOT) => return listing.parse().map(Begin::List).map_err(|e| wrong(e.to_string())),
        Some(stamp) if stamp.bytes().all(|byte| byte.is_ascii_digit()) => {
            From::After(Tso(stamp.parse().map_err(|_| wrong(format!("{stamp:.40} is too large for a stamp")))?))
        }
        Some(cursor) => cursor.parse().map(From::behind).map_err(|e| wrong(format!("{e}; or say now, oldest, snapshot, or a stamp")))?,
    }))
}

/// What a query string asks for.
pub(super) fn filter(app: &App, query: &Query) -> Outcome<EventFilter> {
    let named = |name: &str| query.text(name).filter(|text| !text.is_empty());
    // Who speaks for a tenant is told of no other.
    let is_one = query.principal().is_some() || named("tenant_id").is_some();
    let tenant = is_one.then(|| query.tenant(app)).transpose()?;
    let kinds = named("kind").unwrap_or_default();
    let kinds = kinds.split(',').filter(|kind| !kind.is_empty()).map(str::parse).collect::<Result<_, String>>();
    let prefixes = named("prefix").map(ObjectKey::from).into_iter().collect();
    let tables = named("table").unwrap_or_default();
    let tables = tables.split(',').filter(|rule| !rule.is_empty()).map(str::to_owned).collect();
    Ok(EventFilter { tenant, prefixes, kinds: kinds.map_err(|e| FaultCode::InvalidParams.with(e))?, tables })
}
