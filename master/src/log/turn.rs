//! What the driver is told: proposals, letters of other members, the passing of time.

use super::counters::count;
use super::driver::Driver;
use super::entry;
use super::group::tell;
use super::install::REFUSED;
use super::loss::LOST;
use super::machine::Machine;
use super::peers::Post;
use super::request::{Answer, Input, Proposed, Waiting};
use super::role::Standing;
use super::room::Room;
use super::status::Role;
use perilune_protocol::FaultCode;
use raft::StateRole;
use raft::eraftpb::{Message, MessageType};
use std::time::Duration;

impl<M: Machine> Driver<M> {
    /// One request that is no proposal.
    pub(super) fn take(&mut self, input: Input<M::Output>) {
        match input {
            Input::Propose(batch) => self.propose(batch),
            Input::Read(answer) => self.read(answer),
            Input::CatchUp(answer) => self.catch_up(answer),
            Input::Change(change, answer) => self.change(&change, answer),
            Input::Transfer(to, answer) => self.transfer(to, answer),
            Input::Progress(answer) => tell(answer, Ok(self.progress())),
            Input::Dump(answer) => self.dump(answer),
            Input::Wake | Input::Close => {}
        }
    }

    /// Effects that go into one entry.
    pub(super) fn propose(&mut self, mut batch: Vec<Waiting<M::Output>>) {
        if self.poison.is_none()
            && let Some(what) = self.files.failure()
        {
            self.fail(what.to_owned());
        }
        let answers_of = |batch: Vec<Waiting<M::Output>>| batch.into_iter().map(|w| w.answer).collect::<Vec<Answer<_>>>();
        if self.poison.is_some() {
            let fault = self.storage_fault();
            return self.refuse(answers_of(batch), fault);
        }
        let Some(term) = self.leads() else {
            // Raft would send it to the leader; but the leader decides what is proposed.
            let fault = self.standing().refusal(self.config.member);
            return self.refuse(answers_of(batch), fault);
        };
        if let Some(fault) = self.lacks_room() {
            return self.refuse(answers_of(batch), fault);
        }
        let stale: Vec<_> = batch.extract_if(.., |w| w.term != 0 && w.term != term).collect();
        if !stale.is_empty() {
            let why = format!("this was decided in an earlier term than {term}, in which this member leads: nothing was stored");
            self.refuse(answers_of(stale), FaultCode::WrongState.with(why));
        }
        if batch.is_empty() {
            return;
        }
        let effects = batch.len() as u64;
        let data = entry::pack(batch.iter().map(|w| w.effect.as_slice()));
        let answers = answers_of(batch);
        let done = match self.guarded(|d| {
            let stamp = d.history.stamp(|| d.machine.stamp());
            Ok(d.node.propose(entry::context(stamp), data))
        }) {
            Ok(Ok(())) => {
                let log = &self.node.raft;
                self.proposed.push_back(Proposed { index: log.raft_log.last_index(), term: log.term, answers });
                self.guarded(Self::pump)
            }
            Ok(Err(e)) => {
                let why = format!("nothing was stored, try again: the lead is being handed over, or a majority is far behind ({e})");
                return self.refuse(answers, FaultCode::WrongState.with(why));
            }
            Err(what) => {
                self.proposed.push_back(Proposed { index: 0, term: 0, answers });
                Err(what)
            }
        };
        match done {
            Ok(()) => {
                count(&self.board.counters.entries, 1);
                count(&self.board.counters.effects, effects);
            }
            Err(what) => self.fail(what),
        }
    }

    /// What another member, or the way to it, has to say.
    pub(super) fn post(&mut self, post: Post) {
        if self.poison.is_some() {
            return;
        }
        if self.stall.is_some() {
            return self.turn_away(&post);
        }
        let done = self.guarded(|d| match post {
            Post::Message(message) => d.step(*message),
            Post::Unreachable(id) => {
                d.node.report_unreachable(id);
                d.snapshot_failed(id);
                Ok(())
            }
            Post::SnapshotSent(id, whole) => {
                d.snapshot_sent(id, whole);
                Ok(())
            }
            Post::SnapshotRefused(from, why) => {
                d.refuse_snapshot(from, why);
                Ok(())
            }
        });
        if let Err(what) = done {
            self.fail(what);
        }
    }

