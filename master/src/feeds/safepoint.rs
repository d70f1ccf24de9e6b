//! What feeds still need of what happened, said to those who keep it.

use super::failure::{Code, Failure};
use crate::engine::Engine;
use crate::events::{FEEDS, Safepoint, is_of_feeds};
use perilune_protocol::{FaultCode, Millis, Outcome, TenantId, Tso};
use perilune_state::directory::{FeedRecord, FeedState, Known};
use std::time::Duration;
use tokio::time::Instant;

/// It is said no more often.
const EVERY: Duration = Duration::from_secs(60);
/// What is said for one feed bridges the time until it is said for all.
const BRIDGE_TTL: Duration = Duration::from_secs(3600);

/// Why something is needed before it is said for all feeds.
#[derive(Clone, Copy)]
pub(crate) enum Bridge {
    Creating,
    Resuming,
}

/// As `ticdc-creating-TENANT_FEED`: names of feeds have no `_`.
fn bridge(why: Bridge, tenant: TenantId, name: &str) -> String {
    let why = match why {
        Bridge::Creating => "creating",
        Bridge::Resuming => "resuming",
    };
    format!("{FEEDS}-{why}-{}_{name}", tenant.0)
}

/// A feed needs everything from `start` on.
///
/// # Errors
/// [`Code::StartTsBeforeGc`]; when nothing can be stored.
pub(crate) async fn hold_for(engine: &Engine, why: Bridge, tenant: TenantId, name: &str, start: Tso) -> Result<(), Failure> {
    let (service, needs) = (bridge(why, tenant, name), Tso(start.0.saturating_sub(1)));
    // Of two that are created at once under one name one wins: what is held is enough for either.
    let known = engine.safepoints().into_iter().find(|known| known.service == service);
    let held = known.map_or(needs, |known| known.stamp.min(needs));
    let Err(fault) = engine.keep_since(&service, needs, held, BRIDGE_TTL).await else { return Ok(()) };
    Err(match fault.code {
        FaultCode::OutOfRange => {
            let (why, safe) = ("fail to create or maintain changefeed because start-ts", engine.safe_stamp().await?.0);
            Code::StartTsBeforeGc.with(format!("{why} {} is earlier than or equal to GC safepoint at {safe}: {}", start.0, fault.message))
        }
        FaultCode::NotLeader => Code::NotReady.with("cdc server is not ready"),
        _ => Code::Unknown.with(fault.message),
    })
}

/// Nothing is needed for that any more.
pub(crate) async fn let_go(engine: &Engine, why: Bridge, tenant: TenantId, name: &str) {
    if let Err(fault) = engine.drop_safepoint(&bridge(why, tenant, name)).await {
        tracing::debug!(feed = name, "its safepoint ends by itself: {fault}");
    }
}

/// Those of all feeds.
///
/// # Errors
/// When nothing can be stored.
pub(crate) async fn drop_all(engine: &Engine) -> Outcome<()> {
    for safepoint in engine.safepoints().into_iter().filter(|safepoint| is_of_feeds(&safepoint.service)) {
        engine.drop_safepoint(&safepoint.service).await?;
    }
    Ok(())
}

/// Says it, for the owner.
#[derive(Default)]
pub(super) struct Keeper {
    said: Option<Instant>,
}

impl Keeper {
    /// Does what is due.
    pub(super) async fn round(&mut self, engine: &Engine, known: &Known) {
        if self.said.is_some_and(|at| at.elapsed() < EVERY) {
            return;
        }
        self.said = Some(Instant::now());
        if let Err(fault) = say(engine, known).await {
            tracing::debug!("what changefeeds need is said later: {fault}");
        }
    }
}

async fn say(engine: &Engine, known: &Known) -> Outcome<()> {
    let checkpoint = |feed: &FeedRecord| engine.feed_progress(feed).checkpoint;
    match known.feeds().filter(|feed| needs(feed) && !engine.is_overdue(feed)).map(checkpoint).min() {
        // Until it is said again, however little time a feed has.
        Some(at) => engine.keep_for_feeds(Tso(at.0.saturating_sub(1)), engine.inner.config.feed_gc_ttl.max(EVERY * 2)).await?,
        None => engine.drop_safepoint(FEEDS).await?,
    }
    // Whoever takes one decides right behind it.
    let settled = |safepoint: &Safepoint| safepoint.until_ms + Millis::from(EVERY).0 <= engine.wall_ms() + Millis::from(BRIDGE_TTL).0;
    let settled: Vec<Safepoint> = engine.safepoints().into_iter().filter(settled).collect();
    for feed in known.feeds() {
        let bridges = [Bridge::Creating, Bridge::Resuming].map(|why| bridge(why, feed.tenant, &feed.name));
        for safepoint in settled.iter().filter(|safepoint| bridges.contains(&safepoint.service)) {
            engine.drop_safepoint(&safepoint.service).await?;
        }
    }
    Ok(())
}

/// Whether a feed still needs anything, and may have it: that this member lacks what it needs says nothing of the others.
fn needs(feed: &FeedRecord) -> bool {
    let lost = |code: &str| [Code::GcTtlExceeded, Code::SnapshotLostByGc, Code::StartTsBeforeGc].iter().any(|lost| lost.text() == code);
    match feed.state {
        FeedState::Finished => false,
        FeedState::Failed => !feed.error.as_ref().is_some_and(|error| lost(&error.code)),
        FeedState::Normal | FeedState::Warning | FeedState::Pending | FeedState::Stopped => true,
    }
}
