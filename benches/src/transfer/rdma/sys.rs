//! The two calls of the engine that need a promise: memory registered for as long as it lives, and requests by tickets.

use crate::rivals::Trouble;
use perilune_protocol::Extent;
use perilune_transfer_engine::{Engine, LocalSlice, Op, Request, Segment, Ticket};
use std::collections::VecDeque;
use std::time::Duration;

/// A buffer that stays registered with an engine until it drops.
pub(super) struct Registered {
    engine: Engine,
    bytes: Box<[u8]>,
    /// Where it begins in there: on a page, as buffers of perftest and memory for large values do.
    from: usize,
    len: usize,
}

const PAGE: usize = 4096;

impl Registered {
    pub(super) fn new(engine: &Engine, len: usize) -> Result<Self, Trouble> {
        let mut bytes = vec![0; len + PAGE].into_boxed_slice();
        let from = bytes.as_ptr().align_offset(PAGE).min(PAGE);
        // SAFETY: the box is neither replaced nor freed before `drop` has unregistered it.
        unsafe { engine.register(bytes[from..].as_mut_ptr(), len)? };
        Ok(Self { engine: engine.clone(), bytes, from, len })
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[self.from..][..self.len]
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if self.engine.unregister(self.bytes[self.from..].as_mut_ptr()).is_err() {
            // A device might still know the memory: better lost than used by somebody else.
            std::mem::forget(std::mem::take(&mut self.bytes));
        }
    }
}

/// Writes all of `buffer` to the beginning of `segment` by a ticket that is waited for at once.
pub(in crate::transfer) fn write_by_ticket(
    engine: &Engine,
    segment: &Segment,
    buffer: &mut [u8],
    deadline: Duration,
) -> Result<(), Trouble> {
    let (extents, local) = (vec![Extent { offset: 0, len: buffer.len() as u64 }], vec![LocalSlice::from_mut(buffer)]);
    let request = Request { op: Op::Write, segment: segment.clone(), extents, local };
    // SAFETY: `buffer` is borrowed for all of this call, and the ticket is done or dropped when it ends.
    let ticket = unsafe { engine.submit(vec![request], deadline) };
    Ok(ticket.wait().into_iter().collect::<Result<(), _>>()?)
}

/// What moves again and again: pieces of `size` bytes, `depth` of them under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) op: Op,
    pub(super) size: usize,
    pub(super) depth: usize,
    /// Requests that are submitted, and waited for, together; divides `depth`.
    pub(super) together: usize,
    /// Whether all pieces write to, or read from, the beginning of the segment, rather than to or from one place after the other.
    pub(super) in_place: bool,
    pub(super) deadline: Duration,
}

impl Window {
    /// Moves pieces between `buffer` and `segment`, which are used round and round, while `go_on` is told how many were asked for and says yes.
    /// Returns how many were moved, and none is under way any more.
    pub(super) fn slide(
        &self,
        engine: &Engine,
        segment: &Segment,
        buffer: &mut [u8],
        mut go_on: impl FnMut(u64) -> bool,
    ) -> Result<u64, Trouble> {
        let Self { op, size, depth, together, in_place, deadline } = *self;
        let remote = segment.desc().size as usize / size;
        if depth == 0 || together == 0 || buffer.len() / size < depth || remote < depth {
            return Err(format!("{depth} pieces of {size} bytes do not fit into the buffer, or not into the segment").into());
        }
        let local: Vec<LocalSlice> = buffer.chunks_exact_mut(size).take(depth).map(LocalSlice::from_mut).collect();
        // What is written may be the same bytes again, what is read has a place of its own.
        let (remote, places) = if in_place { (1, if op == Op::Write { 1 } else { depth }) } else { (remote, depth) };
        let mut tickets: VecDeque<Ticket> = VecDeque::with_capacity(depth);
        let mut asked = 0;
        loop {
            while (tickets.len() + 1) * together <= depth && go_on(asked) {
                let request = |number: u64| Request {
                    op,
                    segment: segment.clone(),
                    extents: vec![Extent { offset: (number as usize % remote * size) as u64, len: size as u64 }],
                    local: vec![local[number as usize % places]],
                };
                let requests = (asked..asked + together as u64).map(request).collect();
                // SAFETY: `buffer` is borrowed for all of this call, and the tickets, which no one else sees, are done or dropped when it ends.
                // What piece n is read into is used again by piece n + depth, after its ticket was waited for.
                tickets.push_back(unsafe { engine.submit(requests, deadline) });
                asked += together as u64;
            }
            let Some(oldest) = tickets.pop_front() else { return Ok(asked) };
            oldest.wait().into_iter().collect::<Result<(), _>>()?;
        }
    }
}
