//! What RDMA peers tell each other over TCP: once to connect queue pairs, then about the keys of segments. Decoders are total.
//!
//! ```text
//! frame   length of the body 4, little endian | body, postcard
//! asking side                                  serving side
//!   Hello { version }                       ->
//!                                           <-  Devices { version, devices }
//!   Connect { device, ends, token }         ->                                    queue pairs are made on that device; with a token
//!                                                                                 they are connected by the connection manager after this
//!                                           <-  Connected { ends, credits, scratch }
//!                                                                                 or Refused { cause }; so many notices may be sent
//!   Key { id, segment, capability }         ->
//!                                           <-  Key { id, grant }
//!                                           <-  Withdrawn { segment }             at any time
//!   Credits { count }                       ->                                    so many are wanted; 0 when none any more
//!   Return { count }                        ->                                    so many will not be used
//!                                           <-  Credits { count }                 at any time: so many more
//! ```
//! Notices and `Credits` come from a connection only after it got a `Key`: so who sends them is known to have had the right to a segment.
//! Nothing of them concerns a device whose offer says that it takes no notices.
//! One such connection carries the queue pairs of one rail: one of our devices with one of theirs. It lives as long as they do, so its end
//! is the end of them on both sides, and a peer that dies is noticed at once.

use crate::fault::{Failure, TransferErrorKind};
use perilune_protocol::{Capability, SegmentId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::marker::PhantomData;

/// The version of this exchange. A peer of another one is refused.
pub(super) const VERSION: u16 = 4;
/// The most queue pairs of one rail.
pub(super) const ENDS_MAX: usize = 16;

/// One end of a queue pair, as the other side must know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct End {
    /// The number of the queue pair.
    pub(super) number: u32,
    /// The first packet sequence number it sends, 24 bits.
    pub(super) psn: u32,
    /// The address of its port; all zero on InfiniBand without GRH.
    pub(super) gid: [u8; 16],
    /// The local identifier of its port; 0 on Ethernet.
    pub(super) lid: u16,
    /// The largest packet its port takes, in bytes; the smaller of both sides is used.
    pub(super) mtu: u32,
    /// Reads it has under way at most, and reads of the other end that it answers at one time: no more are under way than are answered.
    pub(super) reads: u8,
    pub(super) answers: u8,
}

impl End {
    /// Reads that it may have under way when it is connected to `other`, and those that it must be able to answer.
    pub(super) fn reads_with(&self, other: &Self) -> (u8, u8) {
        (self.reads.min(other.answers), self.answers.min(other.reads))
    }
}

/// A page of the serving side that holds nothing: where the asking side tries whether its packets get through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Scratch {
    /// The address of its first byte, to the device.
    pub(super) base: u64,
    /// Its key there.
    pub(super) key: u32,
}

/// A device of the serving side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Offer {
    /// Its name there, for messages.
    pub(super) name: String,
    /// The address of its port, to choose the nearest; zeros while the port is not active.
    pub(super) gid: [u8; 16],
    /// It speaks iWARP, and connects to its like only.
    pub(super) iwarp: bool,
    /// It takes notices.
    pub(super) notices: bool,
    /// The bytes of a write are in memory before it acknowledges them.
    pub(super) places: bool,
    /// The port where the connection manager listens, at the address that `gid` is.
    pub(super) manager: Option<u16>,
}

impl Offer {
    pub(super) fn is_active(&self) -> bool {
        self.gid != [0; 16]
    }
}

/// From the asking side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Ask {
    /// The first frame.
    Hello { version: u16 },
    /// Connect these ends to queue pairs of that device, by its place in the offer: as the answer says, or, where there is a token, as the
    /// connection manager says in requests that carry it.
    Connect { device: u16, ends: Vec<End>, token: Option<u128> },
    /// The keys of a segment, for who has the right to them.
    Key { id: u64, segment: SegmentId, capability: Capability },
    /// That many notices wait to be sent, and there is no credit for them. The last wish counts.
    Credits { count: u32 },
    /// Credits that will not be used.
    Return { count: u32 },
}

