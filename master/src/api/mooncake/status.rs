//! Health, role, leader, metrics.

use super::{Answer, TEXT, WORD, aside, json, text};
use crate::api::{App, Stranger};
use crate::log::Role;
use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;

/// `GET /metrics`: the page for Prometheus.
pub(super) async fn metrics(State(app): State<App>) -> Answer {
    let page = aside(&app, |engine| engine.metrics().page(engine)).await?;
    Ok(text(StatusCode::OK, TEXT, page))
}

/// `GET /metrics/summary`: the numbers on one line.
pub(super) async fn summary(State(app): State<App>) -> Answer {
    let line = aside(&app, |engine| engine.metrics().summary(engine)).await?;
    Ok(text(StatusCode::OK, TEXT, line + "\n"))
}

/// `GET /health`: `OK`, or 503 and, for those who may know, why not.
pub(super) async fn health(State(app): State<App>, stranger: Option<Extension<Stranger>>) -> Answer {
    Ok(match app.engine.log().trouble() {
        None => text(StatusCode::OK, TEXT, "OK"),
        Some(_) if stranger.is_some() => text(StatusCode::SERVICE_UNAVAILABLE, TEXT, "the log takes nothing new: ask with the token why\n"),
        Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, TEXT, why + "\n"),
    })
}

/// `GET /role`: `leader` or `standby`.
pub(super) async fn role(State(app): State<App>) -> Answer {
    let word = if app.engine.log().role == Role::Leader { "leader" } else { "standby" };
    Ok(text(StatusCode::OK, WORD, word))
}

/// `GET /ha_status`: what this master is doing in its group.
pub(super) async fn ha_status(State(app): State<App>) -> Answer {
    let word = match app.engine.log().role {
        Role::Leader => "serving",
        Role::Candidate => "candidate",
        Role::Follower => "standby",
    };
    Ok(text(StatusCode::OK, WORD, word))
}

/// `GET /leader`: who leads, as far as this master knows; `view_version` is the term.
pub(super) async fn leader(State(app): State<App>) -> Answer {
    #[derive(Serialize)]
    struct Body {
        present: bool,
        leader_address: Option<String>,
        view_version: Option<u64>,
    }
    let leader_address = app.engine.leader();
    let view_version = leader_address.as_ref().map(|_| app.engine.log().term);
    Ok(json(StatusCode::OK, &Body { present: leader_address.is_some(), leader_address, view_version }))
}

/// `GET /version`: the release of this master, and the cluster it serves.
pub(super) async fn version(State(app): State<App>) -> Answer {
    #[derive(Serialize)]
    struct Body {
        version: String,
        cluster: String,
    }
    let stat = app.engine.stat();
    Ok(json(StatusCode::OK, &Body { version: stat.release, cluster: stat.cluster }))
}
