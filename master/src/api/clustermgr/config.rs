//! `/config/*`: settings of the whole group, by name; the six task switches among them.

use super::{Answer, Refusal, Said, done, group, ok};
use crate::api::App;
use crate::api::extract::Query;
use axum::extract::State;
use perilune_protocol::FaultCode;
use perilune_state::settings::{JOB_RECORD, Switch};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What upstream fixes when a cluster is made.
const FIXED: [&str; 6] =
    ["code_mode", "code_mode_extend", "volume_chunk_size", "volume_overbought_ratio", "chunk_oversold_ratio", "shard_init_done"];

/// `GET /config/get?key=`: the value, as a JSON string, exactly as it was set; a switch that was never set has its default.
pub(super) async fn get(State(app): State<App>, query: Query) -> Answer {
    let group = group(&app)?;
    let key = query.text("key").filter(|key| !key.is_empty()).ok_or_else(|| Refusal::omitted("ConfigArgs", "Key"))?;
    group.catch_up().await.map_err(|fault| Refusal::read_index(&fault))?;
    ok(&group.engine().setting(&key).ok_or_else(Refusal::not_found)?)
}

/// `GET /config/list`: everything that was set, and the switches; not what jobs keep there.
pub(super) async fn list(State(app): State<App>) -> Answer {
    #[derive(Serialize)]
    struct Body {
        configs: BTreeMap<String, String>,
    }
    let group = group(&app)?;
    group.catch_up().await.map_err(|fault| Refusal::read_index(&fault))?;
    let engine = group.engine();
    let mut configs = BTreeMap::clone(&engine.state().settings.map());
    configs.retain(|key, _| !key.starts_with(JOB_RECORD));
    for key in Switch::ALL.map(Switch::key) {
        configs.extend(engine.setting(key).map(|value| (key.to_owned(), value)));
    }
    ok(&Body { configs })
}

#[derive(Deserialize)]
pub(super) struct Set {
    key: String,
    value: String,
}

/// `POST /config/set`: stored for the whole group before it is answered.
pub(super) async fn set(State(app): State<App>, Said(Set { key, value }): Said<Set>) -> Answer {
    let group = group(&app)?;
    if FIXED.contains(&key.as_str()) {
        return Err(Refusal::illegal(format!("{key} is fixed when a cluster is made")));
    }
    group.engine().set(&key, Some(&value)).await.map_err(proposed)?;
    done()
}

/// `POST /config/delete?key=`: taken back. A switch cannot be: it is on or off; nor what jobs keep.
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