/// From the serving side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Tell {
    /// Answers `Hello`.
    Devices { version: u16, devices: Vec<Offer> },
    /// Answers `Connect`: as many ends, in the same order, ready to receive; and the credits the connection may hold without a wish.
    Connected { ends: Vec<End>, credits: u32, scratch: Scratch },
    /// Answers `Hello` or `Connect`; the connection is closed after it.
    Refused { cause: String },
    /// Answers `Key`.
    Key { id: u64, grant: std::result::Result<Grant, Refusal> },
    /// The keys of this segment are worthless from now on.
    Withdrawn { segment: SegmentId },
    /// So many more notices may be sent.
    Credits { count: u32 },
}

/// What one side says.
pub(super) trait Frame: DeserializeOwned {
    /// The longest body.
    const BODY_MAX: usize;
}

impl Frame for Ask {
    const BODY_MAX: usize = 64 << 10;
}

impl Frame for Tell {
    /// The keys of a segment, of five bytes each: as many as a server lends it with (`serve/lent.rs`).
    const BODY_MAX: usize = 1 << 20;
}

/// How the bytes of a segment are reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Grant {
    /// The address of the first byte, to the devices.
    pub(super) base: u64,
    /// Bytes.
    pub(super) size: u64,
    /// Bytes of each memory region; the last may be shorter.
    pub(super) piece: u64,
    /// For each device of the offer, the key of each piece.
    pub(super) keys: Vec<Vec<u32>>,
}

/// Why there is no grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Refusal {
    /// The capability is not that of the segment.
    Denied,
    /// The segment is not lent over RDMA (any more).
    UnknownSegment,
}

impl Refusal {
    pub(super) fn failure(self) -> Failure {
        match self {
            Self::Denied => Failure::new(TransferErrorKind::Denied, "the capability is not that of the segment"),
            Self::UnknownSegment => Failure::new(TransferErrorKind::UnknownSegment, "the peer does not lend this segment over RDMA"),
        }
    }
}

/// A frame, ready to send.
pub(super) fn encode(message: &impl Serialize) -> Vec<u8> {
    let mut frame = vec![0; 4];
    // Writing into a vector cannot fail, and what is encoded here is far below the limit.
    frame = postcard::to_extend(message, frame).unwrap_or_default();
    let length = (frame.len().saturating_sub(4)) as u32;
    if let Some(head) = frame.first_chunk_mut() {
        *head = length.to_le_bytes();
    }
    frame
}

/// Sends one frame and waits until it is on its way; for sockets that block.
pub(super) fn send(mut to: impl Write, message: &impl Serialize) -> Result<()> {
    to.write_all(&encode(message))
}

/// Receives one frame; for sockets that block.
pub(super) fn receive<T: Frame>(mut from: impl Read) -> Result<T> {
    let mut head = [0; 4];
    from.read_exact(&mut head)?;
    let mut body = vec![0; length::<T>(head)?];
    from.read_exact(&mut body)?;
    postcard::from_bytes(&body).map_err(|_| noise())
}

/// Collects frames from a socket that does not block.
#[derive(Debug)]
pub(super) struct Inbox<T = Tell> {
    bytes: Vec<u8>,
    /// So many of them were taken; they leave with the next [`Inbox::fill`].
    taken: usize,
    of: PhantomData<fn() -> T>,
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        Self { bytes: Vec::new(), taken: 0, of: PhantomData }
    }
}

