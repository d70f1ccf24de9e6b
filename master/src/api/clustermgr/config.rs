//! `/config/*`: settings of the whole group, by name; the six task switches among them.

use super::{Answer, Refusal, Said, done, group, ok};
use crate::api::App;
use crate::api::extract::Query;
use axum::extract::State;
use perilune_protocol::FaultCode;
use perilune_state::settings::{self, JOB_RECORD, Switch};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// What upstream fixes when a cluster is made.
const FIXED: [&str; 6] =
    ["code_mode", "code_mode_extend", "volume_chunk_size", "volume_overbought_ratio", "chunk_oversold_ratio", "shard_init_done"];

/// A setting, as a JSON string, exactly as it was set; one that was never set has its default.
#[utoipa::path(
    get, path = "/config/get", tag = "masters",
    params(("key" = Option<String>, Query, description = "Its name.")),
    responses((status = 200, description = "The value.", body = String, content_type = "application/json"))
)]
pub(super) async fn get(State(app): State<App>, query: Query) -> Answer {
    let group = group(&app)?;
    let key = query.text("key").filter(|key| !key.is_empty()).ok_or_else(|| Refusal::omitted("ConfigArgs", "Key"))?;
    group.catch_up().await.map_err(|fault| Refusal::read_index(&fault))?;
    ok(&group.engine().setting(&key).ok_or_else(Refusal::not_found)?)
}

#[derive(Serialize, ToSchema)]
pub(super) struct Configs {
    /// What each is.
    configs: BTreeMap<String, String>,
    /// What each is where nobody has set it.
    defaults: BTreeMap<&'static str, &'static str>,
}

/// Every setting, and what was set besides; not what jobs keep there.
#[utoipa::path(
    get, path = "/config/list", tag = "masters",
    responses((status = 200, description = "All of it.", body = Configs))
)]
pub(super) async fn list(State(app): State<App>) -> Answer {
    let group = group(&app)?;
    group.catch_up().await.map_err(|fault| Refusal::read_index(&fault))?;
    let defaults: BTreeMap<_, _> = settings::all().map(|setting| (setting.key, setting.default)).collect();
    let set = group.engine().state().settings.map();
    let mut configs: BTreeMap<_, _> = defaults.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    configs.extend(set.iter().filter(|(key, _)| !key.starts_with(JOB_RECORD)).map(|(key, value)| (key.clone(), value.clone())));
    ok(&Configs { configs, defaults })
}

#[derive(Deserialize, ToSchema)]
#[schema(as = Setting)]
pub(super) struct Set {
    key: String,
    value: String,
}

/// A setting is stored for the whole group before it is answered.
#[utoipa::path(
    post, path = "/config/set", tag = "masters",
    request_body = Set,
    responses((status = 200, description = "It is stored."))
)]
pub(super) async fn set(State(app): State<App>, Said(Set { key, value }): Said<Set>) -> Answer {
    let group = group(&app)?;
    if FIXED.contains(&key.as_str()) {
        return Err(Refusal::illegal(format!("{key} is fixed when a cluster is made")));
    }
    if !key.starts_with(JOB_RECORD) {
        settings::named(&key).map_err(|fault| Refusal::argument(fault.message))?;
    }
    group.engine().set(&key, Some(&value)).await.map_err(proposed)?;
    done()
}

/// A setting is taken back. A switch cannot be: it is on or off; nor what jobs keep.
#[utoipa::path(
    post, path = "/config/delete", tag = "masters",
    params(("key" = Option<String>, Query, description = "Its name.")),
    responses((status = 200, description = "It is taken back."))
)]
pub(super) async fn delete(State(app): State<App>, query: Query) -> Answer {
    let group = group(&app)?;
    let key = query.text("key").filter(|key| !key.is_empty()).ok_or_else(|| Refusal::omitted("ConfigArgs", "Key"))?;
    if FIXED.contains(&key.as_str()) || Switch::named(&key).is_some() || key.starts_with(JOB_RECORD) {
        return Err(Refusal::system_config());
    }
    group.engine().set(&key, None).await.map_err(proposed)?;
    done()
}

/// The lead was there when this began: that it is lost means that nobody knows whether it is stored.
fn proposed(fault: perilune_protocol::Fault) -> Refusal {
    if fault.code == FaultCode::NotLeader { Refusal::propose(&fault) } else { fault.into() }
}
