//! The driver as one of several: who leads, who may change the group, what may be read.

use super::change::{Change, View};
use super::driver::Driver;
use super::machine::Machine;
use super::members::Members;
use super::request::{Answer, Proposed};
use super::role::unknown;
use perilune_protocol::{Fault, FaultCode};
use raft::eraftpb::ConfChangeV2;
use std::collections::VecDeque;
use std::time::Duration;

/// A change of the members on its way.
pub(super) struct Changing {
    index: u64,
    answer: Answer<Members>,
}

/// The lead on its way to another member.
pub(super) struct Handover {
    to: u64,
    /// Given up at this tick.
    until: u64,
    answer: Answer<()>,
}

impl<M: Machine> Driver<M> {
    pub(super) fn read(&mut self, answer: Answer<()>) {
        if self.leads() != Some(self.ready_term) || self.stall.is_some() {
            return tell(answer, Err(self.not_mine()));
        }
        if self.reads.ask(answer) {
            self.begin_round();
        }
    }

    pub(super) fn catch_up(&mut self, answer: Answer<()>) {
        if self.leads().is_some() {
            return self.read(answer);
        }
        if self.poison.is_some() || self.stall.is_some() || self.node.raft.leader_id == 0 {
            return tell(answer, Err(self.not_mine()));
        }
        let until = self.ticks + self.config.ticks().1.1 as u64 * 2;
        let question = self.inquiry.ask(until, answer);
        self.node.read_index(question);
    }

    /// The question, or its answer, may have been lost, or the leader with it.
    pub(super) fn ask_again(&mut self) {
        for answer in self.inquiry.late(self.ticks) {
            tell(answer, Err(FaultCode::Timeout.with("no leader said in time how far the log is: try again")));
        }
        if self.leads().is_none()
            && let Some(question) = self.inquiry.again()
        {
            self.node.read_index(question);
        }
    }

    /// Asks everyone whether this member still leads: for reads that wait, and to hold the lease.
    pub(super) fn begin_round(&mut self) {
        if self.leads() == Some(self.ready_term) {
            let carried = self.reads.begin(self.now);
            self.node.read_index(carried);
        }
    }

    pub(super) fn change(&mut self, change: &Change, answer: Answer<Members>) {
        if self.leads() != Some(self.ready_term) || self.lacks_room().is_some() {
            return tell(answer, Err(self.not_mine()));
        }
        let raft = &self.node.raft;
        if self.changing.is_some() || raft.has_pending_conf() {
            return tell(answer, Err(FaultCode::WrongState.with("another change of the members is under way: wait for it")));
        }
        let active = |id: u64| self.is_active(id);
        let last = raft.raft_log.last_index();
        let lag = |id: u64| raft.prs().get(id).map_or(last, |progress| last.saturating_sub(progress.matched));
        let view = View { me: self.config.member, active: &active, lag: &lag };
        let planned = match self.node.store().members().plan(change, &view) {
            Ok(planned) => planned,
            Err(fault) => return tell(answer, Err(fault)),
        };
        match self.guarded(|d| Ok(d.node.propose_conf_change(Vec::new(), planned))) {
            Ok(Ok(())) => self.changing = Some(Changing { index: self.node.raft.raft_log.last_index(), answer }),
            Ok(Err(e)) => tell(answer, Err(FaultCode::WrongState.with(format!("the members were not changed, try again: {e}")))),
            Err(what) => self.fail(what),
        }
    }

    /// A change was applied: whoever waits for it is told once both its steps are done.
    pub(super) fn settle_change(&mut self, index: u64, members: &Members) {
        if let Some(done) = self.changing.take_if(|c| c.index <= index && !members.is_changing()) {
            tell(done.answer, Ok(members.clone()));
        }
    }

    /// Raft leaves the time of two majorities by itself, except for a leader that began in the middle of it.
    pub(super) fn leave_joint(&mut self) {
        if self.node.store().members().leaves_by_itself() && !self.node.raft.has_pending_conf() {
            // Refused while the lead is being handed over; the next heartbeat tries again.
            let _ = self.node.propose_conf_change(Vec::new(), ConfChangeV2::default());
        }
    }

