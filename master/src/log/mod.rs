//! The replicated log: effects go in, come out in one order, and outlive the process; of one member, or of a group that tolerates the loss
//! of a minority.
//!
//! | file | what |
//! |---|---|
//! | `driver`, `request`, `turn`, `ready`, `group`, `install`, `loss`, `keep` | the driver of raft, store and machine; knows no clock and no socket |
//! | `thread` | the log thread: clock and queues around the driver |
//! | `loose` | the same without a thread, for the simulation |
//! | `members`, `change`, `progress`, `reads`, `inquiry`, `role`; `plain` | who is in the group and how far, what may be read, who leads; the list as it once was |
//! | `peers/` | the way to other members |
//! | `entry`, `record`, `snapshot`, `directory` | what is stored, each with version and checksum |
//! | `history`, `reader`, `retain` | what was applied, to be read again, and for how long |
//! | `store`, `write`, `storage`, `stored`, `engine`, `files`, `tail` | entries on disk: raft's storage over raft-engine, the files below it, and what a broken end means |
//! | `room`, `stall` | a disk that fills up |
//! | `disk` | the file system |
//! | `restore` | from the directory to a machine |
//! | `dump`, `revive` | a snapshot to be kept elsewhere, and a new group from one |
//! | `background` | snapshots, deletion, periodic sync |
//!
//! **Whom to believe.** A proposal that resolves to an output is stored by a majority and applied here. One that is lost with the lead is
//! answered as unknown, never as success. What is read from the machine is current only behind [`Log::read_barrier`], or while
//! [`Log::holds_lease`]. [`Standing::role`] says leader only once this member has applied all that earlier leaders committed.
//!
//! **Lease.** A majority that answers a heartbeat promises to elect nobody for the shortest election timeout; the leader counts on nine
//! tenths of it, from before the heartbeat went out. A member that was restarted votes for nobody for as long, because it may have promised.
//! A leader that began to hand over its lead has no lease for the rest of its term. Only the rate of clocks is trusted, to a tenth.

mod background;
mod change;
mod config;
mod counters;
mod directory;
mod disk;
#[cfg(test)]
mod driven;
mod driver;
mod dump;
mod engine;
mod entry;
mod error;
mod files;
mod group;
mod history;
mod inquiry;
mod install;
mod keep;
#[cfg(feature = "simulation")]
pub(crate) mod loose;
mod loss;
mod machine;
mod members;
mod peers;
mod plain;
mod progress;
mod proposal;
mod raftlog;
mod reader;
mod reads;
mod ready;
mod record;
mod request;
mod restore;
mod retain;
mod revive;
mod role;
mod room;
mod snapshot;
mod stall;
mod status;
mod storage;
mod store;
mod stored;
mod tail;
mod thread;
mod turn;
mod write;

#[cfg(feature = "simulation")]
pub(crate) use disk::{Disk, DiskFile, For};

pub(crate) use entry::unpack;
pub(crate) use history::{History, Past, Unread};

pub use change::Change;
pub use config::{Durability, EFFECT_BYTES_MAX, LogConfig};
pub use dump::Dump;
pub use error::LogError;
pub use machine::{Machine, SnapshotWriter};
pub use members::{MEMBERS_MAX, Member, Members, Seat, is_address};
pub use progress::{Feed, GroupProgress, Progress};
pub use proposal::Proposal;
pub use retain::Keeps;
pub use revive::{PassOn, Revived, revive, unchanged};
pub(crate) use revive::{beside, check_empty, inspect};
pub use role::Standing;
pub use room::Room;
pub use status::{LATENCY_BOUNDS_US, Latency, LogStatus, Role};

use background::{Background, Threads};
use crossbeam::channel::{Receiver, Sender, bounded};
use directory::Directory;
use driver::Driver;
use peers::Post;
use perilune_protocol::FaultCode;
use request::{Answer, Input, Waiting};
use status::Board;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use uuid::Uuid;

/// Letters of other members that wait to be read; who writes more waits too.
const LETTERS_WAITING: usize = 512;

/// Effects that are handed in at once, at most, and their bytes: few enough that they fit into an entry.
const TOGETHER: usize = 128;
const TOGETHER_BYTES: usize = 256 << 10;

/// Puts an effect to those that are to be handed in, unless it is refused.
fn prepare<O>(term: u64, effect: Vec<u8>, together: &mut Vec<Waiting<O>>) -> Proposal<O> {
    if effect.len() > EFFECT_BYTES_MAX {
        let what = format!("an effect of {} bytes, the limit is {EFFECT_BYTES_MAX}", effect.len());
        return Proposal::known(Err(FaultCode::InvalidParams.with(what)));
    }
    let (answer, proposal) = Proposal::new();
    together.push(Waiting { effect, term, answer });
    proposal
}

