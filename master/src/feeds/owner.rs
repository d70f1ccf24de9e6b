//! Has each feed delivered that is to be, and moves it through its life as it fares.

use super::config::ReplicaConfig;
use super::failure::{Code, Failure};
use super::progress::{Counts, Progress};
use super::run::Ended;
use super::safepoint::Keeper;
use super::task::{Begin, Task};
use crate::engine::Engine;
use crate::work::Bell;
use perilune_protocol::Tso;
use perilune_state::directory::{FeedEvent, FeedId, FeedRecord, FeedState, Known, Trouble};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::Instant;

/// How often it looks, if nobody rings.
const TICK: Duration = Duration::from_millis(200);
/// No pause between two tries is longer.
const BACKOFF_MAX: Duration = Duration::from_secs(600);

/// What is known of the feeds in a reign.
#[derive(Default)]
pub(crate) struct Feeds {
    /// Rings when one has changed.
    pub(crate) bell: Bell,
    /// Those that are delivered, and how far they are. Written by their tasks, a few times a second.
    live: Mutex<BTreeMap<FeedId, (u32, Progress)>>,
    /// Written by their tasks and by the owner, read by whoever shows them.
    counts: Mutex<BTreeMap<FeedId, Counts>>,
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

    /// What a feed has done.
    pub(crate) fn counts(&self, feed: FeedId) -> Counts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).get(&feed).copied().unwrap_or_default()
    }

    pub(super) fn count(&self, feed: FeedId, count: impl FnOnce(&mut Counts)) {
        count(self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(feed).or_default());
    }

    fn ended(&self, feed: FeedId) {
        self.lock().remove(&feed);
    }
}

/// The worker's thread. `handle` runs its rounds, and the feeds.
pub(crate) fn run(engine: &Engine, handle: &Handle) {
    let mut owner = Owner::default();
    while engine.reign.feeds.bell.wait(TICK) {
        handle.block_on(owner.round(engine, &|delivery| handle.spawn(delivery)));
    }
}

/// Has feeds delivered, round by round. What it has begun ends with it.
#[derive(Default)]
pub(crate) struct Owner {
    running: BTreeMap<FeedId, Task>,
    /// Of feeds that stumbled and have not recovered.
    streaks: BTreeMap<FeedId, Streak>,
    keeper: Keeper,
    /// From where a feed began anew last, since somebody else had written.
    anew: BTreeMap<FeedId, Tso>,
}

/// One error after the other.
struct Streak {
    /// Since when nothing was delivered: the first error, or when the checkpoint rose last.
    since: Instant,
    /// How far it was then.
    far: Tso,
    tries: u32,
    /// When it tries again.
    next: Instant,
    /// How far it was when it tried last.
    tried_at: Tso,
}

impl Streak {
    fn rise(&mut self, now: Instant, checkpoint: Tso) {
        if checkpoint > self.far {
            (self.since, self.far) = (now, checkpoint);
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.running.values().for_each(Task::abort);
    }
}

impl Owner {
    pub(crate) async fn round(&mut self, engine: &Engine, begin: Begin<'_>) {
        let known = engine.directory();
        let gone: Vec<FeedId> = self.running.keys().copied().filter(|id| known.feed(*id).is_none_or(|feed| !feed.state.runs())).collect();
        for id in gone {
            self.stop(engine, &known, id).await;
        }
        self.anew.retain(|id, _| known.feed(*id).is_some_and(|feed| feed.state.runs()));
        self.streaks.retain(|id, _| known.feed(*id).is_some_and(|feed| feed.state.runs() || feed.state == FeedState::Pending));
        for feed in known.feeds() {
            self.tend(engine, begin, &known, feed).await;
        }
        self.keeper.round(engine, &known).await;
    }

    async fn tend(&mut self, engine: &Engine, begin: Begin<'_>, known: &Known, feed: &FeedRecord) {
        if let Some(failure) = lost(engine, feed) {
            return self.becomes(engine, feed, FeedEvent::Broken, Some(failure)).await;
        }
        match feed.state {
            FeedState::Normal | FeedState::Warning => {}
            FeedState::Pending => return self.retry(engine, feed).await,
            FeedState::Failed | FeedState::Stopped | FeedState::Finished => return,
        }
        let stops = self.running.get(&feed.id).is_some_and(|task| task.is_stopping() || is_another(&task.feed, feed));
        if stops && !self.stop(engine, known, feed.id).await {
            return;
        }
        match self.running.get(&feed.id) {
            None => {
                let namespace = known.tenant(feed.tenant).map_or_else(String::new, |tenant| tenant.name.clone());
                engine.reign.feeds.tell(feed.id, feed.run, engine.kept_progress(feed).progress());
                self.running.insert(feed.id, Task::begin(engine, feed, namespace, begin));
            }
            Some(task) if task.is_finished() => {
                let Some(mut task) = self.running.remove(&feed.id) else { return };
                let end = task.end().await.unwrap_or_else(|e| Ended::Failed(Code::Unknown.with(format!("it stopped: {e}"))));
                match end {
                    Ended::Failed(failure) if failure.code.begins_anew() && self.may_begin_anew(engine, feed) => {
                        tracing::info!(feed = feed.name, "begins anew from what was kept: {failure}");
                        engine.reign.feeds.ended(feed.id);
                        engine.reign.feeds.bell.ring();
                    }
                    Ended::Reached => {
                        ended(engine, known, &task.feed).await;
                        self.becomes(engine, feed, FeedEvent::Reached, None).await;
                    }
                    Ended::Failed(failure) => {
                        ended(engine, known, &task.feed).await;
                        self.failed(engine, feed, failure).await;
                    }
                }
            }
            Some(_) => self.recover(engine, feed).await,
        }
    }

