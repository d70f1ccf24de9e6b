//! A log without threads, for a simulation: it owns the time, the files, the letters and the order of all that happens. What happens is
//! the log's own code.

use super::background::{Background, Finished, Job, Shop};
use super::directory::{self, Directory};
use super::disk::Disk;
use super::driver::Driver;
use super::engine::{Engine, open_engine};
use super::files::Files;
use super::peers::{Arrivals, Card, Outgoing, Peers, Post, put_message, read};
use super::request::Input;
use super::snapshot::SnapshotId;
use super::status::Board;
use super::store::GROUP;
use super::stored::{Entries, Stored};
use super::{Durability, Log, LogConfig, LogError, Machine, Member, Shared, thread};
use crossbeam::channel::{Receiver, bounded};
use raft::eraftpb::{Entry, Message};
use raft_engine::LogBatch;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// So small that even a small snapshot goes in several stretches.
const STRETCH: usize = 2 << 10;

/// What the driver wants carried, or done later.
#[derive(Default)]
struct Desk {
    letters: Vec<(u64, Vec<u8>)>,
    snapshots: Vec<(Message, SnapshotId)>,
    jobs: VecDeque<Job>,
    done: VecDeque<Finished>,
    dirty: bool,
}

type Shelf = Arc<Mutex<Desk>>;

fn open_desk(shelf: &Shelf) -> MutexGuard<'_, Desk> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Pigeonhole(Shelf);

impl Peers for Pigeonhole {
    fn members(&mut self, _: &[Member]) {}

    fn send(&mut self, message: Message) -> bool {
        let mut bytes = Vec::new();
        put_message(&mut bytes, &message);
        open_desk(&self.0).letters.push((message.to, bytes));
        true
    }

    fn send_snapshot(&mut self, message: Message, id: SnapshotId) -> bool {
        open_desk(&self.0).snapshots.push((message, id));
        true
    }
}

struct Later {
    shelf: Shelf,
    shop: Arc<Shop>,
}

impl Later {
    fn run_one(&self) -> bool {
        let job = open_desk(&self.shelf).jobs.pop_front();
        let Some(job) = job else { return false };
        let finished = self.shop.run(job);
        open_desk(&self.shelf).done.extend(finished);
        true
    }
}

impl Background for Later {
    fn give(&mut self, job: Job) {
        open_desk(&self.shelf).jobs.push_back(job);
    }

    fn finished(&mut self) -> Option<Finished> {
        open_desk(&self.shelf).done.pop_front()
    }

    fn wait(&mut self) {
        while open_desk(&self.shelf).done.is_empty() && self.run_one() {}
    }

    fn appended(&self) {
        open_desk(&self.shelf).dirty = true;
    }
}

/// A snapshot on its way to another member.
pub(crate) struct Parcel {
    pub(crate) to: u64,
    outgoing: Outgoing,
    begun: Vec<u8>,
}

impl Parcel {
    /// The next stretch of the stream; whether it was the last.
    pub(crate) fn next(&mut self) -> io::Result<(Vec<u8>, bool)> {
        let mut out = std::mem::take(&mut self.begun);
        let ended = self.outgoing.go_on(&mut out)?;
        Ok((out, ended))
    }
}

/// A log whose every step is called for.
pub(crate) struct Loose<M: Machine> {
    driver: Driver<M>,
    inbox: Receiver<Input<M::Output>>,
    shelf: Shelf,
    later: Later,
    arrivals: BTreeMap<u64, Arrivals>,
    number: u64,
    snapshots: PathBuf,
    scratch: Arc<Scratch>,
}

impl<M: Machine> Loose<M> {
    /// Opens or makes it, and gives the handle by which `N` asks. `elapsed` is the driver's time for that handle.
    pub(crate) fn open<N: Machine<Output = M::Output>>(
        config: LogConfig,
        disk: Arc<dyn Disk>,
        machine: M,
        scratch: Arc<Scratch>,
        elapsed: Box<dyn Fn() -> Duration + Send + Sync>,
    ) -> Result<(Self, Log<N>), LogError> {
        scratch.forget();
        config.check().map_err(LogError::Config)?;
        let (tell, inbox) = bounded(config.queue_effects);
        let (board, shelf) = (Arc::new(Board::default()), Shelf::default());
        let directory = Directory::open(disk, &config.dir, config.cluster)?;
        let (cluster, snapshots) = (directory.cluster, directory::snapshots(&directory.path));
        let mut shop = None;
        let background = |found| {
            let found = Arc::new(found);
            shop = Some(Arc::clone(&found));
            Ok(Box::new(Later { shelf: Arc::clone(&shelf), shop: found }) as Box<dyn Background>)
        };
        let peers = Box::new(Pigeonhole(Arc::clone(&shelf)));
        let driver = Driver::open(config, directory, machine, peers, Arc::clone(&board), background)?;
        let history = Arc::clone(&driver.history);
        let shared = Shared { inbox: tell, board, cluster, history, elapsed, thread: Mutex::new(None) };
        let later = match shop {
            Some(shop) => Later { shelf: Arc::clone(&shelf), shop },
            None => return Err(LogError::Config("the driver asked for no background work".into())),
        };
        let loose = Self { driver, inbox, shelf, later, arrivals: BTreeMap::new(), number: 0, snapshots, scratch };
        Ok((loose, Log { shared: Arc::new(shared) }))
    }

    /// Whether somebody asked for something.
    pub(crate) fn is_asked(&self) -> bool {
        !self.inbox.is_empty()
    }