/// A handle of an open log; cheap to clone. The log closes when [`Log::close`] is called or its last handle drops.
pub struct Log<M: Machine> {
    shared: Arc<Shared<M>>,
}

struct Shared<M: Machine> {
    inbox: Sender<Input<M::Output>>,
    board: Arc<Board>,
    cluster: Uuid,
    history: Arc<History>,
    /// Since the driver's time was zero.
    elapsed: Box<dyn Fn() -> Duration + Send + Sync>,
    /// Taken by whoever closes the log.
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl<M: Machine> Clone for Log<M> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<M: Machine> Log<M> {
    /// Opens or makes the log in `config.dir`, restores and replays `machine`. A group of one leads when this returns; a member of a larger
    /// one follows, and [`Log::watch`] tells when that changes.
    ///
    /// # Errors
    /// When a setting cannot be; when the directory cannot be used, is in use, is of a newer version, of another cluster or member, or is
    /// damaged, or when its log is gone. A last write that did not finish is no damage and is cut off, as long as no whole write lies
    /// behind it.
    pub fn open(config: LogConfig, machine: M) -> Result<Self, LogError> {
        let (inbox, outbox) = bounded(config.queue_effects.max(1));
        let board = Arc::new(Board::default());
        let dir = config.dir.clone();
        let (opened, open) = bounded(1);
        let (shown, back, began) = (Arc::clone(&board), inbox.clone(), Instant::now());
        // Opened on its own thread: raft-engine caches what a thread read last, without telling one engine from another.
        let thread = Builder::new().name("log".into()).spawn(move || match begin(config, machine, shown, back) {
            Ok((driver, post)) => {
                // The opener waits for it.
                let _ = opened.send(Ok((driver.cluster(), Arc::clone(&driver.history))));
                thread::run(driver, &outbox, post, began);
            }
            Err(e) => drop(opened.send(Err(e))),
        });
        let thread = thread.map_err(|e| directory::io_error(&dir, "a thread cannot be started", e))?;
        let panicked = || LogError::Start { path: dir.clone(), what: "the log thread panicked while opening it".into() };
        let begun = open.recv().unwrap_or_else(|_| Err(panicked()));
        let elapsed = Box::new(move || began.elapsed());
        let shared = |(cluster, history)| Shared { inbox, board, cluster, history, elapsed, thread: Mutex::new(Some(thread)) };
        begun.map(|begun| Self { shared: Arc::new(shared(begun)) })
    }

    /// Puts an effect on its way. Effects proposed by one thread are applied in the order of its calls.
    /// Waits only while [`LogConfig::queue_effects`] others wait already.
    pub fn propose(&self, effect: Vec<u8>) -> Proposal<M::Output> {
        self.propose_in(0, effect)
    }

    /// The same for an effect that was decided in `term` and makes sense in no other: it is stored if this member leads in that very term.
    /// 0 is any term.
    pub fn propose_in(&self, term: u64, effect: Vec<u8>) -> Proposal<M::Output> {
        let mut together = Vec::with_capacity(1);
        let proposal = prepare(term, effect, &mut together);
        self.hand_in(together);
        proposal
    }

    /// The same for several at once: the log's thread is woken once for all, and they share an entry as far as that goes.
    pub fn propose_all(&self, term: u64, effects: impl IntoIterator<Item = Vec<u8>>) -> Vec<Proposal<M::Output>> {
        let (mut together, mut bytes) = (Vec::new(), 0);
        let propose = |effect: Vec<u8>| {
            if together.len() == TOGETHER || bytes + effect.len() > TOGETHER_BYTES {
                bytes = 0;
                self.hand_in(std::mem::take(&mut together));
            }
            bytes += effect.len();
            prepare(term, effect, &mut together)
        };
        let proposals = effects.into_iter().map(propose).collect();
        self.hand_in(together);
        proposals
    }

    fn hand_in(&self, together: Vec<Waiting<M::Output>>) {
        if !together.is_empty() {
            // A closed log drops the answers, which tells whoever asked.
            let _ = self.shared.inbox.send(Input::Propose(together));
        }
    }

    /// Resolves when what the machine then shows includes everything that was acknowledged, by whatever leader, before this call. Only the
    /// leader can say so; others refuse with a sentence that names it. At once while the lease holds, otherwise after a round to a majority.
    pub fn read_barrier(&self) -> Proposal<()> {
        if self.holds_lease() { Proposal::known(Ok(())) } else { self.ask(Input::Read) }
    }

    /// The same, by any member: one that follows asks the leader how far the log is, and waits until it has applied as much.
    /// [`FaultCode::WrongState`] or [`FaultCode::Timeout`] when no leader answers.
    pub fn catch_up(&self) -> Proposal<()> {
        if self.holds_lease() { Proposal::known(Ok(())) } else { self.ask(Input::CatchUp) }
    }

    /// Whether this member surely leads at this moment, so that its machine shows everything that was acknowledged. Costs a look at the
    /// clock. A group of one always does.
    pub fn holds_lease(&self) -> bool {
        (self.shared.elapsed)() < self.shared.board.lease()
    }

    /// The members, as far as this member has heard.
    pub fn members(&self) -> Arc<Members> {
        self.shared.board.members()
    }

    /// How far each member is; empty where this member does not lead.
    pub fn progress(&self) -> Proposal<GroupProgress> {
        self.ask(Input::Progress)
    }

    /// Changes the members, one change at a time; only the leader can. Resolves to the members once the change is complete. A new member
    /// is opened with what adding it resolved to as its [`LogConfig::members`], and is added as a learner first: promote it when it has
    /// caught up.
    pub fn change(&self, change: Change) -> Proposal<Members> {
        self.ask(|answer| Input::Change(change, answer))
    }

    /// Hands the lead to another voter. Resolves when it has taken it. Meanwhile proposals are refused, and not stored.
    pub fn transfer(&self, to: u64) -> Proposal<()> {
        self.ask(|answer| Input::Transfer(to, answer))
    }

    /// The same, to whichever voter lacks least: before a leader is closed on purpose, so that nobody waits for an election.
    pub fn hand_over(&self) -> Proposal<()> {
        self.ask(|answer| Input::Transfer(0, answer))
    }

    /// A snapshot that holds at least everything applied so far, as a file. Made now, unless there is one.
    pub fn dump(&self) -> Proposal<Dump> {
        self.ask(Input::Dump)
    }

    /// How this member stands, now and whenever that changes. Only the last of several changes may be seen; a term that has passed does
    /// not come back, so who leads in another term than before has lost the lead in between.
    pub fn watch(&self) -> watch::Receiver<Standing> {
        self.shared.board.watch()
    }

    fn ask<T>(&self, input: impl FnOnce(Answer<T>) -> Input<M::Output>) -> Proposal<T> {
        let (answer, proposal) = Proposal::new();
        // A closed log drops the answer, which tells whoever asked.
        let _ = self.shared.inbox.send(input(answer));
        proposal
    }

    /// How much room the disk has; and, where that is not enough, whether the lead is being offered to a member that may have more.
    pub fn room(&self) -> (Room, bool) {
        self.shared.board.room()
    }

    /// Whether the next proposal may have to wait for room.
    pub fn is_crowded(&self) -> bool {
        let inbox = &self.shared.inbox;
        inbox.capacity().is_some_and(|capacity| inbox.len() >= capacity / 4 * 3)
    }

    /// What was applied, to be read again.
    pub(crate) fn history(&self) -> Arc<History> {
        Arc::clone(&self.shared.history)
    }

    /// Positions, counts and latencies.
    pub fn status(&self) -> LogStatus {
        self.shared.board.read()
    }

    /// The id that the group was given when its first member first opened its directory.
    pub fn cluster_id(&self) -> Uuid {
        self.shared.cluster
    }

    /// Takes no further proposals, stores those that were taken, syncs, and joins the log's threads. Closing twice does nothing.
    pub fn close(&self) {
        self.shared.close();
    }
}

impl<M: Machine> Shared<M> {
    fn close(&self) {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take() {
            // Refused only when the thread has ended already.
            let _ = self.inbox.send(Input::Close);
            if thread.join().is_err() {
                tracing::error!("the log thread panicked");
            }
        }
    }
}

impl<M: Machine> Drop for Shared<M> {
    fn drop(&mut self) {
        self.close();
    }
}

/// Whether a data directory is there already.
pub fn is_made(dir: &std::path::Path) -> bool {
    directory::is_made(&disk::System, dir)
}

/// Opens the directory, the way to the others, and the driver.
fn begin<M: Machine>(
    config: LogConfig,
    machine: M,
    board: Arc<Board>,
    inbox: Sender<Input<M::Output>>,
) -> Result<(Driver<M>, Receiver<Post>), LogError> {
    config.check().map_err(LogError::Config)?;
    let disk = Arc::new(disk::System);
    if !directory::is_made(&*disk, &config.dir) {
        // Before anything is made for a group that cannot be.
        config.first_members().map_err(LogError::Config)?;
    }
    let directory = Directory::open(disk, &config.dir, config.cluster)?;
    let (tell, post) = bounded(LETTERS_WAITING);
    let peers = peers::open(&config, &directory, Arc::clone(&board), tell)?;
    let wake = move || drop(inbox.try_send(Input::Wake));
    let every = (config.durability == Durability::Quorum).then_some(config.sync_every);
    let threads = |shop| Threads::start(shop, every, wake).map(|threads| Box::new(threads) as Box<dyn Background>);
    Ok((Driver::open(config, directory, machine, peers, board, threads)?, post))
}