    /// Stops the task of a feed. Whether it has ended; if not, the next round goes on.
    async fn stop(&mut self, engine: &Engine, known: &Known, id: FeedId) -> bool {
        let Some(task) = self.running.get_mut(&id) else { return true };
        if !task.stop(engine.inner.config.feed_patience).await {
            return false;
        }
        if let Some(task) = self.running.remove(&id) {
            ended(engine, known, &task.feed).await;
        }
        true
    }

    /// A feed whose sink was written to by somebody else begins anew, unless that is how it ended before without having got on: a leader that is
    /// none does so once, and another feed again and again.
    fn may_begin_anew(&mut self, engine: &Engine, feed: &FeedRecord) -> bool {
        let kept = engine.kept_progress(feed).checkpoint;
        self.anew.insert(feed.id, kept).is_none_or(|before| before < kept)
    }

    async fn failed(&mut self, engine: &Engine, feed: &FeedRecord, failure: Failure) {
        engine.reign.feeds.count(feed.id, |counts| counts.errors += 1);
        let now = Instant::now();
        let base = engine.inner.config.feed_backoff;
        let checkpoint = engine.feed_progress(feed).checkpoint;
        let streak =
            self.streaks.entry(feed.id).or_insert(Streak { since: now, far: checkpoint, tries: 0, next: now, tried_at: checkpoint });
        streak.rise(now, checkpoint);
        let pause = base.saturating_mul(1 << streak.tries.min(16)).min(BACKOFF_MAX);
        // A tenth more or less, so that feeds that stumbled together do not try together.
        let pause = pause.mul_f64(0.9 + (feed.id.0 * 37 + u64::from(streak.tries) * 11) as f64 % 21.0 / 100.0);
        (streak.tries, streak.next) = (streak.tries + 1, now + pause);
        let spent = now.duration_since(streak.since) >= stuck_after(feed);
        // A member that cannot be asked now may have what this one's log begins behind.
        let elsewhere = failure.code == Code::SnapshotLostByGc && engine.inner.is_group();
        let event = if failure.code.lasts() && !elsewhere || spent { FeedEvent::Broken } else { FeedEvent::Stumbled };
        self.becomes(engine, feed, event, Some(failure)).await;
    }

    /// A feed that waits tries again when it is time.
    async fn retry(&mut self, engine: &Engine, feed: &FeedRecord) {
        let (now, checkpoint) = (Instant::now(), engine.feed_progress(feed).checkpoint);
        let pause = engine.inner.config.feed_backoff;
        // That of a leader before is not known.
        let streak = self.streaks.entry(feed.id).or_insert(Streak {
            since: now,
            far: checkpoint,
            tries: 1,
            next: now + pause,
            tried_at: checkpoint,
        });
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
        if let Some(streak) = self.streaks.get_mut(&feed.id) {
            streak.rise(Instant::now(), checkpoint);
        }
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
        // By the clock of the checkpoints that it is compared with, which may be ahead of this wall's.
        let at_ms = engine.feed_clock().await.map_or_else(|_| engine.wall_ms(), Tso::physical_ms);
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

/// The task of a feed has ended. How far it came is written down, unless the feed is gone, or is to begin elsewhere.
async fn ended(engine: &Engine, known: &Known, begun: &FeedRecord) {
    if known.feed(begun.id).is_some_and(|feed| feed.run == begun.run)
        && let Err(fault) = engine.keep_live(begun).await
    {
        tracing::warn!(feed = begun.name, "how far a changefeed came is not written down: {fault}");
    }
    engine.reign.feeds.ended(begun.id);
}

fn is_another(begun: &FeedRecord, feed: &FeedRecord) -> bool {
    let what = |feed: &FeedRecord| (feed.run, feed.sink.clone(), feed.sealed.clone(), feed.config.clone(), feed.target);
    what(begun) != what(feed)
}

fn stuck_after(feed: &FeedRecord) -> Duration {
    ReplicaConfig::stored(&feed.config).unwrap_or_default().changefeed_error_stuck_duration.duration()
}

/// Why a feed can never deliver all there is, if that is so. In a group a task finds out what this member does not have.
fn lost(engine: &Engine, feed: &FeedRecord) -> Option<Failure> {
    if matches!(feed.state, FeedState::Failed | FeedState::Finished) {
        return None;
    }
    let checkpoint = engine.feed_progress(feed).checkpoint;
    let (safe, _) = engine.events().oldest().ok()?;
    if checkpoint < safe && !engine.inner.is_group() {
        let why = "fail to create or maintain changefeed due to snapshot loss caused by GC. checkpoint-ts";
        return Some(Code::SnapshotLostByGc.with(format!("{why} {} is earlier than or equal to GC safepoint at {}", checkpoint.0, safe.0)));
    }
    if engine.is_overdue(feed) {
        let why = "has exceeded the GC TTL and the changefeed is blocking global GC progression";
        return Some(Code::GcTtlExceeded.with(format!("the checkpoint-ts({}) lag of the changefeed({}) {why}", checkpoint.0, feed.name)));
    }
    None
}
