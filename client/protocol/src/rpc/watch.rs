//! What happened, asked for page by page: who is slow lags behind, and nothing is dropped.

use super::call;
use crate::event::{Cursor, Event, EventFilter};
use crate::{Millis, Tso};
use serde::{Deserialize, Serialize};

/// The longest that a question waits for something to happen.
pub const WAIT_MAX: Millis = Millis(30_000);

/// What happened from a place on. Answered as soon as something that is wanted did, or the wait is over.
///
/// Faults: `OutOfRange` when what followed the place is not kept any more, or is no more what had happened there (begin with [`ListAll`]), `InvalidParams` for a place in another
/// cluster's log, rules on tables that are none, and what is no name of a consumer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// From where on.
    pub from: From,
    /// What is wanted. Its tenant is the caller's, unless `everybody`.
    pub filter: EventFilter,
    /// Of every tenant, or of the one that `filter` names: for the admin.
    pub everybody: bool,
    /// About so many bytes of the log are read for an answer, if that many are there.
    pub most_bytes: u32,
    /// So long is waited for, at most [`WAIT_MAX`]; in milliseconds.
    pub wait_ms: u64,
    /// As whom the masters show how far the caller lags; empty: they do not.
    pub consumer: String,
}
call!(Watch = 90 "watch" -> Watched, LONG);

/// A place to begin at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum From {
    /// Behind all that has happened.
    Now,
    /// As far back as is kept.
    Oldest,
    /// Behind this one.
    Cursor(Cursor),
    /// Behind all that was decided up to then.
    After(Tso),
    /// Behind all that a changefeed has delivered; of [`Follow`] only.
    Checkpoint,
    /// Behind this one, if what lies just before it was decided then ([`Cursor::stamp`]).
    Stamped(Cursor, Tso),
}

impl From {
    /// Behind this one, with all that is known of it.
    pub fn behind(cursor: Cursor) -> Self {
        if cursor.stamp > Tso(0) { Self::Stamped(cursor, cursor.stamp) } else { Self::Cursor(cursor) }
    }
}

/// The same by somebody who goes on: the answer says the stamp that makes the next question [`From::Stamped`]. Or what a changefeed carries, from a
/// place on: the events of its tenant that its rules take, and `watch` wants. Whether it delivers has no part in it.
///
/// Faults: those of [`Watch`]; `InvalidParams` when there is no such changefeed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follow {
    /// The name of the changefeed, of the caller's tenant, or of the one that the filter names (`default`, where it names none).
    pub feed: Option<String>,
    /// The rest of the question.
    pub watch: Watch,
}
call!(Follow = 93 "follow" -> Followed, LONG);

/// What happened, and what it ends with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Followed {
    /// What happened.
    pub watched: Watched,
    /// [`Cursor::stamp`] of its `next`.
    pub stamp: Tso,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    /// In order. There may be none.
    pub events: Vec<Event>,
    /// Where to go on.
    pub next: Cursor,
    /// Everything with a stamp up to this one lies before `next`.
    pub resolved: Tso,
    /// Entries of the log that lie behind `next`.
    pub behind: u64,
}

/// All that there is, as events: segments, nodes and objects, in parts. Together with what follows `begin` of the first part it is exact, once
/// the last part's `settled` is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListAll {
    /// What is wanted, as in [`Watch`].
    pub filter: EventFilter,
    /// As in [`Watch`].
    pub everybody: bool,
    /// Which part, counted from 0.
    pub part: u32,
    /// Of how many; 0 with part 0: as many as the master finds good.
    pub parts: u32,
    /// Where the first part that was given begins ([`Listed::begin`]): nothing is given that is older. `None` with the first.
    pub begin: Option<Cursor>,
}
call!(ListAll = 91 "list_all" -> Listed, LONG);

/// A part of all that there is. The stamp of its events is that of `begin`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// In no order.
    pub events: Vec<Event>,
    /// Nothing that happened before this place is missing here.
    pub begin: Cursor,
    /// Nothing that happened behind this place is in here.
    pub settled: Cursor,
    /// How many parts there are.
    pub parts: u32,
}
