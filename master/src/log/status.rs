//! What a log says about itself: positions, counts, latencies.

use super::counters::Counters;
use super::members::Members;
use super::role::Standing;
use super::room::Room;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// What a member is in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Role {
    /// Takes entries from the leader.
    #[default]
    Follower,
    /// Asks for votes.
    Candidate,
    /// Takes proposals.
    Leader,
}

/// A snapshot of a log's positions and counts. Counts begin at zero when the log is opened.
#[derive(Clone, Debug, Default)]
pub struct LogStatus {
    /// This member's raft id.
    pub member: u64,
    /// What this member is at the moment.
    pub role: Role,
    /// As a candidate, it has not asked for votes yet: it asks whether asking makes sense.
    pub pre_candidate: bool,
    /// The raft term.
    pub term: u64,
    /// Whom this member voted for in this term; 0 is nobody.
    pub vote: u64,
    /// The last committed raft index.
    pub commit: u64,
    /// The last applied raft index.
    pub applied: u64,
    /// The first raft index still in the log.
    pub first_index: u64,
    /// The last raft index in the log.
    pub last_index: u64,
    /// Raft entries applied since the newest snapshot.
    pub entries_since_snapshot: u64,
    /// Index of the newest complete snapshot; 0 when there is none.
    pub snapshot_index: u64,
    /// Snapshots completed.
    pub snapshots: u64,
    /// Snapshots that failed; the log goes on and tries again later.
    pub snapshot_failures: u64,
    /// Calls of `fdatasync` on log files.
    pub fsyncs: u64,
    /// Raft entries that were appended and held effects.
    pub entries: u64,
    /// Effects in them.
    pub effects: u64,
    /// Bytes handed to the file system for the log.
    pub bytes_written: u64,
    /// Time of an append: from the packed entry to the kernel having it (and the disk, under `QuorumFsync`).
    pub append: Latency,
    /// Time of an `fdatasync`.
    pub sync: Latency,
    /// Bytes free on the disk of the log, if it says.
    pub free: Option<u64>,
    /// That the disk fills up, and what that means, while it does.
    pub crowded: Option<String>,
    /// Why nothing can be proposed any more, when that is so.
    pub poisoned: Option<String>,
}

impl LogStatus {
    /// Why nothing new can be stored, when that is so.
    pub fn trouble(&self) -> Option<String> {
        let poisoned = self.poisoned.as_ref().map(|why| format!("the log takes no more entries: {why}"));
        poisoned.or_else(|| self.crowded.clone())
    }
}

/// Upper bounds of the latency buckets, in microseconds; one more bucket takes the rest.
pub const LATENCY_BOUNDS_US: [u64; 14] = [10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 500_000, 2_500_000];

/// A latency histogram, as counted so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// Observations per bucket of [`LATENCY_BOUNDS_US`], and at the end those above the last bound. Not cumulative.
    pub buckets: [u64; LATENCY_BOUNDS_US.len() + 1],
    /// Sum of all observations.
    pub sum: Duration,
}

impl Latency {
    /// Number of observations.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// Where the log thread shows its positions, and all threads count.
#[derive(Default)]
pub(super) struct Board {
    pub(super) counters: Arc<Counters>,
    /// Written by the log thread after every turn; its counts stay zero.
    positions: Mutex<LogStatus>,
    members: Mutex<Arc<Members>>,
    standing: watch::Sender<Standing>,
    /// Nanoseconds of the driver's time before which this member surely leads. Written by the log thread (release) once the machine shows
    /// all that is acknowledged, read by anyone (acquire).
    lease_ns: AtomicU64,
    /// A [`Room`], and whether the lead is being offered to others for the lack of it. Says nothing of other data: relaxed.
    room: AtomicU8,
    offering: AtomicBool,
}

impl Board {
    pub(super) fn positions(&self) -> MutexGuard<'_, LogStatus> {
        self.positions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn show_members(&self, members: Members) {
        *self.members.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(members);
    }

    pub(super) fn members(&self) -> Arc<Members> {
        Arc::clone(&self.members.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn show_standing(&self, standing: Standing) {
        self.standing.send_if_modified(|shown| {
            let changes = *shown != standing;
            *shown = standing;
            changes
        });
    }

    pub(super) fn watch(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    pub(super) fn show_lease(&self, until: Duration) {
        self.lease_ns.store(u64::try_from(until.as_nanos()).unwrap_or(u64::MAX), Release);
    }

    pub(super) fn lease(&self) -> Duration {
        Duration::from_nanos(self.lease_ns.load(Acquire))
    }

    pub(super) fn show_room(&self, room: Room, offering: bool) {
        self.offering.store(offering, Relaxed);
        self.room.store(room as u8, Relaxed);
    }

    pub(super) fn room(&self) -> (Room, bool) {
        let room = [Room::Enough, Room::Low, Room::Brim][usize::from(self.room.load(Relaxed))];
        (room, self.offering.load(Relaxed))
    }

    pub(super) fn read(&self) -> LogStatus {
        let positions = self.positions().clone();
        let c = &self.counters;
        LogStatus {
            snapshots: c.snapshots.load(Relaxed),
            snapshot_failures: c.snapshot_failures.load(Relaxed),
            fsyncs: c.fsyncs.load(Relaxed),
            entries: c.entries.load(Relaxed),
            effects: c.effects.load(Relaxed),
            bytes_written: c.bytes_written.load(Relaxed),
            append: c.append.read(),
            sync: c.sync.read(),
            ..positions
        }
    }
}
