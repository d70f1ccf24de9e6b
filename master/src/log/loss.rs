//! A member that comes back without entries it had acknowledged: a power loss took the end of its log, which all durabilities but
//! `quorum-fsync` allow, or its directory was lost. (With the directory goes the memory of whom it voted for, too. Who wants to be sure
//! removes such a member and adds another under a new id.)
//!
//! The leader counts on those entries and would never send them again, so the member owns up and the leader forgives. Until it has them
//! back, it votes for nobody who lacks them. It cannot know of the loss before a leader tells it; a power loss of several members at once
//! takes what none of the rest has.

use super::driver::Driver;
use super::machine::Machine;
use raft::CAMPAIGN_TRANSFER;
use raft::eraftpb::{Message, MessageType};

/// Marks the answer of a member that lost the end of its log. Raft itself gives such an answer no context.
pub(super) const LOST: &[u8] = b"lost";

impl<M: Machine> Driver<M> {
    /// Whether a candidate is not answered now. A member that was just opened may have promised a leader to elect nobody for a while; it
    /// answers when that time is over, unless the leader itself hands over its lead. One that lost entries answers nobody who lacks them.
    pub(super) fn holds_back(&mut self, candidate: &Message) -> bool {
        if self.ticks < self.quiet_until && candidate.context[..] != *CAMPAIGN_TRANSFER {
            self.held.retain(|m| m.from != candidate.from);
            self.held.push(candidate.clone());
            return true;
        }
        self.owed > self.node.raft.raft_log.last_index() && candidate.index < self.owed
    }

    /// The time has come to answer the candidates that were held back, as if they had only now been heard.
    pub(super) fn end_quiet(&mut self) -> Result<(), String> {
        match self.ticks == self.quiet_until {
            true => std::mem::take(&mut self.held).into_iter().try_for_each(|candidate| self.step(candidate)),
            false => Ok(()),
        }
    }

    /// The leader knows that this member once had more than it has.
    pub(super) fn own_up(&mut self, mut heartbeat: Message) -> Result<(), String> {
        let (leader, commit, last) = (heartbeat.from, heartbeat.commit, self.node.raft.raft_log.last_index());
        if commit > self.owed {
            tracing::warn!(leader, last, commit, "this member lost the last entries it had acknowledged, and asks for them again");
        }
        self.owed = self.owed.max(commit);
        heartbeat.commit = last;
        self.heard.insert(leader, self.ticks);
        // Refused when its sender is no member any more.
        let _ = self.node.step(heartbeat);
        self.pump()?;
        let mut answer = Message { to: leader, from: self.config.member, term: self.node.raft.term, ..Message::default() };
        answer.set_msg_type(MessageType::MsgAppendResponse);
        (answer.reject, answer.reject_hint, answer.context) = (true, last, LOST.into());
        // Lost, it is sent again with the next heartbeat.
        self.peers.send(answer);
        Ok(())
    }

    /// A member owns up to having no more than the entries up to `reject_hint`: it is sent what follows them.
    pub(super) fn forgive(&mut self, message: &Message) {
        if self.leads() != Some(message.term) {
            return;
        }
        if let Some(progress) = self.node.raft.mut_prs().get_mut(message.from)
            && progress.matched > message.reject_hint
        {
            tracing::warn!(
                member = message.from,
                had = progress.matched,
                has = message.reject_hint,
                "a member lost entries and is sent them again"
            );
            progress.matched = message.reject_hint;
            progress.become_probe();
        }
    }
}
