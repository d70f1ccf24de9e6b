//! The log thread: owns raft, its store and the machine; turns proposals into entries and committed entries into answers.
//!
//! ```text
//! propose -> inbox -> one entry of all that waits -> append (sync) -> commit -> apply -> answers
//!                 ^ what arrives meanwhile forms the next entry
//! ```

use super::background::{Keeper, Syncer};
use super::counters::count;
use super::directory::{self, Directory, io_error};
use super::files::Files;
use super::machine::Machine;
use super::peers::{Alone, Peers};
use super::restore::{prune, restore};
use super::snapshot::SnapshotId;
use super::status::{Board, Role};
use super::store::{Store, corrupt};
use super::{Durability, LogConfig, LogError, entry, raftlog};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};
use perilune_protocol::{Fault, FaultCode, Outcome};
use raft::eraftpb::{ConfState, Entry, EntryType};
use raft::{RawNode, StateRole, Storage};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// The member id of a group of one.
const MEMBER: u64 = 1;
const TICK: Duration = Duration::from_millis(50);
/// Most bytes of committed entries that raft hands out at once, which bounds memory while replaying.
const COMMITTED_BYTES: u64 = 4 << 20;

/// An effect and whom to tell.
pub(super) struct Waiting<O> {
    pub(super) effect: Vec<u8>,
    pub(super) answer: Answer<O>,
}

/// What the log thread is told. Messages of other members will be one more.
pub(super) enum Input<O> {
    Propose(Waiting<O>),
    /// The keeper has finished something.
    Wake,
    Close,
}

/// Whom to tell.
type Answer<O> = oneshot::Sender<Outcome<O>>;
/// What goes into one entry, and the input that came next, if it was taken from the inbox already.
type Gathered<O> = (Vec<Waiting<O>>, Option<Input<O>>);

/// The proposers of one entry, in the order of its effects.
struct Proposed<O> {
    index: u64,
    term: u64,
    answers: Vec<Answer<O>>,
}

/// What a proposer will be told.
struct Known<O> {
    answer: Answer<O>,
    outcome: Outcome<O>,
}

pub(super) struct Driver<M: Machine> {
    config: LogConfig,
    node: RawNode<Store>,
    machine: M,
    peers: Box<dyn Peers>,
    files: Arc<Files>,
    board: Arc<Board>,
    /// Entries appended and not yet applied, by index.
    proposed: VecDeque<Proposed<M::Output>>,
    /// Known, told once the board shows the positions that belong to them.
    answers: Vec<Known<M::Output>>,
    keeper: Keeper,
    syncer: Option<Syncer>,
    /// The last two, oldest first.
    snapshots: Vec<SnapshotId>,
    snapshot_running: bool,
    applied: u64,
    /// Applied since a snapshot was last begun.
    since: Since,
    /// Why nothing can be appended any more. Raft's state is then ahead of the disk, so it is not asked again.
    poison: Option<String>,
    /// Last, so that it unlocks when all else is closed.
    directory: Directory,
}

#[derive(Default)]
struct Since {
    entries: u64,
    bytes: u64,
}

