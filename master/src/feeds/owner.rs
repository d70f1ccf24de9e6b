//! Has each feed delivered that is to be, and moves it through its life as it fares.

use super::config::ReplicaConfig;
use super::failure::{Code, Failure};
use super::progress::Progress;
use super::run::{Ended, deliver};
use super::safepoint::Keeper;
use crate::engine::Engine;
use crate::work::Bell;
use perilune_protocol::{Millis, Tso};
use perilune_state::directory::{FeedEvent, FeedId, FeedRecord, FeedState, Known, Trouble};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// How often it looks, if nobody rings.
const TICK: Duration = Duration::from_millis(200);
/// No pause between two tries is longer.
const BACKOFF_MAX: Duration = Duration::from_secs(600);
/// A feed that lags so far behind holds back everybody's garbage, and is given up.
pub(super) const GC_TTL: Duration = Duration::from_secs(86_400);

/// What is known of the feeds in a reign.
#[derive(Default)]
pub(crate) struct Feeds {
    /// Rings when one has changed.
    pub(crate) bell: Bell,
    /// Those that are delivered, and how far they are. Written by their tasks, a few times a second.
    live: Mutex<BTreeMap<FeedId, (u32, Progress)>>,
}

impl Feeds {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<FeedId, (u32, Progress)>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far a feed is that is delivered.
    pub(crate) fn progress(&self, feed: &FeedRecord) -> Option<Progress> {
        self.lock().get(&feed.id).filter(|(run, _)| *run == feed.run).map(|(_, progress)| *progress)
    }

    /// Whether somebody is writing for it.
    pub(crate) fn delivers(&self, feed: FeedId) -> bool {
        self.lock().contains_key(&feed)
    }

    pub(super) fn tell(&self, feed: FeedId, run: u32, progress: Progress) {
        self.lock().insert(feed, (run, progress));
    }

    fn ended(&self, feed: FeedId) {
        self.lock().remove(&feed);
    }
}

/// The worker's thread. `handle` runs its rounds, and the feeds.
pub(crate) fn run(engine: &Engine, handle: &Handle) {
    let mut owner = Owner::default();
    while engine.reign.feeds.bell.wait(TICK) {
        handle.block_on(owner.round(engine, handle));
    }
    owner.running.values().for_each(|running| running.task.abort());
}

#[derive(Default)]
struct Owner {
    running: BTreeMap<FeedId, Running>,
    /// Of feeds that stumbled and have not recovered.
    streaks: BTreeMap<FeedId, Streak>,
    keeper: Keeper,
}

struct Running {
    /// What was begun.
    feed: FeedRecord,
    task: JoinHandle<Ended>,
}

/// One error after the other.
struct Streak {
    since: Instant,
    tries: u32,
    /// When it tries again.
    next: Instant,
    /// How far it was when it tried last.
    tried_at: Tso,
}

impl Owner {
    async fn round(&mut self, engine: &Engine, handle: &Handle) {
        let known = engine.directory();
        let gone: Vec<FeedId> = self.running.keys().copied().filter(|id| known.feed(*id).is_none_or(|feed| !feed.state.runs())).collect();
        for id in gone {
            self.stop(engine, id).await;
        }
        self.streaks.retain(|id, _| known.feed(*id).is_some_and(|feed| feed.state.runs() || feed.state == FeedState::Pending));
        for feed in known.feeds() {
            self.tend(engine, handle, &known, feed).await;
        }
        self.keeper.round(engine, &known).await;
    }

    async fn tend(&mut self, engine: &Engine, handle: &Handle, known: &Known, feed: &FeedRecord) {
        if let Some(failure) = lost(engine, feed) {
            return self.becomes(engine, feed, FeedEvent::Broken, Some(failure)).await;
        }
        match feed.state {
            FeedState::Normal | FeedState::Warning => {}
            FeedState::Pending => return self.retry(engine, feed).await,
            FeedState::Failed | FeedState::Stopped | FeedState::Finished => return,
        }
        if self.running.get(&feed.id).is_some_and(|running| is_another(&running.feed, feed)) {
            self.stop(engine, feed.id).await;
        }
        match self.running.get(&feed.id) {
            None => {
                let namespace = known.tenant(feed.tenant).map_or_else(String::new, |tenant| tenant.name.clone());
                engine.reign.feeds.tell(feed.id, feed.run, engine.kept_progress(feed).progress());
                let task = handle.spawn(deliver(engine.clone(), feed.clone(), namespace));
                self.running.insert(feed.id, Running { feed: feed.clone(), task });
            }
            Some(running) if running.task.is_finished() => {
                let Some(running) = self.running.remove(&feed.id) else { return };
                engine.reign.feeds.ended(feed.id);
                let ended = running.task.await.unwrap_or_else(|e| Ended::Failed(Code::Unknown.with(format!("it stopped: {e}"))));
                match ended {
                    Ended::Reached => self.becomes(engine, feed, FeedEvent::Reached, None).await,
                    Ended::Failed(failure) => self.failed(engine, feed, failure).await,
                }
            }
            Some(_) => self.recover(engine, feed).await,
        }
    }

