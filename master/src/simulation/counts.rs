//! What a run has seen.

/// How much happened, so that a run that tests nothing is noticed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) puts: u64,
    pub(super) reads: u64,
    pub(super) misses: u64,
    pub(super) removes: u64,
    pub(super) evictions: u64,
    pub(super) copied: u64,
    pub(super) given_up: u64,
    pub(super) rotten: u64,
    pub(super) saved: u64,
    pub(super) demoted: u64,
    pub(super) fetched: u64,
    pub(super) through: u64,
    pub(super) lost: u64,
    pub(super) gone: u64,
    pub(super) kept: u64,
    pub(super) aborted: u64,
    pub(super) damaged: u64,
    pub(super) emptied: u64,
    pub(super) leaders: u64,
    pub(super) snapshots: u64,
    pub(super) joined: u64,
    pub(super) removed: u64,
    pub(super) told: u64,
    pub(super) compared: u64,
    pub(super) resumed: u64,
    pub(super) files: u64,
    pub(super) feeds_failed: u64,
    pub(super) needs: u64,
    pub(super) held: u64,
    /// Milliseconds by which the wall clock was ahead that was furthest.
    pub(super) ahead_ms: u64,
}
