//! The driver: owns raft, its store and the machine; turns proposals into entries and committed entries into answers. It reads no clock and
//! opens no socket: time, letters and requests are handed to it, by the log thread or by a simulation.
//!
//! ```text
//! propose -> inbox -> one entry of all that waits -> append (sync) -> commit -> apply -> answers
//!                 ^ what arrives meanwhile forms the next entry
//! ```
//! | file | what of the driver |
//! |---|---|
//! | `driver` | what it holds, how it begins, how it fails |
//! | `turn` | what it is told |
//! | `ready`, `stall` | what raft then wants done, in raft's order; and when there is no room for it |
//! | `group`, `progress` | members, reads, leadership |
//! | `loss`, `install` | a member that lost entries, one that is sent a snapshot |
//! | `keep` | snapshots, the cut behind them, what the outside sees |

use super::background::{Background, Shop};
use super::directory::{self, Directory, io_error};
use super::dump::Dumps;
use super::engine::corrupt;
use super::files::Files;
use super::group::{Changing, Handover};
use super::history::{History, Reached};
use super::inquiry::Inquiry;
use super::machine::Machine;
use super::members::Members;
use super::peers::{Peers, Post};
use super::reader::Reader;
use super::reads::Reads;
use super::request::{Answer, Known, Proposed};
use super::restore::restore;
use super::retain::Retention;
use super::room::Gauge;
use super::snapshot::SnapshotId;
use super::stall::Stall;
use super::status::Board;
use super::store::Store;
use super::{LogConfig, LogError, raftlog};
use crate::planted::{self, Defect};
use perilune_protocol::{Fault, FaultCode};
use raft::eraftpb::Message;
use raft::{RawNode, StateRole};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

/// Most bytes of committed entries that raft hands out at once, which bounds memory while replaying.
const COMMITTED_BYTES: u64 = 4 << 20;
/// Most bytes in one message to a member, unless a single entry is larger; and such messages ahead of its answers.
const MESSAGE_BYTES: u64 = 256 << 10;
const INFLIGHT: usize = 256;
/// Most bytes that a leader appends without a majority having them.
const UNCOMMITTED_BYTES: u64 = 64 << 20;

pub(super) struct Driver<M: Machine> {
    pub(super) config: LogConfig,
    pub(super) node: RawNode<Store>,
    pub(super) machine: M,
    pub(super) peers: Box<dyn Peers>,
    pub(super) files: Arc<Files>,
    pub(super) history: Arc<History>,
    pub(super) retention: Retention,
    pub(super) board: Arc<Board>,
    /// Entries appended and not yet applied, by index.
    pub(super) proposed: VecDeque<Proposed<M::Output>>,
    /// Known, told once the board shows the positions that belong to them.
    pub(super) answers: Vec<Known<M::Output>>,
    pub(super) background: Box<dyn Background>,
    /// The last two, oldest first.
    pub(super) snapshots: Vec<SnapshotId>,
    pub(super) snapshot_running: bool,
    pub(super) dumps: Dumps,
    /// Announced by the leader; its file waits to be taken over, or removed should raft not want it.
    pub(super) received: Option<SnapshotId>,
    pub(super) applied: u64,
    /// Applied since a snapshot was last begun.
    pub(super) since: Since,
    /// As handed in with the last turn.
    pub(super) now: Duration,
    /// Ticks since the driver began.
    pub(super) ticks: u64,
    /// What election timeouts are drawn from, and the last that was.
    pub(super) patience: Patience,
    /// At which tick a member was last heard.
    pub(super) heard: BTreeMap<u64, u64>,
    /// Members that were written a whole snapshot, and the tick at which they should have said that they took it over.
    pub(super) sent: BTreeMap<u64, u64>,
    /// What could not be sent; raft is told with the next turn.
    pub(super) lost: Vec<Post>,
    pub(super) reads: Reads<Answer<()>>,
    pub(super) inquiry: Inquiry<Answer<()>>,
    /// Everyone is to be asked, with the next turn, whether this member leads.
    pub(super) round_due: bool,
    /// The term this member leads in, as far as those who wait have been told.
    pub(super) leading: Option<u64>,
    /// The same, as far as the machine has been told.
    pub(super) machine_leads: Option<u64>,
    /// The last term in which all that earlier leaders committed has been applied here.
    pub(super) ready_term: u64,
    /// A term in which the lead was offered to another, who may take it at any moment: the lease counts for nothing.
    pub(super) offered_term: u64,
    pub(super) changing: Option<Changing>,
    pub(super) handover: Option<Handover>,
    /// What decides how this member stands, as it was last shown.
    pub(super) shown: Option<Brief>,
    /// Until this tick a member that was just opened votes for nobody: it may have promised a leader not to.
    pub(super) quiet_until: u64,
    /// What candidates asked until then, the last of each.
    pub(super) held: Vec<Message>,
    /// Up to this entry it once had the log, as a leader said; more than it has when the end of its log was lost.
    pub(super) owed: u64,
    /// The mark of a log in use could not be written, and is not tried again until the next open.
    pub(super) mark_failed: bool,
    pub(super) gauge: Gauge,
    /// What raft asked for is not stored, for lack of room: until it is, raft is asked nothing more.
    pub(super) stall: Option<Stall>,
    /// Other voters that were offered the lead for lack of room here, and the tick from which they may be offered it again.
    pub(super) offered_to: BTreeMap<u64, u64>,
    /// Why nothing can be appended any more. Raft's state is then ahead of the disk, so it is not asked again.
    pub(super) poison: Option<String>,
    /// Last, so that it unlocks when all else is closed.
    pub(super) directory: Directory,
}

