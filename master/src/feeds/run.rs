//! One feed as it delivers: reads a page of events, makes rows, hands them to the sink, flushes now and then, and says how far it is.
//!
//! A member that leads no more may not know it yet. So nothing that was found is used before it is sure that nobody else led until then
//! (`vouched`): what was read before the sink is asked for anything, and what the sink found before it is asked for the next thing.

use super::bootstrap::{self, Bootstrap};
use super::check::check;
use super::config::ReplicaConfig;
use super::failure::{Code, Failure};
use super::progress::{Kept, Progress};
use super::row::{Row, Rows};
use super::sink::{self, Sink, Whose};
use super::sink_of;
use super::task::Gate;
use crate::engine::Engine;
use crate::events::{GATHER, Page};
use crate::planted::{self, Defect};
use crate::work::aside;
use perilune_protocol::event::{Cursor, EventFilter};
use perilune_protocol::rpc::watch::ListAll;
use perilune_protocol::{Fault, FaultCode, Tso};
use perilune_state::directory::FeedRecord;
use std::pin::Pin;
use std::time::Duration;
use tokio::time::Instant;

/// Bytes of the log that are read at once, where the quota of the feed is not below.
const PAGE_BYTES: u64 = 1 << 20;
/// What is in flight may be so many pages, in rows, which take more room than what they are made of.
const PAGES_IN_QUOTA: u64 = 8;
/// How far it is is written down so often while rows come, and while none do.
const KEEP_EVERY: Duration = Duration::from_secs(1);
const KEEP_IDLE_EVERY: Duration = Duration::from_secs(30);
/// While none come, its readers are told so often that there were none.
const TELL_IDLE_EVERY: Duration = Duration::from_secs(5);
/// How far all is known is looked at so often while nothing happens.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Rows of a list that are written at once.
const LISTED_AT_ONCE: usize = 256;
/// Pause before it is asked again whether this member leads.
const VOUCH_AGAIN: Duration = Duration::from_millis(20);

/// How a feed ended that was not told to.
pub(crate) enum Ended {
    /// It has delivered everything up to its target.
    Reached,
    /// It cannot go on.
    Failed(Failure),
}

/// A feed that delivers.
pub(crate) type Delivery = Pin<Box<dyn Future<Output = Ended> + Send>>;

/// Delivers until it is told to end, which may be at any moment.
pub(super) async fn deliver(engine: Engine, feed: FeedRecord, namespace: String, gate: Gate) -> Ended {
    let label = format!("{namespace}/{}", feed.name);
    let run = async {
        let mut run = Run::begin(&engine, &feed, &label, &namespace, gate).await?;
        run.go().await
    };
    run.await.map_or_else(Ended::Failed, |()| Ended::Reached)
}

struct Run<'a> {
    engine: &'a Engine,
    feed: &'a FeedRecord,
    sink: Box<dyn Sink>,
    /// Passed before the sink is asked for anything.
    gate: Gate,
    rows: Option<Rows>,
    /// The places of rows that somebody wants left out: its sink does not take them.
    ignored: Vec<String>,
    bootstrap: Option<Bootstrap>,
    quota: u64,
    next: Cursor,
    progress: Progress,
    /// Bytes that the sink took and has not flushed, and since when.
    kept: u64,
    kept_since: Option<Instant>,
    /// The last row that it took.
    last_row: Tso,
    /// What was written down last, and when.
    written: (Kept, Instant),
    told: Instant,
    clock: Instant,
}

