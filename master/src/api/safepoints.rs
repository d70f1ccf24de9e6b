//! Service safepoints, for programs that are away for longer than events are kept for whoever comes. The words are PD's.

use super::App;
use super::events::Events;
use super::face::Refusal;
use crate::engine::{Engine, Group};
use crate::events::Safepoint;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use perilune_protocol::{FaultCode, Outcome, Tso};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::ToSchema;

type Answer<T> = Result<Json<T>, Refusal<Events>>;

/// Who needs what.
#[derive(Serialize, ToSchema)]
pub(super) struct Safepoints {
    /// By name.
    service_gc_safe_points: Vec<Service>,
    /// The least of them; that of all where there is none.
    min_service_gc_safe_point: u64,
    /// Every event with a higher stamp can be read.
    gc_safe_point: u64,
}

/// Who needs every event with a higher stamp.
#[derive(Serialize, ToSchema)]
#[schema(as = ServiceSafepoint)]
pub(super) struct Service {
    service_id: String,
    /// In seconds since 1970.
    expired_at: u64,
    safe_point: u64,
}

/// What is needed, and for how long.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewSafepoint)]
pub(super) struct Asked {
    /// Every event with a higher stamp; `resolved` of a page, say.
    safe_point: u64,
    /// For so many seconds.
    ttl: u64,
}

/// What became of it.
#[derive(Serialize, ToSchema)]
#[schema(as = KeptSafepoint)]
pub(super) struct Set {
    /// Every event with a higher stamp can be read.
    gc_safe_point: u64,
}

fn engine(app: &App) -> Outcome<Engine> {
    let group = app.group.as_ref().map(Group::engine);
    group.ok_or_else(|| FaultCode::NotSupported.with("this engine is served without a group of masters"))
}

/// Who still needs what happened since when, and how far back it is kept.
#[utoipa::path(
    get, path = "/api/v2/safepoints", tag = "events",
    responses((status = 200, description = "All of them.", body = Safepoints))
)]
pub(super) async fn list(State(app): State<App>) -> Answer<Safepoints> {
    let engine = engine(&app)?;
    let safe = engine.safe_stamp().await?.0;
    let shown = |Safepoint { service, stamp, until_ms }: Safepoint| Service {
        service_id: service,
        expired_at: until_ms / 1000,
        safe_point: stamp.0,
    };
    let services: Vec<Service> = engine.safepoints().into_iter().map(shown).collect();
    let least = services.iter().map(|service| service.safe_point).min().unwrap_or(safe);
    Ok(Json(Safepoints { service_gc_safe_points: services, min_service_gc_safe_point: least, gc_safe_point: safe }))
}

/// A service needs every event with a higher stamp, and says so again before the time is over. What it said before is forgotten.
#[utoipa::path(
    put, path = "/api/v2/safepoints/{service_id}", tag = "events",
    params(("service_id" = String, Path, description = "Its name, up to 200 characters.")),
    request_body = Asked,
    responses(
        (status = 200, description = "They are kept, as long as the log does not become larger than is kept for anybody.", body = Set),
        (status = 507, description = "There are as many services as there may be.", body = serde_json::Value)
    )
)]
pub(super) async fn set(State(app): State<App>, Path(service): Path<String>, body: Bytes) -> Answer<Set> {
    let asked = serde_json::from_slice(&body).map_err(|e| FaultCode::InvalidParams.with(format!("the body is no safepoint: {e}")));
    let Asked { safe_point, ttl } = asked?;
    let safe = engine(&app)?.set_safepoint(&service, Tso(safe_point), Duration::from_secs(ttl)).await?;
    Ok(Json(Set { gc_safe_point: safe.0 }))
}

/// A service needs nothing any more. Of one that there is not, nothing becomes.
#[utoipa::path(
    delete, path = "/api/v2/safepoints/{service_id}", tag = "events",
    params(("service_id" = String, Path, description = "Its name.")),
    responses((status = 200, description = "`{}`: it holds nothing.", body = serde_json::Value))
)]
pub(super) async fn forget(State(app): State<App>, Path(service): Path<String>) -> Answer<serde_json::Value> {
    engine(&app)?.drop_safepoint(&service).await?;
    Ok(Json(serde_json::json!({})))
}
