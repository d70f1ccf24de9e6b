//! What the log thread is asked to do, and whom to tell.

use super::change::Change;
use super::dump::Dump;
use super::members::Members;
use super::progress::GroupProgress;
use perilune_protocol::Outcome;
use tokio::sync::oneshot;

/// An effect and whom to tell.
pub(super) struct Waiting<O> {
    pub(super) effect: Vec<u8>,
    /// The only term in which it may be stored; 0 is any.
    pub(super) term: u64,
    pub(super) answer: Answer<O>,
}

/// What the log thread is asked to do.
pub(super) enum Input<O> {
    /// They go into one entry.
    Propose(Vec<Waiting<O>>),
    Read(Answer<()>),
    /// The same, whether this member leads or follows.
    CatchUp(Answer<()>),
    Change(Change, Answer<Members>),
    /// To this voter, or with 0 to the readiest.
    Transfer(u64, Answer<()>),
    Progress(Answer<GroupProgress>),
    Dump(Answer<Dump>),
    /// The keeper has finished something.
    Wake,
    Close,
}

/// Whom to tell.
pub(super) type Answer<O> = oneshot::Sender<Outcome<O>>;

/// The proposers of one entry, in the order of its effects.
pub(super) struct Proposed<O> {
    pub(super) index: u64,
    pub(super) term: u64,
    pub(super) answers: Vec<Answer<O>>,
}

/// What a proposer will be told.
pub(super) struct Known<O> {
    pub(super) answer: Answer<O>,
    pub(super) outcome: Outcome<O>,
}