    pub(super) fn step(&mut self, message: Message) -> Result<(), String> {
        use MessageType as T;
        let (kind, last) = (message.msg_type(), self.node.raft.raft_log.last_index());
        match kind {
            T::MsgRequestVote | T::MsgRequestPreVote if self.holds_back(&message) => return Ok(()),
            T::MsgRequestPreVote if self.outranks(&message) => {
                // The other may have listened to nobody yet when this member first asked.
                let _ = self.node.campaign();
                return Ok(());
            }
            T::MsgHeartbeat if message.term >= self.node.raft.term && message.commit > last => return self.own_up(message),
            T::MsgAppendResponse if message.context[..] == *LOST => {
                self.forgive(&message);
                return Ok(());
            }
            T::MsgAppendResponse if message.context[..] == *REFUSED => {
                self.snapshot_refused(&message);
                return Ok(());
            }
            T::MsgSnapshot => {
                if !self.expect(&message) {
                    return Ok(());
                }
            }
            T::MsgHeartbeatResponse => self.snapshot_seen(message.from, message.commit),
            // The lead is offered by one that lacks room as well.
            T::MsgTimeoutNow if self.gauge.room != Room::Enough => return Ok(()),
            T::MsgAppend | T::MsgAppendResponse | T::MsgHeartbeat | T::MsgTimeoutNow => {}
            T::MsgReadIndex | T::MsgReadIndexResp => {}
            T::MsgRequestVote | T::MsgRequestVoteResponse | T::MsgRequestPreVote | T::MsgRequestPreVoteResponse => {}
            // Nobody of ours sends the rest.
            _ => return Ok(()),
        }
        self.heard.insert(message.from, self.ticks);
        // Refused when its sender is no member any more.
        let _ = self.node.step(message);
        if kind == T::MsgSnapshot {
            // Only the very next look at what raft wants tells whether it took the snapshot.
            self.pump()?;
            self.forget_received();
        }
        Ok(())
    }

    /// Two that begin to stand at the same moment would both win the asking, split the votes, and cost the group another wait. So one of them
    /// does as if it had not heard the other, as long as that may be the same moment: a member that was kept from running is late by a tenth of a
    /// second.
    fn outranks(&self, candidate: &Message) -> bool {
        let raft = &self.node.raft;
        let own = (raft.raft_log.last_term(), raft.raft_log.last_index());
        raft.state == StateRole::PreCandidate
            && raft.election_elapsed < self.config.ticks().1.0 / 2
            && candidate.from < self.config.member
            && (candidate.log_term, candidate.index) <= own
    }

    /// A tick of the log's clock has passed, [`super::LogConfig::tick`] at least.
    pub(super) fn tick(&mut self, now: Duration) {
        self.now = now;
        self.ticks += 1;
        if self.poison.is_some() || self.stall.is_some() {
            return;
        }
        let heartbeat = self.config.ticks().0 as u64;
        let ticked = self.guarded(|d| {
            let wait = d.patience.draw(d.node.raft.election_elapsed == 0, d.config.patience());
            d.node.raft.set_randomized_election_timeout(wait);
            d.node.tick();
            if d.ticks.is_multiple_of(heartbeat) && d.node.raft.state == StateRole::Leader {
                d.begin_round();
                d.leave_joint();
                d.give_up_snapshots();
            }
            if d.ticks.is_multiple_of(heartbeat) {
                d.ask_again();
            }
            d.end_quiet()
        });
        if let Err(what) = ticked {
            self.fail(what);
        }
    }

    /// Does what all that calls for. Called after each of the above, or after several.
    pub(super) fn turn(&mut self, now: Duration) {
        self.now = now;
        self.gauge.look(now);
        std::mem::take(&mut self.lost).into_iter().for_each(|lost| self.post(lost));
        if self.poison.is_none() {
            let done = self.guarded(|d| {
                d.pump()?;
                if d.stall.is_none() && std::mem::take(&mut d.round_due) {
                    d.begin_round();
                    d.pump()?;
                }
                Ok(())
            });
            if let Err(what) = done {
                self.fail(what);
            }
        }
        self.settle_handover();
        self.offer_lead();
        self.keep();
        self.publish();
    }

    /// The term this member leads in.
    pub(super) fn leads(&self) -> Option<u64> {
        let raft = &self.node.raft;
        (raft.state == StateRole::Leader && self.poison.is_none()).then_some(raft.term)
    }

    /// As the outside should see it now.
    pub(super) fn standing(&self) -> Standing {
        let raft = &self.node.raft;
        if self.poison.is_some() && !self.is_alone() {
            return Standing { role: Role::Follower, term: raft.term, leader: None };
        }
        let role = match raft.state {
            StateRole::Leader if self.ready_term == raft.term => Role::Leader,
            StateRole::Follower => Role::Follower,
            StateRole::Leader | StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
        };
        Standing { role, term: raft.term, leader: self.node.store().members().get(raft.leader_id).cloned() }
    }
}
