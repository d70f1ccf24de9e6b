//! Work in, slices out: each one work request. Pure: asks only where local memory is registered.

use super::registry::{Buffers, LARGE};
use crate::request::Held;
use crate::transport::{Single, Work};

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

/// What one work request moves: a stretch of the segment, and as many of the local bytes of its work.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slice {
    /// The first byte in the segment.
    pub(super) offset: u64,
    /// Bytes.
    pub(super) len: u64,
    pub(super) way: Way,
    /// The local stretch it begins in, and how far inside.
    local: (usize, u64),
}

impl Slice {
    /// All of an operation of one extent and one local stretch.
    pub(super) fn of_single(single: &Single<'_>, way: Way) -> Self {
        Self { offset: single.extent.offset, len: single.extent.len, way, local: (0, 0) }
    }

    /// That of a notice: no bytes.
    pub(super) fn of_notice() -> Self {
        Self { offset: 0, len: 0, way: Way::Direct, local: (0, 0) }
    }

    /// Its local bytes, in order.
    pub(super) fn local(self, work: &Work) -> impl Iterator<Item = Held<'_>> {
        let ((first, mut skip), mut left) = (self.local, self.len);
        (first..work.local.len()).map_while(move |place| {
            let part = Held::of_work(work, place, skip, left)?;
            (skip, left) = (0, left - part.slice().len);
            (part.slice().len > 0).then_some(part)
        })
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

/// What of a piece of work was not posted: slices that came back, and all that is not cut yet.
#[derive(Debug, Default)]
pub(super) struct Todo {
    /// The last is the first to go.
    back: Vec<Slice>,
    /// The extent and the local stretch to go on with, and how many bytes of each are cut.
    extent: (usize, u64),
    local: (usize, u64),
    /// How many bytes of the work are cut.
    from: u64,
}

impl Todo {
    /// All of an operation of one extent and one local stretch is posted.
    pub(super) fn posted(single: &Single<'_>) -> Self {
        Self { back: Vec::new(), extent: (1, 0), local: (1, 0), from: single.extent.len }
    }

    /// Takes a slice that was not posted, or lost, back.
    pub(super) fn give_back(&mut self, slice: Slice) {
        self.back.push(slice);
    }

    /// Whether all is posted.
    pub(super) fn is_empty(&self, work: &Work) -> bool {
        self.back.is_empty() && self.from == work.bytes
    }

    /// Bytes to post.
    pub(super) fn bytes(&self, work: &Work) -> u64 {
        work.bytes - self.from + self.back.iter().map(|slice| slice.len).sum::<u64>()
    }

    /// The next slice: what came back, else the next stretch of the work, in order.
    pub(super) fn next(&mut self, work: &Work, buffers: &Buffers, limits: Limits) -> Option<Slice> {
        self.back.pop().or_else(|| self.cut(work, buffers, limits))
    }

    fn cut(&mut self, work: &Work, buffers: &Buffers, limits: Limits) -> Option<Slice> {
        let (mut slice, mut parts): (Option<Slice>, usize) = (None, 0);
        let (extents, local) = (&work.extents[..], &work.local[..]);
        while let (Some(extent), Some(here)) = (extents.get(self.extent.0), local.get(self.local.0)) {
            if here.len == self.local.1 {
                self.local = (self.local.0 + 1, 0);
                continue;
            }
            let (at, left) = (extent.offset + self.extent.1, extent.len - self.extent.1);
            let (base, there) = (here.base + self.local.1, here.len - self.local.1);
            let registered = buffers.end_of(base);
            let way = if registered.is_some() { Way::Direct } else { Way::Staged };
            let most = if way == Way::Direct { limits.slice } else { limits.slice.min(LARGE) };
            let to_border = limits.piece - at % limits.piece;
            let open = match &mut slice {
                None => slice.insert(Slice { offset: at, len: 0, way, local: self.local }),
                Some(open) if open.way == way && parts < limits.parts && open.len < most && to_border < limits.piece => open,
                Some(_) => break,
            };
            let to_region = registered.map_or(u64::MAX, |end| end - base);
            let run = left.min(there).min(most - open.len).min(to_border).min(to_region);
            open.len += run;
            parts += 1;
            self.from += run;
            self.local.1 += run;
            if run == left {
                self.extent = (self.extent.0 + 1, 0);
                break;
            }
            self.extent.1 += run;
        }
        slice
    }
}