impl<M: Machine> Driver<M> {
    /// Opens the directory, replays the machine, and leads.
    pub(super) fn open(config: LogConfig, mut machine: M, board: Arc<Board>, inbox: Sender<Input<M::Output>>) -> Result<Self, LogError> {
        let directory = Directory::open(&config.dir)?;
        let raft_dir = directory::raft(&directory.path);
        let files = Arc::new(Files::new(Arc::clone(&board.counters)));
        let members = ConfState { voters: vec![MEMBER], ..ConfState::default() };
        let mut store = Store::open(&raft_dir, Arc::clone(&files), members, directory.used)?;
        let snapshots = restore(&directory, &store, &mut machine)?;
        let applied = snapshots.last().map_or(0, |s| s.index);
        store.check(applied + 1).map_err(|what| corrupt(&raft_dir, what))?;
        store.committed(applied);

        let thread = |e| io_error(&config.dir, "a thread cannot be started", e);
        let wake = move || drop(inbox.try_send(Input::Wake));
        let keeper = Keeper::start(directory::snapshots(&directory.path), directory.cluster, store.engine(), Arc::clone(&files), wake)
            .map_err(thread)?;
        let syncer = match config.durability {
            Durability::Quorum => Some(Syncer::start(Arc::clone(&files), config.sync_every).map_err(thread)?),
            Durability::QuorumFsync | Durability::Leader => None,
        };
        let start = |what: String| LogError::Start { path: config.dir.clone(), what };
        let raft_config = raft::Config {
            id: MEMBER,
            applied,
            pre_vote: true,
            check_quorum: true,
            max_size_per_msg: COMMITTED_BYTES,
            max_committed_size_per_ready: COMMITTED_BYTES,
            ..raft::Config::default()
        };
        let node = catch_unwind(AssertUnwindSafe(|| RawNode::new(&raft_config, store, &raftlog::logger())))
            .unwrap_or_else(|panic| Err(raft::Error::ConfigInvalid(said(&*panic))))
            .map_err(|e| start(e.to_string()))?;
        let mut driver = Self {
            node,
            machine,
            peers: Box::new(Alone),
            files,
            board,
            proposed: VecDeque::new(),
            answers: Vec::new(),
            keeper,
            syncer,
            snapshots,
            snapshot_running: false,
            applied,
            since: Since::default(),
            poison: None,
            directory,
            config,
        };
        let led = driver.guarded(|d| {
            d.node.campaign().map_err(|e| e.to_string())?;
            d.pump()?;
            // The leader's first entry commits all before it; with it applied, so is everything.
            let (applied, last) = (d.applied, d.node.store().last());
            match d.node.raft.state {
                StateRole::Leader if applied == last => Ok(()),
                role => Err(format!("it is {role:?} and has applied {applied} of {last} entries")),
            }
        });
        led.map_err(|what| LogError::Start { path: driver.config.dir.clone(), what })?;
        if !driver.directory.marked {
            driver.files.sync();
            if driver.files.failure().is_none() {
                driver.directory.mark();
            }
        }
        driver.publish();
        Ok(driver)
    }

    pub(super) fn cluster(&self) -> uuid::Uuid {
        self.directory.cluster
    }

    /// Until told to close.
    pub(super) fn run(mut self, inbox: &Receiver<Input<M::Output>>) {
        let mut next = None;
        loop {
            let input = match next.take() {
                Some(input) => input,
                None => match self.receive(inbox) {
                    Some(input) => input,
                    None => continue,
                },
            };
            match input {
                Input::Propose(first) => {
                    let batch;
                    (batch, next) = self.gather(first, inbox);
                    self.propose(batch);
                }
                Input::Wake => {}
                Input::Close => break,
            }
            self.keep();
            self.publish();
        }
        if self.poison.is_none() {
            self.files.sync();
        }
        self.publish();
    }

    /// A lone leader has nobody to reach in time and sleeps until it is told something; in a group, raft's clock ticks meanwhile.
    fn receive(&mut self, inbox: &Receiver<Input<M::Output>>) -> Option<Input<M::Output>> {
        let alone = self.node.store().members().voters.len() <= 1 || self.poison.is_some();
        let received = if alone { inbox.recv().map_err(|_| RecvTimeoutError::Disconnected) } else { inbox.recv_timeout(TICK) };
        match received {
            Ok(input) => Some(input),
            Err(RecvTimeoutError::Disconnected) => Some(Input::Close),
            Err(RecvTimeoutError::Timeout) => {
                self.node.tick();
                if let Err(what) = self.guarded(Self::pump) {
                    self.fail(what);
                }
                None
            }
        }
    }

