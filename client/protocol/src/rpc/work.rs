//! What a master has store nodes do to the memory they lend: fetch a copy from elsewhere, or compare one with its checksum.

use super::call;
use crate::{Extent, NodeId, ReplicaPlace, RunId, SegmentDesc};
use serde::{Deserialize, Serialize};

/// A process of a node says who it is, on a connection on which it will ask for work of any kind: nobody is any more at what an earlier one took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeginRun {
    /// The node.
    pub node: NodeId,
    /// The process.
    pub run: RunId,
}
call!(BeginRun = 54 "begin_run" -> ());

/// A node tells what became of its work and asks for more. Answered as soon as there is some, or with nothing after `wait_ms`.
///
/// Work whose answer was lost is not done; the master notices by its deadline and gives it to somebody again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeWork {
    /// The node that asks.
    pub node: NodeId,
    /// What was finished since it last asked.
    #[serde(deserialize_with = "super::items")]
    pub done: Vec<WorkDone>,
    /// How many orders it takes.
    pub room: u32,
    /// Milliseconds.
    pub wait_ms: u64,
}
// What is not waited for would be lost with the orders in it.
call!(TakeWork = 50 "take_work" -> Vec<WorkOrder>, LONG);

/// Something to do to one copy of a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkOrder {
    /// Names the order, in this cluster for good.
    pub id: u64,
    /// Milliseconds from when it was asked for until which it may be worked on; after that not a byte may be written.
    pub limit_ms: u64,
    /// The copy, on a segment of the node that is asked.
    pub place: ReplicaPlace,
    /// Bytes of the value.
    pub size: u64,
    /// [`crate::checksum`] of the value.
    pub checksum: u64,
    /// Where to fetch the copy from first; `None`: only compare what is there.
    pub source: Option<WorkSource>,
}

/// Another copy of the value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkSource {
    /// How to reach the segment it lies on.
    pub segment: SegmentDesc,
    /// Its pieces there, in the order of the value.
    pub extents: Vec<Extent>,
}

/// An order that was worked on. Nothing is read or written for it any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkDone {
    /// Which.
    pub id: u64,
    /// What came of it.
    pub outcome: WorkOutcome,
}

/// What came of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkOutcome {
    /// The copy is there, and its bytes have the checksum.
    Right,
    /// The bytes that are there now have another checksum.
    Wrong {
        /// This one.
        found: u64,
    },
    /// The copy to fetch from could not be read; the sentence says why.
    Unread(String),
    /// The copy could not be written, or not be looked at; the sentence says why.
    Failed(String),
}
