//! What only operators ask for: what is kept of feeds, what feeds hold back, how much a master logs.

use super::error::Refusal;
use super::models::{Info, RunningError, capture_id};
use super::said::{self, Body};
use super::{Answer, done, engine, group, json};
use crate::api::App;
use crate::engine::{Engine, Group};
use crate::events::Safepoint;
use crate::feeds::{Code, safepoint};
use axum::extract::State;
use perilune_probe::loglevel;
use perilune_state::directory::FeedRecord;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

/// Something that is kept, as TiCDC keeps it in etcd.
#[derive(Serialize, ToSchema)]
#[schema(as = EtcdData)]
struct Kept {
    key: String,
    /// JSON.
    value: String,
}

/// What is kept of masters, feeds and safepoints, under the keys that TiCDC has for it. What may be a secret is masked.
#[utoipa::path(
    get, path = "/api/v2/unsafe/metadata", tag = "changefeeds",
    responses((status = 200, description = "All of it, in the order of keys.", body = [Kept]))
)]
pub(super) async fn metadata(State(app): State<App>) -> Answer {
    let (group, engine) = (group(&app)?, engine(&app)?);
    let mut kept = of_feeds(group, &engine);
    let cluster = "/tidb/cdc/default";
    for (member, _) in group.members().iter() {
        let (id, address) = (capture_id(member.id), group.service_of(member.id));
        kept.push((format!("{cluster}/__cdc_meta__/capture/{id}"), json!({ "id": id, "address": address })));
    }
    if let Some(leader) = group.leader() {
        kept.push((format!("{cluster}/__cdc_meta__/owner"), json!(capture_id(leader.id))));
    }
    for Safepoint { service, stamp, until_ms } in engine.safepoints() {
        kept.push((format!("/pd/gc/safe_point/service/{service}"), json!({ "safe_point": stamp.0, "expired_at": until_ms / 1000 })));
    }
    kept.sort_by(|a, b| a.0.cmp(&b.0));
    json(&kept.into_iter().map(|(key, value)| Kept { key, value: value.to_string() }).collect::<Vec<_>>())
}

fn of_feeds(group: &Group, engine: &Engine) -> Vec<(String, Value)> {
    let known = engine.directory();
    let of = |feed: &FeedRecord| {
        let namespace = known.tenant(feed.tenant).map_or_else(String::new, |tenant| tenant.name.clone());
        let (below, name) = (format!("/tidb/cdc/default/{namespace}/changefeed"), &feed.name);
        let kept = engine.kept_progress(feed).progress();
        let info = serde_json::to_value(Info::of(group, &known, feed, kept, false)).unwrap_or_default();
        let status = json!({
            "checkpoint-ts": kept.checkpoint.0, "last-synced-ts": kept.last_synced.0,
            "error": feed.error.as_ref().map(RunningError::timed), "warning": feed.warning.as_ref().map(RunningError::timed),
        });
        [(format!("{below}/info/{name}"), info), (format!("{below}/status/{name}"), status)]
    };
    known.feeds().flat_map(of).collect()
}

/// What feeds need is no longer held for them. Those that still deliver say so again within a minute.
#[utoipa::path(
    delete, path = "/api/v2/unsafe/service_gc_safepoint", tag = "changefeeds",
    responses((status = 200, description = "`{}`: none of them is there any more.", body = Value))
)]
pub(super) async fn drop_safepoints(State(app): State<App>) -> Answer {
    safepoint::drop_all(&engine(&app)?).await?;
    done()
}

/// Which locks.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = ResolveLockReq)]
pub(super) struct Locks {
    /// In what TiKV calls a region.
    #[serde(rename = "region_id")]
    _region: u64,
    /// Those that are older.
    #[serde(rename = "ts")]
    _stamp: u64,
    /// Other clusters cannot be asked.
    pd_addrs: Vec<String>,
}

/// Nothing: no lock holds events back here. What is decided has its stamp, and nothing waits for what is not.
#[utoipa::path(
    post, path = "/api/v2/unsafe/resolve_lock", tag = "changefeeds",
    request_body = Locks,
    responses((status = 200, description = "`{}`: there are no such locks.", body = Value))
)]
pub(super) async fn resolve_lock(Body(body): Body) -> Answer {
    let asked: Locks = said::parse(&body)?;
    said::own_cluster(&asked.pd_addrs)?;
    done()
}

/// How much.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = LogLevelReq)]
pub(super) struct Level {
    /// `debug`, `info`, `warn`, `error`, `fatal`; or, as `--log`, `module=level,...`.
    log_level: String,
}

/// From now on the master that is asked logs so much, until it is told otherwise or ends.
#[utoipa::path(
    post, path = "/api/v2/log", tag = "changefeeds",
    request_body = Level,
    responses((status = 200, description = "`{}`: it does.", body = Value))
)]
pub(super) async fn log(Body(body): Body) -> Answer {
    let Level { log_level } = said::parse(&body)?;
    let filter = match log_level.as_str() {
        // Nothing here is worse than an error.
        "dpanic" | "panic" | "fatal" => "error",
        other => other,
    };
    loglevel::set(filter)
        .map_err(|why| Refusal::from(Code::ApiInvalidParam.with(format!("fail to change log level: {log_level:.200}: {why}"))))?;
    tracing::warn!("logs {filter} from now on");
    done()
}
