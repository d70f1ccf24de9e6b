//! Feeds are paused, go on, and end.

use super::error::Refusal;
use super::said::{self, Name, Resume};
use super::{Answer, done, engine};
use crate::api::App;
use crate::api::extract::Query;
use crate::feeds::safepoint::{Bridge, hold_for, let_go};
use crate::feeds::{self, Code};
use axum::body::Bytes;
use axum::extract::{Path, State};
use perilune_protocol::Tso;
use perilune_state::directory::{FeedEvent, is_feed_name};
use std::time::Duration;

/// How long a feed that ends may take to stop writing.
const ENDING: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A feed stands still. Of one that does already, nothing becomes.
#[utoipa::path(
    post, path = "/api/v2/changefeeds/{changefeed_id}/pause", tag = "changefeeds",
    params(("changefeed_id" = String, Path, description = "Its name."), ("namespace" = Option<String>, Query, description = "`default`, unless said.")),
    responses((status = 200, description = "`{}`.", body = serde_json::Value))
)]
pub(super) async fn pause(State(app): State<App>, Path(name): Name, query: Query) -> Answer {
    let engine = engine(&app)?;
    let id = said::feed(&engine.directory(), &query, &name)?.id;
    engine.decide(&|known, now_ms| known.advance_feed(id, FeedEvent::Pause, None, now_ms)).await?;
    engine.reign.feeds.bell.ring();
    done()
}

/// A feed that stands still goes on, from where it was or from another stamp. Of one that does not, nothing becomes.
#[utoipa::path(
    post, path = "/api/v2/changefeeds/{changefeed_id}/resume", tag = "changefeeds",
    params(("changefeed_id" = String, Path, description = "Its name."), ("namespace" = Option<String>, Query, description = "`default`, unless said.")),
    request_body = Resume,
    responses((status = 200, description = "`{}`.", body = serde_json::Value))
)]
pub(super) async fn resume(State(app): State<App>, Path(name): Name, query: Query, body: Bytes) -> Answer {
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
    let id = feed.id;
    engine.decide(&|known, now_ms| known.resume_feed(id, over, now_ms)).await?;
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
    let gone = async {
        while engine.reign.feeds.delivers(id) && engine.leads() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    if tokio::time::timeout(ENDING, gone).await.is_err() {
        return Err(Code::Unknown.with(format!("changefeed exists after deletion, {name}: it is still writing")).into());
    }
    for why in [Bridge::Creating, Bridge::Resuming] {
        let_go(&engine, why, tenant, &name).await;
    }
    feeds::forget(&engine, id).await;
    done()
}
