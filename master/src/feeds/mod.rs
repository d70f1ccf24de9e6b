//! Changefeeds: what happened, in the order of the log, delivered to a place outside.
//!
//! ```text
//!   events ──► rows (filter) ──► sink (encode) ──► flush ──► checkpoint, kept in the log
//! ```
//! `owner` is a worker of the leader: it runs one task (`run`) for each feed that is to deliver, and writes down what becomes of it. A sink has what
//! a checkpoint says and maybe more: whoever goes on from there delivers that again.
//!
//! **Invariant.** A checkpoint is told after the sink has acknowledged everything before it, never before.

mod bootstrap;
mod check;
mod config;
mod duration;
mod encode;
mod failure;
mod filter;
mod owner;
mod progress;
mod row;
mod run;
pub(crate) mod safepoint;
mod sink;
mod task;
mod uri;

pub(crate) use check::check;
pub(crate) use config::ReplicaConfig;
#[cfg(feature = "simulation")]
pub(crate) use encode::Encoder;
pub(crate) use failure::{Code, Failure};
pub(crate) use filter::{Filter, Op};
#[cfg(feature = "simulation")]
pub(crate) use owner::Owner;
pub(crate) use owner::{Feeds, run};
pub(crate) use progress::{Counts, Kept, Progress};
pub(crate) use row::{Rows, Table};
#[cfg(feature = "simulation")]
pub(crate) use sink::Protocol;
pub(crate) use sink::{Place, Whose, open};
pub(crate) use uri::SinkUri;

use crate::engine::Engine;
use perilune_state::directory::FeedRecord;

/// What a config says of rows.
///
/// # Errors
/// Why it says nothing.
pub(crate) fn filter_of(config: &ReplicaConfig) -> Result<Filter, Failure> {
    Filter::new(config)
}

/// Where a feed delivers, unmasked.
///
/// # Errors
/// When what is sealed of it cannot be opened here.
pub(crate) fn sink_of(engine: &Engine, feed: &FeedRecord) -> Result<String, Failure> {
    let Some(sealed) = &feed.sealed else { return Ok(feed.sink.clone()) };
    let opened = engine.safe().and_then(|safe| safe.open_sink(feed.tenant, &feed.name, sealed));
    opened.map_err(|fault| Code::Unknown.with(fault.message))
}
