//! The envelope of every message: length, version, checksum, then the body.
//!
//! ```text
//!  0        4        5      6       8                16       20        24        28        32
//!  | "PRLN" | version | kind |  op   |       id       | length |  zero   | body crc | head crc |  body ...
//! ```
//! Little endian. `id` pairs an answer with its question; answers may come in any order.
//! The first byte (`P`) tells our frames from Mooncake's (21) on the same port.

use crate::{Fault, FaultCode};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The first four bytes of a frame.
pub const MAGIC: [u8; 4] = *b"PRLN";
/// The version this build speaks. A server refuses others with [`FaultCode::InvalidVersion`].
pub const VERSION: u8 = 1;
/// Bytes of a header.
pub const HEADER_BYTES: usize = 32;
/// The longest body a peer may announce.
pub const BODY_BYTES_MAX: u32 = 64 << 20;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Wants an answer with the same id.
    Question,
    /// Answers the question with the same id; the body is an [`crate::Outcome`].
    Answer,
}

/// The fixed part of a frame, decoded and checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Question or answer.
    pub kind: Kind,
    /// Which message the body holds ([`crate::rpc::Call::OP`]).
    pub op: u16,
    /// Pairs question and answer.
    pub id: u64,
    /// Bytes of the body.
    pub body_len: u32,
    body_crc: u32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Wire {
    magic: [u8; 4],
    version: u8,
    kind: u8,
    op: U16,
    id: U64,
    body_len: U32,
    zero: U32,
    body_crc: U32,
    head_crc: U32,
}

/// Why bytes are not a frame. After any of these the stream cannot be trusted and is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Another protocol, or noise.
    #[error("not a perilune frame: the first bytes are not {MAGIC:?}")]
    Magic,
    /// Ours, but newer or older.
    #[error("frame version {0}, this side speaks {VERSION}")]
    Version(u8),
    /// Neither a question nor an answer.
    #[error("unknown frame kind {0}")]
    Kind(u8),
    /// More than a frame may hold.
    #[error("a body of {0} bytes, the limit is {BODY_BYTES_MAX}")]
    TooLong(u32),
    /// The header or the body was damaged on the way.
    #[error("checksum mismatch")]
    Checksum,
}

impl From<FrameError> for Fault {
    fn from(error: FrameError) -> Fault {
        let code = if matches!(error, FrameError::Version(_)) { FaultCode::InvalidVersion } else { FaultCode::InvalidParams };
        code.with(error.to_string())
    }
}

fn crc(bytes: &[u8]) -> u32 {
    // CRC-32C is at most 32 bits wide; the function answers in 64.
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// Appends a whole frame to `out`; `write_body` appends the body.
///
/// # Errors
/// When the body is longer than [`BODY_BYTES_MAX`]; `out` is then as it was.
pub fn encode<E>(
    out: &mut Vec<u8>,
    kind: Kind,
    op: u16,
    id: u64,
    write_body: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), Fault>
where
    E: std::fmt::Display,
{
    let start = out.len();
    out.resize(start + HEADER_BYTES, 0);
    let written = write_body(out).map_err(|e| FaultCode::Internal.with(format!("a message could not be encoded: {e}")));
    let body_len = out.len() - start - HEADER_BYTES;
    let checked = written.and_then(|()| {
        u32::try_from(body_len).ok().filter(|len| *len <= BODY_BYTES_MAX).ok_or_else(|| {
            FaultCode::InvalidParams.with(format!("a message of {body_len} bytes, the limit is {BODY_BYTES_MAX}: send smaller batches"))
        })
    });
    let len = match checked {
        Ok(len) => len,
        Err(fault) => {
            out.truncate(start);
            return Err(fault);
        }
    };
    let (head, body) = out[start..].split_at_mut(HEADER_BYTES);
    let mut wire = Wire {
        magic: MAGIC,
        version: VERSION,
        kind: match kind {
            Kind::Question => 0,
            Kind::Answer => 1,
        },
        op: op.into(),
        id: id.into(),
        body_len: len.into(),
        zero: 0.into(),
        body_crc: crc(body).into(),
        head_crc: 0.into(),
    };
    wire.head_crc = crc(&wire.as_bytes()[..HEADER_BYTES - 4]).into();
    head.copy_from_slice(wire.as_bytes());
    Ok(())
}

impl Header {
    /// Reads a header. Total: any 32 bytes give a header or say why not.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let wire: Wire = zerocopy::transmute!(*bytes);
        if wire.magic != MAGIC {
            return Err(FrameError::Magic);
        }
        if wire.version != VERSION {
            return Err(FrameError::Version(wire.version));
        }
        if wire.head_crc.get() != crc(&bytes[..HEADER_BYTES - 4]) {
            return Err(FrameError::Checksum);
        }
        let kind = match wire.kind {
            0 => Kind::Question,
            1 => Kind::Answer,
            other => return Err(FrameError::Kind(other)),
        };
        if wire.body_len.get() > BODY_BYTES_MAX {
            return Err(FrameError::TooLong(wire.body_len.get()));
        }
        Ok(Self { kind, op: wire.op.get(), id: wire.id.get(), body_len: wire.body_len.get(), body_crc: wire.body_crc.get() })
    }

    /// Whether `body` is the one this header was written for.
    pub fn check(&self, body: &[u8]) -> Result<(), FrameError> {
        if body.len() == self.body_len as usize && crc(body) == self.body_crc { Ok(()) } else { Err(FrameError::Checksum) }
    }
}

/// A whole frame at the start of a buffer: its header, its body, and how many bytes it took.
pub type Whole<'a> = (Header, &'a [u8], usize);

/// Takes the first whole frame of `bytes`: its header, its body, and how many bytes it took.
/// `None` when more bytes must come first.
pub fn split(bytes: &[u8]) -> Result<Option<Whole<'_>>, FrameError> {
    let known = bytes.len().min(MAGIC.len());
    if bytes[..known] != MAGIC[..known] {
        return Err(FrameError::Magic);
    }
    let Some(head) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let header = Header::decode(head)?;
    let end = HEADER_BYTES + header.body_len as usize;
    let Some(body) = bytes.get(HEADER_BYTES..end) else { return Ok(None) };
    header.check(body)?;
    Ok(Some((header, body, end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&mut out, Kind::Question, 7, 42, |o| -> Result<(), String> {
            o.extend_from_slice(body);
            Ok(())
        })
        .unwrap();
        out
    }

    #[test]
    fn a_frame_comes_back_whole_and_never_early() {
        let bytes = frame(b"hello");
        for cut in 0..bytes.len() {
            assert_eq!(split(&bytes[..cut]), Ok(None), "{cut} bytes");
        }
        let (header, body, taken) = split(&bytes).unwrap().unwrap();
        assert_eq!((header.kind, header.op, header.id, body, taken), (Kind::Question, 7, 42, &b"hello"[..], bytes.len()));
    }

    #[test]
    fn any_damaged_byte_is_noticed() {
        let good = frame(b"some body");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(split(&bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn bytes_of_version_1_are_still_read() {
        // Written by the first release; must be readable for ever.
        let old = include_bytes!("../tests/old/frame_v1.bin");
        let (header, body, _) = split(old).unwrap().unwrap();
        assert_eq!((header.op, header.id, body), (7, 42, &b"hello"[..]));
    }
}
