//! Masters, which this face calls captures, and what each delivers.

use super::error::Refusal;
use super::models::{Items, capture_id};
use super::said::{self, Name};
use super::{Answer, done, engine, group, json};
use crate::api::App;
use crate::api::extract::Query;
use crate::feeds::{Code, ReplicaConfig, Rows, filter_of};
use crate::log::{Role, Seat};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use perilune_state::directory::is_feed_name;
use serde::Serialize;
use utoipa::ToSchema;

#[derive(Serialize, ToSchema)]
struct ServerStatus {
    version: &'static str,
    git_hash: &'static str,
    id: String,
    cluster_id: String,
    pid: u32,
    is_owner: bool,
    /// 0: it serves; 1: it stops.
    liveness: u8,
}

#[derive(Serialize, ToSchema)]
struct Capture {
    id: String,
    is_owner: bool,
    /// `host:port` of its service.
    address: String,
    cluster_id: String,
}

#[derive(Serialize, ToSchema)]
struct Processor {
    namespace: String,
    changefeed_id: String,
    capture_id: String,
}

#[derive(Serialize, ToSchema)]
struct ProcessorDetail {
    table_ids: Vec<u64>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = IssuedTso)]
struct Tso {
    /// Milliseconds since 1970.
    timestamp: u64,
    logic_time: u64,
}

/// Of the master that is asked.
#[utoipa::path(
    get, path = "/api/v2/status", tag = "changefeeds",
    responses((status = 200, description = "How it is.", body = ServerStatus))
)]
pub(super) async fn status(State(app): State<App>) -> Answer {
    let group = group(&app)?;
    json(&ServerStatus {
        version: env!("CARGO_PKG_VERSION"),
        git_hash: "",
        id: capture_id(group.me()),
        cluster_id: group.cluster(),
        pid: std::process::id(),
        is_owner: group.leads(),
        liveness: 0,
    })
}

/// Whether feeds are tended: some master leads, and its log takes something.
#[utoipa::path(
    get, path = "/api/v2/health", tag = "changefeeds",
    responses((status = 200, description = "`{}`.", body = serde_json::Value))
)]
pub(super) async fn health(State(app): State<App>) -> Answer {
    if engine(&app)?.writable().is_err() {
        return Err(Code::Unhealthy.with("TiCDC cluster is unhealthy").into());
    }
    done()
}

/// The masters, as far as the one that is asked has heard.
#[utoipa::path(
    get, path = "/api/v2/captures", tag = "changefeeds",
    responses((status = 200, description = "They are.", body = Items<Capture>))
)]
pub(super) async fn list(State(app): State<App>) -> Answer {
    let group = group(&app)?;
    let (members, leader) = (group.members(), group.leader().map(|leader| leader.id));
    let voters = members.iter().filter(|(_, seat)| *seat == Seat::Voter);
    let capture =
        |id: u64| Capture { id: capture_id(id), is_owner: leader == Some(id), address: group.service_of(id), cluster_id: group.cluster() };
    json(&Items::from(voters.map(|(member, _)| capture(member.id)).collect::<Vec<_>>()))
}

/// A master gives up the feeds it delivers. Only the leader delivers any, so there is never one that could be drained.
#[utoipa::path(
    post, path = "/api/v2/captures/{capture_id}/drain", tag = "changefeeds",
    params(("capture_id" = String, Path, description = "Which, as `captures` calls it.")),
    responses((status = 202, description = "It delivers nothing.", body = serde_json::Value), (status = 200, description = "Never."))
)]
pub(super) async fn drain(State(app): State<App>, Path(id): Name) -> Answer {
    let group = group(&app)?;
    if !is_feed_name(&id) {
        return Err(Refusal::parameter("capture_id", &id));
    }
    let voters: Vec<u64> = group.members().iter().filter(|(_, seat)| *seat == Seat::Voter).map(|(member, _)| member.id).collect();
    let failed = |why: &str| Refusal::from(Code::SchedulerRequestFailed.with(format!("scheduler request failed, {why}")));
    if voters.len() <= 1 {
        return Err(failed("only one capture alive"));
    }
    if id == capture_id(group.me()) {
        return Err(failed("cannot drain the owner"));
    }
    if !voters.iter().any(|voter| capture_id(*voter) == id) {
        return Err(Code::CaptureNotExist.with(format!("capture not exists, {id}")).into());
    }
    Ok((StatusCode::ACCEPTED, axum::Json(serde_json::json!({"current_table_count": 0}))).into_response())
}

