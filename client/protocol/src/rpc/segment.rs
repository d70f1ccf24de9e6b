//! Mount, unmount, describe.

use super::call;
use crate::{Outcome, SegmentDesc, SegmentId, SegmentStatus};
use serde::{Deserialize, Serialize};

/// Lends segments. All or nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// What is lent; the node must be registered on this connection.
    #[serde(deserialize_with = "super::items")]
    pub segments: Vec<SegmentDesc>,
}
call!(Mount = 10 "mount" -> ());

/// Takes segments back. Answered per segment, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unmount {
    /// Which.
    #[serde(deserialize_with = "super::items")]
    pub segments: Vec<SegmentId>,
    /// How long they stay readable before they go; 0 means at once.
    pub grace_ms: u64,
}
call!(Unmount = 11 "unmount" -> Vec<Outcome<()>>);

/// How to reach segments. Answered per segment, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Describe {
    /// Which.
    #[serde(deserialize_with = "super::items")]
    pub segments: Vec<SegmentId>,
}
call!(Describe = 12 "describe" -> Vec<Outcome<SegmentDesc>>);

/// All segments, sorted by name and id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListSegments {}
call!(ListSegments = 13 "list_segments" -> Vec<SegmentState>);

/// A segment as the master sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentState {
    /// The segment; its capability is zero here.
    pub desc: SegmentDesc,
    /// Where it is in its life.
    pub status: SegmentStatus,
    /// Bytes allocated, rounding included.
    pub used: u64,
}