impl<'a> Run<'a> {
    async fn begin(engine: &'a Engine, feed: &'a FeedRecord, label: &str, namespace: &str, gate: Gate) -> Result<Self, Failure> {
        let config = ReplicaConfig::stored(&feed.config);
        let config = config.map_err(|e| Code::InvalidReplicaConfig.with(format!("invalid replica config, as it is stored: {e}")))?;
        let checked = check(&sink_of(engine, feed)?, &config)?;
        let kept = engine.kept_progress(feed);
        let whose = Whose { name: label, cluster: engine.inner.log.cluster_id(), run: [feed.id.0, u64::from(feed.run)] };
        let sink = {
            let _inside = gate.pass().await;
            sink::open(&whose, &checked, &config, &engine.feed_place()).await?
        };
        let next = match planted::is(Defect::SkippedGap) {
            true => engine.events().resolved().1,
            false => engine.place_after(kept.checkpoint).await.map_err(|fault| unread(fault, kept.checkpoint))?,
        };
        let now = Instant::now();
        let bootstrap = Bootstrap::of(&checked, &config, kept.checkpoint == feed.start);
        Ok(Self {
            engine,
            feed,
            sink,
            gate,
            rows: Some(Rows::new(feed.tenant, namespace, checked.filter)),
            ignored: config.filter.ignore_rows,
            bootstrap,
            quota: config.memory_quota,
            next,
            progress: kept.progress(),
            kept: 0,
            kept_since: None,
            last_row: kept.last_synced,
            written: (kept, now),
            told: now,
            clock: now,
        })
    }

    async fn go(&mut self) -> Result<(), Failure> {
        loop {
            self.list().await?;
            let (page, rows) = self.read().await?;
            vouched(self.engine).await;
            let idle = page.next == self.next && rows.is_empty();
            self.take(&rows).await?;
            if let Some(bootstrap) = &mut self.bootstrap {
                bootstrap.count(rows.len());
            }
            self.next = page.next;
            self.progress.resolved = self.progress.resolved.max(page.resolved);
            let reached = self.feed.target.is_some_and(|target| self.progress.resolved >= target);
            if reached {
                self.progress.resolved = self.feed.target.unwrap_or(self.progress.resolved);
            }
            self.settle(reached).await?;
            if reached {
                self.keep().await;
                return Ok(());
            }
            if idle {
                self.rest().await;
            }
        }
    }

    /// Has the sink take rows.
    async fn take(&mut self, rows: &[Row]) -> Result<(), Failure> {
        let Some(last) = rows.last() else { return Ok(()) };
        vouched(self.engine).await;
        let there = {
            let _inside = self.gate.pass().await;
            self.sink.write(rows).await?
        };
        self.engine.reign.feeds.count(self.feed.id, |counts| {
            counts.rows += rows.len() as u64;
            counts.bytes += there;
        });
        self.kept += rows.iter().map(bytes).sum::<u64>();
        self.kept_since.get_or_insert_with(Instant::now);
        self.last_row = last.commit_ts;
        Ok(())
    }

    /// All there is, if it is time for that.
    async fn list(&mut self) -> Result<(), Failure> {
        if !self.bootstrap.as_ref().is_some_and(Bootstrap::is_due) {
            return Ok(());
        }
        let filter = EventFilter { tenant: Some(self.feed.tenant), ..EventFilter::default() };
        // None that is older than the rows before it: that would bring back what they have removed.
        let mut listed_rows = 0;
        let mut next = Some(ListAll { filter, everybody: false, part: 0, parts: 0, begin: Some(self.next) });
        while let Some(question) = next {
            let (engine, at) = (self.engine.clone(), self.progress.resolved);
            let Some(mut maker) = self.rows.take() else { return Err(Code::Unknown.with("it was stopped")) };
            let listed = aside(move || (bootstrap::list(&engine, question, at, &mut maker), maker));
            let (listed, maker) = listed.await?;
            self.rows = Some(maker);
            let (rows, more) = listed?;
            listed_rows += rows.len() as u64;
            for some in rows.chunks(LISTED_AT_ONCE) {
                self.take(some).await?;
                self.settle(false).await?;
            }
            next = more;
        }
        if let Some(bootstrap) = &mut self.bootstrap {
            bootstrap.done(listed_rows);
        }
        Ok(())
    }

