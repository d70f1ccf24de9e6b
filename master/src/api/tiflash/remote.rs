//! The cold tier as a whole: garbage is collected, everything is brought there, and what is there is counted.

use super::{App, Tiflash};
use crate::api::face::{Face, Refusal};
use crate::engine::{Engine, Group};
use crate::work::cold::{Garbage, Listed, SecretKeysHeld, SecretKeysKnown, Stores};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use perilune_probe::{remote as page, tiflash};
use perilune_protocol::{FaultCode, Outcome};
use perilune_state::checkpoints::{Checkpoint, Stage};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// What only the leader answers.
pub(super) const OF_THE_LEADER: [&str; 5] =
    ["/remote/upload", "/remote/info", "/remote/checkpoints", "/remote/garbage", "/remote/secret_keys/held"];

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .merge(tiflash(routes!(gc)))
        .merge(tiflash(routes!(upload)))
        .merge(tiflash(routes!(info)))
        .merge(tiflash(routes!(info_of)))
        .merge(tiflash(routes!(checkpoints)))
        .merge(tiflash(routes!(garbage)))
        .merge(tiflash(routes!(secret_keys)))
        .merge(tiflash(routes!(secret_keys_held)))
}

type Answer<T> = Result<Json<T>, Refusal<Tiflash>>;

fn group(app: &App) -> Outcome<&Group> {
    app.group.as_ref().ok_or_else(|| FaultCode::NotSupported.with("this engine is served without a group of masters"))
}

fn leader(app: &App) -> Outcome<Engine> {
    group(app).map(Group::engine)
}

/// Has this master look for garbage in all vaults, if it is the one that collects it. Does not wait for that.
#[utoipa::path(
    method(get, post), path = "/tiflash/remote/gc", tag = "process",
    responses((status = 200, description = "Who collects, and whether it does so now: `\"true\"` or `\"false\"`.", body = serde_json::Value))
)]
async fn gc(State(app): State<App>) -> Response {
    let whose = super::whose(&app);
    if let Some(group) = app.group.as_ref().filter(|_| whose.is_this()) {
        group.collect_now();
    }
    whose.gc()
}

/// Has everything brought to its vault, and then what the masters know: a checkpoint, of which a new cluster can begin. Does not wait for that.
#[utoipa::path(
    method(get, post), path = "/tiflash/remote/upload", tag = "process",
    responses((status = 200, description = "`flag_set=true`, or `flag_set=false` where there is no vault for it.", body = serde_json::Value))
)]
async fn upload(State(app): State<App>) -> Response {
    if !app.engine.has_vaults() {
        return page::upload(None);
    }
    let set = match leader(&app) {
        Ok(engine) => engine.set_upload_flag().await,
        Err(fault) => Err(fault),
    };
    set.map_or_else(|fault| Tiflash::refuse(&fault), |set| page::upload(Some(set)))
}

/// Counts what is in the vaults of this cluster, by listing them.
#[utoipa::path(
    get, path = "/tiflash/remote/info", tag = "process",
    responses((status = 200, description = "What is in each, or why it cannot be listed now.", body = Stores))
)]
async fn info(State(app): State<App>) -> Answer<Stores> {
    Ok(Json(leader(&app)?.store_info(None).await?))
}

/// The same of some of them.
#[utoipa::path(
    get, path = "/tiflash/remote/info/{ids}", tag = "process",
    params(("ids" = String, Path, description = "Their numbers, with commas between.")),
    responses(
        (status = 200, description = "What is in each, or why it cannot be listed now; a vault that there is not is left out.", body = Stores),
        (status = 400, description = "These are no numbers.")
    )
)]
async fn info_of(State(app): State<App>, Path(ids): Path<String>) -> Result<Response, Refusal<Tiflash>> {
    let Some(ids) = page::ids(&ids) else { return Ok(StatusCode::BAD_REQUEST.into_response()) };
    Ok(Json(leader(&app)?.store_info(Some(ids)).await?).into_response())
}

/// What there is of checkpoints.
#[derive(Serialize, ToSchema)]
struct Checkpoints {
    /// Whether one is asked for and not made yet.
    asked: bool,
    /// What went wrong last with a checkpoint, maybe with one before these; while one is asked for, with anything that it may wait for. Empty
    /// where nothing did since this master leads.
    last_error: String,
    /// The oldest first.
    checkpoints: Vec<Listing>,
}

/// A checkpoint.
#[derive(Serialize, ToSchema)]
struct Listing {
    number: u64,
    /// The vault it lies in.
    vault: u64,
    /// Whether all of it is there.
    whole: bool,
    /// When it was begun, in milliseconds since 1970.
    at_ms: u64,
    /// Objects in it, once it is whole.
    objects: u64,
    /// Those that have a copy in a vault.
    saved: u64,
}

impl From<&Checkpoint> for Listing {
    fn from(one: &Checkpoint) -> Self {
        let Checkpoint { number, vault, stage, at_ms, objects, saved, .. } = *one;
        Self { number, vault: vault.0, whole: stage == Stage::Kept, at_ms, objects, saved }
    }
}

/// The checkpoints that are kept, and the one that is being made.
#[utoipa::path(
    get, path = "/tiflash/remote/checkpoints", tag = "process",
    responses((status = 200, description = "All of them.", body = Checkpoints))
)]
async fn checkpoints(State(app): State<App>) -> Answer<Checkpoints> {
    let engine = leader(&app)?;
    let checkpoints = engine.state().checkpoints.recorded().iter().map(Listing::from).collect();
    let asked = engine.upload_flag().is_some();
    let found = Checkpoints { asked, last_error: engine.reign.cold.checkpoint_error(asked), checkpoints };
    engine.vouch().await?;
    Ok(Json(found))
}

/// Which keys for secrets the master that is asked has, and what is sealed with which.
#[utoipa::path(
    get, path = "/tiflash/remote/secret_keys", tag = "process",
    responses((status = 200, description = "Numbers that tell keys apart and give none away.", body = SecretKeysKnown))
)]
async fn secret_keys(State(app): State<App>) -> Answer<SecretKeysKnown> {
    Ok(Json(leader(&app)?.secret_keys()))
}

/// A master says which keys for secrets it has, so that a new one takes over once all have it.
#[utoipa::path(
    post, path = "/tiflash/remote/secret_keys/held", tag = "process",
    request_body = SecretKeysHeld,
    responses(
        (status = 200, description = "The leader has heard it.", body = bool, content_type = "application/json"),
        (status = 400, description = "That says nothing.")
    )
)]
async fn secret_keys_held(State(app): State<App>, said: Bytes) -> Answer<bool> {
    let said = serde_json::from_slice(&said).map_err(|e| FaultCode::InvalidParams.with(format!("the body says nothing of keys: {e}")))?;
    leader(&app)?.reign.cold.held.hear(said);
    Ok(Json(true))
}

/// What may be deleted in the vaults: for the master that collects.
#[utoipa::path(
    post, path = "/tiflash/remote/garbage", tag = "process",
    request_body = Listed,
    responses(
        (status = 200, description = "What may be.", body = Garbage),
        (status = 400, description = "That is no question."),
        (status = 409, description = "Nothing may at present.")
    )
)]
async fn garbage(State(app): State<App>, asked: Bytes) -> Answer<Garbage> {
    let asked =
        serde_json::from_slice(&asked).map_err(|e| FaultCode::InvalidParams.with(format!("the body is no question about garbage: {e}")))?;
    Ok(Json(leader(&app)?.garbage(asked).await?))
}
