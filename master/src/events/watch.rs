//! Pages of what happened, for whoever asks from where, and waits.

use super::{EventLog, Page, Wanted};
use crate::engine::Engine;
use crate::work::aside;
use perilune_protocol::event::Cursor;
use perilune_protocol::rpc::watch::{From, WAIT_MAX, Watch, WatchFeed, Watched};
use perilune_protocol::{FaultCode, Outcome};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// An answer reads so many bytes of the log at least, and at most.
const PAGE_BYTES: std::ops::RangeInclusive<usize> = 4 << 10..=4 << 20;
/// After so many pages without anything that is wanted, the asker is told how far that was.
const PAGES: usize = 64;

impl Engine {
    /// Answers the question.
    ///
    /// # Errors
    /// As [`Watch`] says.
    pub(crate) async fn watch(&self, mut question: Watch) -> Outcome<Watched> {
        let wanted = Wanted::new(std::mem::take(&mut question.filter))?;
        self.told(wanted, question).await
    }

    /// Answers the question.
    ///
    /// # Errors
    /// As [`WatchFeed`] says.
    pub(crate) async fn watch_feed(&self, WatchFeed { feed, mut watch }: WatchFeed) -> Outcome<Watched> {
        let known = self.directory();
        let found = known.feed_named(watch.filter.tenant.unwrap_or_default(), &feed);
        let found = found.ok_or_else(|| FaultCode::InvalidParams.with(format!("the tenant has no changefeed {feed:.130?}")))?;
        let wanted = Wanted::of_feed(found, std::mem::take(&mut watch.filter))?;
        if watch.from == From::Checkpoint {
            watch.from = From::After(self.feed_progress(found).checkpoint);
        }
        self.told(wanted, watch).await
    }

    /// A page of what is wanted. The filter of the question is in that already.
    async fn told(&self, wanted: Wanted, question: Watch) -> Outcome<Watched> {
        let Watch { from, most_bytes, wait_ms, consumer, filter: _, everybody: _ } = question;
        let wanted = Arc::new(wanted.by(consumer)?);
        let from = self.events().begin(from).await?;
        self.events().page(from, &wanted, most_bytes as usize, Duration::from_millis(wait_ms)).await
    }
}

impl EventLog {
    /// The place that is meant.
    pub(crate) async fn begin(self: &Arc<Self>, from: From) -> Outcome<Cursor> {
        match from {
            From::Now => Ok(self.resolved().1),
            From::Cursor(cursor) => Ok(cursor),
            From::Stamped(cursor, stamp) => self.aside(move |log| log.verified(Cursor { stamp, ..cursor })).await,
            From::Oldest => self.aside(|log| log.oldest().map(|(_, cursor)| cursor)).await,
            From::After(stamp) => self.aside(move |log| log.after(stamp)).await,
            From::Checkpoint => Err(FaultCode::InvalidParams.with("only a changefeed has a checkpoint")),
        }
    }

    /// What is wanted from a place on: as soon as there is something, or the wait is over, or so much was read that there is something to tell about
    /// how far.
    ///
    /// # Errors
    /// [`super::ReadError`].
    pub(crate) async fn page(self: &Arc<Self>, from: Cursor, wanted: &Arc<Wanted>, most_bytes: usize, wait: Duration) -> Outcome<Watched> {
        let deadline = Instant::now() + wait.min(WAIT_MAX.into());
        let most_bytes = most_bytes.clamp(*PAGE_BYTES.start(), *PAGE_BYTES.end());
        let (mut from, mut pages) = (from, 0);
        loop {
            let of = Arc::clone(wanted);
            let read = move |log: &Self| -> Outcome<Page> {
                let mut page = log.read(from, most_bytes)?;
                // Later than what was read: what was decided behind a change of the rules is told by the new ones.
                let known = log.seat.state().directory.known().clone();
                let of = of.as_of(&known)?;
                page.events.retain(|event| of.wants(&known, event));
                Ok(page)
            };
            let log = Arc::clone(self);
            let Page { events, next, resolved } = aside(move || read(&log)).await??;
            pages += 1;
            if !wanted.consumer.is_empty() {
                self.consumers.told(&wanted.consumer, wanted.filter.tenant, (next, resolved), self.clock.now());
            }
            let ended = next == from;
            from = next;
            if !events.is_empty() || pages == PAGES || Instant::now() >= deadline {
                let end = self.history.reached(|| None).index + 1;
                return Ok(Watched { events, next, resolved, behind: end.saturating_sub(next.index) });
            }
            if ended {
                pages = 0;
                // Whether it changed, or the time is up, what there is is read once more.
                let _ = tokio::time::timeout_at(deadline, self.changed(next)).await;
            }
        }
    }

    /// Off the threads that serve connections: it may read files.
    async fn aside<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Self) -> Result<T, super::ReadError> + Send + 'static,
    ) -> Outcome<T> {
        let log = Arc::clone(self);
        aside(move || read(&log)).await?.map_err(Into::into)
    }
}
