//! Work in, slices out: each one work request. Pure: asks only where local memory is registered.

use super::registry::{Buffers, LARGE};
use crate::request::LocalSlice;
use crate::transport::Work;
use std::collections::VecDeque;

/// The most local stretches of one work request.
pub(super) const PARTS: usize = 4;

/// How the local bytes of a slice reach the device, unless they fit inside the work request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// It reads or writes them where they are.
    Direct,
    /// They are copied through staging.
    Staged,
}

/// What one work request moves: a stretch of the segment, and the local bytes in order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slice {
    /// The first byte in the segment.
    pub(super) offset: u64,
    /// The first byte among the bytes of the work.
    pub(super) from: u64,
    /// Bytes.
    pub(super) len: u64,
    pub(super) way: Way,
    parts: [LocalSlice; PARTS],
    used: usize,
}

impl Slice {
    /// That of a notice: no bytes.
    pub(super) fn of_notice() -> Self {
        Self::new(0, 0, Way::Direct)
    }

    fn new(offset: u64, from: u64, way: Way) -> Self {
        Self { offset, from, len: 0, way, parts: [LocalSlice { base: 0, len: 0 }; PARTS], used: 0 }
    }

    pub(super) fn local(&self) -> &[LocalSlice] {
        &self.parts[..self.used]
    }

    fn push(&mut self, base: u64, len: u64) {
        self.parts[self.used] = LocalSlice { base, len };
        self.used += 1;
        self.len += len;
    }
}

/// Where slices must end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The most bytes of one slice.
    pub(super) slice: u64,
    /// Bytes of each memory region of the segment: no slice lies in two.
    pub(super) piece: u64,
    /// The most local stretches of one slice, 1 to [`PARTS`].
    pub(super) parts: usize,
}

/// Cuts work into slices, in order.
pub(super) fn cut(work: &Work, buffers: &Buffers, limits: Limits) -> VecDeque<Slice> {
    let mut slices = VecDeque::new();
    let mut local = work.local.iter().copied();
    let mut from = 0;
    let mut here = LocalSlice { base: 0, len: 0 };
    for extent in &work.extents {
        let (mut at, mut left) = (extent.offset, extent.len);
        let mut slice: Option<Slice> = None;
        while left > 0 {
            if here.len == 0 {
                let Some(next) = local.next() else { break };
                here = next;
                continue;
            }
            let registered = buffers.end_of(here.base);
            let way = if registered.is_some() { Way::Direct } else { Way::Staged };
            let most = if way == Way::Direct { limits.slice } else { limits.slice.min(LARGE) };
            let mut open = match slice.take() {
                Some(open) if open.way == way && open.used < limits.parts && open.len < most && at % limits.piece != 0 => open,
                full => {
                    if let Some(full) = full {
                        slices.push_back(full);
                    }
                    Slice::new(at, from, way)
                }
            };
            let to_region = registered.map_or(u64::MAX, |end| end - here.base);
            let run = left.min(here.len).min(most - open.len).min(limits.piece - at % limits.piece).min(to_region);
            open.push(here.base, run);
            slice = Some(open);
            (at, left, from) = (at + run, left - run, from + run);
            here = LocalSlice { base: here.base + run, len: here.len - run };
        }
        if let Some(last) = slice {
            slices.push_back(last);
        }
    }
    slices
}
