//! What crosses a process boundary: ids, sizes, times, messages, faults, frames.
//!
//! Nothing here does I/O, blocks, or trusts its input: a decoder gives a value or an error for any bytes,
//! and never allocates more than the frame in hand could hold.
#![forbid(unsafe_code)]

pub mod access;
pub mod fault;
pub mod frame;
pub mod ids;
pub mod object;
pub mod rpc;
pub mod segment;
pub mod size;
pub mod time;

pub use fault::{Fault, FaultCode, Outcome};
pub use ids::{Capability, NodeId, ObjectKey, SegmentId, TenantId, WriterId};
pub use object::{ObjectPlace, Pin, PutConfig, ReplicaPlace};
pub use segment::{Endpoint, Protocol, SegmentDesc, SegmentStatus};
pub use size::{ByteSize, Extent};
pub use time::{Millis, Tso};

/// The checksum of every value: CRC-64/NVME, as S3 computes it for objects.
///
/// A CRC rather than a hash because the parts of one value (its extents) can be checked apart and combined.
pub fn checksum(parts: &[&[u8]]) -> u64 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
    for part in parts {
        digest.update(part);
    }
    digest.finalize()
}
