//! A disk without room: raft asked for something to be stored, and it was not. Nothing torn is left behind (raft-engine cuts off what it
//! wrote of it), so the driver keeps what raft asked for, stands still, and tries again until there is room. A sync that failed is another
//! matter: then nobody knows what is on disk, and the log is poisoned.
//!
//! To the others such a member is as one that is paused. One that led gives up the lead, since it cannot say when it goes on; alone it leads
//! on, and what it knows can be read.

use super::driver::Driver;
use super::machine::Machine;
use super::peers::Post;
use super::room::EVERY;
use perilune_protocol::{Fault, FaultCode};
use raft::Ready;
use raft::eraftpb::MessageType;
use std::time::Duration;

/// How many election timeouts later a voter that did not take the lead is offered it again; 30 seconds by default. Each offer costs the time
/// of a handover, and whoever lacks room refuses.
const OFFERED_FOR: u64 = 60;

/// What raft waits for.
pub(super) struct Stall {
    ready: Ready,
    why: String,
    /// When it is tried again.
    due: Duration,
}

impl<M: Machine> Driver<M> {
    /// What was asked for could not be stored for lack of room; the store keeps it.
    pub(super) fn stall(&mut self, ready: Ready, why: String) {
        tracing::warn!(dir = %self.directory.path.display(), "the log waits for room: {why}");
        self.stall = Some(Stall { ready, why, due: self.now + EVERY });
        if !self.is_alone() && self.leads().is_some() {
            let raft = &mut self.node.raft;
            raft.become_follower(raft.term, 0);
            // Of a leader, which this is no more.
            raft.msgs.clear();
            // Before anything that others decide is applied.
            self.tell_machine();
        }
        self.settle_lead();
    }

    /// Tries again. False while there is no room.
    pub(super) fn unstall(&mut self) -> Result<bool, String> {
        let Some(mut stall) = self.stall.take_if(|stall| stall.due <= self.now) else { return Ok(self.stall.is_none()) };
        match self.node.mut_store().again() {
            Ok(()) => {
                tracing::warn!(dir = %self.directory.path.display(), "there is room again, the log goes on");
                self.stored(stall.ready)?;
                Ok(true)
            }
            Err(error) => {
                stall.why = error.for_lack_of_room()?;
                stall.due = self.now + EVERY;
                self.stall = Some(stall);
                Ok(false)
            }
        }
    }

    /// What must not wait, though raft is asked nothing: whoever sent a snapshot would wait for an answer, and the file takes room.
    pub(super) fn turn_away(&mut self, post: &Post) {
        match post {
            Post::Message(message) if message.msg_type() == MessageType::MsgSnapshot => {
                // Without room nothing is expected.
                self.expect(message);
            }
            Post::SnapshotRefused(from, why) => self.refuse_snapshot(*from, *why),
            _ => {}
        }
    }

    /// For lack of what raft waits, if it does.
    pub(super) fn waits_for(&self) -> Option<&str> {
        self.stall.as_ref().map(|stall| stall.why.as_str())
    }

    /// Why nothing can be proposed for now, if so. What is refused so has not happened and will not.
    pub(super) fn lacks_room(&self) -> Option<Fault> {
        let why = match &self.stall {
            Some(stall) => format!(
                "the log in {} waits for room: {}. Reads go on; free some space there: this master goes on by itself",
                self.directory.path.display(),
                stall.why
            ),
            None if self.gauge.room == super::Room::Brim => self.gauge.complaint(),
            None => return None,
        };
        Some(FaultCode::WrongState.with(why))
    }

    /// Somebody else may have room: each of the other voters is offered the lead, and again after a while.
    pub(super) fn offer_lead(&mut self) {
        if self.gauge.room == super::Room::Enough || self.leads().is_none() {
            self.offered_to.clear();
            return;
        }
        if self.leads() != Some(self.ready_term) || self.handover.is_some() {
            return;
        }
        let ticks = self.ticks;
        self.offered_to.retain(|_, until| ticks < *until);
        let next = self
            .node
            .store()
            .members()
            .voters()
            .iter()
            .copied()
            .find(|id| *id != self.config.member && self.is_active(*id) && !self.offered_to.contains_key(id));
        if let Some(next) = next {
            self.offered_to.insert(next, self.in_timeouts(OFFERED_FOR));
            // What becomes of it is seen in who leads.
            self.transfer(next, tokio::sync::oneshot::channel().0);
        }
    }
}
