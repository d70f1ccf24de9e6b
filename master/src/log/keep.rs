//! Snapshots, the cut behind them, and what the outside sees of the driver.

use super::background::Job;
use super::counters::count;
use super::directory::snapshots;
use super::driver::{Driver, Since};
use super::group::tell;
use super::machine::Machine;
use super::request::Known;
use super::restore::{prune, remove};
use super::room::Room;
use super::snapshot::SnapshotId;
use super::status::Role;
use perilune_protocol::{FaultCode, Tso};
use raft::{StateRole, Storage};
use std::time::Duration;

impl<M: Machine> Driver<M> {
    /// Begins a snapshot when one is due, and makes use of one that is done.
    pub(super) fn keep(&mut self) {
        if self.poison.is_some() {
            return;
        }
        self.mark();
        while let Some((id, written)) = self.background.finished() {
            self.snapshot_running = false;
            match written {
                // The leader's came in between.
                Ok(()) if self.snapshots.last().is_some_and(|newest| id.index <= newest.index) => {
                    if !self.snapshots.contains(&id) {
                        remove(&self.directory, &id.path(&snapshots(&self.directory.path)));
                    }
                }
                Ok(()) => self.cut_behind(id),
                Err(e) => {
                    count(&self.board.counters.snapshot_failures, 1);
                    tracing::warn!(index = id.index, "a snapshot failed, the log is kept and the next one is tried in due time: {e}");
                    self.end_dumps(&FaultCode::Storage.with(format!("the snapshot failed: {e}")));
                }
            }
        }
        self.settle_dumps();
        let due = |limit: u64, since: u64| limit > 0 && since >= limit;
        let due = due(self.config.snapshot_entries, self.since.entries) || due(self.config.snapshot_bytes, self.since.bytes);
        if !self.snapshot_running
            && (self.node.store().wants_snapshot() || self.wants_dump() || due)
            && let Ok(term) = self.node.store().term(self.applied)
        {
            self.since = Since::default();
            let id = SnapshotId { index: self.applied, term };
            match self.guarded(|d| Ok(d.machine.snapshot())) {
                Ok(body) => {
                    self.snapshot_running = true;
                    self.background.give(Job::Snapshot(id, body));
                }
                Err(what) => self.fail(what),
            }
        }
    }

    /// From the first entry or vote on, a directory without a log is a damaged one.
    fn mark(&mut self) {
        if !self.directory.marked && self.node.store().is_used() && !self.mark_failed {
            self.files.sync();
            if self.files.failure().is_none() {
                self.directory.mark();
            }
            self.mark_failed = !self.directory.marked;
        }
    }

    /// A snapshot is on disk: the log is needed only behind the one before it, which stays as a second chance. What came before is kept as far as
    /// is set, while there is room for it.
    fn cut_behind(&mut self, id: SnapshotId) {
        count(&self.board.counters.snapshots, 1);
        self.snapshots.push(id);
        prune(&self.directory, &mut self.snapshots, 2);
        self.node.mut_store().set_newest_snapshot(Some(id));
        if let [older, _] = self.snapshots[..] {
            let room = self.gauge.room == Room::Enough;
            let until = if room { older.index.min(self.retention.floor(self.machine.needed())) } else { older.index };
            match self.guarded(|d| d.node.mut_store().cut_behind(until)) {
                Ok(None) => {}
                Ok(Some(stamp)) => {
                    self.retention.cut(until);
                    self.history.begins_with(until + 1);
                    self.machine.forget(Tso(stamp.0 + 1));
                    self.background.give(Job::Purge);
                }
                Err(what) => self.fail(what),
            }
        }
    }

    /// Shows the positions, then tells the proposers.
    pub(super) fn publish(&mut self) {
        {
            let raft = &self.node.raft;
            let mut shown = self.board.positions();
            shown.member = raft.id;
            shown.role = match raft.state {
                StateRole::Leader => Role::Leader,
                StateRole::Follower => Role::Follower,
                StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
            };
            shown.pre_candidate = raft.state == StateRole::PreCandidate;
            (shown.term, shown.vote, shown.commit) = (raft.term, raft.vote, raft.raft_log.committed);
            (shown.first_index, shown.last_index) = (self.node.store().cut_index() + 1, self.node.store().last());
            shown.applied = self.applied;
            shown.snapshot_index = self.snapshots.last().map_or(0, |s| s.index);
            shown.entries_since_snapshot = self.applied - shown.snapshot_index;
            shown.free = self.gauge.free;
            shown.crowded = match self.gauge.room {
                _ if self.stall.is_some() => self.lacks_room().map(|fault| fault.message),
                Room::Enough => None,
                Room::Low | Room::Brim => Some(self.gauge.complaint()),
            };
            if shown.poisoned.is_none() {
                shown.poisoned = self.poison.as_deref().or(self.files.failure()).map(str::to_owned);
            }
        }
        let room = if self.stall.is_some() { Room::Brim } else { self.gauge.room };
        self.board.show_room(room, room != Room::Enough && self.handover.is_some());
        self.show_standing();
        for Known { answer, outcome } in self.answers.drain(..) {
            tell(answer, outcome);
        }
        // Also what its disk does not take yet.
        self.history.settle(self.node.raft.raft_log.last_index());
        let applied = self.applied;
        self.reads.served(applied).chain(self.inquiry.served(applied)).for_each(|answer| tell(answer, Ok(())));
    }

    fn show_standing(&mut self) {
        let raft = &self.node.raft;
        let lease = match self.leads() {
            _ if self.may_sleep() => Duration::MAX,
            Some(term) if term == self.ready_term && term != self.offered_term => self.reads.lease(),
            _ => Duration::ZERO,
        };
        self.board.show_lease(lease);
        let brief = (raft.state, raft.term, raft.leader_id, self.ready_term, self.node.store().members().index, self.poison.is_some());
        if self.shown != Some(brief) {
            self.shown = Some(brief);
            self.board.show_standing(self.standing());
        }
    }
}
