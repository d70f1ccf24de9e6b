//! What happens in the cluster, as it happens: one event after the other, none missing, none twice.

use crate::Store;
use perilune_protocol::event::{Cursor, Event, EventFilter};
use perilune_protocol::rpc::watch::{self, Follow, Followed, From, ListAll, ListFeed, Listed, Watched};
use perilune_protocol::{Millis, Outcome, Tso};
use std::time::{Duration, Instant};
use std::vec;

/// Bytes of the log that a page is asked for.
const PAGE_BYTES: u32 = 1 << 20;
/// So long the master waits for something to happen, before it is asked again.
const WAIT: Duration = Duration::from_secs(5);

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// With all that there is, as events, and then what happens: who applies both knows what the masters know.
    Snapshot,
    /// With what happens from now on.
    Now,
    /// As far back as is kept.
    Oldest,
    /// Behind the event that had this cursor.
    Cursor(Cursor),
    /// With what was decided later than this.
    After(Tso),
}

/// Reads events. Keeps its place while masters come and go; to keep it longer, keep [`Watch::cursor`].
///
/// Whoever is slow lags behind and misses nothing, until what it lacks is not kept any more: that is
/// [`perilune_protocol::FaultCode::OutOfRange`], and the end of this watch. Begin with [`Since::Snapshot`] then.
pub struct Watch {
    store: Store,
    question: Follow,
    /// The part of all that there is that is to be asked for next, and of how many; `None`: what happens.
    part: Option<(u32, u32)>,
    ready: vec::IntoIter<Event>,
    /// So many of those are of what there is, the rest of what happened.
    listed: usize,
    /// Behind the last event that was given.
    cursor: Option<Cursor>,
    resolved: Tso,
    behind: u64,
    settled: Option<Cursor>,
}

impl Store {
    /// Watches what happens to objects, segments and nodes: those of the store's tenant or, for the admin, of `everybody`.
    pub fn watch(&self, since: Since, filter: EventFilter, everybody: bool) -> Watch {
        Watch::new(self, since.place(), (since == Since::Snapshot).then_some((0, 0)), filter, everybody)
    }

    /// Watches what a changefeed of the store's tenant carries or, for the admin with `everybody`, of the tenant that the filter names: from where the
    /// feed is, unless something else is said. A snapshot has what there is of what the feed carries.
    pub fn watch_feed(&self, feed: impl Into<String>, since: Option<Since>, filter: EventFilter, everybody: bool) -> Watch {
        let mut watch = self.watch(since.unwrap_or(Since::Now), filter, everybody);
        watch.question.feed = Some(feed.into());
        if since.is_none() {
            watch.question.watch.from = From::Checkpoint;
        }
        watch
    }
}

impl Since {
    /// Where what happens begins.
    fn place(self) -> From {
        match self {
            Self::Snapshot | Self::Now => From::Now,
            Self::Oldest => From::Oldest,
            Self::Cursor(cursor) => From::behind(cursor),
            Self::After(stamp) => From::After(stamp),
        }
    }
}

impl Watch {
    fn new(store: &Store, from: From, part: Option<(u32, u32)>, filter: EventFilter, everybody: bool) -> Self {
        let watch = watch::Watch { from, filter, everybody, most_bytes: PAGE_BYTES, wait_ms: 0, consumer: String::new() };
        let (store, question) = (store.clone(), Follow { feed: None, watch });
        Self { store, question, part, ready: vec![].into_iter(), listed: 0, cursor: None, resolved: Tso(0), behind: 0, settled: None }
    }

    /// The same by this name, up to 64 visible characters of ASCII: the masters show how far it lags (`perilune_consumer_lag_seconds`).
    pub fn named(mut self, consumer: impl Into<String>) -> Self {
        self.question.watch.consumer = consumer.into();
        self
    }