    /// The next events, as rows.
    async fn read(&mut self) -> Result<(Page, Vec<Row>), Failure> {
        let known = self.engine.directory();
        let most = (self.quota / PAGES_IN_QUOTA).clamp(4096, PAGE_BYTES) as usize;
        let page = self.engine.read_events(self.next, most).await.map_err(|fault| unread(fault, self.progress.checkpoint))?;
        let Some(mut maker) = self.rows.take() else { return Err(Code::Unknown.with("it was stopped")) };
        let target = self.feed.target;
        let made = self.engine.events().reading(self.next.index, move || {
            let within = page.events.iter().take_while(|event| target.is_none_or(|target| event.commit_ts <= target));
            let rows = within.filter_map(|event| maker.of(&known, event)).collect::<Vec<_>>();
            (page, rows, maker)
        });
        let (page, mut rows, maker) = made.await?;
        self.rows = Some(maker);
        rows.retain(|row| {
            let ignored = self.ignored.contains(&row.place);
            if ignored {
                tracing::warn!(feed = self.feed.name, place = row.place, "left out, as its config says: {}", row.name());
            }
            !ignored
        });
        Ok((page, rows))
    }

    /// Flushes if it is time, and says how far it is.
    async fn settle(&mut self, now: bool) -> Result<(), Failure> {
        let keeps = Duration::from_millis(self.sink.keeps_ms());
        let due = self.kept_since.is_some_and(|since| since.elapsed() >= keeps || self.kept > self.quota / 2);
        let silent = self.kept_since.is_none() && self.told.elapsed() >= TELL_IDLE_EVERY.max(keeps);
        // Until it is told how far that was, so that whoever is stopped has told it.
        let mut inside = None;
        if now || due || silent {
            vouched(self.engine).await;
            let began = Instant::now();
            inside = Some(self.gate.pass().await);
            self.sink.flush(self.progress.resolved).await?;
            self.engine.reign.feeds.count(self.feed.id, |counts| {
                counts.flushes += 1;
                counts.flush_micros += began.elapsed().as_micros() as u64;
            });
            (self.kept, self.kept_since, self.told) = (0, None, Instant::now());
            self.progress.last_synced = self.last_row;
        }
        if self.kept_since.is_none() || planted::is(Defect::EarlyCheckpoint) {
            self.progress.checkpoint = self.progress.resolved;
        }
        self.engine.reign.feeds.tell(self.feed.id, self.feed.run, self.progress);
        drop(inside);
        let news = self.progress.last_synced > self.written.0.last_synced;
        if self.written.1.elapsed() >= if news { KEEP_EVERY } else { KEEP_IDLE_EVERY } {
            self.keep().await;
        }
        Ok(())
    }

    /// Writes down how far it is.
    async fn keep(&mut self) {
        let Progress { checkpoint, last_synced, .. } = self.progress;
        let kept = Kept { run: self.feed.run, checkpoint, last_synced };
        match self.engine.keep_progress(self.feed, &kept).await {
            Ok(()) => self.written = (kept, Instant::now()),
            // Then more is delivered again.
            Err(fault) => tracing::warn!(feed = self.feed.name, "how far a changefeed is is not written down: {fault}"),
        }
    }

    /// Until there is something to do.
    async fn rest(&mut self) {
        if self.clock.elapsed() >= LOOK_EVERY {
            // So that the stamps go on while nothing happens. Without them it is only not known how late it is.
            let _ = self.engine.feed_clock().await;
            self.clock = Instant::now();
        }
        let events = self.engine.events().clone();
        tokio::select! {
            biased;
            () = events.changed(self.next) => tokio::time::sleep(GATHER).await,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Returns once it is sure that nobody else has led so far. Where somebody does the reign is over, and its end is that of this task.
async fn vouched(engine: &Engine) {
    while engine.vouch().await.is_err() {
        tokio::time::sleep(VOUCH_AGAIN).await;
    }
}

fn unread(fault: Fault, checkpoint: Tso) -> Failure {
    match fault.code {
        FaultCode::OutOfRange => {
            let why = "fail to create or maintain changefeed due to snapshot loss caused by GC. checkpoint-ts";
            Code::SnapshotLostByGc.with(format!("{why} {} is earlier than or equal to GC safepoint: {}", checkpoint.0, fault.message))
        }
        _ => fault.into(),
    }
}

/// About what a row takes.
fn bytes(row: &Row) -> u64 {
    use super::row::Value;
    let of = |value: &Value| match value {
        Value::Null | Value::Number(_) => 16,
        Value::Text(text) => 32 + text.len(),
        Value::Binary(bytes) => 32 + bytes.len(),
    };
    row.values.iter().map(of).sum::<usize>() as u64 + 96
}
