//! A member that lacks entries which the leader no longer has: it is sent a snapshot, and takes it over.
//!
//! Raft feeds such a member nothing else until it answers that it has the snapshot, or raft is told that sending it failed. So whatever
//! may go wrong on the way must end in one of the two: a broken connection, a refusal, a lost answer, or, at last, the time.

use super::background::Job;
use super::directory::{snapshots, sync_dir};
use super::driver::{Driver, Since, tell_members};
use super::machine::Machine;
use super::members::Members;
use super::peers::{Post, Refusal};
use super::restore::{prune, remove};
use super::role::unknown;
use super::room::Room;
use super::snapshot::{self, SnapshotId};
use raft::SnapshotStatus;
use raft::eraftpb::{Message, MessageType, Snapshot};
use std::sync::Arc;

/// Marks the answer of a member that could not store a snapshot. Raft itself gives such an answer no context.
pub(super) const REFUSED: &[u8] = b"snapshot refused";
/// How many election timeouts a member may take to check, store and restore a snapshot that it has received; 2 minutes by default.
const PATIENCE: u64 = 240;
/// In its `reject_hint`: for lack of room. Those that do not know of it take every refusal for damage, and send 0.
const NO_ROOM: u64 = 1;
/// How many election timeouts later a member that had no room may have some; 5 seconds by default.
const NO_ROOM_WAIT: u64 = 10;

fn id_of(message: &Message) -> SnapshotId {
    let meta = message.get_snapshot().get_metadata();
    SnapshotId { index: meta.index, term: meta.term }
}

impl<M: Machine> Driver<M> {
    pub(super) fn send_snapshot(&mut self, message: Message) {
        let (to, id) = (message.to, id_of(&message));
        tracing::info!(to, index = id.index, "a member lags behind the log and is sent a snapshot");
        self.sent.remove(&to);
        if !self.peers.send_snapshot(message, id) {
            self.lost.push(Post::SnapshotSent(to, false));
        }
    }

    pub(super) fn snapshot_sent(&mut self, to: u64, whole: bool) {
        let until = self.in_timeouts(PATIENCE);
        // One that was refused for lack of room on its way is tried again sooner.
        self.sent.entry(to).or_insert(until);
        if !whole {
            self.snapshot_failed(to);
        }
    }

    /// Raft sends another one, if it still waits for an answer.
    pub(super) fn snapshot_failed(&mut self, to: u64) {
        if self.sent.remove(&to).is_some() {
            self.node.report_snapshot(to, SnapshotStatus::Failure);
        }
    }

    /// A member says how far it is, with every answer to a heartbeat: its answer to the snapshot itself may have been lost.
    pub(super) fn snapshot_seen(&mut self, by: u64, commit: u64) {
        let waits = |p: &raft::Progress| p.state == raft::ProgressState::Snapshot && p.pending_snapshot <= commit;
        if self.leads().is_some() && self.node.raft.prs().get(by).is_some_and(waits) {
            self.sent.remove(&by);
            self.node.report_snapshot(by, SnapshotStatus::Finish);
        }
    }

    pub(super) fn give_up_snapshots(&mut self) {
        let late: Vec<u64> = self.sent.iter().filter(|(_, until)| self.ticks >= **until).map(|(to, _)| *to).collect();
        late.into_iter().for_each(|to| self.snapshot_failed(to));
    }

    /// The other side says that it could not store it. Should the file here be damaged, a new one will do better.
    pub(super) fn snapshot_refused(&mut self, answer: &Message) {
        let by = answer.from;
        if answer.reject_hint == NO_ROOM {
            tracing::warn!(member = by, "a member that lags behind the log has no room for a snapshot, and is sent one again before long");
            self.sent.insert(by, self.in_timeouts(NO_ROOM_WAIT));
            return;
        }
        self.node.store().want_snapshot();
        self.sent.insert(by, 0);
        self.snapshot_failed(by);
    }

    /// The tick after so many of the longest election timeouts.
    pub(super) fn in_timeouts(&self, count: u64) -> u64 {
        self.ticks + self.config.ticks().1.1 as u64 * count
    }

    /// Tells the sender that its snapshot could not be stored.
    pub(super) fn refuse_snapshot(&mut self, from: u64, why: Refusal) {
        let mut answer = Message { to: from, from: self.config.member, term: self.node.raft.term, ..Message::default() };
        answer.set_msg_type(MessageType::MsgAppendResponse);
        (answer.reject, answer.context) = (true, REFUSED.into());
        answer.reject_hint = if why == Refusal::NoRoom { NO_ROOM } else { 0 };
        // Lost, the sender waits until it loses patience.
        self.peers.send(answer);
    }

    /// A message announces a snapshot whose file must be there. False when it is not: swept away while this log was being opened, say; or when
    /// there is no room for what comes after it, and then the file goes as well.
    pub(super) fn expect(&mut self, message: &Message) -> bool {
        let id = id_of(message);
        self.forget_received();
        self.received = self.directory.disk.is_file(&id.received(&snapshots(&self.directory.path))).then_some(id);
        let room = self.gauge.room == Room::Enough && self.stall.is_none();
        if !room {
            self.forget_received();
            self.refuse_snapshot(message.from, Refusal::NoRoom);
        } else if self.received.is_none() {
            self.refuse_snapshot(message.from, Refusal::Damaged);
        }
        self.received.is_some()
    }

    /// Raft did not want it.
    pub(super) fn forget_received(&mut self) {
        if let Some(id) = self.received.take() {
            remove(&self.directory, &id.received(&snapshots(&self.directory.path)));
        }
    }

    /// The leader sent the state, because the entries that this member lacks are gone.
    pub(super) fn install(&mut self, snapshot: &Snapshot) -> Result<(), String> {
        let meta = snapshot.get_metadata();
        let id = SnapshotId { index: meta.index, term: meta.term };
        let said = |what: &str, e: std::io::Error| format!("the snapshot {} of another member {what}: {e}", id.index);
        let members = Members::decode(&snapshot.data)?;
        let dir = snapshots(&self.directory.path);
        let received = id.received(&dir);
        if self.snapshot_running {
            // As the machine was promised.
            self.background.wait();
        }
        let disk = Arc::clone(&self.directory.disk);
        let mut body = snapshot::open(&*disk, &received, id, self.directory.cluster).map_err(|e| said("cannot be read", e))?;
        self.machine.restore(&mut body).map_err(|e| said("cannot be restored", e))?;
        self.node.mut_store().install(id, members.clone())?;
        // From here on the log counts on it: were this process to end now, the next open would give the file its name.
        disk.rename(&received, &id.path(&dir)).map_err(|e| said("cannot be named", e))?;
        sync_dir(&*disk, &dir).map_err(|e| e.to_string())?;
        self.received = None;
        self.snapshots.push(id);
        prune(&self.directory, &mut self.snapshots, 1);
        self.node.mut_store().set_newest_snapshot(Some(id));
        tell_members(&self.board, self.peers.as_mut(), &members, self.config.member);
        (self.applied, self.since) = (id.index, Since::default());
        self.history.replaced(id.index);
        self.retention.cut(id.index);
        for lost in std::mem::take(&mut self.proposed) {
            self.refuse(lost.answers, unknown(self.config.member));
        }
        self.background.give(Job::Purge);
        tracing::info!(index = id.index, "the state was replaced by the leader's");
        Ok(())
    }
}
