//! A list of all there is, now and then, for whoever begins late to read a sink.
//!
//! It is written between two rows of the log, as rows whose `event` is `listed`. It may tell what happened after the rows before it: the rows that say
//! so follow, so that whoever applies all rows in their order is right in the end.

use super::check::Checked;
use super::config::ReplicaConfig;
use super::failure::Failure;
use super::row::{Row, Rows};
use crate::engine::Engine;
use perilune_protocol::Tso;
use perilune_protocol::event::Event;
use perilune_protocol::rpc::watch::{ListAll, Listed};
use std::time::{Duration, Instant};

/// When there is to be a list.
pub(super) struct Bootstrap {
    every: Duration,
    rows: u64,
    /// The last one; `None`: none yet, and it is time.
    last: Option<Instant>,
    /// Rows since.
    since: u64,
    /// Rows that it had: as many of the log come before the next at least, so that no feed tells more of what there is than of what happens.
    listed: u64,
}

impl Bootstrap {
    /// As is asked for, if it is. `fresh`: nothing of this feed was delivered yet.
    pub(super) fn of(checked: &Checked, config: &ReplicaConfig, fresh: bool) -> Option<Self> {
        let more_than_none = |said: i64| u64::try_from(said).ok().filter(|said| *said > 0);
        let every = Duration::from_secs(more_than_none(config.sink.send_bootstrap_interval_in_sec)?);
        let rows = more_than_none(config.sink.send_bootstrap_in_msg_count)?;
        checked.bootstrap.then(|| Self { every, rows, last: (!fresh).then(Instant::now), since: 0, listed: 0 })
    }

    pub(super) fn is_due(&self) -> bool {
        self.since >= self.rows.max(self.listed) || self.last.is_none_or(|last| last.elapsed() >= self.every)
    }

    /// Rows of the log were written.
    pub(super) fn count(&mut self, rows: usize) {
        self.since += rows as u64;
    }

    /// All was listed, in so many rows.
    pub(super) fn done(&mut self, rows: u64) {
        (self.last, self.since, self.listed) = (Some(Instant::now()), 0, rows);
    }
}

/// The rows of a part of what there is, as if all had happened at `at`, and what to ask for next, if there is more. Blocks.
///
/// # Errors
/// There is no such part.
pub(super) fn list(engine: &Engine, question: ListAll, at: Tso, maker: &mut Rows) -> Result<(Vec<Row>, Option<ListAll>), Failure> {
    let Listed { events, begin, parts, .. } = engine.list_all(&question)?;
    let known = engine.directory();
    let row = |(nth, event): (usize, Event)| {
        let mut row = maker.of(&known, &Event { commit_ts: at, ..event })?;
        row.place = format!("{}.listed.{}.{nth}", row.place, question.part);
        // Of every table the second column.
        row.values[1] = "listed".into();
        Some(row)
    };
    let rows = events.into_iter().enumerate().filter_map(row).collect();
    let part = question.part + 1;
    Ok((rows, (part < parts).then(|| ListAll { part, parts, begin: question.begin.or(Some(begin)), ..question })))
}
