//! What happened, asked for page by page: who is slow lags behind, and nothing is dropped.

use super::{Call, append, call};
use crate::event::{Cursor, Event, EventFilter};
use crate::frame::{self, Kind};
use crate::{Millis, Outcome, Tso};
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
pub struct Watched<Events = Vec<Event>> {
    /// In order. There may be none.
    pub events: Events,
    /// Where to go on.
    pub next: Cursor,
    /// Everything with a stamp up to this one lies before `next`.
    pub resolved: Tso,
    /// Entries of the log that lie behind `next`.
    pub behind: u64,
}

/// Events as a message has them, one behind the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// How many.
    pub count: usize,
    /// Each as its `Event` is encoded.
    pub bytes: Vec<u8>,
}

/// Appends the answer to the question `id` to `out`: the bytes that [`Followed`] has with these events.
///
/// # Errors
/// As [`super::encode_answer`].
pub fn encode_followed(out: &mut Vec<u8>, id: u64, answer: &Outcome<Watched<Encoded>>) -> Outcome<()> {
    frame::encode(out, Kind::Answer, Follow::OP, id, |out| match answer {
        Ok(Watched { events, next, resolved, behind }) => {
            // That it is no fault, and then the fields in their order.
            append(out, &(0u8, events.count))?;
            out.extend_from_slice(&events.bytes);
            append(out, &(next, resolved, behind, next.stamp))
        }
        Err(fault) => append(out, &Outcome::<()>::Err(fault.clone())),
    })
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

/// The same of what a changefeed carries.
///
/// Faults: `InvalidParams` when there is no such changefeed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListFeed {
    /// Its name, as [`Follow::feed`].
    pub feed: String,
    /// The rest of the question.
    pub list: ListAll,
}
call!(ListFeed = 94 "list_feed" -> Listed, LONG);

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::What;
    use crate::rpc::encode_answer;
    use crate::{FaultCode, SegmentId, TenantId};
    use uuid::Uuid;

    #[test]
    fn what_is_encoded_already_makes_the_same_answer() {
        let cursor = Cursor { cluster: Uuid::from_u128(7), index: 300, place: 2, stamp: Tso(900) };
        let what = What::Unmounted { segment: SegmentId::random() };
        let event = Event { cursor, commit_ts: Tso(900), tenant: Some(TenantId(3)), what };
        for count in [0, 1, 200] {
            let events = vec![event.clone(); count];
            let encoded = Encoded { count, bytes: events.iter().flat_map(|event| postcard::to_stdvec(event).unwrap()).collect() };
            let (mut as_events, mut as_bytes) = (vec![1, 2], vec![1, 2]);
            let watched = Watched { events, next: cursor, resolved: Tso(1 << 60), behind: 5 };
            encode_answer(&mut as_events, Follow::OP, 8, &Ok(Followed { watched, stamp: cursor.stamp })).unwrap();
            encode_followed(&mut as_bytes, 8, &Ok(Watched { events: encoded, next: cursor, resolved: Tso(1 << 60), behind: 5 })).unwrap();
            assert_eq!(as_events, as_bytes);
        }
        let fault = FaultCode::OutOfRange.with("gone");
        let (mut as_events, mut as_bytes) = (Vec::new(), Vec::new());
        encode_answer(&mut as_events, Follow::OP, 8, &Err::<Followed, _>(fault.clone())).unwrap();
        encode_followed(&mut as_bytes, 8, &Err(fault)).unwrap();
        assert_eq!(as_events, as_bytes);
    }
}
