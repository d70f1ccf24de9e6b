//! Background jobs of the cluster: what they do, how far they are, and their switches.

use super::call;
use crate::SegmentId;
use serde::{Deserialize, Serialize};

/// All jobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListJobs {}
call!(ListJobs = 51 "list_jobs" -> Vec<JobState>);

/// Switches a job on or off for the whole group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchJob {
    /// The name of its switch, such as `balance`.
    pub job: String,
    /// Whether it is to work.
    pub on: bool,
}
call!(SwitchJob = 52 "switch_job" -> ());

/// Says how many bytes all jobs together may move, over all nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaceJobs {
    /// At least 1.
    pub bytes_per_second: u64,
}
call!(PaceJobs = 53 "pace_jobs" -> ());

/// A job as the master sees it. Counts go on from leader to leader.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobState {
    /// The name of its switch.
    pub job: String,
    /// Whether it is switched on.
    pub on: bool,
    /// `off`, `idle` or `working`.
    pub state: String,
    /// What it has to say of itself, or empty.
    pub note: String,
    /// How far its present pass over the objects is, in thousandths.
    pub permille: u16,
    /// Steps that nodes are working on.
    pub in_flight: u64,
    /// What it has done.
    pub counts: JobCounts,
    /// What last went wrong, or empty.
    pub last_error: String,
    /// Segments it is about.
    pub segments: Vec<JobSegment>,
}

/// What a job has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobCounts {
    /// How often it was done with all there was.
    pub passes: u64,
    /// Copies made elsewhere.
    pub copied: u64,
    /// Bytes of those.
    pub copied_bytes: u64,
    /// Copies given up.
    pub dropped: u64,
    /// Copies that were compared with their checksums.
    pub verified: u64,
    /// Bytes of those.
    pub verified_bytes: u64,
    /// Copies whose bytes were not what was put.
    pub bad: u64,
    /// Objects removed, since nothing of them was left that could be read.
    pub removed: u64,
    /// Steps that failed; most are tried again.
    pub failed: u64,
}

/// How far a job is with one segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSegment {
    /// Which.
    pub segment: SegmentId,
    /// `broken`, `repairing`, `repaired`, `dropping`.
    pub status: String,
    /// Objects with a copy there that there is still something to do for.
    pub left: u64,
    /// Objects all of whose copies are out of reach.
    pub stuck: u64,
}
