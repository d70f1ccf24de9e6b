//! Two threads beside the log thread: one writes snapshots and deletes old files, one syncs every now and then. Both sleep when idle.

use super::engine::Engine;
use super::files::Files;
use super::machine::SnapshotWriter;
use super::snapshot::{self, SnapshotId};
use crossbeam::channel::{Receiver, RecvTimeoutError, Select, Sender, bounded, unbounded};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;
use uuid::Uuid;

/// Something that need not be done at once.
pub(super) enum Job {
    Snapshot(SnapshotId, SnapshotWriter),
    Purge,
}

/// How a snapshot ended.
pub(super) type Finished = (SnapshotId, io::Result<()>);

/// Does jobs one after the other, in order, beside the driver.
pub(super) trait Background: Send {
    fn give(&mut self, job: Job);

    fn finished(&mut self) -> Option<Finished>;

    /// Until a snapshot has ended, which must have been begun.
    fn wait(&mut self);

    /// Something has been appended, which is to be synced before long.
    fn appended(&self);
}

/// What the jobs work with.
pub(super) struct Shop {
    pub(super) dir: PathBuf,
    pub(super) cluster: Uuid,
    pub(super) engine: Arc<Engine>,
    pub(super) files: Arc<Files>,
}

impl Shop {
    pub(super) fn run(&self, job: Job) -> Option<Finished> {
        match job {
            Job::Snapshot(id, body) => {
                // A snapshot must never be ahead of the log on disk.
                self.files.sync();
                let write = || snapshot::write(&*self.files.disk, &self.dir, id, self.cluster, body);
                let written = catch_unwind(AssertUnwindSafe(write));
                return Some((id, written.unwrap_or_else(|_| Err(io::Error::other("the machine panicked while writing it")))));
            }
            // Files behind the cut, and nothing else: what raft-engine does of its own accord copies old entries that are kept, over and over.
            // There is none before file 1.
            Job::Purge => {
                let purge = || self.engine.purge_manager().must_rewrite_append_queue(Some(0), None);
                if catch_unwind(AssertUnwindSafe(purge)).is_err() {
                    tracing::warn!("old log files could not be deleted, the next snapshot tries again");
                }
            }
        }
        None
    }
}

/// Both threads.
pub(super) struct Threads {
    keeper: Keeper,
    syncer: Option<Syncer>,
}

impl Threads {
    /// Syncs `every` now and then, if at all. `wake` is called after each finished snapshot and must not block.
    pub(super) fn start(shop: Shop, every: Option<Duration>, wake: impl Fn() + Send + 'static) -> io::Result<Self> {
        let files = Arc::clone(&shop.files);
        Ok(Self { keeper: Keeper::start(shop, wake)?, syncer: every.map(|every| Syncer::start(files, every)).transpose()? })
    }
}

impl Background for Threads {
    fn give(&mut self, job: Job) {
        if let Some(jobs) = &self.keeper.jobs {
            // The thread lives until `jobs` is dropped.
            let _ = jobs.send(job);
        }
    }

    fn finished(&mut self) -> Option<Finished> {
        self.keeper.finished.try_recv().ok()
    }

    fn wait(&mut self) {
        let mut select = Select::new();
        select.recv(&self.keeper.finished);
        select.ready();
    }

    fn appended(&self) {
        if let Some(dirty) = self.syncer.as_ref().and_then(|syncer| syncer.dirty.as_ref()) {
            // Full means that the thread knows already.
            let _ = dirty.try_send(());
        }
    }
}

/// Writes snapshots and deletes files behind the cut. Joined when dropped, after the job at hand.
struct Keeper {
    jobs: Option<Sender<Job>>,
    finished: Receiver<Finished>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    fn start(shop: Shop, wake: impl Fn() + Send + 'static) -> io::Result<Self> {
        let (jobs, inbox) = unbounded();
        let (tell, finished) = unbounded();
        let thread = Builder::new().name("log-keep".into()).spawn(move || {
            for job in inbox {
                if shop.run(job).is_some_and(|done| tell.send(done).is_ok()) {
                    wake();
                }
            }
        })?;
        Ok(Self { jobs: Some(jobs), finished, thread: Some(thread) })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.jobs.take());
        join(self.thread.take());
    }
}

/// Syncs the log a while after something was appended, so that many appends share a sync. Joined when dropped.
struct Syncer {
    dirty: Option<Sender<()>>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Syncer {
    fn start(files: Arc<Files>, every: Duration) -> io::Result<Self> {
        let (dirty, appended) = bounded::<()>(1);
        let (stop, stopped) = bounded::<()>(0);
        let thread = Builder::new().name("log-sync".into()).spawn(move || {
            for () in appended {
                if stopped.recv_timeout(every) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
                if files.is_dirty() && files.failure().is_none() {
                    files.sync();
                }
            }
        })?;
        Ok(Self { dirty: Some(dirty), stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        drop((self.stop.take(), self.dirty.take()));
        join(self.thread.take());
    }
}

fn join(thread: Option<JoinHandle<()>>) {
    if thread.is_some_and(|t| t.join().is_err()) {
        tracing::error!("a background thread of the log panicked");
    }
}
