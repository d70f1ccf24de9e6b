//! What a key stands for, and where its bytes are.

use crate::{Extent, SegmentId, Tso};
use serde::{Deserialize, Serialize};

/// The largest value, in bytes.
pub const VALUE_BYTES_MAX: u64 = 16 << 30;

/// How strongly an object resists eviction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pin {
    /// Leaves when it is the oldest.
    #[default]
    None,
    /// Leaves only when nothing unpinned is left to evict.
    Soft,
    /// Never evicted.
    Hard,
}

/// How a value is to be stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutConfig {
    /// Copies in memory, each on a segment of its own.
    pub replicas: u8,
    /// Whether fewer copies than asked for are good enough.
    pub best_effort: bool,
    /// Resistance to eviction.
    pub pin: Pin,
    /// Names of segments to prefer, best first.
    pub preferred_segments: Vec<String>,
    /// Replace an existing object instead of refusing.
    pub upsert: bool,
}

impl Default for PutConfig {
    fn default() -> Self {
        Self { replicas: 1, best_effort: false, pin: Pin::None, preferred_segments: Vec::new(), upsert: false }
    }
}

/// One copy: the extents hold the value in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaPlace {
    /// The segment that holds it.
    pub segment: SegmentId,
    /// Its pieces; their lengths add up to the size of the value.
    pub extents: Vec<Extent>,
}

/// A readable object: what to read, from where, and until when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectPlace {
    /// The version that was published.
    pub version: Tso,
    /// Bytes of the value.
    pub size: u64,
    /// [`crate::checksum`] of the value.
    pub checksum: u64,
    /// For how long the replicas stay readable, in milliseconds from when the question was asked.
    pub lease_ms: u64,
    /// The readable copies in memory, best first. None: the object has to be fetched from its vault ([`crate::rpc::cold::Recall`]).
    pub replicas: Vec<ReplicaPlace>,
}
