//! What a piece of work looks like on a socket. Little endian; decoders are total.
//!
//! ```text
//! question  "PLTQ" | version 1 | op 1 | zero 2 | id 8 | segment 16 | capability 16 | bytes 8 | extents 4 | crc-32c 4 | extents x (offset 8, len 8)
//! answer    "PLTA" | version 1 | status 1 | zero 2 | id 8 | bytes 8 | zero 4 | crc-32c 4
//! ```
//! The checksum of a question covers its header (without the checksum) and its extents.
//! Behind a WRITE question come its bytes; behind an answer to a READ that succeeded come its bytes.
//! A NOTIFY question has its number in the place of `extents`, the milliseconds it may wait in the place of `bytes`, and nothing behind it.
//! It is answered when it has its place in the queue, or when those are over; until then no further question of its connection is read.

use crate::fault::{Failure, TransferErrorKind};
use crate::request::{Op, plan};
use perilune_protocol::{Capability, Extent, SegmentId};

pub(in crate::transport) const VERSION: u8 = 1;
pub(in crate::transport) const QUESTION_BYTES: usize = 64;
pub(in crate::transport) const ANSWER_BYTES: usize = 32;
const EXTENT_BYTES: usize = 16;
const QUESTION: [u8; 4] = *b"PLTQ";
const ANSWER: [u8; 4] = *b"PLTA";
/// The most bytes one frame may move.
pub(in crate::transport) const BYTES_MAX: u64 = 1 << 30;

/// The head of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::transport) struct Question {
    pub(in crate::transport) op: Op,
    pub(in crate::transport) id: u64,
    pub(in crate::transport) segment: SegmentId,
    pub(in crate::transport) capability: Capability,
    /// Of a notice: the milliseconds its sender waits.
    pub(in crate::transport) bytes: u64,
    pub(in crate::transport) extents: Vec<Extent>,
}

/// How a question was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::transport) enum Status {
    Done = 0,
    WrongCapability = 1,
    OutOfBounds = 2,
    UnknownSegment = 3,
    NoRoom = 4,
}

impl Status {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Done, Self::WrongCapability, Self::OutOfBounds, Self::UnknownSegment, Self::NoRoom].into_iter().find(|s| *s as u8 == byte)
    }

    pub(in crate::transport) fn of(failure: &Failure, right_capability: bool) -> Self {
        match failure.kind {
            TransferErrorKind::UnknownSegment => Self::UnknownSegment,
            _ if right_capability => Self::OutOfBounds,
            _ => Self::WrongCapability,
        }
    }

    pub(in crate::transport) fn outcome(self) -> Result<(), Failure> {
        let (kind, cause) = match self {
            Self::Done => return Ok(()),
            Self::WrongCapability => (TransferErrorKind::Denied, "the capability is not that of the segment"),
            Self::OutOfBounds => (TransferErrorKind::Denied, "the peer says that the range does not lie in the segment"),
            Self::UnknownSegment => (TransferErrorKind::UnknownSegment, "the peer does not lend this segment"),
            Self::NoRoom => (TransferErrorKind::Timeout, "the peer had no room for notices until the deadline: nobody takes them there"),
        };
        Err(Failure::new(kind, cause))
    }
}

/// The head of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::transport) struct Answer {
    pub(in crate::transport) status: Status,
    pub(in crate::transport) id: u64,
    pub(in crate::transport) bytes: u64,
}

impl Question {
    pub(in crate::transport) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(QUESTION_BYTES + self.extents.len() * EXTENT_BYTES);
        out.extend_from_slice(&QUESTION);
        let count = if let Op::Notify(number) = self.op { number } else { self.extents.len() as u32 };
        out.extend_from_slice(&[VERSION, self.op.index() as u8, 0, 0]);
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(self.segment.0.as_bytes());
        out.extend_from_slice(&self.capability.0.to_le_bytes());
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.extend_from_slice(&count.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        for extent in &self.extents {
            out.extend_from_slice(&extent.offset.to_le_bytes());
            out.extend_from_slice(&extent.len.to_le_bytes());
        }
        let crc = question_crc(&out);
        out[60..64].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The first question of `bytes` and how many bytes its head has; `None` when more must come first.
    pub(in crate::transport) fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, &'static str> {
        let known = bytes.len().min(QUESTION.len());
        if bytes[..known] != QUESTION[..known] {
            return Err("not a transfer question");
        }
        let Some(head) = bytes.first_chunk::<QUESTION_BYTES>() else { return Ok(None) };
        if head[4] != VERSION {
            return Err("a question of another version");
        }
        let number = u32::from_le_bytes(field(head, 56));
        let op = match head[5] {
            0 => Op::Read,
            1 => Op::Write,
            2 => Op::Notify(number),
            _ => return Err("an unknown operation"),
        };
        let notice = op == Op::Notify(number);
        let count = if notice { 0 } else { number as usize };
        if !notice && !(1..=plan::PARTS_MAX).contains(&count) {
            return Err("a question with no or too many extents");
        }
        let end = QUESTION_BYTES + count * EXTENT_BYTES;
        let Some(whole) = bytes.get(..end) else { return Ok(None) };
        if u32::from_le_bytes(field(head, 60)) != question_crc(whole) {
            return Err("a damaged question");
        }
        let (pairs, _) = whole[QUESTION_BYTES..].as_chunks::<EXTENT_BYTES>();
        let extent =
            |pair: &[u8; EXTENT_BYTES]| Extent { offset: u64::from_le_bytes(field(pair, 0)), len: u64::from_le_bytes(field(pair, 8)) };
        let extents: Vec<Extent> = pairs.iter().map(extent).collect();
        let bytes = u64::from_le_bytes(field(head, 48));
        let sum = extents.iter().try_fold(0u64, |sum, extent| sum.checked_add(extent.len));
        if !notice && (sum != Some(bytes) || bytes > BYTES_MAX) {
            return Err("a question whose lengths disagree or are too large");
        }
        let segment = SegmentId(uuid::Uuid::from_bytes(field(head, 16)));
        let capability = Capability(u128::from_le_bytes(field(head, 32)));
        Ok(Some((Self { op, id: u64::from_le_bytes(field(head, 8)), segment, capability, bytes, extents }, end)))
    }
}

