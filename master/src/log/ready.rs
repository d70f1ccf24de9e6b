//! What raft wants done, in the order it asks for: store, and only then say so; apply what is committed.

use super::driver::{Driver, tell_members};
use super::history::Past;
use super::machine::Machine;
use super::members::Members;
use super::peers::Post;
use super::request::Known;
use super::role::unknown;
use super::{Durability, entry};
use protobuf_prost::Message as _;
use raft::Ready;
use raft::StateRole;
use raft::eraftpb::{ConfChangeV2, Entry, EntryType, Message, MessageType};

impl<M: Machine> Driver<M> {
    /// Does all that raft asks for: send, store, apply.
    pub(super) fn pump(&mut self) -> Result<(), String> {
        while self.unstall()? && self.node.has_ready() {
            self.tell_machine();
            let mut ready = self.node.ready();
            // A leader's, which may go out before its own disk has them: its own acknowledgement is counted only afterwards.
            self.send(ready.take_messages());
            if !ready.snapshot().is_empty() {
                let snapshot = ready.snapshot().clone();
                self.install(&snapshot)?;
            }
            for read in ready.take_read_states() {
                // Raft must not be asked anything while it waits for this to be done.
                self.round_due |= !self.inquiry.confirm(&read.request_ctx, read.index) && self.reads.confirm(&read.request_ctx, read.index);
            }
            self.apply(ready.take_committed_entries())?;
            let entries = ready.take_entries();
            let sync = self.config.durability == Durability::QuorumFsync && !entries.is_empty();
            match self.node.mut_store().append(entries, ready.hs(), sync) {
                Ok(()) => self.stored(ready)?,
                Err(error) => self.stall(ready, error.for_lack_of_room()?),
            }
        }
        Ok(())
    }

    /// What raft asked for is stored.
    pub(super) fn stored(&mut self, mut ready: Ready) -> Result<(), String> {
        // Not before it is there: whoever looks too early finds nothing to sync, and is not told again.
        if self.files.is_dirty() {
            self.background.appended();
        }
        self.send(ready.take_persisted_messages());
        let mut light = self.node.advance_append(ready);
        if let Some(commit) = light.commit_index() {
            self.node.mut_store().committed(commit);
        }
        self.send(light.take_messages());
        self.apply(light.take_committed_entries())?;
        self.node.advance_apply();
        self.settle_lead();
        Ok(())
    }

    /// Before anything is applied: what others decide must not meet a machine that believes it leads.
    pub(super) fn tell_machine(&mut self) {
        let leads = self.leads();
        if self.machine_leads != leads {
            self.machine_leads = leads;
            self.machine.leads(leads);
        }
    }

    fn send(&mut self, messages: Vec<Message>) {
        for message in messages {
            let to = message.to;
            if message.msg_type() == MessageType::MsgSnapshot {
                self.send_snapshot(message);
            } else if !self.peers.send(message) && !self.lost.iter().any(|l| matches!(l, Post::Unreachable(id) if *id == to)) {
                self.lost.push(Post::Unreachable(to));
            }
        }
    }

    fn apply(&mut self, entries: Vec<Entry>) -> Result<(), String> {
        for entry in entries {
            let (kind, term, bytes) = (entry.entry_type(), entry.term, entry.data.len() as u64);
            match kind {
                EntryType::EntryConfChangeV2 => self.apply_change(&entry)?,
                EntryType::EntryNormal => {}
                EntryType::EntryConfChange => return Err(format!("the entry {} is a change of a kind nobody proposes", entry.index)),
            }
            let past = Past::of(entry)?;
            if kind == EntryType::EntryNormal {
                self.apply_effects(term, &past)?;
            }
            self.applied = past.index;
            self.since.entries += 1;
            self.since.bytes += bytes;
            self.retention.applied(past.index, past.stamp, bytes);
            self.history.applied(past);
        }
        self.node.mut_store().applied(self.applied);
        Ok(())
    }

    fn apply_effects(&mut self, term: u64, past: &Past) -> Result<(), String> {
        let mine = self.proposed.pop_front_if(|p| p.index <= past.index);
        let (answers, lost) = match mine {
            Some(p) if (p.index, p.term) == (past.index, term) => (p.answers, Vec::new()),
            Some(p) => (Vec::new(), p.answers),
            None => (Vec::new(), Vec::new()),
        };
        let mut answers = answers.into_iter();
        self.machine.begins(past.stamp);
        for effect in entry::unpack(&past.data).map_err(|what| format!("the entry {}: {what}", past.index))? {
            let output = self.machine.apply(past.index, effect);
            self.answers.extend(answers.next().map(|answer| Known { answer, outcome: Ok(output) }));
        }
        self.refuse(lost, unknown(self.config.member));
        Ok(())
    }

    fn apply_change(&mut self, entry: &Entry) -> Result<(), String> {
        if entry.index <= self.node.store().members().index {
            // Replayed, or within what the leader sent with its snapshot, or was told when this member was added.
            return Ok(());
        }
        let change = ConfChangeV2::decode(&entry.data[..]).map_err(|e| format!("the entry {}: {e}", entry.index))?;
        let now = self.node.apply_conf_change(&change).map_err(|e| format!("the entry {}: {e}", entry.index))?;
        let mut members = self.node.store().members().clone();
        members.applied(entry.index, &change, now)?;
        let raft = &mut self.node.raft;
        if raft.state == StateRole::Leader && members.get(self.config.member).is_none() {
            // It began to lead while a change that removes it was on its way. Raft would lead on, and fail with the next entry. The others may
            // still need its vote to go on: it gives that until it is stopped.
            raft.become_follower(raft.term, raft::INVALID_ID);
            // Of a leader, which this is no more: raft fails when it is to send them.
            raft.msgs.clear();
        }
        self.take_members(members.clone())?;
        self.settle_change(entry.index, &members);
        tracing::info!(index = entry.index, voters = ?members.voters(), "the members have changed");
        Ok(())
    }

    fn take_members(&mut self, members: Members) -> Result<(), String> {
        tell_members(&self.board, self.peers.as_mut(), &members, self.config.member);
        self.node.mut_store().set_members(members)
    }
}
