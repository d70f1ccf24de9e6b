//! How far the leader has brought each member.

use super::driver::Driver;
use super::machine::Machine;
use super::members::{Member, Seat};
use raft::ProgressState;

/// How the leader feeds a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feed {
    /// One message at a time, to find out what it has.
    Probe,
    /// Ahead of its answers.
    Replicate,
    /// It is sent a snapshot and nothing else.
    Snapshot,
}

/// How far one member is, as the leader knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Who.
    pub member: Member,
    /// Whether it votes.
    pub seat: Seat,
    /// The last entry it surely has.
    pub matched: u64,
    /// The next entry it is sent.
    pub next: u64,
    /// How it is fed.
    pub feed: Feed,
    /// Whether it is sent nothing until it answers.
    pub paused: bool,
    /// The entry behind which the snapshot stands that it is being sent; 0 when it is sent none.
    pub pending_snapshot: u64,
    /// Heard within the longest election timeout. This member always is.
    pub active: bool,
}

/// The group as its leader sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupProgress {
    /// To whom the lead is being handed; 0 when to nobody.
    pub transferee: u64,
    /// Every member by id, the leader included. Empty when this member does not lead.
    pub members: Vec<Progress>,
}

impl<M: Machine> Driver<M> {
    /// Whether a member was heard within the longest election timeout.
    pub(super) fn is_active(&self, id: u64) -> bool {
        let silent_after = self.config.ticks().1.1 as u64;
        id == self.config.member || self.heard.get(&id).is_some_and(|tick| self.ticks - tick <= silent_after)
    }

    pub(super) fn progress(&self) -> GroupProgress {
        let raft = &self.node.raft;
        if self.leads().is_none() {
            return GroupProgress::default();
        }
        let progress_of = |(member, seat): (&Member, Seat)| {
            let progress = raft.prs().get(member.id)?;
            Some(Progress {
                member: member.clone(),
                seat,
                matched: progress.matched,
                next: progress.next_idx,
                feed: match progress.state {
                    ProgressState::Probe => Feed::Probe,
                    ProgressState::Replicate => Feed::Replicate,
                    ProgressState::Snapshot => Feed::Snapshot,
                },
                paused: progress.is_paused(),
                pending_snapshot: progress.pending_snapshot,
                active: self.is_active(member.id),
            })
        };
        GroupProgress {
            transferee: raft.lead_transferee.unwrap_or_default(),
            members: self.node.store().members().iter().filter_map(progress_of).collect(),
        }
    }
}