    /// The next event, as soon as there is one; `None` when none came in time.
    ///
    /// # Errors
    /// When the masters refuse, or none answers in time. It may be asked again, and goes on where it was.
    pub fn next(&mut self, patience: Duration) -> Outcome<Option<Event>> {
        let mut deadline = None;
        loop {
            if let Some(event) = self.ready.next() {
                return Ok(Some(self.given(event)));
            }
            // What is there already costs no look at a clock.
            let now = Instant::now();
            let left = deadline.get_or_insert(now + patience).saturating_duration_since(now);
            if !self.ask(left)? && left.is_zero() {
                return Ok(None);
            }
        }
    }

    /// One that was ready, as it is given.
    fn given(&mut self, mut event: Event) -> Event {
        let is_listed = self.listed > 0;
        self.listed -= usize::from(is_listed);
        if !is_listed {
            event.cursor.stamp = event.commit_ts;
        }
        // An event of a snapshot is no place to go on from: the rest of it would be missing.
        self.cursor = match self.question.watch.from {
            _ if self.is_settling() => None,
            From::Cursor(begin) if is_listed => Some(begin),
            _ => Some(event.cursor),
        };
        event
    }

    /// Whether it still gives what there is, rather than what happens.
    fn is_settling(&self) -> bool {
        self.part.is_some() || self.listed > 0
    }

    /// Asks for more. Whether something came.
    fn ask(&mut self, patience: Duration) -> Outcome<bool> {
        if let Some((part, parts)) = self.part {
            let watch::Watch { filter, everybody, from, .. } = &self.question.watch;
            let begin = if let (From::Cursor(begin), 1..) = (*from, part) { Some(begin) } else { None };
            let question = ListAll { filter: filter.clone(), everybody: *everybody, part, parts, begin };
            let Listed { events, begin, settled, parts } = match &self.question.feed {
                Some(feed) => self.store.call(&ListFeed { feed: feed.clone(), list: question })?,
                None => self.store.call(&question)?,
            };
            if part == 0 {
                self.question.watch.from = From::Cursor(begin);
            }
            self.settled = Some(settled);
            self.listed += events.len();
            self.ready = events.into_iter();
            self.part = (part + 1 < parts).then_some((part + 1, parts));
            if let (From::Cursor(begin), false) = (self.question.watch.from, self.is_settling()) {
                self.cursor = Some(begin);
            }
            return Ok(true);
        }
        // Until there is a place to come back to, what happens while an answer is lost would be missed.
        let has_place = matches!(self.question.watch.from, From::Cursor(_) | From::Stamped(..));
        // So that an answer that is late is none that was lost.
        let wait = if has_place { patience.min(WAIT).min(self.store.patience() / 2) } else { Duration::ZERO };
        self.question.watch.wait_ms = Millis::from(wait).0;
        let Followed { watched: Watched { events, next, resolved, behind }, stamp } = self.store.call(&self.question)?;
        let (came, next) = (!events.is_empty(), Cursor { stamp, ..next });
        self.question.watch.from = From::behind(next);
        // Behind all that is ready, and so far beyond it.
        (self.resolved, self.behind) = (resolved.max(self.resolved), behind);
        self.ready = events.into_iter();
        if !came {
            self.cursor = Some(next);
        }
        Ok(came)
    }

    /// The place behind the last event that was given: [`Since::Cursor`] with it goes on there, in another process as well. `None` before the first,
    /// and while a snapshot is given.
    pub fn cursor(&self) -> Option<Cursor> {
        self.cursor
    }

    /// Whether what was given makes up the state of some moment, after [`Since::Snapshot`].
    pub fn is_exact(&self) -> bool {
        !self.is_settling()
            && self.ready.as_slice().is_empty()
            && self.settled.is_none_or(|settled| self.cursor.is_some_and(|at| at >= settled))
    }

    /// No event to come has this stamp or a lower one, once what is ready was taken.
    pub fn resolved(&self) -> Tso {
        self.resolved
    }

    /// Entries of the log that lay behind the last answer: how much this watch lags.
    pub fn behind(&self) -> u64 {
        self.behind
    }
}
