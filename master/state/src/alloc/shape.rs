//! How a segment of a given size is cut: frames, units, classes of slots. Pure arithmetic, no state.
//!
//! ```text
//!   segment   | frame | frame | frame | ...                     | last |     size / 1024, a power of two, 32 KiB .. 2 MiB
//!   frame     | u | u | u | u | u | u | u | u |     as eight units ...
//!             | slot  | slot  | slot  | slot  |.|   ... or as a slab of equal slots, each smaller than a unit
//! ```
//!
//! An extent says by its length alone what it is: what fits a slot lies in one of the smallest class that holds it, all longer ones are runs of
//! whole units. So extents are all that has to be remembered. **Stored extents depend on this arithmetic: changing it for a size
//! makes old logs unreadable** (the test at the end pins it).

use super::{ClaimError, PAGE};
use perilune_protocol::Extent;

/// The units of a frame.
pub(super) const UNITS: u64 = perilune_stdx::frame::UNITS as u64;

/// How one segment is cut.
#[derive(Debug)]
pub(super) struct Shape {
    /// Bytes of a unit.
    pub(super) unit: u64,
    /// Frames, the last of which may have fewer units than the others.
    pub(super) frames: usize,
    /// Units of all frames.
    pub(super) units: u64,
    /// Pages of a slot of each class, ascending, all less than a unit.
    classes: Vec<u64>,
    /// For a number of pages, the smallest class that holds them.
    by_pages: Vec<u8>,
}

/// What an extent holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Adjacent units.
    Units(Run),
    /// One slot of a slab.
    Slot(Slot),
}

/// Adjacent units, counted from the start of the segment; they may lie in several frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Run {
    pub(super) first: u64,
    pub(super) count: u64,
}

/// One slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) frame: usize,
    pub(super) class: u8,
    pub(super) index: usize,
}

impl Run {
    pub(super) fn end(self) -> u64 {
        self.first + self.count
    }

    /// The frames that the run touches, and which units of each.
    pub(super) fn masks(self) -> impl Iterator<Item = (usize, u8)> {
        (self.first / UNITS..self.end().div_ceil(UNITS)).map(move |frame| {
            let from = self.first.saturating_sub(frame * UNITS);
            let to = (self.end() - frame * UNITS).min(UNITS);
            (frame as usize, mask(from, to))
        })
    }
}

/// Units `from..to` of a frame.
fn mask(from: u64, to: u64) -> u8 {
    (((1u16 << to) - 1) & !((1u16 << from) - 1)) as u8
}

impl Shape {
    /// The shape of a segment of `size` bytes. What is left after the last whole unit is not used.
    pub(super) fn new(size: u64) -> Self {
        let share = 1 << (size / 1024).max(1).ilog2();
        let unit = u64::clamp(share, 32 << 10, 2 << 20) / UNITS;
        let units = size / unit;
        let classes = classes(unit / PAGE);
        let by_pages = (0..unit / PAGE).map(|pages| classes.partition_point(|class| *class < pages) as u8).collect();
        Self { unit, frames: units.div_ceil(UNITS) as usize, units, classes, by_pages }
    }

    /// Bytes that can be taken.
    pub(super) fn capacity(&self) -> u64 {
        self.units * self.unit
    }

    /// Bytes of a frame.
    pub(super) fn frame(&self) -> u64 {
        self.unit * UNITS
    }

    /// How many units `frame` has: eight, or fewer in the last.
    pub(super) fn units_of(&self, frame: usize) -> u64 {
        (self.units - frame as u64 * UNITS).min(UNITS)
    }

    /// The units that `frame` has.
    pub(super) fn all_units(&self, frame: usize) -> u8 {
        mask(0, self.units_of(frame))
    }

    /// How many classes there are.
    pub(super) fn class_count(&self) -> usize {
        self.classes.len()
    }

    /// The class of slots in which `len` bytes lie; `None` when they need units.
    pub(super) fn class_of(&self, len: u64) -> Option<u8> {
        let class = *self.by_pages.get(usize::try_from(len.div_ceil(PAGE)).ok()?)?;
        (usize::from(class) < self.classes.len()).then_some(class)
    }

    /// Bytes of a slot of `class`.
    pub(super) fn slot(&self, class: u8) -> u64 {
        self.classes[usize::from(class)] * PAGE
    }

    /// How many slots of `class` fit in `frame`; may be none in the last.
    pub(super) fn slots_of(&self, frame: usize, class: u8) -> usize {
        (self.units_of(frame) * self.unit / self.slot(class)) as usize
    }

    /// Slots of the smallest class in a whole frame: as many bits as any slab needs. Without classes, none.
    pub(super) fn most_slots(&self) -> usize {
        if self.classes.is_empty() { 0 } else { (self.frame() / PAGE) as usize }
    }

