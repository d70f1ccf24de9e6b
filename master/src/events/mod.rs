//! What happened, told in the order of the log: the log read back, effect by effect, without those that came to nothing.
//!
//! | file | what |
//! |---|---|
//! | `mod` | [`EventLog`]: places in it, waiting for more, how far all is known |
//! | `read` | what follows a place |
//! | `told` | from an effect to an event |
//! | `watch`, `listing` | what is asked for over the network: pages, and all that there is |
//! | `elsewhere` | what this member's log begins behind, of another member |
//! | `wanted`, `consumers` | which events are told, and how far those are who are told |
//! | `safepoints` | who still needs what |
//! | `tend` | what the leader does so that there is something to tell |
//!
//! Every member can be asked, also one that follows: what it has applied is committed, and no member tells it otherwise.

mod consumers;
mod elsewhere;
mod listing;
mod read;
mod safepoints;
mod tend;
pub(crate) mod told;
mod wanted;
mod watch;

pub use consumers::Lag;
pub(crate) use listing::{Listing, SNAPSHOT, Told};
pub use read::Page;
pub use safepoints::Safepoint;
pub(crate) use safepoints::{FEEDS, is_of_feeds, needed};
pub(crate) use wanted::Wanted;

use crate::engine::{Clock, Seat};
use crate::log::{History, Past, Unread};
use perilune_protocol::event::Cursor;
use perilune_protocol::{Fault, FaultCode, Tso};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use uuid::Uuid;

/// Who follows what happens looks no more often: what is decided meanwhile is read at once, so that many puts cost it one waking, as few do.
pub(crate) const GATHER: Duration = Duration::from_millis(2);
/// The clocks of two masters are no further apart.
const SKEW_MS: u64 = 5_000;

/// Events of one member's log. One for each member; shared.
pub struct EventLog {
    cluster: Uuid,
    history: Arc<History>,
    seat: Arc<Seat>,
    clock: Clock,
    /// The first entry that can be read, and the first stamp there; found when first asked for.
    begins: Mutex<Option<(u64, Tso)>>,
    /// When somebody last asked how far all is known, in milliseconds of the clock. A hint: relaxed.
    asked: AtomicU64,
    walks: listing::Walks,
    consumers: consumers::Consumers,
    /// Held by whoever decides about safepoints, until that is in the log: nobody is forgotten who has just said anew what it needs.
    needs: tokio::sync::Mutex<()>,
}

/// Why nothing can be read from a cursor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// What follows it is kept no more, at least here.
    #[error("what followed this cursor is not kept any more: begin with a snapshot, or at {oldest} if what is missing does not matter")]
    OutOfRange {
        /// The first place from which everything can be read.
        oldest: Cursor,
    },
    /// What happened before it is not what it was told behind, as where a lone master has lost power, and its last entries with that.
    #[error(
        "what this cursor was told behind is not what happened: begin with a snapshot, or at {oldest} if what is missing does not matter"
    )]
    Rewritten {
        /// The first place from which everything can be read.
        oldest: Cursor,
    },
    /// This master has not come so far: another may have, or will never, where a cluster was restored from an older state.
    #[error("this lies behind all that has happened here so far: ask again, or another master; if it stays so, begin with a snapshot")]
    Ahead,
    /// It was made by another cluster.
    #[error("this cursor is of the cluster {0}, and this one is another: begin with a snapshot")]
    Foreign(Uuid),
    /// The log cannot be read there.
    #[error("{0}")]
    Broken(String),
}

impl From<ReadError> for Fault {
    fn from(error: ReadError) -> Self {
        let code = match error {
            ReadError::OutOfRange { .. } | ReadError::Rewritten { .. } => FaultCode::OutOfRange,
            ReadError::Ahead => FaultCode::WrongState,
            ReadError::Foreign(_) => FaultCode::InvalidParams,
            ReadError::Broken(_) => FaultCode::Storage,
        };
        code.with(error.to_string())
    }
}

impl EventLog {
    pub(crate) fn new(cluster: Uuid, history: Arc<History>, seat: Arc<Seat>, clock: Clock) -> Self {
        Self {
            cluster,
            history,
            seat,
            clock,
            begins: Mutex::default(),
            asked: AtomicU64::new(0),
            walks: listing::Walks::default(),
            consumers: consumers::Consumers::default(),
            needs: tokio::sync::Mutex::default(),
        }
    }

    fn cursor(&self, index: u64, place: u32) -> Cursor {
        Cursor { cluster: self.cluster, index, place, stamp: Tso(0) }
    }

    /// The same place, unless what lies just before it was decided at another time than its stamp, where that is known. May read files.
    ///
    /// # Errors
    /// [`ReadError::Rewritten`].
    pub(crate) fn verified(&self, cursor: Cursor) -> Result<Cursor, ReadError> {
        let is_other = |past: Past| past.stamp != Some(cursor.stamp);
        if cursor.stamp > Tso(0) && cursor.cluster == self.cluster && self.before(cursor).is_some_and(is_other) {
            return Err(ReadError::Rewritten { oldest: self.cursor(self.history.first(), 0) });
        }
        Ok(cursor)
    }