    pub(super) fn transfer(&mut self, to: u64, answer: Answer<()>) {
        let Some(term) = self.leads() else { return tell(answer, Err(self.not_mine())) };
        if to == self.config.member {
            return tell(answer, Ok(()));
        }
        let Some(to) = Some(to).filter(|to| *to != 0).or_else(|| self.readiest()) else {
            return tell(answer, Err(FaultCode::WrongState.with("no other voter is there to take the lead")));
        };
        if !self.node.store().members().voters().contains(&to) {
            return tell(answer, Err(FaultCode::InvalidParams.with(format!("member {to} is no voter of this group and cannot lead"))));
        }
        if self.handover.is_some() {
            return tell(answer, Err(FaultCode::WrongState.with("the lead is being handed over already: wait for it")));
        }
        // The other may be told to stand at once, at any time from now on, whatever it promised: the lease is gone for this term.
        self.offered_term = term;
        // Before the offer leaves, not with the next turn: whoever looks in between may be too late already.
        self.board.show_lease(Duration::ZERO);
        let until = self.ticks + self.config.ticks().1.1 as u64 * 2;
        self.handover = Some(Handover { to, until, answer });
        let told = self.guarded(|d| {
            d.node.transfer_leader(to);
            Ok(())
        });
        if let Err(what) = told {
            self.fail(what);
        }
    }

    /// The other voter that is there and lacks least.
    fn readiest(&self) -> Option<u64> {
        let prs = self.node.raft.prs();
        let voters = self.node.store().members().voters().iter().copied();
        voters.filter(|id| *id != self.config.member && self.is_active(*id)).max_by_key(|id| prs.get(*id).map_or(0, |p| p.matched))
    }

    pub(super) fn settle_handover(&mut self) {
        let leader = self.node.raft.leader_id;
        let me = self.config.member;
        let ticks = self.ticks;
        let Some(done) = self.handover.take_if(|h| leader == h.to || ![0, me].contains(&leader) || ticks >= h.until) else { return };
        tell(
            done.answer,
            match leader {
                leader if leader == done.to => Ok(()),
                leader if leader == me || leader == 0 => {
                    Err(FaultCode::Timeout
                        .with(format!("member {} did not take the lead in time: is it up, and does it keep up?", done.to)))
                }
                other => Err(FaultCode::WrongState.with(format!("member {other} took the lead instead of member {}", done.to))),
            },
        );
    }

    /// Notices that the lead was won or lost, and tells those who wait.
    pub(super) fn settle_lead(&mut self) {
        let raft = &self.node.raft;
        let leads = self.leads();
        if leads.is_some() && self.ready_term != raft.term && raft.raft_log.term(self.applied) == Ok(raft.term) {
            self.ready_term = raft.term;
            self.round_due = true;
        }
        if self.leading == leads {
            return;
        }
        self.leading = leads;
        // What was appended in another term may still be committed by another leader, or not.
        let (kept, lost) = std::mem::take(&mut self.proposed).into_iter().partition(|p| leads == Some(p.term));
        self.proposed = kept;
        let lost: VecDeque<Proposed<M::Output>> = lost;
        let fault = unknown(self.config.member);
        for proposed in lost {
            self.refuse(proposed.answers, fault.clone());
        }
        let refusal = self.not_mine();
        self.reads.stop().into_iter().for_each(|answer| tell(answer, Err(refusal.clone())));
        if let Some(changing) = self.changing.take() {
            tell(changing.answer, Err(fault));
        }
    }

    /// Nobody is to wait any longer.
    pub(super) fn end_waiting(&mut self, fault: &Fault) {
        self.end_dumps(fault);
        self.inquiry.stop().into_iter().for_each(|answer| tell(answer, Err(fault.clone())));
        self.reads.stop().into_iter().for_each(|answer| tell(answer, Err(fault.clone())));
        if let Some(changing) = self.changing.take() {
            tell(changing.answer, Err(fault.clone()));
        }
        if let Some(handover) = self.handover.take() {
            tell(handover.answer, Err(fault.clone()));
        }
    }

    fn not_mine(&self) -> Fault {
        match &self.poison {
            Some(_) => self.storage_fault(),
            None => self.lacks_room().filter(|_| self.leads().is_some()).unwrap_or_else(|| self.standing().refusal(self.config.member)),
        }
    }
}

/// Whoever asked may have stopped waiting.
pub(super) fn tell<T>(answer: Answer<T>, outcome: perilune_protocol::Outcome<T>) {
    let _ = answer.send(outcome);
}