/// Who delivers which feed.
#[utoipa::path(
    get, path = "/api/v2/processors", tag = "changefeeds",
    responses((status = 200, description = "All that are delivered.", body = Items<Processor>))
)]
pub(super) async fn processors(State(app): State<App>) -> Answer {
    let (group, engine) = (group(&app)?, engine(&app)?);
    let known = engine.directory();
    let feeds = known.feeds().filter(|feed| engine.reign.feeds.delivers(feed.id));
    let processor = |feed: &perilune_state::directory::FeedRecord| Processor {
        namespace: known.tenant(feed.tenant).map_or_else(String::new, |tenant| tenant.name.clone()),
        changefeed_id: feed.name.clone(),
        capture_id: capture_id(group.me()),
    };
    json(&Items::from(feeds.map(processor).collect::<Vec<_>>()))
}

/// The tables that a master delivers for a feed.
#[utoipa::path(
    get, path = "/api/v2/processors/{changefeed_id}/{capture_id}", tag = "changefeeds",
    params(
        ("changefeed_id" = String, Path, description = "The feed."), ("capture_id" = String, Path, description = "The master."),
        ("namespace" = Option<String>, Query, description = "`default`, unless said.")
    ),
    responses((status = 200, description = "Those.", body = ProcessorDetail))
)]
pub(super) async fn processor(State(app): State<App>, Path((name, capture)): Path<(String, String)>, query: Query) -> Answer {
    let (group, engine) = (group(&app)?, engine(&app)?);
    let known = engine.directory();
    let feed = said::feed(&known, &query, &name)?;
    if !is_feed_name(&capture) {
        return Err(Refusal::parameter("capture_id", &capture));
    }
    if !group.members().iter().any(|(member, _)| capture_id(member.id) == capture) {
        return Err(Code::CaptureNotExist.with(format!("capture not exists, {capture}")).into());
    }
    if capture != capture_id(group.me()) || !engine.reign.feeds.delivers(feed.id) {
        return Err(Refusal::not_exists(&said::namespace(&query), &name));
    }
    let filter =
        ReplicaConfig::stored(&feed.config).map_err(|e| Code::Unknown.with(e.to_string())).and_then(|config| filter_of(&config))?;
    json(&ProcessorDetail { table_ids: Rows::tables(&known, feed.tenant, &filter).iter().map(|table| table.id).collect() })
}

/// The master that is asked hands the lead to another, if it has it and there is another.
#[utoipa::path(
    post, path = "/api/v2/owner/resign", tag = "changefeeds",
    responses((status = 200, description = "`{}`, whatever becomes of it.", body = serde_json::Value))
)]
pub(super) async fn resign(State(app): State<App>) -> Answer {
    let group = group(&app)?;
    if group.status().role == Role::Leader {
        let members = group.members();
        let me = group.me();
        let other = members.iter().map(|(member, seat)| (member.id, seat)).filter(|(id, seat)| *seat == Seat::Voter && *id != me);
        // Each in turn, so that whoever resigns again and again does not go to and fro.
        let other: Vec<u64> = other.map(|(id, _)| id).collect();
        if let Some(to) = other.iter().find(|id| **id > me).or(other.first()) {
            group.transfer(*to);
        }
    }
    done()
}

/// A fresh stamp of the one clock.
#[utoipa::path(
    post, path = "/api/v2/tso", tag = "changefeeds",
    responses((status = 200, description = "It.", body = Tso))
)]
pub(super) async fn tso(State(app): State<App>) -> Answer {
    let now = engine(&app)?.feed_clock().await?;
    json(&Tso { timestamp: now.physical_ms(), logic_time: now.0 & ((1 << perilune_protocol::Tso::LOGICAL_BITS) - 1) })
}
