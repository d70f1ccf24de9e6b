//! Feeds are paused, go on, and end.

use super::error::Refusal;
use super::said::{self, Body, Name, Resume};
use super::{Answer, done, engine};
use crate::api::App;
use crate::api::extract::Query;
use crate::engine::Engine;
use crate::feeds::Code;
use crate::feeds::safepoint::{Bridge, hold_for, let_go};
use axum::extract::{Path, State};
use perilune_protocol::Tso;
use perilune_state::directory::{FeedEvent, FeedId, is_feed_name};
use std::time::Duration;

/// How long a feed may take to stop writing: longer than [`crate::MasterConfig::feed_patience`], unless that is set to more.
const ENDING: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A feed stands still: when this is answered, nothing is written for it any more. Of one that does already, nothing becomes.
#[utoipa::path(
    post, path = "/api/v2/changefeeds/{changefeed_id}/pause", tag = "changefeeds",
    params(("changefeed_id" = String, Path, description = "Its name."), ("namespace" = Option<String>, Query, description = "`default`, unless said.")),
    responses((status = 200, description = "`{}`.", body = serde_json::Value))
)]
pub(super) async fn pause(State(app): State<App>, Path(name): Name, query: Query) -> Answer {
    let engine = engine(&app)?;
    let known = engine.directory();
    let feed = said::feed(&known, &query, &name)?;
    let id = feed.id;
    engine.keep_live(feed).await?;
    engine.decide(&|known, now_ms| known.advance_feed(id, FeedEvent::Pause, None, now_ms)).await?;
    engine.reign.feeds.bell.ring();
    // One that does not stop in time was broken off, and stands still as well.
    is_quiet(&engine, id).await;
    done()
}

/// Waits until nothing is written any more for a feed that is not to deliver. Whether that came about.
async fn is_quiet(engine: &Engine, id: FeedId) -> bool {
    let runs = || engine.directory().feed(id).is_some_and(|feed| feed.state.runs());
    let quiet = async {
        while engine.reign.feeds.delivers(id) && !runs() && engine.leads() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(ENDING, quiet).await.is_ok()
}

/// A feed that stands still goes on, from where it was or from another stamp. Of one that does not, nothing becomes.
#[utoipa::path(
    post, path = "/api/v2/changefeeds/{changefeed_id}/resume", tag = "changefeeds",
    params(("changefeed_id" = String, Path, description = "Its name."), ("namespace" = Option<String>, Query, description = "`default`, unless said.")),
    request_body = Resume,
    responses((status = 200, description = "`{}`.", body = serde_json::Value))
)]
pub(super) async fn resume(State(app): State<App>, Path(name): Name, query: Query, Body(body): Body) -> Answer {
    let engine = engine(&app)?;
    let known = engine.directory();
    let feed = said::feed(&known, &query, &name)?;
    let asked: Resume = said::parse(&body)?;
    said::own_cluster(&asked.pd_addrs)?;
    let over = (asked.overwrite_checkpoint_ts > 0).then_some(Tso(asked.overwrite_checkpoint_ts));
    let from = over.unwrap_or_else(|| engine.feed_progress(feed).checkpoint);
    let now = engine.feed_clock().await?;
    if from > now {
        let why = format!("invalid checkpoint-ts {}, larger than current tso {}", from.0, now.0);
        return Err(Code::ApiInvalidParam.with(why).into());
    }
    // Until it is said for all feeds together.
    hold_for(&engine, Bridge::Resuming, feed.tenant, &name, from).await?;
    let (id, tenant, stands) = (feed.id, feed.tenant, feed.state.after(FeedEvent::Resume).is_some());
    let resumed = async {
        if stands {
            engine.note_resumed(id, now).await?;
        }
        Ok::<_, Refusal>(engine.decide(&|known, now_ms| known.resume_feed(id, over, now_ms)).await?)
    };
    if let Err(refusal) = resumed.await {
        let_go(&engine, Bridge::Resuming, tenant, &name).await;
        return Err(refusal);
    }
    engine.reign.feeds.bell.ring();
    done()
}

/// A feed ends; what it wrote stays. One that there is not has ended.
#[utoipa::path(
    delete, path = "/api/v2/changefeeds/{changefeed_id}", tag = "changefeeds",
    params(("changefeed_id" = String, Path, description = "Its name."), ("namespace" = Option<String>, Query, description = "`default`, unless said.")),
    responses((status = 200, description = "`{}`: nothing more is written for it.", body = serde_json::Value))
)]
pub(super) async fn delete(State(app): State<App>, Path(name): Name, query: Query) -> Answer {
    if !is_feed_name(&name) {
        return Err(Refusal::parameter("changefeed_id", &name));
    }
    let engine = engine(&app)?;
    let known = engine.directory();
    let Ok(feed) = said::feed(&known, &query, &name) else { return done() };
    let (id, tenant) = (feed.id, feed.tenant);
    engine.decide(&|known, _| known.drop_feed(id)).await?;
    engine.reign.feeds.bell.ring();
    if !is_quiet(&engine, id).await {
        return Err(Code::Unknown.with(format!("changefeed exists after deletion, {name}: it is still writing")).into());
    }
    for why in [Bridge::Creating, Bridge::Resuming] {
        let_go(&engine, why, tenant, &name).await;
    }
    if let Err(fault) = engine.forget_feed(id).await {
        tracing::warn!(feed = name, "what was written down about a changefeed that is gone stays: {fault}");
    }
    done()
}
