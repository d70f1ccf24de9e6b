//! What crosses a process boundary: ids, sizes, times, messages, faults, frames.
//!
//! Nothing here does I/O, blocks, or trusts its input: a decoder gives a value or an error for any bytes,
//! and never allocates more than the frame in hand could hold.
#![forbid(unsafe_code)]

pub mod access;
pub mod event;
pub mod fault;
pub mod frame;
pub mod ids;
pub mod metakey;
pub mod object;
pub mod principal;
pub mod rpc;
pub mod sealed;
pub mod segment;
pub mod size;
pub mod tenant;
pub mod time;
pub mod vault;

pub use fault::{Fault, FaultCode, Outcome};
pub use ids::{Capability, ColdName, NodeId, ObjectKey, RunId, SegmentId, TenantId, VaultId, WriterId};
pub use object::{ObjectPlace, Pin, PutConfig, ReplicaPlace};
pub use segment::{Endpoint, Protocol, SegmentDesc, SegmentStatus};
pub use size::{ByteSize, Extent};
pub use time::{Millis, Tso};

/// The checksum of every value: CRC-64/NVME, as S3 computes it for objects.
///
/// A CRC rather than a hash because the parts of one value (its extents) can be checked apart and combined.
pub fn checksum(parts: &[&[u8]]) -> u64 {
    let mut checksum = Checksum::default();
    for part in parts {
        checksum.update(part);
    }
    checksum.finish()
}

/// The [`checksum`] of a value that comes in parts.
pub struct Checksum(crc_fast::Digest);

impl Default for Checksum {
    fn default() -> Self {
        Self(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme))
    }
}

impl Checksum {
    /// The next part.
    pub fn update(&mut self, part: &[u8]) {
        self.0.update(part);
    }

    /// That of all parts.
    pub fn finish(self) -> u64 {
        self.0.finalize()
    }
}
