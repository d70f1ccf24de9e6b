//! Health, role, leader, metrics.

use super::{Answer, TEXT, WORD, aside, json, text};
use crate::api::{App, Stranger};
use crate::log::Role;
use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

/// The page for Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "objects",
    responses((status = 200, description = "The page.", body = String, content_type = "text/plain"))
)]
pub(super) async fn metrics(State(app): State<App>) -> Answer {
    let page = aside(&app, |engine| engine.metrics().page(engine)).await?;
    Ok(text(StatusCode::OK, TEXT, page))
}

/// The numbers on one line.
#[utoipa::path(
    get, path = "/metrics/summary", tag = "objects",
    responses((status = 200, description = "The line.", body = String, content_type = "text/plain"))
)]
pub(super) async fn summary(State(app): State<App>) -> Answer {
    let line = aside(&app, |engine| engine.metrics().summary(engine)).await?;
    Ok(text(StatusCode::OK, TEXT, line + "\n"))
}

/// Whether this master takes something new; why not is told to those who may know.
#[utoipa::path(
    get, path = "/health", tag = "objects",
    responses((status = 200, description = "`OK`.", body = String, content_type = "text/plain"), (status = 503, description = "It does not.", body = String, content_type = "text/plain"))
)]
pub(super) async fn health(State(app): State<App>, stranger: Option<Extension<Stranger>>) -> Answer {
    Ok(match app.engine.log().trouble() {
        None => text(StatusCode::OK, TEXT, "OK"),
        Some(_) if stranger.is_some() => text(StatusCode::SERVICE_UNAVAILABLE, TEXT, "the log takes nothing new: ask with the token why\n"),
        Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, TEXT, why + "\n"),
    })
}

/// `leader` or `standby`.
#[utoipa::path(
    get, path = "/role", tag = "objects",
    responses((status = 200, description = "The word.", body = String, content_type = "text/plain"))
)]
pub(super) async fn role(State(app): State<App>) -> Answer {
    let word = if app.engine.log().role == Role::Leader { "leader" } else { "standby" };
    Ok(text(StatusCode::OK, WORD, word))
}

/// What this master is doing in its group.
#[utoipa::path(
    get, path = "/ha_status", tag = "objects",
    responses((status = 200, description = "`serving`, `candidate` or `standby`.", body = String, content_type = "text/plain"))
)]
pub(super) async fn ha_status(State(app): State<App>) -> Answer {
    let word = match app.engine.log().role {
        Role::Leader => "serving",
        Role::Candidate => "candidate",
        Role::Follower => "standby",
    };
    Ok(text(StatusCode::OK, WORD, word))
}

#[derive(Serialize, ToSchema)]
pub(super) struct Leader {
    present: bool,
    leader_address: Option<String>,
    view_version: Option<u64>,
}

/// Who leads, as far as this master knows; `view_version` is the term.
#[utoipa::path(
    get, path = "/leader", tag = "objects",
    responses((status = 200, description = "Who.", body = Leader))
)]
pub(super) async fn leader(State(app): State<App>) -> Answer {
    let leader_address = app.engine.leader();
    let view_version = leader_address.as_ref().map(|_| app.engine.log().term);
    Ok(json(StatusCode::OK, &Leader { present: leader_address.is_some(), leader_address, view_version }))
}

#[derive(Serialize, ToSchema)]
pub(super) struct Version {
    version: String,
    cluster: String,
}

/// The release of this master, and the cluster it serves.
#[utoipa::path(
    get, path = "/version", tag = "objects",
    responses((status = 200, description = "Both.", body = Version))
)]
pub(super) async fn version(State(app): State<App>) -> Answer {
    let stat = app.engine.stat();
    Ok(json(StatusCode::OK, &Version { version: stat.release, cluster: stat.cluster }))
}