    /// Bytes of another member's stream: whole frames. False when they make no sense and the stream ends.
    pub(crate) fn receive(&mut self, from: u64, mut bytes: &[u8]) -> bool {
        self.scratch.forget();
        let card = Card { me: self.driver.config.member, cluster: self.driver.cluster(), token: None };
        while !bytes.is_empty() {
            let number = &mut self.number;
            let arrivals = self.arrivals.entry(from).or_insert_with(|| {
                *number += 1;
                let (disk, board) = (Arc::clone(&self.driver.directory.disk), Arc::clone(&self.driver.board));
                Arrivals::new(card.clone(), from, *number, disk, board, self.snapshots.clone())
            });
            match read(&mut bytes).and_then(|frame| arrivals.take(frame)) {
                Ok(Some(post)) => self.driver.post(post),
                Ok(None) => {}
                Err(_) => {
                    self.hung_up(from);
                    return false;
                }
            }
        }
        true
    }

    /// The stream from another member has ended.
    pub(crate) fn hung_up(&mut self, from: u64) {
        self.arrivals.remove(&from);
    }

    /// What was last sent there is probably lost.
    pub(crate) fn unreachable(&mut self, to: u64) {
        self.driver.post(Post::Unreachable(to));
    }

    /// Whether all of a snapshot was written to another member.
    pub(crate) fn snapshot_sent(&mut self, to: u64, whole: bool) {
        self.driver.post(Post::SnapshotSent(to, whole));
    }

    /// Whether time may pass without a tick.
    pub(crate) fn may_sleep(&self) -> bool {
        self.driver.may_sleep()
    }

    /// What the log thread does between two sleeps.
    pub(crate) fn turn(&mut self, now: Duration, tick: bool) {
        self.scratch.forget();
        if tick {
            self.driver.tick(now);
        }
        let mut next = None;
        loop {
            next = next.or_else(|| self.inbox.try_recv().ok());
            let last = next.is_none();
            thread::serve(&mut self.driver, &mut next, &self.inbox);
            self.driver.turn(now);
            if last {
                return;
            }
        }
    }

    /// What is to be carried to other members: to whom, and whole frames.
    pub(crate) fn letters(&mut self) -> Vec<(u64, Vec<u8>)> {
        std::mem::take(&mut open_desk(&self.shelf).letters)
    }

    /// Snapshots that are to be carried. One that cannot be read has failed already.
    pub(crate) fn parcels(&mut self) -> Vec<Parcel> {
        let wanted = std::mem::take(&mut open_desk(&self.shelf).snapshots);
        let begin = |(message, id): (Message, SnapshotId)| {
            let mut begun = Vec::new();
            let (disk, path, to) = (&*self.driver.directory.disk, id.path(&self.snapshots), message.to);
            let outgoing = Outgoing::begin(disk, &message, &path, STRETCH, &mut begun);
            outgoing.map(|outgoing| Parcel { to, outgoing, begun }).map_err(|_| to)
        };
        let begun: Vec<Result<Parcel, u64>> = wanted.into_iter().map(begin).collect();
        begun.into_iter().filter_map(|parcel| parcel.map_err(|to| self.snapshot_sent(to, false)).ok()).collect()
    }

    /// Whether something is to be done in the background.
    pub(crate) fn has_job(&self) -> bool {
        !open_desk(&self.shelf).jobs.is_empty()
    }

    pub(crate) fn run_job(&mut self) {
        self.scratch.forget();
        self.later.run_one();
    }

    /// Whether the background sync is to come by.
    pub(crate) fn is_dirty(&self) -> bool {
        self.driver.config.durability == Durability::Quorum && open_desk(&self.shelf).dirty
    }

    pub(crate) fn sync(&mut self) {
        open_desk(&self.shelf).dirty = false;
        let files = &self.driver.files;
        if files.is_dirty() && files.failure().is_none() {
            files.sync();
        }
    }

    /// Why it takes nothing more, if so.
    pub(crate) fn poison(&self) -> Option<&str> {
        self.driver.poison.as_deref().or(self.driver.files.failure())
    }

    /// The last index applied.
    pub(crate) fn applied(&self) -> u64 {
        self.driver.applied
    }
}

/// Raft-engine remembers, for each thread, what was read last, without telling one engine from another. Where several share a thread, this
/// has it remember something that is of none of them.
pub(crate) struct Scratch {
    engine: Engine,
}

/// Longer than any other block, so that its place in its file is not one of theirs.
const SCRATCH_BYTES: usize = 100_003;

impl Scratch {
    pub(crate) fn open(disk: Arc<dyn Disk>, dir: &Path) -> Result<Self, LogError> {
        let broken = |what: String| LogError::Start { path: dir.into(), what };
        disk.make_dir(dir).map_err(|e| broken(e.to_string()))?;
        let engine = open_engine(dir, &Arc::new(Files::new(disk, Arc::default())))?;
        let mut batch = LogBatch::default();
        let entry = Stored::from(Entry { index: 1, term: 1, data: vec![0; SCRATCH_BYTES], ..Entry::default() });
        batch.add_entries::<Entries>(GROUP, &[entry]).and_then(|()| engine.write(&mut batch, false)).map_err(|e| broken(e.to_string()))?;
        Ok(Self { engine })
    }

    fn forget(&self) {
        let _ = self.engine.get_entry::<Entries>(GROUP, 1);
    }
}