    /// Ends the task of a feed, and waits until nothing is written for it any more.
    async fn stop(&mut self, engine: &Engine, id: FeedId) {
        if let Some(Running { task, .. }) = self.running.remove(&id) {
            task.abort();
            // Its only other end is its own.
            let _ = task.await;
        }
        engine.reign.feeds.ended(id);
    }

    async fn failed(&mut self, engine: &Engine, feed: &FeedRecord, failure: Failure) {
        let now = Instant::now();
        let base = engine.inner.config.feed_backoff;
        let checkpoint = engine.feed_progress(feed).checkpoint;
        let streak = self.streaks.entry(feed.id).or_insert(Streak { since: now, tries: 0, next: now, tried_at: checkpoint });
        let pause = base.saturating_mul(1 << streak.tries.min(16)).min(BACKOFF_MAX);
        // A tenth more or less, so that feeds that stumbled together do not try together.
        let pause = pause.mul_f64(0.9 + (feed.id.0 * 37 + u64::from(streak.tries) * 11) as f64 % 21.0 / 100.0);
        (streak.tries, streak.next) = (streak.tries + 1, now + pause);
        let spent = now.duration_since(streak.since) >= stuck_after(feed);
        let event = if failure.code.lasts() || spent { FeedEvent::Broken } else { FeedEvent::Stumbled };
        self.becomes(engine, feed, event, Some(failure)).await;
    }

    /// A feed that waits tries again when it is time.
    async fn retry(&mut self, engine: &Engine, feed: &FeedRecord) {
        let (now, checkpoint) = (Instant::now(), engine.feed_progress(feed).checkpoint);
        let pause = engine.inner.config.feed_backoff;
        // That of a leader before is not known.
        let streak = self.streaks.entry(feed.id).or_insert(Streak { since: now, tries: 1, next: now + pause, tried_at: checkpoint });
        if now >= streak.next {
            streak.tried_at = checkpoint;
            self.becomes(engine, feed, FeedEvent::Retried, None).await;
        }
    }

    /// A feed that stumbled and gets on is well again; one that does not for too long is given up.
    async fn recover(&mut self, engine: &Engine, feed: &FeedRecord) {
        if feed.state != FeedState::Warning {
            return;
        }
        let checkpoint = engine.feed_progress(feed).checkpoint;
        let moved = self.streaks.get(&feed.id).is_none_or(|streak| checkpoint > streak.tried_at);
        if moved && feed.warning.as_ref().is_none_or(|warning| checkpoint.physical_ms() > warning.at_ms) {
            self.streaks.remove(&feed.id);
            return self.becomes(engine, feed, FeedEvent::Recovered, None).await;
        }
        if self.streaks.get(&feed.id).is_some_and(|streak| streak.since.elapsed() > stuck_after(feed)) {
            let why = "changefeed is in unretryable state, please check the error message, and you should manually handle it";
            self.becomes(engine, feed, FeedEvent::Broken, Some(Code::Unretryable.with(why))).await;
        }
    }

    async fn becomes(&mut self, engine: &Engine, feed: &FeedRecord, event: FeedEvent, failure: Option<Failure>) {
        let at_ms = engine.wall_ms();
        let trouble = failure.map(|failure| {
            tracing::warn!(feed = feed.name, ?event, "{failure}");
            let addr = engine.inner.card.service.clone();
            Trouble { at_ms, addr, code: failure.code.text().into(), message: failure.message }
        });
        let decided = engine.decide(&|known, now_ms| known.advance_feed(feed.id, event, trouble.as_ref(), now_ms)).await;
        match decided.map_err(perilune_protocol::Fault::from) {
            Ok(()) => engine.reign.feeds.bell.ring(),
            // Looked at again, if this is still the leader.
            Err(fault) => tracing::warn!(feed = feed.name, ?event, "what became of a changefeed is not written down: {fault}"),
        }
    }
}

fn is_another(begun: &FeedRecord, feed: &FeedRecord) -> bool {
    let what = |feed: &FeedRecord| (feed.run, feed.sink.clone(), feed.sealed.clone(), feed.config.clone(), feed.target);
    what(begun) != what(feed)
}

fn stuck_after(feed: &FeedRecord) -> Duration {
    ReplicaConfig::stored(&feed.config).unwrap_or_default().changefeed_error_stuck_duration.duration()
}

/// Why a feed can never deliver all there is, if that is so.
fn lost(engine: &Engine, feed: &FeedRecord) -> Option<Failure> {
    if matches!(feed.state, FeedState::Failed | FeedState::Finished) {
        return None;
    }
    let checkpoint = engine.feed_progress(feed).checkpoint;
    let (safe, _) = engine.events().oldest().ok()?;
    if checkpoint < safe {
        let why = "fail to create or maintain changefeed due to snapshot loss caused by GC. checkpoint-ts";
        return Some(Code::SnapshotLostByGc.with(format!("{why} {} is earlier than or equal to GC safepoint at {}", checkpoint.0, safe.0)));
    }
    if engine.wall_ms().saturating_sub(checkpoint.physical_ms()) > Millis::from(GC_TTL).0 {
        let why = "has exceeded the GC TTL and the changefeed is blocking global GC progression";
        return Some(Code::GcTtlExceeded.with(format!("the checkpoint-ts({}) lag of the changefeed({}) {why}", checkpoint.0, feed.name)));
    }
    None
}
