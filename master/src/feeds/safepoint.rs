//! What feeds still need of what happened, said to those who keep it.

use super::failure::{Code, Failure};
use crate::engine::Engine;
use crate::events::Safepoint;
use perilune_protocol::{FaultCode, Millis, Outcome, TenantId, Tso};
use perilune_state::directory::{FeedRecord, FeedState, Known};
use std::time::Duration;
use tokio::time::Instant;

/// The service that all feeds are together.
const SERVICE: &str = "ticdc";
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
    format!("{SERVICE}-{why}-{}_{name}", tenant.0)
}

/// A feed needs everything from `start` on.
///
/// # Errors
/// [`Code::StartTsBeforeGc`]; when nothing can be stored.
pub(crate) async fn hold_for(engine: &Engine, why: Bridge, tenant: TenantId, name: &str, start: Tso) -> Result<(), Failure> {
    let before = |safe: Tso| {
        let why = "fail to create or maintain changefeed because start-ts";
        Code::StartTsBeforeGc.with(format!("{why} {} is earlier than or equal to GC safepoint at {}", start.0, safe.0))
    };
    let safe = engine.safe_stamp().await.map_err(|fault| Code::Unknown.with(fault.message))?;
    if start <= safe {
        return Err(before(safe));
    }
    // Of two that are created at once under one name one wins: what is held is enough for either. What is gone holds nobody up.
    let (service, needs) = (bridge(why, tenant, name), Tso(start.0 - 1));
    let known = engine.safepoints().into_iter().find(|known| known.service == service && known.stamp >= safe);
    let held = engine.set_safepoint(&service, known.map_or(needs, |known| known.stamp.min(needs)), BRIDGE_TTL).await;
    held.map(drop).map_err(|fault| match fault.code {
        FaultCode::OutOfRange => before(start),
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
    let ours = |service: &str| service.strip_prefix(SERVICE).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
    for safepoint in engine.safepoints().into_iter().filter(|safepoint| ours(&safepoint.service)) {
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
    let safe = engine.safe_stamp().await?;
    let checkpoint = |feed: &FeedRecord| engine.feed_progress(feed).checkpoint;
    // Those that have lost something have nothing to keep.
    let oldest = known.feeds().filter(|feed| needs(feed)).map(checkpoint).filter(|at| *at > safe).min();
    match oldest {
        Some(at) => drop(engine.set_safepoint(SERVICE, Tso(at.0 - 1), engine.inner.config.feed_gc_ttl).await?),
        None => engine.drop_safepoint(SERVICE).await?,
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

/// Whether a feed still needs anything.
fn needs(feed: &FeedRecord) -> bool {
    let lost = |code: &str| [Code::GcTtlExceeded, Code::SnapshotLostByGc, Code::StartTsBeforeGc].iter().any(|lost| lost.text() == code);
    match feed.state {
        FeedState::Finished => false,
        FeedState::Failed => !feed.error.as_ref().is_some_and(|error| lost(&error.code)),
        FeedState::Normal | FeedState::Warning | FeedState::Pending | FeedState::Stopped => true,
    }
}