    /// What `extent` holds.
    pub(super) fn place(&self, extent: Extent) -> Result<Place, ClaimError> {
        if !extent.fits(self.capacity()) {
            return Err(ClaimError::OutOfRange(extent));
        }
        let misplaced = ClaimError::Misplaced(extent);
        let Some(class) = self.class_of(extent.len) else {
            let run = Run { first: extent.offset / self.unit, count: extent.len.div_ceil(self.unit) };
            return if extent.offset.is_multiple_of(self.unit) { Ok(Place::Units(run)) } else { Err(misplaced) };
        };
        let (frame, within) = ((extent.offset / self.frame()) as usize, extent.offset % self.frame());
        let index = (within / self.slot(class)) as usize;
        if within.is_multiple_of(self.slot(class)) && index < self.slots_of(frame, class) {
            Ok(Place::Slot(Slot { frame, class, index }))
        } else {
            Err(misplaced)
        }
    }

    /// The extent of the first `len` bytes of `slot`.
    pub(super) fn slot_extent(&self, slot: Slot, len: u64) -> Extent {
        Extent { offset: slot.frame as u64 * self.frame() + slot.index as u64 * self.slot(slot.class), len }
    }

    /// The extent of the whole of `run`.
    pub(super) fn run_extent(&self, run: Run) -> Extent {
        Extent { offset: run.first * self.unit, len: run.count * self.unit }
    }
}

/// Slot sizes in pages, for a unit of `unit` pages: about eight for each doubling, each the largest of which some number of slots fits a
/// frame, so that next to nothing is left at a frame's end (at most 3.6 %).
fn classes(unit: u64) -> Vec<u64> {
    let frame = unit * UNITS;
    // Slots in a frame: numbers of four significant bits above 8, as 8 slots would be units.
    let mut pages: Vec<u64> =
        (UNITS + 1..=frame).filter(|slots| slots & ((1 << (slots.ilog2() - 3)) - 1) == 0).map(|n| frame / n).collect();
    pages.reverse();
    pages.dedup();
    pages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_segments_have_these_classes() {
        let shape = Shape::new(4 << 30);
        let expected = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 17, 18, 19, 21, 23, 25, 28, 32, 34, 36, 39, 42, 46, 51, 56];
        assert_eq!(shape.classes, expected);
        for (class, pages) in expected.into_iter().enumerate() {
            let waste = 512 - shape.slots_of(0, class as u8) as u64 * pages;
            assert!(waste as f64 / 512.0 < 0.036, "{pages} pages leave {waste} of 512");
        }
    }

    /// Stored extents are read by this arithmetic: these values may not change.
    #[test]
    fn the_cut_of_each_size_is_pinned() {
        let cut = |size: u64| {
            let shape = Shape::new(size);
            (shape.unit, shape.frames, shape.capacity(), shape.class_count())
        };
        assert_eq!(cut(0), (4096, 0, 0, 0));
        assert_eq!(cut(4096), (4096, 1, 4096, 0));
        assert_eq!(cut((1 << 20) + 5000), (4096, 33, (1 << 20) + 4096, 0));
        assert_eq!(cut(16 << 20), (4096, 512, 16 << 20, 0));
        assert_eq!(cut(100 << 20), (8 << 10, 1600, 100 << 20, 1));
        assert_eq!(cut((1 << 30) + (300 << 10)), (128 << 10, 1025, (1 << 30) + (256 << 10), 21));
        assert_eq!(cut((2 << 30) - 1), (128 << 10, 2048, (2 << 30) - (128 << 10), 21));
        assert_eq!(cut(2 << 30), (256 << 10, 1024, 2 << 30, 29));
        assert_eq!(cut(1 << 40), (256 << 10, 1 << 19, 1 << 40, 29));
    }

    #[test]
    fn a_length_lies_in_the_smallest_class_that_holds_it() {
        for size in [4096, 16 << 20, 100 << 20, 300 << 20, 1 << 30, 4 << 30] {
            let shape = Shape::new(size);
            for len in (1..=shape.unit + 1).step_by(511).chain([PAGE, PAGE + 1, shape.unit]) {
                let plain = (0..shape.class_count() as u8).find(|class| shape.slot(*class) >= len);
                assert_eq!(shape.class_of(len), plain, "{len} bytes in a segment of {size}");
            }
            assert_eq!(shape.class_of(u64::MAX), None);
        }
    }

    #[test]
    fn a_run_knows_its_frames() {
        let masks = |first, count| Run { first, count }.masks().collect::<Vec<_>>();
        assert_eq!(masks(3, 2), [(0, 0b0001_1000)]);
        assert_eq!(masks(6, 11), [(0, 0b1100_0000), (1, 0xff), (2, 1)]);
        assert_eq!(masks(8, 8), [(1, 0xff)]);
    }
}