impl<T: Frame> Inbox<T> {
    /// Reads what is there, or as much as the longest frame has; the socket stays readable then. An end of the stream is an error,
    /// `UnexpectedEof`.
    pub(super) fn fill(&mut self, mut from: impl Read) -> Result<()> {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        let mut some = [0; 4096];
        let enough = self.bytes.len() + 4 + T::BODY_MAX;
        while self.bytes.len() < enough {
            match from.read(&mut some) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.bytes.extend_from_slice(&some[..count]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// The next whole frame, if there is one.
    pub(super) fn next(&mut self) -> Result<Option<T>> {
        let Some(body) = self.body()? else { return Ok(None) };
        let message = postcard::from_bytes(body).map_err(|_| noise())?;
        self.taken += 4 + body.len();
        Ok(Some(message))
    }

    /// Whether [`Inbox::next`] has something to say.
    pub(super) fn ready(&self) -> bool {
        !matches!(self.body(), Ok(None))
    }

    fn body(&self) -> Result<Option<&[u8]>> {
        let Some((head, rest)) = self.bytes[self.taken..].split_first_chunk::<4>() else { return Ok(None) };
        Ok(rest.get(..length::<T>(*head)?))
    }
}

fn length<T: Frame>(head: [u8; 4]) -> Result<usize> {
    let length = u32::from_le_bytes(head) as usize;
    if length <= T::BODY_MAX { Ok(length) } else { Err(noise()) }
}

fn noise() -> Error {
    Error::new(ErrorKind::InvalidData, "not a frame of this exchange")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_reads_are_under_way_than_are_answered() {
        let end = |reads, answers| End { number: 1, psn: 1, gid: [0; 16], lid: 0, mtu: 4096, reads, answers };
        let (strong, weak) = (end(16, 16), end(8, 1));
        assert_eq!((strong.reads_with(&weak), weak.reads_with(&strong)), ((1, 8), (8, 1)), "both sides see the same");
        assert_eq!(strong.reads_with(&strong), (16, 16));
    }

    #[test]
    fn frames_come_back_in_pieces_of_any_size_and_noise_is_refused() {
        let end = End { number: 17, psn: 0xff_ffff, gid: [7; 16], lid: 3, mtu: 4096, reads: 16, answers: 4 };
        let key =
            Tell::Key { id: 9, grant: Ok(Grant { base: 1 << 40, size: 1 << 33, piece: 1 << 32, keys: vec![vec![1, 2], vec![3, 4]] }) };
        let scratch = Scratch { base: 1 << 47, key: 7 };
        let said = [Tell::Connected { ends: vec![end; 3], credits: 8, scratch }, Tell::Refused { cause: "full".to_owned() }, key];
        let bytes: Vec<u8> = said.iter().flat_map(encode).collect();
        for step in [1, 3, 7, bytes.len()] {
            let (mut inbox, mut heard) = (Inbox::<Tell>::default(), Vec::new());
            for some in bytes.chunks(step) {
                inbox.bytes.extend_from_slice(some);
                while let Some(message) = inbox.next().unwrap() {
                    heard.push(message);
                }
            }
            assert_eq!(heard, said);
        }
        assert_eq!(receive::<Ask>(&encode(&Ask::Hello { version: VERSION })[..]).unwrap(), Ask::Hello { version: VERSION });
        for noise in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[255; 64], &[5, 0, 0, 0, 200, 1, 1, 1, 1]] {
            assert!(receive::<Ask>(noise).is_err());
            let mut inbox = Inbox::<Ask> { bytes: noise.to_vec(), ..Inbox::default() };
            assert!(inbox.ready() && inbox.next().is_err());
        }
    }

    /// A socket that has bytes for a while.
    struct Socket<'a>(&'a [u8]);

    impl Read for Socket<'_> {
        fn read(&mut self, into: &mut [u8]) -> Result<usize> {
            if self.0.is_empty() { Err(ErrorKind::WouldBlock.into()) } else { self.0.read(into) }
        }
    }

    #[test]
    fn a_burst_of_small_frames_is_taken_part_by_part_and_costs_what_its_bytes_cost() {
        let count = 300_000;
        let burst = encode(&Ask::Return { count: 1 }).repeat(count);
        let (mut socket, mut inbox, mut heard) = (Socket(&burst), Inbox::<Ask>::default(), 0);
        while heard < count {
            inbox.fill(&mut socket).unwrap();
            assert!(inbox.bytes.len() < 2 * Ask::BODY_MAX, "{} bytes are held", inbox.bytes.len());
            while inbox.ready() {
                assert_eq!(inbox.next().unwrap(), Some(Ask::Return { count: 1 }));
                heard += 1;
            }
        }
        assert_eq!(inbox.next().unwrap(), None);
    }

    #[test]
    fn no_question_is_as_long_as_an_answer_may_be() {
        let head = (Ask::BODY_MAX as u32 + 1).to_le_bytes();
        let mut asked = Inbox::<Ask> { bytes: head.to_vec(), ..Inbox::default() };
        assert!(asked.next().is_err());
        let mut told = Inbox::<Tell> { bytes: head.to_vec(), ..Inbox::default() };
        assert_eq!((told.ready(), told.next().unwrap()), (false, None));
    }
}
