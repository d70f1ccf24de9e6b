//! What can go wrong while bytes travel, and how it is said.

use crate::request::Op;
use perilune_protocol::SegmentId;
use std::fmt;

/// Why a transfer did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransferErrorKind {
    /// No connection could be made to the peer on any path.
    PeerUnreachable,
    /// The peer was connected and closed, died or reset while the transfer was under way.
    PeerGone,
    /// The deadline passed first.
    Timeout,
    /// The capability is wrong, or the range lies outside the segment.
    Denied,
    /// The peer does not lend this segment (any more).
    UnknownSegment,
    /// The request contradicts itself; nothing was sent.
    BadRequest,
    /// The caller gave the transfer up, or the engine was closed.
    Cancelled,
    /// The peer broke the protocol, or one of the two memories could not be touched.
    Failed,
}

impl TransferErrorKind {
    /// Every kind, in the order of the counters.
    pub const ALL: [Self; 8] = [
        Self::PeerUnreachable,
        Self::PeerGone,
        Self::Timeout,
        Self::Denied,
        Self::UnknownSegment,
        Self::BadRequest,
        Self::Cancelled,
        Self::Failed,
    ];

    /// A word for labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PeerUnreachable => "peer_unreachable",
            Self::PeerGone => "peer_gone",
            Self::Timeout => "timeout",
            Self::Denied => "denied",
            Self::UnknownSegment => "unknown_segment",
            Self::BadRequest => "bad_request",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }
}

/// A transfer that failed: which one, with whom, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferError {
    /// The kind, for code.
    pub kind: TransferErrorKind,
    /// What was asked.
    pub op: Op,
    /// The segment of the peer.
    pub segment: SegmentId,
    /// The peer, by the address that was used.
    pub peer: String,
    /// The first byte of the segment that was asked for, and the end of the last one.
    pub range: (u64, u64),
    /// What happened, for people.
    pub cause: String,
}

impl fmt::Display for TransferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { op, segment, peer, range: (from, to), cause, kind } = self;
        let kind = kind.as_str();
        if let Op::Notify(number) = op {
            return write!(f, "notice {number} to who lends segment {segment} at {peer}: {cause} ({kind})");
        }
        write!(f, "{op} of bytes {from}..{to} of segment {segment} at {peer}: {cause} ({kind})")
    }
}

impl std::error::Error for TransferError {}

/// What a transport says of a transfer that failed; the lane adds peer, operation and range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind.
    pub kind: TransferErrorKind,
    /// What happened, for people.
    pub cause: String,
}

impl Failure {
    /// A failure of `kind` because of `cause`.
    pub fn new(kind: TransferErrorKind, cause: impl Into<String>) -> Self {
        Self { kind, cause: cause.into() }
    }
}

/// Why the engine refused to start, to lend or to register.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A listening address could not be taken.
    #[error("cannot listen on {at}: {cause}")]
    Listen {
        /// The address or path.
        at: String,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The system refused a resource.
    #[error("cannot {what}: {cause}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        cause: std::io::Error,
    },
    /// RDMA cannot be used.
    #[error("RDMA cannot be used: {0}")]
    NoRdma(String),
    /// No such segment is lent.
    #[error("segment {0} is not exported")]
    NotExported(SegmentId),
    /// The segment is already lent.
    #[error("segment {0} is already exported")]
    AlreadyExported(SegmentId),
    /// The buffer is empty or wraps around the end of the address space.
    #[error("a buffer of {len} bytes at {base:#x} cannot be registered: it must have at least one byte and end inside the address space")]
    BadBuffer {
        /// The first byte.
        base: u64,
        /// Bytes.
        len: u64,
    },
    /// The buffer overlaps a registered one.
    #[error("{len} bytes at {base:#x} overlap the registered buffer of {other_len} bytes at {other:#x}")]
    Overlap {
        /// The first byte.
        base: u64,
        /// Bytes.
        len: u64,
        /// The first byte of the registered buffer.
        other: u64,
        /// Its bytes.
        other_len: u64,
    },
    /// No registered buffer starts there.
    #[error("no registered buffer starts at {0:#x}")]
    NotRegistered(u64),
    /// A transport refused the buffer.
    #[error("{len} bytes at {base:#x} cannot be registered: {cause}")]
    Refused {
        /// The first byte.
        base: u64,
        /// Bytes.
        len: u64,
        /// Why.
        cause: String,
    },
    /// A setting is out of range.
    #[error("bad setting: {0}")]
    Setting(String),
}

/// Why memory could not be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The name cannot be the name of a shared memory object.
    #[error("`{name}` is not a name of shared memory: {why}")]
    BadName {
        /// The name given.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// There is no such object.
    #[error("there is no shared memory object /dev/shm/{0}")]
    Missing(String),
    /// The object exists already.
    #[error("the shared memory object /dev/shm/{0} already exists")]
    Exists(String),
    /// This process may not read and write the object.
    #[error("this process may not read and write /dev/shm/{0}: check its owner and mode")]
    Unreadable(String),
    /// The object is not a plain file.
    #[error("/dev/shm/{0} is not a shared memory object")]
    NotAnObject(String),
    /// The object ends before the stretch asked for.
    #[error("/dev/shm/{name} has {length} bytes, too short for {size} bytes from offset {offset}")]
    TooShort {
        /// The object.
        name: String,
        /// Its length in bytes.
        length: u64,
        /// The first byte asked for.
        offset: u64,
        /// Bytes asked for.
        size: u64,
    },
    /// The offset is not a multiple of the page size.
    #[error("offset {offset} is not a multiple of the page size, {page}")]
    BadOffset {
        /// The offset given.
        offset: u64,
        /// The page size in bytes.
        page: u64,
    },
    /// The size is 0 or beyond what can be mapped.
    #[error("{0} bytes cannot be mapped: the size must be between 1 byte and 2^47 bytes")]
    BadSize(u64),
    /// The system refused.
    #[error("cannot {what} {size} bytes of shared memory `{name}`: {cause}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The object, or empty for an unnamed one.
        name: String,
        /// Bytes.
        size: u64,
        /// What the system said.
        cause: std::io::Error,
    },
}
