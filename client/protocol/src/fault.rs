//! What one process may tell another went wrong. The numbers are Mooncake's where the meaning is the same
//! (`mooncake-store/include/types.h`), so that its clients need no translation.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! fault_codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal $text:literal,)*) => {
        /// A kind of fault with its stable number.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(into = "i32", from = "i32")]
        #[repr(i32)]
        pub enum FaultCode { $($(#[$doc])* $name = $number,)* }

        impl FaultCode {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name other systems know it by, such as `OBJECT_NOT_FOUND`.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }

        impl From<i32> for FaultCode {
            /// A number this build does not know is an internal error of the other side.
            fn from(number: i32) -> Self {
                match number { $($number => Self::$name,)* _ => Self::Internal }
            }
        }
    };
}

fault_codes! {
    /// A defect of ours.
    Internal = -1 "INTERNAL_ERROR",
    /// No such segment.
    SegmentNotFound = -101 "SEGMENT_NOT_FOUND",
    /// The segment is mounted already.
    SegmentExists = -102 "SEGMENT_ALREADY_EXISTS",
    /// The node is not registered.
    NodeNotFound = -103 "CLIENT_NOT_FOUND",
    /// No segment has room, and nothing could be evicted.
    NoSpace = -200 "NO_AVAILABLE_HANDLE",
    /// The other side speaks a version we do not.
    InvalidVersion = -300 "INVALID_VERSION",
    /// A parameter is wrong; the message says which.
    InvalidParams = -600 "INVALID_PARAMS",
    /// The caller may not do this.
    Forbidden = -601 "ILLEGAL_CLIENT",
    /// The put is not, or no longer, in progress.
    InvalidWrite = -700 "INVALID_WRITE",
    /// No copy can be read at the moment.
    NoReadableReplica = -703 "REPLICA_IS_NOT_READY",
    /// No such object.
    ObjectNotFound = -704 "OBJECT_NOT_FOUND",
    /// The object exists already, or is being put.
    ObjectExists = -705 "OBJECT_ALREADY_EXISTS",
    /// A reader holds a lease on the object.
    ObjectLeased = -706 "OBJECT_HAS_LEASE",
    /// The lease ran out before the read was done.
    LeaseExpired = -707 "LEASE_EXPIRED",
    /// The bytes could not be moved.
    TransferFailed = -800 "TRANSFER_FAIL",
    /// The bytes that arrived are not the bytes that were put.
    ChecksumMismatch = -801 "CHECKSUM_MISMATCH",
    /// The other process could not be reached.
    Unreachable = -900 "RPC_FAIL",
    /// The other process did not answer in time.
    Timeout = -901 "RPC_TIMEOUT",
    /// Not possible in the present state; the message says which.
    WrongState = -1010 "UNAVAILABLE_IN_CURRENT_STATUS",
    /// This build or this server does not offer it.
    NotSupported = -1012 "NOT_SUPPORTED",
    /// This master does not lead its group; another one does, or will. Ours alone: Mooncake's masters have no group.
    NotLeader = -1490 "NOT_LEADER",
    /// The caller did not say who it is, or not rightly. Ours alone.
    Unauthorized = -1491 "UNAUTHORIZED",
    /// The tenant is over its budget: what it has can be read and removed, nothing is added. Ours alone.
    TenantOverdue = -1492 "TENANT_OVERDUE",
    /// The tenant has as much as it may have, and nothing of it can leave. Ours alone.
    QuotaExceeded = -1493 "QUOTA_EXCEEDED",
    /// The tenant was dropped. Ours alone.
    TenantDeleted = -1494 "TENANT_DELETED",
    /// No such tenant. Ours alone.
    TenantNotFound = -1495 "TENANT_NOT_FOUND",
    /// What followed a cursor is not kept any more: begin with a snapshot. Ours alone.
    OutOfRange = -1496 "OUT_OF_RANGE",
    /// The log or the data directory failed.
    Storage = -1503 "PERSISTENT_FAIL",
}

impl FaultCode {
    /// The number on the wire and in C.
    pub fn number(self) -> i32 {
        self as i32
    }

    /// A fault of this kind with a sentence.
    pub fn with(self, message: impl Into<String>) -> Fault {
        Fault { code: self, message: message.into() }
    }
}

impl From<FaultCode> for i32 {
    fn from(code: FaultCode) -> i32 {
        code as i32
    }
}

/// A fault: its kind, and a sentence that says what was wrong, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The kind.
    pub code: FaultCode,
    /// The sentence.
    pub message: String,
}

/// A value or the fault that stands in its place.
pub type Outcome<T> = Result<T, Fault>;

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} {})", self.message, self.code.as_str(), self.code.number())
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_mooncakes_and_survive_the_wire() {
        for (code, number) in
            [(FaultCode::ObjectNotFound, -704), (FaultCode::NoSpace, -200), (FaultCode::ObjectLeased, -706), (FaultCode::Unreachable, -900)]
        {
            assert_eq!(code.number(), number);
        }
        for code in FaultCode::ALL {
            assert_eq!(FaultCode::from(code.number()), *code);
        }
        assert_eq!(FaultCode::from(12345), FaultCode::Internal);
    }
}
