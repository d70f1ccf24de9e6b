//! What the two ends of the unix socket say. Both run on one host, so the numbers are in its byte order.
//!
//! ```text
//! question  "PLSQ" | version 1 | zero 3 | segment 16 | capability 16
//! answer    "PLSA" | version 1 | status 1 | zero 2 | offset 8 | size 8     with two descriptors: the object, and the control page
//! ```
//! Notices come on connections of their own, as questions of TCP ([`crate::transport::tcp::frame`]).

use crate::fault::{Failure, TransferErrorKind};
use perilune_protocol::{Capability, SegmentId};

const VERSION: u8 = 1;
pub(super) const QUESTION_BYTES: usize = 40;
pub(super) const ANSWER_BYTES: usize = 24;

/// May this process map a segment?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) segment: SegmentId,
    pub(super) capability: Capability,
}

impl Question {
    pub(super) fn encode(self) -> [u8; QUESTION_BYTES] {
        let mut out = [0; QUESTION_BYTES];
        out[..4].copy_from_slice(b"PLSQ");
        out[4] = VERSION;
        out[8..24].copy_from_slice(self.segment.0.as_bytes());
        out[24..].copy_from_slice(&self.capability.0.to_ne_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8; QUESTION_BYTES]) -> Option<Self> {
        let (&segment, rest) = bytes[8..].split_first_chunk::<16>()?;
        let capability = Capability(u128::from_ne_bytes(*rest.first_chunk()?));
        (bytes[..4] == *b"PLSQ" && bytes[4] == VERSION).then_some(Self { segment: SegmentId(uuid::Uuid::from_bytes(segment)), capability })
    }
}

/// Where in the object the segment lies, or why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Granted { offset: u64, size: u64 },
    Denied,
    UnknownSegment,
}

impl Answer {
    pub(super) fn of(failure: &Failure) -> Self {
        if failure.kind == TransferErrorKind::UnknownSegment { Self::UnknownSegment } else { Self::Denied }
    }

    pub(super) fn encode(self) -> [u8; ANSWER_BYTES] {
        let (status, offset, size) = match self {
            Self::Granted { offset, size } => (0, offset, size),
            Self::Denied => (1, 0, 0),
            Self::UnknownSegment => (2, 0, 0),
        };
        let mut out = [0; ANSWER_BYTES];
        out[..4].copy_from_slice(b"PLSA");
        (out[4], out[5]) = (VERSION, status);
        out[8..16].copy_from_slice(&offset.to_ne_bytes());
        out[16..].copy_from_slice(&size.to_ne_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8; ANSWER_BYTES]) -> Option<Self> {
        let offset = u64::from_ne_bytes(*bytes[8..].first_chunk()?);
        let size = u64::from_ne_bytes(*bytes[16..].first_chunk()?);
        match (bytes[..4] == *b"PLSA" && bytes[4] == VERSION, bytes[5]) {
            (true, 0) => Some(Self::Granted { offset, size }),
            (true, 1) => Some(Self::Denied),
            (true, 2) => Some(Self::UnknownSegment),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_heard_and_noise_is_not() {
        let question = Question { segment: SegmentId::random(), capability: Capability::random() };
        assert_eq!(Question::decode(&question.encode()), Some(question));
        for answer in [Answer::Granted { offset: 4096, size: 7 }, Answer::Denied, Answer::UnknownSegment] {
            assert_eq!(Answer::decode(&answer.encode()), Some(answer));
        }
        assert_eq!(Question::decode(&[0; QUESTION_BYTES]), None);
        assert_eq!(Answer::decode(&[0xff; ANSWER_BYTES]), None);
    }
}
