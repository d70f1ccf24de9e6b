//! The replicated log: effects go in, come out in one order, and outlive the process.

//!
//! | file | what |
//! |---|---|
//! | `driver` | the log thread |
//! | `entry`, `record`, `snapshot`, `directory` | what is stored, each with version and checksum |
//! | `store`, `stored`, `files`, `tail` | entries on disk: raft's storage over raft-engine, the files below it, and what a broken end means |
//! | `restore` | from the directory to a machine |
//! | `background` | snapshots, deletion, periodic sync |
//! | `peers` | the way to other members |

mod background;
mod config;
mod counters;
mod directory;
mod driver;
mod entry;
mod error;
mod files;
mod machine;
mod peers;
mod proposal;
mod raftlog;
mod record;
mod restore;
mod snapshot;
mod status;
mod store;
mod stored;
mod tail;

pub use config::{Durability, EFFECT_BYTES_MAX, LogConfig};
pub use error::LogError;
pub use machine::{Machine, SnapshotWriter};
pub use proposal::Proposal;
pub use status::{LATENCY_BOUNDS_US, Latency, LogStatus, Role};

use crossbeam::channel::{Sender, bounded};
use driver::{Driver, Input, Waiting};
use perilune_protocol::FaultCode;
use status::Board;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use uuid::Uuid;

/// A handle of an open log; cheap to clone. The log closes when [`Log::close`] is called or its last handle drops.
pub struct Log<M: Machine> {
    shared: Arc<Shared<M>>,
}

struct Shared<M: Machine> {
    inbox: Sender<Input<M::Output>>,
    board: Arc<Board>,
    cluster: Uuid,
    /// Taken by whoever closes the log.
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl<M: Machine> Clone for Log<M> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<M: Machine> Log<M> {
    /// Opens or makes the log in `config.dir`, restores and replays `machine`, and returns when this member leads.
    ///
    /// # Errors
    /// When the directory cannot be used, is in use, is of a newer version, or is damaged, or when its log is gone. A last write that did
    /// not finish is no damage and is cut off, as long as no whole write lies behind it.
    pub fn open(config: LogConfig, machine: M) -> Result<Self, LogError> {
        let (inbox, outbox) = bounded(config.queue_effects.max(1));
        let board = Arc::new(Board::default());
        let dir = config.dir.clone();
        let (opened, open) = bounded(1);
        let (shown, back) = (Arc::clone(&board), inbox.clone());
        // Opened on its own thread: raft-engine caches what a thread read last, without telling one engine from another.
        let thread = Builder::new().name("log".into()).spawn(move || match Driver::open(config, machine, shown, back) {
            Ok(driver) => {
                // The opener waits for it.
                let _ = opened.send(Ok(driver.cluster()));
                driver.run(&outbox);
            }
            Err(e) => drop(opened.send(Err(e))),
        });
        let thread = thread.map_err(|e| directory::io_error(&dir, "a thread cannot be started", e))?;
        let panicked = || LogError::Start { path: dir.clone(), what: "the log thread panicked while opening it".into() };
        let cluster = open.recv().unwrap_or_else(|_| Err(panicked()));
        let shared = |cluster| Shared { inbox, board, cluster, thread: Mutex::new(Some(thread)) };
        cluster.map(|cluster| Self { shared: Arc::new(shared(cluster)) })
    }

    /// Puts an effect on its way. Effects proposed by one thread are applied in the order of its calls.
    /// Waits only while [`LogConfig::queue_effects`] others wait already.
    pub fn propose(&self, effect: Vec<u8>) -> Proposal<M::Output> {
        let (answer, proposal) = Proposal::new();
        if effect.len() > EFFECT_BYTES_MAX {
            let what = format!("an effect of {} bytes, the limit is {EFFECT_BYTES_MAX}", effect.len());
            // The receiver is in `proposal`.
            let _ = answer.send(Err(FaultCode::InvalidParams.with(what)));
        } else {
            // A closed log drops the answer, which tells the proposer.
            let _ = self.shared.inbox.send(Input::Propose(Waiting { effect, answer }));
        }
        proposal
    }

    /// Whether the next proposal may have to wait for room.
    pub fn is_crowded(&self) -> bool {
        let inbox = &self.shared.inbox;
        inbox.capacity().is_some_and(|capacity| inbox.len() >= capacity / 4 * 3)
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
