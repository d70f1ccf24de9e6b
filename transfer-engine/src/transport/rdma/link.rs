//! A peer as one lane knows it: its rails, and the keys of its segments.

use super::rail::Rail;
use super::wire::Grant;
use crate::fault::{Failure, TransferErrorKind};
use crate::memory::PAGE;
use perilune_protocol::SegmentId;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long a rail that could not be connected, or did not carry its first bytes, is left alone, and a port that is not active. So a rail is
/// back well within a second of its link, as long as its peer has work.
pub(super) const PAUSE: Duration = Duration::from_millis(200);

/// One rail of the peer, or why there is none.
pub(super) enum Slot {
    /// Not connected, and not tried before `retry`, if that is set: the time callers know may be older than this.
    Down { cause: Option<Failure>, retry: Option<Instant> },
    /// A thread is connecting it.
    Connecting,
    /// Connected; a packet is on its way over every queue pair, to see whether anything gets through.
    Probing(Box<Rail>),
    /// Carries bytes.
    Up(Box<Rail>),
}

impl Slot {
    pub(super) fn rail(&mut self) -> Option<&mut Rail> {
        match self {
            Self::Probing(rail) | Self::Up(rail) => Some(rail),
            Self::Down { .. } | Self::Connecting => None,
        }
    }
}

/// Names a segment and the right to it.
pub(super) type Key = (SegmentId, u128);

/// What is known of a segment's keys.
pub(super) enum Known {
    /// The peer was asked over the rail of this generation.
    Asked { generation: u32 },
    /// The peer granted them.
    Granted(Grant),
}

impl Grant {
    /// What cannot be true of a segment that a peer with so many devices lends; for others every slice has an address and a key.
    pub(super) fn flaw(&self, devices: usize) -> Option<String> {
        let Self { base, size, piece, keys } = self;
        let pieces = if *piece > 0 { size.div_ceil(*piece) } else { 0 };
        if *piece < PAGE {
            Some(format!("memory regions of {piece} bytes, less than a page"))
        } else if base.checked_add(*size).is_none() {
            Some(format!("{size} bytes at {base:#x}, beyond the end of the address space"))
        } else if keys.len() != devices || keys.iter().any(|of_device| of_device.len() as u64 != pieces) {
            Some(format!("not {pieces} keys for each of {devices} devices"))
        } else {
            None
        }
    }
}

/// A peer.
pub(super) struct Link {
    pub(super) address: String,
    /// One for each of our devices.
    pub(super) slots: Vec<Slot>,
    /// How often the rail of each slot failed since it last carried bytes, not counting when no device of the peer could even be chosen.
    pub(super) failures: Vec<usize>,
    pub(super) keys: FxHashMap<Key, Known>,
    /// Questions for keys, by their number.
    pub(super) questions: FxHashMap<u64, Key>,
    /// Work with slices to post, by id, in order. Work that is gone is passed over.
    pub(super) waiting: VecDeque<u64>,
    /// Notices without a credit, by id, in order. Those that are gone are passed over.
    pub(super) untold: VecDeque<u64>,
    /// It was connected before.
    pub(super) known: bool,
    /// Why nothing got through when that was found out last; `None` once a rail carries bytes again. Until then only work that has no other
    /// path waits for what is being connected.
    pub(super) missed: Option<Failure>,
}

impl Link {
    pub(super) fn new(address: String, devices: usize) -> Self {
        let slots = (0..devices).map(|_| Slot::Down { cause: None, retry: None }).collect();
        let (keys, questions, waiting, untold) = Default::default();
        Self { address, slots, failures: vec![0; devices], keys, questions, waiting, untold, known: false, missed: None }
    }

    pub(super) fn ups(&mut self) -> impl Iterator<Item = &mut Rail> {
        self.slots.iter_mut().filter_map(|slot| if let Slot::Up(rail) = slot { Some(&mut **rail) } else { None })
    }

    /// Whether any rail carries bytes, or may soon.
    pub(super) fn hopeful(&self) -> bool {
        self.slots.iter().any(|slot| !matches!(slot, Slot::Down { .. }))
    }

    /// The same of all rails but one.
    pub(super) fn hopeful_beside(&self, but: usize) -> bool {
        self.slots.iter().enumerate().any(|(i, slot)| i != but && !matches!(slot, Slot::Down { .. }))
    }

    /// Why none of the rails that carry bytes carries notices, if that is so.
    pub(super) fn takes_no_notices(&mut self) -> Option<Failure> {
        let words = format!("no device of {} that is connected takes notices", self.address);
        let mut ups = self.ups().peekable();
        let none = ups.peek().is_some() && ups.all(|rail| !rail.notices);
        none.then(|| Failure::new(TransferErrorKind::PeerUnreachable, words))
    }

    /// What work waits for that has no slices yet.
    pub(super) fn awaits(&self, key: Key) -> String {
        match self.keys.get(&key) {
            Some(Known::Asked { .. }) => format!("waiting for the keys of the segment, which {} does not send", self.address),
            _ => format!("waiting for a connection to {}", self.address),
        }
    }

    /// Why nothing gets through: what is said of each rail, once.
    pub(super) fn cause(&self) -> Option<Failure> {
        let mut causes: Vec<&Failure> = Vec::new();
        for slot in &self.slots {
            if let Slot::Down { cause: Some(cause), .. } = slot
                && causes.iter().all(|known| known.cause != cause.cause)
            {
                causes.push(cause);
            }
        }
        // A peer that is gone is gone on all of them.
        let kind = causes.iter().map(|cause| cause.kind).find(|kind| *kind == TransferErrorKind::PeerGone);
        let kind = kind.or_else(|| causes.first().map(|cause| cause.kind))?;
        let words: Vec<&str> = causes.iter().map(|cause| &*cause.cause).collect();
        Some(Failure::new(kind, words.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_that_cannot_be_are_told_from_others() {
        let grant = |base, size, piece, keys: &[&[u32]]| Grant { base, size, piece, keys: keys.iter().map(|keys| keys.to_vec()).collect() };
        let flaw = |grant: Grant, want: &str| assert!(grant.flaw(2).is_some_and(|flaw| flaw.contains(want)), "{grant:?}");
        assert_eq!(grant(1 << 40, 8192, 4096, &[&[1, 2], &[3, 4]]).flaw(2), None);
        assert_eq!(grant(u64::MAX - 4097, 4097, 4096, &[&[1, 2], &[3, 4]]).flaw(2), None, "the last byte there is but one");
        assert_eq!(grant(0, 0, 4096, &[]).flaw(0), None);
        flaw(grant(0, 16 << 20, 1, &[&[1], &[2]]), "less than a page");
        flaw(grant(0, 1, 0, &[&[1], &[2]]), "less than a page");
        flaw(grant(u64::MAX, 1, 4096, &[&[1], &[2]]), "address space");
        flaw(grant(0, 8192, 4096, &[&[1, 2], &[3]]), "not 2 keys for each of 2");
        flaw(grant(0, 8192, 4096, &[&[1, 2]]), "not 2 keys for each of 2");
        flaw(grant(0, u64::MAX, u64::MAX, &[&[1], &[2, 3]]), "not 1 keys");
    }
}
