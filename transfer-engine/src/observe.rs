//! Transfers counted per transport, operation and outcome.

use crate::fault::TransferErrorKind;
use crate::request::Op;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const KINDS: usize = TransferErrorKind::ALL.len();
const OPS: usize = 3;

/// Which end of a transfer was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Transfers this engine asked for.
    Asked,
    /// Transfers this engine served from its exports.
    Served,
}

/// The live counters of one transport at one end. Written by whoever completes a transfer, read by anybody;
/// every field stands alone, so relaxed ordering is enough.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    ops: [AtomicU64; OPS],
    bytes: [AtomicU64; OPS],
    errors: [[AtomicU64; KINDS]; OPS],
    /// Of the serving end: transfers that have begun and not ended. Written by the one thread that serves.
    under_way: AtomicU64,
}

impl Meter {
    /// Where so many were under way, so many are.
    pub(crate) fn serves(&self, before: u64, now: u64) {
        self.under_way.fetch_add(now.wrapping_sub(before), Relaxed);
    }

    pub(crate) fn under_way(&self) -> u64 {
        self.under_way.load(Relaxed)
    }

    /// Counts a transfer that succeeded.
    pub(crate) fn done(&self, op: Op, bytes: u64) {
        self.ops[op.index()].fetch_add(1, Relaxed);
        self.bytes[op.index()].fetch_add(bytes, Relaxed);
    }

    /// Counts a transfer that failed.
    pub(crate) fn failed(&self, op: Op, kind: TransferErrorKind) {
        self.errors[op.index()][kind as usize].fetch_add(1, Relaxed);
    }

    /// The numbers now.
    pub(crate) fn snapshot(&self, transport: &'static str, counted: Counted) -> TransportCounts {
        let of = |op: Op| OpCounts {
            ops: self.ops[op.index()].load(Relaxed),
            bytes: self.bytes[op.index()].load(Relaxed),
            errors: TransferErrorKind::ALL.map(|kind| (kind, self.errors[op.index()][kind as usize].load(Relaxed))),
        };
        TransportCounts { transport, counted, read: of(Op::Read), write: of(Op::Write), notify: of(Op::Notify(0)) }
    }
}

/// What happened to the transfers of one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpCounts {
    /// Transfers that succeeded.
    pub ops: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Transfers that failed, by kind.
    pub errors: [(TransferErrorKind, u64); KINDS],
}

/// The numbers of one transport at one end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportCounts {
    /// `tcp`, `shm`, ...
    pub transport: &'static str,
    /// Which end.
    pub counted: Counted,
    /// Reads.
    pub read: OpCounts,
    /// Writes.
    pub write: OpCounts,
    /// Notices that peers took into their queues. Of the serving end only those over TCP are seen here; all are in [`Counters::notices_taken`].
    pub notify: OpCounts,
}

/// A snapshot of every transport.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// One entry per transport and end.
    pub transports: Vec<TransportCounts>,
    /// Notices of peers that were taken by [`crate::Notices::next`].
    pub notices_taken: u64,
}
