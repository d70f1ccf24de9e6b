//! Streams of events as bytes, for programs that read them over HTTP.

use super::Event;
use crate::{Fault, Tso};
use serde::{Deserialize, Serialize};

/// What a stream of frames (`application/vnd.perilune.events`) consists of: each as its length, four bytes, little-endian, and its postcard form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Streamed {
    /// What happened; or, until a mark without `settled` comes, what there is, whose cursor is that of no place to go on from.
    Event(Event),
    /// Up to where all was told. Behind each page, and every few seconds.
    Mark(Mark),
    /// Nothing more comes, for this reason.
    Ended(Fault),
}

/// Up to where all was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Where to go on: what to say as `from`.
    pub next: String,
    /// Everything with a stamp up to this one was told; 0 while there is more of what there is.
    pub resolved: Tso,
    /// Entries of the log that lie behind it.
    pub behind: u64,
    /// Behind a part of all that there is: together with what is told up to this stamp, it is exact.
    pub settled: Option<Tso>,
}
