//! Pages of what happened, for whoever asks from where, and waits.

use super::told::Gather;
use super::{EventLog, GATHER, Page, ReadError, Wanted};
use crate::engine::Engine;
use crate::work::aside;
use perilune_protocol::event::Cursor;
use perilune_protocol::rpc::watch::{Encoded, Follow, From, WAIT_MAX, Watch, Watched};
use perilune_protocol::{FaultCode, Outcome, TenantId, Tso};
use perilune_state::directory::{FeedRecord, Known};
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
    pub(crate) async fn watch<Events: Gather>(&self, mut question: Watch) -> Outcome<Watched<Events>> {
        let wanted = Wanted::new(std::mem::take(&mut question.filter))?;
        self.told(wanted, question).await
    }

    /// Answers the question.
    ///
    /// # Errors
    /// As [`Follow`] says.
    pub(crate) async fn follow(&self, Follow { feed, watch }: Follow) -> Outcome<Watched<Encoded>> {
        match feed {
            None => self.watch(watch).await,
            Some(feed) => self.watch_feed(&feed, watch).await,
        }
    }

    async fn watch_feed<Events: Gather>(&self, feed: &str, mut watch: Watch) -> Outcome<Watched<Events>> {
        let known = self.directory();
        let found = self.feed_named(&known, watch.filter.tenant, feed)?;
        let wanted = Wanted::of_feed(found, std::mem::take(&mut watch.filter))?;
        if watch.from == From::Checkpoint {
            watch.from = From::After(self.feed_progress(found).checkpoint);
        }
        self.told(wanted, watch).await
    }

    /// A changefeed of a tenant, that of `default` where none is named.
    pub(super) fn feed_named<'a>(&self, known: &'a Known, tenant: Option<TenantId>, feed: &str) -> Outcome<&'a FeedRecord> {
        let found = known.feed_named(tenant.unwrap_or_default(), feed);
        found.ok_or_else(|| FaultCode::InvalidParams.with(format!("the tenant has no changefeed {feed:.130?}")))
    }

    /// A page of what is wanted. The filter of the question is in that already.
    async fn told<Events: Gather>(&self, wanted: Wanted, question: Watch) -> Outcome<Watched<Events>> {
        let Watch { from, most_bytes, wait_ms, consumer, filter: _, everybody: _ } = question;
        let wanted = Arc::new(wanted.by(consumer)?);
        let from = match (self.events().begin(from).await, from) {
            (Err(fault), From::After(stamp)) if fault.code == FaultCode::OutOfRange => self.place_after(stamp).await?,
            (begin, _) => begin?,
        };
        match self.events().page(from, &wanted, most_bytes as usize, Duration::from_millis(wait_ms)).await {
            Err(fault) if fault.code == FaultCode::OutOfRange => {
                let Page { events: all, next, resolved } = self.read_elsewhere(from).await?;
                let known = self.directory();
                let (of, mut events) = (wanted.as_of(&known)?, Events::default());
                all.into_iter().filter(|event| of.wants(&known, &event.about())).for_each(|event| events.add(event));
                Ok(self.events().told(&wanted, events, next, resolved))
            }
            watched => watched,
        }
    }
}

impl EventLog {
    /// The place that is meant.
    pub(crate) async fn begin(self: &Arc<Self>, from: From) -> Outcome<Cursor> {
        match from {
            From::Now => self.aside(|log| Ok(log.marked(log.resolved().1))).await,
            From::Cursor(cursor) => Ok(cursor),
            From::Stamped(cursor, stamp) => {
                let log = Arc::clone(self);
                Ok(self.reading(cursor.before(), move || log.verified(Cursor { stamp, ..cursor })).await??)
            }
            From::Oldest => self.aside(|log| log.oldest().map(|(_, cursor)| cursor)).await,
            From::After(stamp) => self.aside(move |log| log.after(stamp)).await,
            From::Checkpoint => Err(FaultCode::InvalidParams.with("only a changefeed has a checkpoint")),
        }
    }

    /// What is wanted from a place on: as soon as there is something, or the wait is over, or so much was read that there is something to tell about
    /// how far. Who waits is told little no sooner than [`GATHER`] after it asked.
    ///
    /// # Errors
    /// [`super::ReadError`].
    pub(crate) async fn page<Events: Gather>(
        self: &Arc<Self>,
        from: Cursor,
        wanted: &Arc<Wanted>,
        most_bytes: usize,
        wait: Duration,
    ) -> Outcome<Watched<Events>> {
        let asked = Instant::now();
        let (soonest, deadline) = (asked + wait.min(GATHER), asked + wait.min(WAIT_MAX.into()));
        let most_bytes = most_bytes.clamp(*PAGE_BYTES.start(), *PAGE_BYTES.end());
        let (mut from, mut pages) = (from, 0);
        loop {
            if self.history.is_little(from.index) && Instant::now() < soonest {
                tokio::time::sleep_until(soonest).await;
            }
            let of = Arc::clone(wanted);
            let read = move |log: &Self| -> Outcome<_> {
                let unseen = log.entries(from, most_bytes)?;
                // Later than what was read: what was decided behind a change of the rules is told by the new ones.
                let known = log.seat.state().directory.known().clone();
                let (of, mut events) = (of.as_of(&known)?, Events::default());
                let (next, resolved) = log.see(unseen, |effect, cursor, stamp| events.gather(&of, &known, effect, cursor, stamp))?;
                Ok((events, next, resolved))
            };
            let log = Arc::clone(self);
            let (events, next, resolved) = self.reading(from.index, move || read(&log)).await??;
            let watched = self.told(wanted, events, next, resolved);
            pages += 1;
            let ended = watched.next == from;
            from = watched.next;
            if !watched.events.is_empty() || pages == PAGES || Instant::now() >= deadline {
                return Ok(watched);
            }
            if ended {
                pages = 0;
                // Whether it changed, or the time is up, what there is is read once more.
                let _ = tokio::time::timeout_at(deadline, self.changed(from)).await;
            }
        }
    }

    /// What is wanted of a page is told now.
    fn told<Events>(&self, wanted: &Wanted, events: Events, next: Cursor, resolved: Tso) -> Watched<Events> {
        if !wanted.consumer.is_empty() {
            self.consumers.told(&wanted.consumer, wanted.filter.tenant, (next, resolved), self.clock.now());
        }
        let end = self.history.reached(|| None).index + 1;
        Watched { events, next, resolved, behind: end.saturating_sub(next.index) }
    }

    /// Has the entries from this one on read: off the threads that serve connections, unless there is little.
    pub(crate) async fn reading<T: Send + 'static>(&self, from: u64, read: impl FnOnce() -> T + Send + 'static) -> Outcome<T> {
        if self.history.is_little(from) { Ok(read()) } else { aside(read).await }
    }

    /// Off the threads that serve connections: it may read files.
    pub(super) async fn aside<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Self) -> Result<T, ReadError> + Send + 'static,
    ) -> Outcome<T> {
        let log = Arc::clone(self);
        aside(move || read(&log)).await?.map_err(Into::into)
    }
}
