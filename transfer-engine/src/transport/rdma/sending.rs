//! The sending side of a queue pair: what the device has of it, and which requests report their success.

use super::cut::Slice;
use super::queue::Queue;
use super::registry::{Staging, Stretch};
use super::sys::{Chain, Local, Mark, Verb, WorkRequest};
use crate::request::Held;
use std::collections::VecDeque;

/// Work requests in one send queue.
pub(super) const DEPTH: usize = 128;
/// Bytes under way in one send queue: enough for any wire, and little enough to be sent again elsewhere.
const WINDOW: u64 = 8 << 20;
/// At least every so many work requests, and so many bytes, one reports its success.
const SIGNAL_REQUESTS: u32 = 64;
const SIGNAL_BYTES: u64 = 2 << 20;

/// What a work request is known by: the rail, by its generation of 24 bits, the place of the queue pair there, of 8, and its own number on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number {
    pub(super) generation: u32,
    pub(super) place: usize,
    pub(super) sequence: u32,
}

impl Number {
    /// As the work request carries it.
    pub(super) fn id(self) -> u64 {
        u64::from(self.generation) << 40 | (self.place as u64) << 32 | u64::from(self.sequence)
    }

    pub(super) fn of(id: u64) -> Self {
        Self { generation: (id >> 40) as u32, place: usize::from((id >> 32) as u8), sequence: id as u32 }
    }
}

/// One work request that the device has.
pub(super) struct Sent {
    sequence: u32,
    /// The work it belongs to; `None` for a probe, and for the proof of those before it.
    pub(super) work: Option<u64>,
    pub(super) slice: Option<Slice>,
    pub(super) stretch: Option<Stretch>,
    mark: Option<Mark>,
}

/// A read is reported as done, and its mark is still there.
pub(super) struct Untrue;

/// Whose success a device may report before the bytes are where they belong: `rdma/mod.rs` says which, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Unproven {
    pub(super) reads: bool,
    pub(super) writes: bool,
    /// A [`Mark`] is proof enough of a read.
    pub(super) marks: bool,
}

/// The sending side of a queue pair. Requests complete in the order they were posted, so one reported success stands for all before it.
pub(super) struct Sending {
    pub(super) queue: Queue,
    pub(super) chain: Chain,
    sent: VecDeque<Sent>,
    next: u32,
    /// Bytes under way.
    pub(super) backlog: u64,
    silent_requests: u32,
    silent_bytes: u64,
    unproven: Unproven,
    /// The chain has a request whose success is unproven, so it ends with a proof.
    owes: bool,
    /// Where the values of its marks begin.
    seed: u64,
}

impl Sending {
    pub(super) fn new(queue: Queue, unproven: Unproven) -> Self {
        let (chain, sent, seed) = (Chain::new(), VecDeque::new(), uuid::Uuid::new_v4().as_u128() as u64);
        Self { queue, chain, sent, next: 0, backlog: 0, silent_requests: 0, silent_bytes: 0, unproven, owes: false, seed }
    }

    pub(super) fn has_room(&self) -> bool {
        self.sent.len() < DEPTH && self.backlog < WINDOW
    }

    pub(super) fn outstanding(&self) -> usize {
        self.sent.len()
    }

    /// The number of the first request under way.
    pub(super) fn first(&self) -> Option<u32> {
        self.sent.front().map(|sent| sent.sequence)
    }

    pub(super) fn sent(&self) -> impl Iterator<Item = &Sent> {
        self.sent.iter()
    }

