//! TiFlash's page, as far as it is about the group: whose second copies are in step, and who collects garbage in the cold tier. What it says of
//! the process itself is `perilune-probe`'s. Both spellings of the page are known.

mod remote;

use super::App;
use super::face::{Face, status};
use super::forward;
use crate::engine::Leader;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use perilune_probe::remote::Owner;
use perilune_probe::sync::{self, OfTable};
use perilune_probe::{Refusing, tiflash};
use perilune_protocol::{Fault, FaultCode, Outcome};
use perilune_state::gc::GcOwner;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The face.
pub(super) struct Tiflash;

/// On whose behalf the leader is asked.
const OF: &str = "of";
/// The leader's answer is two words.
const ANSWER_BYTES_MAX: usize = 4096;

impl Face for Tiflash {
    fn routes() -> OpenApiRouter<App> {
        tiflash(routes!(owner)).merge(tiflash(routes!(resign))).merge(remote::routes())
    }

    fn lookups() -> OpenApiRouter<App> {
        tiflash(routes!(sync_status))
    }

    fn refusing() -> Refusing {
        Refusing::text(&[(503, "No master leads, or none that can be reached.")])
    }

    fn refuse(fault: &Fault) -> Response {
        (status(fault.code), format!("{fault}\n")).into_response()
    }

    /// What is in step, and what there is in vaults, is the leader's to say.
    fn acts(request: &Request) -> bool {
        let path = request.uri().path();
        path.contains("/sync-status/") || remote::OF_THE_LEADER.iter().any(|of| path.contains(of))
    }
}

/// How many shards of a table have a second copy that is at most two minutes behind, and which.
#[utoipa::path(
    get, path = "/tiflash/sync-status/{*table}", tag = "process",
    params(("table" = String, Path, description = "The number of a table, or `keyspace/KEYSPACE/table/TABLE`.")),
    responses(
        (status = 200, description = "Their number, and in another line their ids.", body = String, content_type = "text/plain"),
        (status = 400, description = "That names no table.")
    )
)]
async fn sync_status(State(app): State<App>, table: Option<Path<String>>) -> Response {
    let Some(of) = table.and_then(|Path(table)| OfTable::parse(&table)) else { return sync::wrong() };
    sync::answer(app.engine.in_step(of.keyspace, of.table).await)
}

/// Who collects garbage in the cold tier.
#[utoipa::path(
    get, path = "/tiflash/remote/owner/info", tag = "process",
    responses((status = 200, description = "Whether it is this master, and who it is.", body = serde_json::Value))
)]
async fn owner(State(app): State<App>) -> Response {
    whose(&app).info()
}

/// Who collects.
fn whose(app: &App) -> Owner {
    match (app.engine.gc_owner(), &app.group) {
        _ if !app.engine.has_vaults() => Owner::None,
        (None, _) => Owner::Nobody,
        (Some(owner), Some(group)) if owner.member == group.me() => Owner::This(group.service_of(owner.member)),
        (Some(owner), group) => Owner::Other(group.as_ref().map_or_else(String::new, |group| group.service_of(owner.member))),
    }
}

/// This master no longer collects garbage: another has a go, where there is another.
#[utoipa::path(
    method(get, post), path = "/tiflash/remote/owner/resign", tag = "process",
    responses((status = 200, description = "`Done`, or that it is not this master's to give up.", body = serde_json::Value))
)]
async fn resign(State(app): State<App>, headers: HeaderMap, request: Request) -> Response {
    let whose = whose(&app);
    if whose == Owner::None {
        return whose.resigned(false);
    }
    let Some(group) = &app.group else {
        return Tiflash::refuse(&FaultCode::NotSupported.with("this engine is served without a group of masters"));
    };
    let asked_by = request.uri().query().and_then(|query| query.strip_prefix(OF)?.strip_prefix('=')?.parse().ok());
    let of = asked_by.unwrap_or_else(|| group.me());
    let is_its = |owner: GcOwner| owner.member == of;
    if !app.engine.gc_owner().is_some_and(is_its) {
        return whose.resigned(false);
    }
    let resigned = match group.settled().await {
        Ok(Leader::Here) => app.engine.resign_gc(of).await,
        Ok(Leader::There(_)) if asked_by.is_some() => Err(FaultCode::NotLeader.with("this master does not lead")),
        Ok(Leader::There(leader)) => ask_leader(&leader.http, request.uri().path(), of, &headers).await,
        Err(fault) => Err(fault),
    };
    match resigned {
        Ok(done) => whose.resigned(done),
        Err(fault) => Tiflash::refuse(&fault),
    }
}

/// Has the leader write it down, for this master.
async fn ask_leader(at: &str, path: &str, of: u64, headers: &HeaderMap) -> Outcome<bool> {
    let mut request = Request::post(format!("{path}?{OF}={of}"));
    for (name, value) in headers.iter().filter(|(name, _)| **name == header::AUTHORIZATION) {
        request = request.header(name, value);
    }
    let request = request.body(Body::empty()).map_err(|e| FaultCode::Internal.with(e.to_string()))?;
    let answer = forward::send(at, request).await?;
    let status = answer.status();
    let body = to_bytes(answer.into_body(), ANSWER_BYTES_MAX).await.unwrap_or_default();
    match status {
        StatusCode::OK => Ok(body.windows(6).any(|bytes| bytes == b"\"Done\"")),
        _ => Err(FaultCode::NotLeader.with(String::from_utf8_lossy(&body).into_owned())),
    }
}