    /// The same place, with its stamp where that can be found. May read files.
    fn marked(&self, cursor: Cursor) -> Cursor {
        let stamp = self.before(cursor).and_then(|past| past.stamp).unwrap_or(Tso(0));
        Cursor { stamp, ..cursor }
    }

    /// The entry that holds what lies just before this place. What is not there, is of another cluster or cannot be read is told by whoever reads on.
    fn before(&self, cursor: Cursor) -> Option<Past> {
        let before = cursor.before();
        self.history.read(before, 1).ok()?.into_iter().next().filter(|past| past.index == before)
    }

    fn error(&self, unread: Unread) -> ReadError {
        match unread {
            Unread::Behind(first) => ReadError::OutOfRange { oldest: self.cursor(first, 0) },
            Unread::Ahead(_) => ReadError::Ahead,
            Unread::Broken(what) => ReadError::Broken(what),
        }
    }

    /// A stamp that no event to come has or is below, and the place behind all events until then. Where this member leads it is as of now, also
    /// while nothing happens, as far as the log allows.
    pub fn resolved(&self) -> (Tso, Cursor) {
        self.asked.store(self.clock.now(), Ordering::Relaxed);
        let fresh = || {
            // It began to lead with all applied that leaders before have stamped, and above all that they may have told.
            let state = self.seat.state();
            let fresh = state.is_leading().then(|| state.tso.next(self.clock.wall_ms(), 1).ok()).flatten();
            // It may have lost the lead before it had the stamp.
            fresh.filter(|_| state.is_leading())
        };
        let reached = self.history.reached(fresh);
        (reached.stamp, self.cursor(reached.index + 1, 0))
    }

    /// The first place that can be read from, and a stamp: every event with a higher one can be. The safepoint of garbage collection.
    ///
    /// # Errors
    /// [`ReadError::Broken`].
    pub fn oldest(&self) -> Result<(Tso, Cursor), ReadError> {
        let first = self.history.first();
        let mut begins = self.begins.lock().unwrap_or_else(PoisonError::into_inner);
        if begins.is_none_or(|(index, _)| index != first) {
            *begins = self.stamped(first)?.map(|(_, stamp)| (first, stamp));
        }
        let before = |stamp: Tso| Tso(stamp.0.saturating_sub(1));
        // With no entry there, the events up to any stamp that was ever given may be gone.
        let safe =
            begins.map_or_else(|| self.history.reached(|| None).stamp.max(self.seat.state().tso.limit()), |(_, stamp)| before(stamp));
        // Stamps of nothing begin with 1.
        Ok((safe.max(Tso(1)), self.cursor(first, 0)))
    }

    /// The first entry from `index` on that has a stamp.
    fn stamped(&self, mut index: u64) -> Result<Option<(u64, Tso)>, ReadError> {
        loop {
            let read = match self.history.read(index, 1) {
                Err(Unread::Ahead(_)) => return Ok(None),
                read => read.map_err(|unread| self.error(unread))?,
            };
            let Some(last) = read.last() else { return Ok(None) };
            if let Some((index, stamp)) = read.iter().find_map(|past| Some((past.index, past.stamp?))) {
                return Ok(Some((index, stamp)));
            }
            index = last.index + 1;
        }
    }

    /// The place behind all events up to a stamp; the end, where there are no later ones yet: what follows may be earlier than a stamp of the
    /// future.
    ///
    /// # Errors
    /// [`ReadError::OutOfRange`], when some with a higher stamp are gone.
    pub fn at(&self, stamp: Tso) -> Result<Cursor, ReadError> {
        let (safe, oldest) = self.oldest()?;
        if stamp < safe {
            return Err(ReadError::OutOfRange { oldest });
        }
        // Stamps rise with the entries.
        let (mut low, mut high) = (oldest.index, self.resolved().1.index);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.stamped(middle)? {
                Some((index, found)) if found <= stamp => low = index + 1,
                _ => high = middle,
            }
        }
        Ok(self.cursor(low, 0))
    }

    /// The same for whoever names a stamp that nobody may have given.
    ///
    /// # Errors
    /// [`ReadError::Ahead`], for one of the future.
    pub(crate) fn after(&self, stamp: Tso) -> Result<Cursor, ReadError> {
        let (state, now_ms) = (self.seat.state(), self.clock.wall_ms());
        let given = if state.is_leading() { state.tso.next(now_ms, 1).ok() } else { None };
        // Who follows hears of the latest stamps later than who gives them.
        if stamp > self.resolved().0.max(given.unwrap_or(Tso::from_physical(now_ms + SKEW_MS))) {
            return Err(ReadError::Ahead);
        }
        self.at(stamp)
    }

    /// How far those lag who named themselves and asked this master lately.
    pub fn lags(&self) -> Vec<Lag> {
        let end = self.cursor(self.history.reached(|| None).index + 1, 0);
        self.consumers.lags(end, self.clock.now(), self.clock.wall_ms())
    }

    /// Until something lies behind this place.
    pub(crate) async fn changed(&self, beyond: Cursor) {
        // An error means that the log is closed: whoever reads finds what there is.
        let _ = self.history.watch().wait_for(|reached| *reached >= beyond.index).await;
    }
}