    /// All that waits, within the bounds of one entry; and the input that ended it, if one did.
    fn gather(&self, first: Waiting<M::Output>, inbox: &Receiver<Input<M::Output>>) -> Gathered<M::Output> {
        let mut bytes = first.effect.len();
        let mut batch = vec![first];
        while batch.len() < self.config.batch_effects {
            match inbox.try_recv() {
                Ok(Input::Propose(more)) if bytes + more.effect.len() <= self.config.batch_bytes => {
                    bytes += more.effect.len() + entry::LENGTH_BYTES;
                    batch.push(more);
                }
                Ok(other) => return (batch, Some(other)),
                Err(_) => break,
            }
        }
        (batch, None)
    }

    fn propose(&mut self, batch: Vec<Waiting<M::Output>>) {
        if self.poison.is_none()
            && let Some(what) = self.files.failure()
        {
            self.fail(what.to_owned());
        }
        let effects = batch.len() as u64;
        let data = entry::pack(batch.iter().map(|w| w.effect.as_slice()));
        let answers: Vec<_> = batch.into_iter().map(|w| w.answer).collect();
        if self.poison.is_some() {
            let fault = self.storage_fault();
            return self.refuse(answers, fault);
        }
        let done = match self.guarded(|d| Ok(d.node.propose(Vec::new(), data))) {
            Ok(Ok(())) => {
                let log = &self.node.raft;
                self.proposed.push_back(Proposed { index: log.raft_log.last_index(), term: log.term, answers });
                self.guarded(Self::pump)
            }
            Ok(Err(e)) => return self.refuse(answers, FaultCode::WrongState.with(format!("this member does not lead: {e}"))),
            Err(what) => {
                self.proposed.push_back(Proposed { index: 0, term: 0, answers });
                Err(what)
            }
        };
        match done {
            Ok(()) => {
                count(&self.board.counters.entries, 1);
                count(&self.board.counters.effects, effects);
                if let Some(syncer) = &self.syncer {
                    syncer.appended();
                }
            }
            Err(what) => self.fail(what),
        }
    }

