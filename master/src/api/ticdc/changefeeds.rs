//! Feeds: how one is created, and what there is to say of them.

use super::error::Refusal;
use super::models::{Common, Info, Items, RunningError};
use super::said::{self, Asked, Body, Name};
use super::{Answer, engine, group, json};
use crate::api::App;
use crate::api::extract::Query;
use crate::feeds::safepoint::{Bridge, hold_for, let_go};
use crate::feeds::{self, Code, Failure, Progress, ReplicaConfig, SinkUri, Whose};
use axum::extract::{Path, State};
use perilune_protocol::Tso;
use perilune_state::directory::{FeedId, FeedRecord, FeedState, Known, NewFeed, Trouble, is_feed_name};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

/// A feed begins. Its sink is opened and written to before this is answered.
#[utoipa::path(
    post, path = "/api/v2/changefeeds", tag = "changefeeds",
    request_body = Asked,
    responses((status = 200, description = "It is there.", body = Info))
)]
pub(super) async fn create(State(app): State<App>, Body(body): Body) -> Answer {
    let asked: Asked = said::parse(&body)?;
    let (group, engine) = (group(&app)?, engine(&app)?);
    let config = ReplicaConfig::default().over(&asked.replica_config);
    let config = config.map_err(|e| Code::ApiInvalidParam.with(format!("invalid api parameter: {e}")))?;
    said::own_cluster(&asked.pd_addrs)?;
    if asked.sink_uri.is_empty() {
        let why = "sink uri invalid 'sink_uri is empty, cannot create a changefeed without sink_uri'";
        return Err(Code::SinkUriInvalid.with(why).into());
    }
    let name = if asked.changefeed_id.is_empty() { Uuid::new_v4().to_string() } else { asked.changefeed_id };
    let namespace = if asked.namespace.is_empty() { said::DEFAULT_NAMESPACE.into() } else { asked.namespace };
    if !is_feed_name(&name) {
        return Err(Refusal::parameter("changefeed_id", &name));
    }
    let known = engine.directory();
    let Some(tenant) = known.named(&namespace).map(|tenant| tenant.id) else {
        // A tenant may be called what is no name of TiCDC's; what none is called is refused in its words.
        if !is_feed_name(&namespace) {
            return Err(Refusal::parameter("namespace", &namespace));
        }
        return Err(Code::ApiInvalidParam.with(format!("invalid namespace: {namespace}: there is no tenant of this name")).into());
    };
    if known.feed_named(tenant, &name).is_some() {
        return Err(Code::AlreadyExists.with(format!("changefeed already exists, {name}")).into());
    }
    let now = engine.feed_clock().await?;
    let start = if asked.start_ts == 0 { now } else { Tso(asked.start_ts) };
    if start > now {
        let why = format!("invalid start-ts {}, larger than current tso {}", start.0, now.0);
        return Err(Code::ApiInvalidParam.with(why).into());
    }
    // Until it is said for all feeds together.
    hold_for(&engine, Bridge::Creating, tenant, &name, start).await?;
    let created = async {
        let target = (asked.target_ts > 0).then_some(Tso(asked.target_ts));
        if let Some(target) = target.filter(|target| *target <= start) {
            let why = format!("fail to create changefeed because target-ts {} is earlier than start-ts {}", target.0, start.0);
            return Err(Refusal::from(Code::TargetTsBeforeStartTs.with(why)));
        }
        let checked = feeds::check(&asked.sink_uri, &config)?;
        if checked.uri.has_mask() {
            return Err(Code::SinkUriInvalid.with("sink uri invalid 'xxxxx stands for a secret that is not told: say it'").into());
        }
        alone(&known, &checked.uri, None)?;
        let label = format!("{namespace}/{name}");
        drop(feeds::open(&Whose::tried(&label), &checked, &config, &engine.feed_place()).await?);
        let new = NewFeed {
            name: name.clone(),
            sink: checked.uri.to_string(),
            sealed: sealed(&engine, tenant, &name, &asked.sink_uri, &checked.uri)?,
            config: config.shown().to_string(),
            start,
            target,
            creator: env!("CARGO_PKG_VERSION").into(),
        };
        Ok::<_, Refusal>(engine.decide(&|known, now_ms| known.create_feed(&namespace, &new, now_ms)).await?)
    };
    if let Err(refusal) = created.await {
        // Where another request made one of this name meanwhile, it is held for that.
        if engine.directory().feed_named(tenant, &name).is_none() {
            let_go(&engine, Bridge::Creating, tenant, &name).await;
        }
        return Err(refusal);
    }
    engine.reign.feeds.bell.ring();
    let known = engine.directory();
    let Some(feed) = known.feed_named(tenant, &name) else { return Err(Refusal::not_exists(&namespace, &name)) };
    json(&Info::of(group, &known, feed, Progress::at(start), false))
}