    /// Leaves a mark for the read that is counted in next, if that tells whether its bytes came. `into` is where the last of them go.
    pub(super) fn mark<'a>(&self, into: impl FnOnce() -> Option<Held<'a>>) -> Option<Mark> {
        // Another value each time, so that memory cannot have the one it had.
        let value = self.seed.wrapping_add(u64::from(self.next).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        self.unproven.marks.then(into).flatten().and_then(|into| Mark::leave(into, value))
    }

    /// Counts a request in, and answers its sequence number and whether it must report its success.
    /// In a chain that owes a proof none does but that.
    #[inline(always)]
    pub(super) fn record(
        &mut self,
        op: Verb,
        work: Option<u64>,
        slice: Option<Slice>,
        stretch: Option<Stretch>,
        mark: Option<Mark>,
    ) -> (u32, bool) {
        let (sequence, len) = (self.next, slice.map_or(0, |slice| slice.len));
        self.next = self.next.wrapping_add(1);
        self.backlog += len;
        self.silent_requests += 1;
        self.silent_bytes += len;
        self.owes |= len > 0 && if op == Verb::Read { self.unproven.reads && mark.is_none() } else { self.unproven.writes };
        let signaled =
            !self.owes && (self.silent_requests >= SIGNAL_REQUESTS || self.silent_bytes >= SIGNAL_BYTES || !self.has_room_for_one_more());
        if signaled {
            (self.silent_requests, self.silent_bytes) = (0, 0);
        }
        self.sent.push_back(Sent { sequence, work, slice, stretch, mark });
        (sequence, signaled)
    }

    /// Has the next request report its success, unless a proof does.
    pub(super) fn hasten(&mut self) {
        self.silent_requests = SIGNAL_REQUESTS;
    }

    fn has_room_for_one_more(&self) -> bool {
        self.sent.len() + 1 < DEPTH && self.backlog < WINDOW
    }

    /// To a chain that owes it, adds a read of one byte that the last request wrote or read, and says so. Only its success is reported, which
    /// stands for all before it. One byte, as none need not be fetched from memory, and soft-iWARP of Linux 6.1 may answer that with bytes of
    /// the read before it.
    pub(super) fn prove(&mut self, staging: Option<&Staging>, device: usize, id: impl FnOnce(u32) -> u64) -> bool {
        let Some((remote, key)) = self.chain.target().filter(|_| self.owes) else { return false };
        let (sequence, signaled) = self.record(Verb::Read, None, None, None, None);
        let sink = staging.map_or(Local { base: 0, len: 0, key: 0 }, |staging| staging.spare(device));
        self.chain.push(WorkRequest { id: id(sequence), op: Verb::Read, remote, key, signaled }, &[sink]);
        true
    }

    /// What was posted without work has some from here on.
    pub(super) fn adopt(&mut self, sequence: u32, work: u64) {
        self.sent.iter_mut().filter(|sent| sent.sequence == sequence).for_each(|sent| sent.work = Some(work));
    }

    /// The work that the request of this number belongs to.
    pub(super) fn work_of(&self, sequence: u32) -> Option<u64> {
        self.sent.iter().find(|sent| sent.sequence == sequence)?.work
    }

    /// Makes the last request of the chain report its success, for all of them.
    pub(super) fn speak(&mut self) {
        self.chain.signal_last();
        self.owes = false;
        (self.silent_requests, self.silent_bytes) = (0, 0);
    }

    /// What the device has; the queue pair must be destroyed before any of it is used again.
    pub(super) fn abandon(&mut self) -> VecDeque<Sent> {
        self.queue.fail();
        self.backlog = 0;
        std::mem::take(&mut self.sent)
    }

    /// The next request at or before `sequence` that the device is done with. One that it is not done with, whatever it says, stays.
    pub(super) fn settle(&mut self, sequence: u32) -> Option<Result<Sent, Untrue>> {
        let first = self.sent.front()?;
        if sequence.wrapping_sub(first.sequence) > u32::MAX / 2 {
            return None;
        }
        if first.mark.as_ref().is_some_and(Mark::stands) {
            return Some(Err(Untrue));
        }
        let sent = self.sent.pop_front()?;
        self.backlog -= sent.slice.map_or(0, |slice| slice.len);
        Some(Ok(sent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_request_comes_back_as_it_was() {
        for (generation, place, sequence) in [(0, 0, 0), (1, 15, 7), (0xff_ffff, 255, u32::MAX)] {
            let number = Number { generation, place, sequence };
            assert_eq!(Number::of(number.id()), number);
        }
    }
}