    /// Does all that raft asks for: send, store, apply.
    fn pump(&mut self) -> Result<(), String> {
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            if !ready.snapshot().is_empty() {
                return Err("another member sent a snapshot, which a group of one never asks for".into());
            }
            ready.take_messages().into_iter().for_each(|m| self.peers.send(m));
            self.apply(ready.take_committed_entries())?;
            let entries = ready.take_entries();
            let sync = self.config.durability == Durability::QuorumFsync && !entries.is_empty();
            self.node.mut_store().append(entries, ready.hs(), sync)?;
            ready.take_persisted_messages().into_iter().for_each(|m| self.peers.send(m));
            let mut light = self.node.advance_append(ready);
            if let Some(commit) = light.commit_index() {
                self.node.mut_store().committed(commit);
            }
            light.take_messages().into_iter().for_each(|m| self.peers.send(m));
            self.apply(light.take_committed_entries())?;
            self.node.advance_apply();
        }
        Ok(())
    }

    fn apply(&mut self, entries: Vec<Entry>) -> Result<(), String> {
        for entry in entries {
            if entry.entry_type() != EntryType::EntryNormal {
                return Err(format!("the entry {} changes the membership, which this version cannot", entry.index));
            }
            let mine = self.proposed.pop_front_if(|p| p.index <= entry.index);
            let (answers, lost) = match mine {
                Some(p) if (p.index, p.term) == (entry.index, entry.term) => (p.answers, Vec::new()),
                Some(p) => (Vec::new(), p.answers),
                None => (Vec::new(), Vec::new()),
            };
            let mut answers = answers.into_iter();
            for effect in entry::unpack(&entry.data).map_err(|what| format!("the entry {}: {what}", entry.index))? {
                let output = self.machine.apply(entry.index, effect);
                self.answers.extend(answers.next().map(|answer| Known { answer, outcome: Ok(output) }));
            }
            self.refuse(lost, FaultCode::WrongState.with("another member took the lead, the effect was not stored"));
            self.applied = entry.index;
            self.since.entries += 1;
            self.since.bytes += entry.data.len() as u64;
        }
        self.node.mut_store().applied(self.applied);
        Ok(())
    }

    /// Begins a snapshot when one is due, and makes use of one that is done.
    fn keep(&mut self) {
        if self.poison.is_some() {
            return;
        }
        while let Some((id, written)) = self.keeper.finished() {
            self.snapshot_running = false;
            match written {
                Ok(()) => self.cut_behind(id),
                Err(e) => {
                    count(&self.board.counters.snapshot_failures, 1);
                    tracing::warn!(index = id.index, "a snapshot failed, the log is kept and the next one is tried in due time: {e}");
                }
            }
        }
        let due = |limit: u64, since: u64| limit > 0 && since >= limit;
        if !self.snapshot_running
            && (due(self.config.snapshot_entries, self.since.entries) || due(self.config.snapshot_bytes, self.since.bytes))
            && let Ok(term) = self.node.store().term(self.applied)
        {
            self.since = Since::default();
            let id = SnapshotId { index: self.applied, term };
            match self.guarded(|d| Ok(d.machine.snapshot())) {
                Ok(body) => {
                    self.snapshot_running = true;
                    self.keeper.snapshot(id, body);
                }
                Err(what) => self.fail(what),
            }
        }
    }

    /// A snapshot is on disk: the log is needed only behind the one before it, which stays as a second chance.
    fn cut_behind(&mut self, id: SnapshotId) {
        count(&self.board.counters.snapshots, 1);
        self.snapshots.push(id);
        prune(&self.directory, &mut self.snapshots);
        if let [older, _] = self.snapshots[..] {
            match self.guarded(|d| d.node.mut_store().cut(older.index, older.term)) {
                Ok(()) => self.keeper.purge(),
                Err(what) => self.fail(what),
            }
        }
    }

    /// A panic below is a defect of ours or of raft's: the log stops, the process does not.
    fn guarded<T>(&mut self, run: impl FnOnce(&mut Self) -> Result<T, String>) -> Result<T, String> {
        catch_unwind(AssertUnwindSafe(|| run(self))).unwrap_or_else(|panic| Err(format!("a defect: {}", said(&*panic))))
    }

    fn fail(&mut self, what: String) {
        tracing::error!(dir = %self.directory.path.display(), "the log takes nothing more: {what}");
        self.poison = Some(what);
        let fault = self.storage_fault();
        for proposed in std::mem::take(&mut self.proposed) {
            self.refuse(proposed.answers, fault.clone());
        }
    }

    fn storage_fault(&self) -> Fault {
        let why = self.poison.as_deref().unwrap_or_default();
        FaultCode::Storage.with(format!(
            "the log in {} takes nothing more: {why}. Reads go on; remove the cause and restart this process",
            self.directory.path.display()
        ))
    }

    fn refuse(&mut self, answers: Vec<Answer<M::Output>>, fault: Fault) {
        self.answers.extend(answers.into_iter().map(|answer| Known { answer, outcome: Err(fault.clone()) }));
    }

    /// Shows the positions, then tells the proposers.
    fn publish(&mut self) {
        {
            let raft = &self.node.raft;
            let mut shown = self.board.positions();
            shown.member = raft.id;
            shown.role = match raft.state {
                StateRole::Leader => Role::Leader,
                StateRole::Follower => Role::Follower,
                StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
            };
            (shown.term, shown.vote, shown.commit) = (raft.term, raft.vote, raft.raft_log.committed);
            (shown.first_index, shown.last_index) = (self.node.store().cut_index() + 1, self.node.store().last());
            shown.applied = self.applied;
            shown.snapshot_index = self.snapshots.last().map_or(0, |s| s.index);
            shown.entries_since_snapshot = self.applied - shown.snapshot_index;
            if shown.poisoned.is_none() {
                shown.poisoned = self.poison.as_deref().or(self.files.failure()).map(str::to_owned);
            }
        }
        for Known { answer, outcome } in self.answers.drain(..) {
            // Nobody waits any more: the effect is stored all the same.
            let _ = answer.send(outcome);
        }
    }
}

/// The text of a panic.
fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}
