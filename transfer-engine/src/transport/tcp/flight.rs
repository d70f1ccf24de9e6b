//! What a connection carries: work on its way out, and what comes in.

use crate::request::Op;
use crate::transport::Work;

/// Work on its way: its question, how much of question and payload was sent, and whether a connection broke under it before.
pub(super) struct Flight {
    pub(super) work: Box<Work>,
    pub(super) head: Vec<u8>,
    pub(super) sent: u64,
    pub(super) broken: bool,
}

impl Flight {
    /// Bytes of its question and payload.
    pub(super) fn to_send(&self) -> u64 {
        self.head.len() as u64 + if self.work.op == Op::Write { self.work.bytes } else { 0 }
    }
}

/// What the next bytes of the stream are.
pub(super) enum Inbound {
    Answer,
    Payload {
        flight: Flight,
        got: u64,
    },
    /// The payload of cancelled work.
    Unwanted {
        left: u64,
    },
}
