//! What members say after the greeting.
//!
//! ```text
//! | length of what follows the sum | crc-32c of that | kind | payload |     little-endian
//!                 4                         4            1
//! ```
//! kind 1: a raft message. A snapshot is 2 (the message that announces it, without it), then 3 (a stretch of its file) as often as
//! needed, then 4 (its end, empty); raft messages may come in between.

use super::invalid;
use crate::log::entry::crc;
use protobuf_prost::Message as _;
use raft::eraftpb::Message;
use std::io::{self, Read};

/// No honest frame is longer: the largest effect, an entry packed beside it, and room to spare.
pub(super) const FRAME_BYTES_MAX: usize = 32 << 20;
const HEAD: usize = 8;
/// Memory is taken in such steps, as bytes arrive, whatever the length claims.
const STEP: u64 = 256 << 10;

const MESSAGE: u8 = 1;
const SNAPSHOT: u8 = 2;
const BYTES: u8 = 3;
const END: u8 = 4;

#[derive(Debug, PartialEq)]
pub(in crate::log) enum Frame {
    Message(Message),
    /// A snapshot begins, which this message announces.
    Snapshot(Message),
    /// A stretch of the snapshot's file.
    Bytes(Vec<u8>),
    /// The snapshot has ended.
    End,
}

/// Appends a frame whose payload `fill` writes.
fn put(out: &mut Vec<u8>, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    let begins = out.len();
    out.extend_from_slice(&[0; HEAD]);
    out.push(kind);
    fill(out);
    let body = &out[begins + HEAD..];
    let (length, sum) = (body.len() as u32, crc(body));
    out[begins..begins + 4].copy_from_slice(&length.to_le_bytes());
    out[begins + 4..begins + HEAD].copy_from_slice(&sum.to_le_bytes());
}

pub(in crate::log) fn put_message(out: &mut Vec<u8>, message: &Message) {
    put(out, MESSAGE, |out| write(out, message));
}

pub(super) fn put_snapshot(out: &mut Vec<u8>, message: &Message) {
    put(out, SNAPSHOT, |out| write(out, message));
}

fn write(out: &mut Vec<u8>, message: &Message) {
    // Fails only when a buffer of fixed size is full.
    let _ = message.encode(out);
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, BYTES, |out| out.extend_from_slice(bytes));
}

pub(super) fn put_end(out: &mut Vec<u8>) {
    put(out, END, |_| ());
}

/// Reads one frame. Total: any bytes give a frame or an error, and no more memory than has arrived.
pub(in crate::log) fn read(from: &mut impl Read) -> io::Result<Frame> {
    let mut head = [0; HEAD];
    from.read_exact(&mut head)?;
    let word = |at: usize| head[at..at + 4].iter().rev().fold(0u32, |n, b| n << 8 | u32::from(*b));
    let (length, sum) = (word(0) as usize, word(4));
    if length == 0 || length > FRAME_BYTES_MAX {
        return Err(invalid(format!("a frame of {length} bytes, the limit is {FRAME_BYTES_MAX}")));
    }
    let mut body = Vec::new();
    while body.len() < length {
        let step = STEP.min((length - body.len()) as u64);
        if from.take(step).read_to_end(&mut body)? as u64 != step {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    if crc(&body) != sum {
        return Err(invalid("the checksum of a frame does not match"));
    }
    let message = |body: &[u8]| Message::decode(&body[1..]).map_err(|e| invalid(format!("a message cannot be read: {e}")));
    match body[0] {
        MESSAGE => message(&body).map(Frame::Message),
        SNAPSHOT => message(&body).map(Frame::Snapshot),
        BYTES => {
            body.remove(0);
            Ok(Frame::Bytes(body))
        }
        END => Ok(Frame::End),
        kind => Err(invalid(format!("a frame of kind {kind}, which this version does not know"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::eraftpb::Entry;

    fn message() -> Message {
        let entry = Entry { index: 3, term: 2, data: vec![7; 300], ..Entry::default() };
        Message { to: 2, from: 1, term: 9, entries: vec![entry], ..Message::default() }
    }

    fn stream() -> Vec<u8> {
        let mut out = Vec::new();
        put_message(&mut out, &message());
        put_snapshot(&mut out, &message());
        put_bytes(&mut out, &[5; 1000]);
        put_end(&mut out);
        out
    }

    #[test]
    fn what_is_put_is_read() {
        let bytes = stream();
        let mut from = &bytes[..];
        let frames: Vec<Frame> = (0..4).map(|_| read(&mut from).unwrap()).collect();
        assert_eq!(frames, [Frame::Message(message()), Frame::Snapshot(message()), Frame::Bytes(vec![5; 1000]), Frame::End]);
        assert!(read(&mut from).is_err(), "nothing is left");
    }

    #[test]
    fn any_damage_gives_an_error_and_no_panic() {
        let whole = stream();
        let all = |bytes: &[u8]| {
            let mut from = bytes;
            std::iter::from_fn(|| read(&mut from).ok()).collect::<Vec<_>>()
        };
        let undamaged = all(&whole);
        for cut in 0..whole.len() {
            assert!(all(&whole[..cut]).len() < 4, "cut at {cut}");
        }
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(all(&damaged), undamaged, "bit {bit}");
        }
        // Right lengths and sums around bytes that make no sense.
        for kind in 0..=255u8 {
            for payload in [&[][..], &[0xff; 40], &[0x08], &[0x3a, 0xff, 0xff, 0xff, 0xff, 0x0f]] {
                let mut bytes = Vec::new();
                put(&mut bytes, kind, |out| out.extend_from_slice(payload));
                let _ = read(&mut &bytes[..]);
            }
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_and_one_within_takes_no_memory_ahead() {
        for length in [0, FRAME_BYTES_MAX as u32 + 1, u32::MAX] {
            let head = [&length.to_le_bytes()[..], &[0; 4]].concat();
            assert!(read(&mut &head[..]).unwrap_err().to_string().contains("limit"), "{length}");
        }
        let head = [&(FRAME_BYTES_MAX as u32).to_le_bytes()[..], &[0; 4], b"few"].concat();
        assert_eq!(read(&mut &head[..]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
