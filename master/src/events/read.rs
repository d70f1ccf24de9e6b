//! What follows a place: entries of the log, and of each of them the effects that came to something.

use super::{EventLog, ReadError, told};
use crate::log::{self, Past};
use perilune_protocol::Tso;
use perilune_protocol::event::{Cursor, Event};
use perilune_state::effect::EffectError;
use perilune_state::moot::Moot;
use std::sync::Arc;

/// Events that follow each other.
#[derive(Clone, Debug)]
pub struct Page {
    /// In order. None does not mean that there will be none: see `next`.
    pub events: Vec<Event>,
    /// Where to go on.
    pub next: Cursor,
    /// Every event with a stamp up to this one lies before `next`. Now and then lower than another master, or this one before, has said.
    pub resolved: Tso,
}

/// Entries that were read and not looked at.
pub(super) struct Unseen {
    from: Cursor,
    entries: Vec<Past>,
    moot: Arc<Moot>,
    /// How far all was known before they were read.
    resolved: (Tso, Cursor),
}

impl EventLog {
    /// Events from a place on: those of about so many bytes of the log, more when a single entry of it is larger. May read files, and takes
    /// milliseconds then.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read(&self, from: Cursor, most_bytes: usize) -> Result<Page, ReadError> {
        let mut events = Vec::new();
        let (next, resolved) = self.see(self.entries(from, most_bytes)?, |effect, cursor, commit_ts| {
            let told = told::event(effect)?;
            events.extend(told.map(|(tenant, what)| Event { cursor, commit_ts, tenant, what }));
            Ok(())
        })?;
        Ok(Page { events, next, resolved })
    }

    /// The entries from a place on, as [`EventLog::read`] has them.
    pub(super) fn entries(&self, from: Cursor, most_bytes: usize) -> Result<Unseen, ReadError> {
        if from.cluster != self.cluster {
            return Err(ReadError::Foreign(from.cluster));
        }
        let resolved = self.resolved();
        if from > resolved.1 {
            return Err(ReadError::Ahead);
        }
        let moot = Arc::clone(&self.seat.state().moot);
        let entries = self.history.read(from.index, most_bytes).map_err(|unread| self.error(unread))?;
        Ok(Unseen { from, entries, moot, resolved })
    }

    /// Shows what took effect in them, each effect with the place behind it and its stamp. Gives the place behind all, and up to which stamp
    /// everything lies before that.
    pub(super) fn see(
        &self,
        unseen: Unseen,
        mut show: impl FnMut(&[u8], Cursor, Tso) -> Result<(), EffectError>,
    ) -> Result<(Cursor, Tso), ReadError> {
        let Unseen { from, entries, moot, resolved: (known, end) } = unseen;
        let (mut next, mut resolved) = (from, Tso(0));
        for Past { index, stamp, data } in entries {
            if let Some(commit_ts) = stamp {
                let skip = if index == from.index { from.place } else { 0 };
                let unreadable = |what: String| ReadError::Broken(format!("the entry {index}: {what}"));
                let (effects, moot) = (log::unpack(&data).map_err(unreadable)?, moot.of(commit_ts));
                for (nth, effect) in (0..).zip(effects).filter(|(nth, _)| *nth >= skip && !moot.contains(nth)) {
                    let cursor = Cursor { stamp: commit_ts, ..self.cursor(index, nth + 1) };
                    show(effect, cursor, commit_ts).map_err(|e| unreadable(e.to_string()))?;
                }
                resolved = commit_ts;
            }
            next = Cursor { stamp: stamp.unwrap_or(Tso(0)), ..self.cursor(index + 1, 0) };
        }
        // What came to nothing in entries that were cut meanwhile may have been forgotten before it was asked for.
        let first = self.history.first();
        if first > from.index {
            return Err(ReadError::OutOfRange { oldest: self.cursor(first, 0) });
        }
        if next >= end {
            resolved = resolved.max(known);
        }
        Ok((next, resolved))
    }
}