/// No other feed that may still write has its files there: each would find the other's in its way, and readers would find both.
pub(super) fn alone(known: &Known, uri: &SinkUri, own: Option<FeedId>) -> Result<(), Failure> {
    let is_there = |feed: &FeedRecord| SinkUri::parse(&feed.sink).is_ok_and(|other| other.is_at(uri));
    let mut others = known.feeds().filter(|feed| Some(feed.id) != own && feed.state != FeedState::Finished);
    match others.find(|feed| is_there(feed)) {
        Some(feed) => Err(Code::SinkUriInvalid.with(format!("sink uri invalid 'the changefeed {} has its files there'", feed.name))),
        None => Ok(()),
    }
}

/// The URI of a sink as it is kept where something in it may be a secret.
pub(super) fn sealed(
    engine: &crate::engine::Engine,
    tenant: perilune_protocol::TenantId,
    name: &str,
    text: &str,
    uri: &SinkUri,
) -> Result<Option<perilune_protocol::sealed::Sealed>, Refusal> {
    if !uri.has_secret() {
        return Ok(None);
    }
    Ok(Some(engine.safe()?.seal_sink(tenant, name, text)?))
}

/// The feeds of a namespace, by name.
#[utoipa::path(
    get, path = "/api/v2/changefeeds", tag = "changefeeds",
    params(
        ("state" = Option<String>, Query, description = "Those in this state; `all`; left out: those that are not finished."),
        ("namespace" = Option<String>, Query, description = "`default`, unless said.")
    ),
    responses((status = 200, description = "They are.", body = Items<Common>))
)]
pub(super) async fn list(State(app): State<App>, query: Query) -> Answer {
    let (group, engine) = (group(&app)?, engine(&app)?);
    let known = engine.directory();
    let wanted = query.text("state").unwrap_or_default();
    let is_wanted = |state: FeedState| match wanted.as_str() {
        "all" => true,
        "" => state != FeedState::Finished,
        name => state.name() == name,
    };
    let tenant = known.named(&said::namespace(&query)).map(|tenant| tenant.id);
    let feeds = known.feeds().filter(|feed| Some(feed.tenant) == tenant && is_wanted(feed.state));
    let mut items: Vec<_> = feeds.map(|feed| Common::of(group, &known, feed, engine.feed_progress(feed))).collect();
    items.sort_by(|a, b| a.id.cmp(&b.id));
    json(&Items::from(items))
}

/// A feed.
#[utoipa::path(
    get, path = "/api/v2/changefeeds/{changefeed_id}", tag = "changefeeds",
    params(("changefeed_id" = String, Path, description = "Its name."), ("namespace" = Option<String>, Query, description = "`default`, unless said.")),
    responses((status = 200, description = "It.", body = Info))
)]
pub(super) async fn get(State(app): State<App>, Path(name): Name, query: Query) -> Answer {
    let (group, engine) = (group(&app)?, engine(&app)?);
    let known = engine.directory();
    let feed = said::feed(&known, &query, &name)?;
    json(&Info::of(group, &known, feed, engine.feed_progress(feed), true))
}

/// The same. What may be a secret is masked here as well, other than on its page.
#[utoipa::path(
    get, path = "/api/v2/changefeeds/{changefeed_id}/meta_info", tag = "changefeeds",
    params(("changefeed_id" = String, Path, description = "Its name."), ("namespace" = Option<String>, Query, description = "`default`, unless said.")),
    responses((status = 200, description = "It.", body = Info))
)]
pub(super) async fn meta_info(state: State<App>, name: Name, query: Query) -> Answer {
    get(state, name, query).await
}

#[derive(Serialize, ToSchema)]
#[schema(as = ChangefeedStatus)]
struct Status {
    state: &'static str,
    resolved_ts: u64,
    checkpoint_ts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<RunningError>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_warning: Option<RunningError>,
}

/// How far a feed is, and what it met since it was there.
#[utoipa::path(
    get, path = "/api/v2/changefeeds/{changefeed_id}/status", tag = "changefeeds",
    params(("changefeed_id" = String, Path, description = "Its name."), ("namespace" = Option<String>, Query, description = "`default`, unless said.")),
    responses((status = 200, description = "So far.", body = Status))
)]
pub(super) async fn status(State(app): State<App>, Path(name): Name, query: Query) -> Answer {
    let engine = engine(&app)?;
    let known = engine.directory();
    let feed = said::feed(&known, &query, &name)?;
    let progress = engine.feed_progress(feed);
    let since = |trouble: &Option<Trouble>| {
        trouble.as_ref().filter(|trouble| progress.checkpoint.physical_ms() < trouble.at_ms).map(RunningError::timed)
    };
    json(&Status {
        state: feed.state.name(),
        resolved_ts: progress.resolved.0,
        checkpoint_ts: progress.checkpoint.0,
        last_error: since(&feed.error),
        last_warning: since(&feed.warning),
    })
}