impl<M: Machine> Drop for Driver<M> {
    fn drop(&mut self) {
        self.history.close();
    }
}

/// How long this member waits for a leader before it stands for election: drawn here and not by raft, so that a run can be repeated.
pub(super) struct Patience {
    seed: u64,
    ticks: usize,
}

impl Patience {
    /// In ticks, from `shortest` to below `longest`: anew when the wait began anew.
    pub(super) fn draw(&mut self, anew: bool, (shortest, longest): (usize, usize)) -> usize {
        if anew {
            // Splitmix64.
            self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (self.seed ^ (self.seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            self.ticks = shortest + ((z ^ (z >> 31)) % (longest - shortest) as u64) as usize;
        }
        self.ticks
    }
}

/// Role, term, leader, the last term that is ready, the entry that made the members, and whether the log failed.
pub(super) type Brief = (StateRole, u64, u64, u64, u64, bool);

#[derive(Default)]
pub(super) struct Since {
    pub(super) entries: u64,
    pub(super) bytes: u64,
}

impl<M: Machine> Driver<M> {
    /// Restores and replays the machine. A group of one leads when this returns.
    pub(super) fn open(
        config: LogConfig,
        directory: Directory,
        mut machine: M,
        mut peers: Box<dyn Peers>,
        board: Arc<Board>,
        background: impl FnOnce(Shop) -> io::Result<Box<dyn Background>>,
    ) -> Result<Self, LogError> {
        let raft_dir = directory::raft(&directory.path);
        let files = Arc::new(Files::new(Arc::clone(&directory.disk), Arc::clone(&board.counters)));
        let mut store = Store::open(&raft_dir, Arc::clone(&files), config.member, || config.first_members(), directory.used)?;
        config.check_joined(store.members()).map_err(LogError::Config)?;
        if !store.members().is_alone(config.member) {
            config.check_listens().map_err(LogError::Config)?;
        }
        let snapshots = restore(&directory, &store, &mut machine)?;
        let applied = snapshots.last().map_or(0, |s| s.index);
        store.check(applied + 1).map_err(|what| corrupt(&raft_dir, what))?;
        store.committed(applied);
        let reached = Reached { index: applied, stamp: store.stamp_at(applied).map_err(|what| corrupt(&raft_dir, what))? };
        let used = store.engine.get_used_size() as u64;
        let retention = Retention::new(config.keeps, store.cut_index(), applied, used);
        let reader = Reader::start(store.engine()).map_err(|e| io_error(&config.dir, "a thread cannot be started", e))?;
        let history = Arc::new(History::new(reader, store.cut_index() + 1, reached));
        store.set_newest_snapshot(snapshots.last().copied());
        settle_address(&config, &mut store).map_err(|what| LogError::Start { path: config.dir.clone(), what })?;

        let dir = directory::snapshots(&directory.path);
        let shop = Shop { dir, cluster: directory.cluster, engine: store.engine(), files: Arc::clone(&files) };
        let background = background(shop).map_err(|e| io_error(&config.dir, "a thread cannot be started", e))?;
        let start = |what: String| LogError::Start { path: config.dir.clone(), what };
        let (heartbeat, (shortest, longest)) = config.ticks();
        let raft_config = raft::Config {
            id: config.member,
            applied,
            heartbeat_tick: heartbeat,
            election_tick: shortest,
            min_election_tick: shortest,
            max_election_tick: longest,
            pre_vote: true,
            check_quorum: true,
            max_inflight_msgs: INFLIGHT,
            max_size_per_msg: MESSAGE_BYTES,
            max_uncommitted_size: UNCOMMITTED_BYTES,
            max_committed_size_per_ready: COMMITTED_BYTES,
            ..raft::Config::default()
        };
        let (members, quiet) = (store.members().clone(), store.is_used() && !store.members().is_alone(config.member));
        let node = catch_unwind(AssertUnwindSafe(|| RawNode::new(&raft_config, store, &raftlog::logger())))
            .unwrap_or_else(|panic| Err(raft::Error::ConfigInvalid(said(&*panic))))
            .map_err(|e| start(e.to_string()))?;
        tell_members(&board, peers.as_mut(), &members, config.member);
        // A follower counts whole ticks, and clocks differ a little: what is left is certain.
        let span = (config.election.0.saturating_sub(config.tick() * 2)) * if planted::is(Defect::LongLease) { 90 } else { 9 } / 10;
        let gauge = Gauge::new(Arc::clone(&directory.disk), directory.path.clone(), config.reserve);
        let mut driver = Self {
            node,
            machine,
            peers,
            files,
            history,
            retention,
            board,
            proposed: VecDeque::new(),
            answers: Vec::new(),
            background,
            snapshots,
            snapshot_running: false,
            dumps: Dumps::new(),
            received: None,
            applied,
            since: Since::default(),
            now: Duration::ZERO,
            ticks: 0,
            patience: Patience { seed: config.seed, ticks: shortest },
            heard: BTreeMap::new(),
            sent: BTreeMap::new(),
            lost: Vec::new(),
            reads: Reads::new(span),
            inquiry: Inquiry::new(config.member),
            round_due: false,
            leading: None,
            machine_leads: None,
            ready_term: 0,
            offered_term: 0,
            changing: None,
            handover: None,
            shown: None,
            held: Vec::new(),
            owed: 0,
            mark_failed: false,
            quiet_until: if quiet { shortest as u64 } else { 0 },
            gauge,
            stall: None,
            offered_to: BTreeMap::new(),
            poison: None,
            directory,
            config,
        };
        let begun = driver.guarded(if driver.is_alone() { Self::lead_alone } else { Self::pump });
        begun.map_err(|what| LogError::Start { path: driver.config.dir.clone(), what })?;
        driver.keep();
        driver.publish();
        Ok(driver)
    }

    fn lead_alone(&mut self) -> Result<(), String> {
        // Who is left of a group has the changes that made it so to apply first: raft lets nobody stand before.
        self.pump()?;
        self.node.campaign().map_err(|e| e.to_string())?;
        self.pump()?;
        if let Some(why) = self.waits_for() {
            return Err(format!("{why}; free some space there and start it again"));
        }
        // The leader's first entry commits all before it; with it applied, so is everything.
        let (applied, last) = (self.applied, self.node.store().last());
        match self.node.raft.state {
            StateRole::Leader if applied == last => Ok(()),
            role => Err(format!("it is {role:?} and has applied {applied} of {last} entries")),
        }
    }

    pub(super) fn cluster(&self) -> uuid::Uuid {
        self.directory.cluster
    }

    /// Whether nobody else is in the group.
    pub(super) fn is_alone(&self) -> bool {
        self.node.store().members().is_alone(self.config.member)
    }

    /// Whether nothing needs to happen in time: nobody else is in the group, and this member leads it. One that is left of a group, and
    /// followed a member that is gone from it, is to stand for election first.
    pub(super) fn may_sleep(&self) -> bool {
        self.is_alone() && self.node.raft.state == StateRole::Leader
    }

    /// A panic below is a defect of ours or of raft's: the log stops, the process does not.
    pub(super) fn guarded<T>(&mut self, run: impl FnOnce(&mut Self) -> Result<T, String>) -> Result<T, String> {
        catch_unwind(AssertUnwindSafe(|| run(self))).unwrap_or_else(|panic| Err(format!("a defect: {}", said(&*panic))))
    }

    /// The log takes nothing more. In a group this member falls silent, and another takes the lead.
    pub(super) fn fail(&mut self, what: String) {
        tracing::error!(dir = %self.directory.path.display(), "the log takes nothing more: {what}");
        self.poison = Some(what);
        let fault = self.storage_fault();
        for proposed in std::mem::take(&mut self.proposed) {
            self.refuse(proposed.answers, fault.clone());
        }
        self.end_waiting(&fault);
    }

    pub(super) fn storage_fault(&self) -> Fault {
        let why = self.poison.as_deref().unwrap_or_default();
        FaultCode::Storage.with(format!(
            "the log in {} takes nothing more: {why}. Reads go on; remove the cause and restart this process",
            self.directory.path.display()
        ))
    }

    pub(super) fn refuse(&mut self, answers: Vec<Answer<M::Output>>, fault: Fault) {
        self.answers.extend(answers.into_iter().map(|answer| Known { answer, outcome: Err(fault.clone()) }));
    }
}

/// A group of one may be opened with an address, or another one: nobody else knows it yet.
fn settle_address(config: &LogConfig, store: &mut Store) -> Result<(), String> {
    let Some(own) = config.members.get(config.member) else { return Ok(()) };
    if store.members().is_alone(config.member) && store.members().get(own.id) != Some(own) {
        let mut members = store.members().clone();
        members.readdress(own);
        store.set_members(members)?;
    }
    Ok(())
}

/// Shows the members to the outside, and to the way to them.
pub(super) fn tell_members(board: &Board, peers: &mut dyn Peers, members: &Members, me: u64) {
    board.show_members(members.clone());
    let others: Vec<_> = members.iter().map(|(m, _)| m.clone()).filter(|m| m.id != me).collect();
    peers.members(&others);
}

/// The text of a panic.
pub(super) fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}