impl Answer {
    pub(in crate::transport) fn encode(self) -> [u8; ANSWER_BYTES] {
        let mut out = [0; ANSWER_BYTES];
        out[..4].copy_from_slice(&ANSWER);
        out[4] = VERSION;
        out[5] = self.status as u8;
        out[8..16].copy_from_slice(&self.id.to_le_bytes());
        out[16..24].copy_from_slice(&self.bytes.to_le_bytes());
        let crc = crc(&[&out[..28]]);
        out[28..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(in crate::transport) fn decode(bytes: &[u8; ANSWER_BYTES]) -> Result<Self, &'static str> {
        if bytes[..4] != ANSWER || bytes[4] != VERSION {
            return Err("not a transfer answer of this version");
        }
        if u32::from_le_bytes(field(bytes, 28)) != crc(&[&bytes[..28]]) {
            return Err("a damaged answer");
        }
        let status = Status::from_byte(bytes[5]).ok_or("an answer with an unknown status")?;
        Ok(Self { status, id: u64::from_le_bytes(field(bytes, 8)), bytes: u64::from_le_bytes(field(bytes, 16)) })
    }
}

fn question_crc(whole: &[u8]) -> u32 {
    crc(&[&whole[..60], &whole[QUESTION_BYTES..]])
}

fn crc(parts: &[&[u8]]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    parts.iter().for_each(|part| digest.update(part));
    // CRC-32C is at most 32 bits wide; the digest answers in 64.
    digest.finalize() as u32
}

/// `N` bytes at a place the caller knows to lie inside.
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question() -> Question {
        let extents = vec![Extent { offset: 4096, len: 100 }, Extent { offset: 0, len: 28 }];
        Question { op: Op::Write, id: 7, segment: SegmentId::random(), capability: Capability::random(), bytes: 128, extents }
    }

    #[test]
    fn a_question_comes_back_whole_and_never_early() {
        let question = question();
        let bytes = question.encode();
        for cut in 0..bytes.len() {
            assert_eq!(Question::decode(&bytes[..cut]), Ok(None), "{cut}");
        }
        assert_eq!(Question::decode(&bytes), Ok(Some((question.clone(), bytes.len()))));
        let notice = Question { op: Op::Notify(u32::MAX), bytes: 1500, extents: Vec::new(), ..question };
        assert_eq!(Question::decode(&notice.encode()), Ok(Some((notice, QUESTION_BYTES))));
    }

    #[test]
    fn any_damaged_byte_is_noticed() {
        let bytes = question().encode();
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            assert!(!matches!(Question::decode(&bad), Ok(Some(_))), "byte {at}");
        }
        let answer = Answer { status: Status::OutOfBounds, id: 9, bytes: 0 };
        let bytes = answer.encode();
        assert_eq!(Answer::decode(&bytes), Ok(answer));
        for at in 0..bytes.len() {
            let mut bad = bytes;
            bad[at] ^= 0x10;
            assert!(Answer::decode(&bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let good = question();
        let total = |bytes, len| Question { bytes, extents: vec![Extent { offset: 0, len }], ..good.clone() }.encode();
        assert!(Question::decode(&total(5, 4)).is_err());
        assert!(Question::decode(&total(BYTES_MAX + 1, BYTES_MAX + 1)).is_err());
        assert!(Question::decode(&Question { extents: Vec::new(), bytes: 0, ..good.clone() }.encode()).is_err());
        let many = vec![Extent { offset: 0, len: 1 }; plan::PARTS_MAX + 1];
        assert!(Question::decode(&Question { bytes: many.len() as u64, extents: many, ..good.clone() }.encode()).is_err());
        let wraps = vec![Extent { offset: 0, len: u64::MAX }, Extent { offset: 0, len: 1 }];
        assert!(Question::decode(&Question { bytes: 0, extents: wraps, ..good }.encode()).is_err());
    }
}
