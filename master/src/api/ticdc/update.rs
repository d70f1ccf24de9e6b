//! A feed that stands still becomes another.

use super::changefeeds::{alone, sealed};
use super::error::{Refusal, runs};
use super::models::Info;
use super::said::{self, Asked, Body, Name};
use super::{Answer, engine, group, json};
use crate::api::App;
use crate::api::extract::Query;
use crate::feeds::{self, Code, ReplicaConfig, SinkUri, Whose};
use axum::extract::{Path, State};
use perilune_protocol::Tso;
use perilune_state::directory::{FeedRecord, FeedState};

/// Another sink, target or config for a feed that is stopped or failed. What is left out stays as it is, each field of the config for itself.
#[utoipa::path(
    put, path = "/api/v2/changefeeds/{changefeed_id}", tag = "changefeeds",
    params(("changefeed_id" = String, Path, description = "Its name."), ("namespace" = Option<String>, Query, description = "`default`, unless said.")),
    request_body = Asked,
    responses((status = 200, description = "It is so, and stands still.", body = Info))
)]
pub(super) async fn update(State(app): State<App>, Path(name): Name, query: Query, Body(body): Body) -> Answer {
    let (group, engine) = (group(&app)?, engine(&app)?);
    let known = engine.directory();
    let feed = said::feed(&known, &query, &name)?;
    if !matches!(feed.state, FeedState::Stopped | FeedState::Failed) {
        return Err(runs());
    }
    let asked: Asked = said::parse(&body)?;
    said::own_cluster(&asked.pd_addrs)?;
    let target = if asked.target_ts == 0 { feed.target } else { Some(Tso(asked.target_ts)) };
    if let Some(target) = target.filter(|target| asked.target_ts > 0 && *target <= feed.start) {
        let why = format!("can not update target_ts:{} less than start_ts:{}", target.0, feed.start.0);
        return Err(Code::UpdateRefused.with(why).into());
    }
    let old_config = ReplicaConfig::stored(&feed.config).map_err(|e| Refusal::of_update(format_args!("its config cannot be read: {e}")))?;
    let config = old_config.over(&asked.replica_config);
    let config = config.map_err(|e| Code::ApiInvalidParam.with(format!("invalid api parameter: {e}")))?;
    let old_uri = feeds::sink_of(&engine, feed)?;
    let invalid = |why| Code::SinkUriInvalid.with(format!("sink uri invalid '{why}'"));
    let uri = if asked.sink_uri.is_empty() { old_uri.clone() } else { SinkUri::unmasked(&asked.sink_uri, &old_uri).map_err(invalid)? };
    if target == feed.target && config == old_config && uri == old_uri {
        return Err(Refusal::of_update("changefeed config is the same with the old one, do nothing"));
    }
    let checked = feeds::check(&uri, &config).map_err(Refusal::of_update)?;
    alone(&known, &checked.uri, Some(feed.id)).map_err(Refusal::of_update)?;
    let before = feeds::check(&old_uri, &old_config).ok();
    if before.is_some_and(|before| before.protocol != checked.protocol) {
        return Err(Refusal::of_update("the protocol of a sink does not change: whoever reads it would have to notice where"));
    }
    let label = format!("{}/{name}", said::namespace(&query));
    drop(feeds::open(&Whose::tried(&label), &checked, &config, &engine.feed_place()).await.map_err(Refusal::of_update)?);
    let sealed = sealed(&engine, feed.tenant, &name, &uri, &checked.uri)?;
    let change = |record: &mut FeedRecord| {
        record.sink = checked.uri.to_string();
        record.sealed.clone_from(&sealed);
        record.config = config.shown().to_string();
        record.target = target;
    };
    engine.decide(&|known, now_ms| known.alter_feed(feed, &change, now_ms)).await?;
    let known = engine.directory();
    let feed = said::feed(&known, &query, &name)?;
    json(&Info::of(group, &known, feed, engine.feed_progress(feed), false))
}
