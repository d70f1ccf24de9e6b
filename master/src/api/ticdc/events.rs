//! What a feed carries, for programs that read it themselves.

use super::said::{self, Name};
use super::{Answer, engine};
use crate::api::App;
use crate::api::events::{Events, filter, tell};
use crate::api::extract::Query;
use crate::api::face::Face;
use crate::events::Wanted;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use perilune_protocol::FaultCode;
use perilune_protocol::rpc::watch::From;

/// Whether a path below the root of this face is that of such a stream. Any master tells it.
pub(super) fn are_at(rest: &str) -> bool {
    rest.starts_with("changefeeds/") && rest.ends_with("/events")
}

/// What a feed carries, as `/api/v2/events` tells it: the events of its tenant that its rules take, from its checkpoint on where nothing else is
/// said. Whether the feed itself delivers, and how far, has no part in it.
#[utoipa::path(
    get, path = "/api/v2/changefeeds/{changefeed_id}/events", tag = "changefeeds",
    params(
        ("changefeed_id" = String, Path, description = "Its name."),
        ("namespace" = Option<String>, Query, description = "`default`, unless said; with a token of a tenant: that."),
        ("from" = Option<String>, Query, description = "A cursor, or a stamp, behind which it goes on; `oldest`; `snapshot`, what there is and then \
                                                       what happens; `now`; the checkpoint without it."),
        ("kind" = Option<String>, Query, description = "Kinds, separated by commas, such as `put,removed`; all without it."),
        ("prefix" = Option<String>, Query, description = "Only objects whose key begins so."),
        ("table" = Option<String>, Query, description = "Rules such as `db.*`, separated by commas, besides those of the feed."),
        ("tenant_id" = Option<String>, Query, description = "Its own tenant, or nothing."),
        ("consumer" = Option<String>, Query, description = "As whom the caller is shown on the page of metrics, with how far it lags."),
        ("wait_ms" = Option<u32>, Query, description = "A page is waited for so long, at most 30000.")
    ),
    responses(
        (status = 200, description = "A page as JSON or, asked for with `Accept: text/event-stream`, all that comes.", body = serde_json::Value),
        (status = 400, description = "There is no such feed, or what was asked cannot be read.", body = serde_json::Value),
        (status = 403, description = "The token is one of another tenant.", body = serde_json::Value),
        (status = 404, description = "There is no such tenant.", body = serde_json::Value),
        (status = 409, description = "This master has not come so far: ask another, or later.", body = serde_json::Value),
        (status = 410, description = "What followed that place is not kept any more: `snapshot` and `oldest` are what to ask for.", body = serde_json::Value)
    )
)]
pub(super) async fn events(State(app): State<App>, Path(name): Name, query: Query, headers: HeaderMap) -> Answer {
    let namespace = said::namespace(&query);
    if let Some(principal) = query.principal().filter(|principal| principal.tenant != namespace) {
        let why = format!("the token is one of tenant {} and not of {namespace:.200?}", principal.tenant);
        return Ok(Events::refuse(&FaultCode::Forbidden.with(why)));
    }
    let engine = engine(&app)?;
    let known = engine.directory();
    let feed = said::feed(&known, &query, &name)?;
    let wanted = filter(&app, &query).and_then(|filter| Wanted::of_feed(feed, filter));
    let begin = From::After(engine.feed_progress(feed).checkpoint);
    let told = match wanted {
        Ok(wanted) => tell(&app, wanted, begin, &query, &headers).await,
        Err(fault) => Err(fault),
    };
    // Of places and streams this face has no words of its own.
    Ok(told.unwrap_or_else(|fault| Events::refuse(&fault)))
}
