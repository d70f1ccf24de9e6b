//! A space of frames: what is taken of each, and which frames to look at first.

use super::shape::{Place, Run, Shape, Slot};
use super::window::{Planned, Window};
use super::{AllocError, ClaimError, Space};
use perilune_protocol::Extent;
use perilune_stdx::bitmap::{self, Bitmap};
use perilune_stdx::frame::{Frame, FrameState, Gate, Moved, Seen, Taker};
use perilune_stdx::primitive::AtomicU64 as Word;
use perilune_stdx::set::Set;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// The shelf of frames of which nothing is taken. Below it, shelf `n - 1` has those whose longest run of free units is `n`; above it, shelf
/// `SLABS + class` has the slabs with a free slot. Frames that are shut have shelves of their own, above those of all that are open; frames
/// that are closing stand on none.
pub(super) const FREE: usize = 7;
/// The first shelf of slabs.
pub(super) const SLABS: usize = 8;

/// Lock-free space of frames of up to 2 MiB, remembered outside of the memory it describes.
///
/// A value takes whole units (256 KiB in large segments) and, for what is left, one slot of a slab, always of the lowest frame that can give
/// it, so that high frames drain. The frames' words alone decide who has what; the shelves only say where to look.
#[derive(Debug)]
pub struct FrameSpace {
    pub(super) shape: Shape,
    /// Any thread, any time: each taking and releasing is decided by an RMW of one of these, or of a bit of `slots` under its rules.
    pub(super) frames: Box<[Frame]>,
    /// Which slots of a frame are taken while it is a slab, `stride` words a frame.
    slots: Box<[Word]>,
    stride: usize,
    /// Hints; whoever finds one stale heals it. [`Set`] says why none is missing for longer than a transition takes.
    pub(super) shelves: Box<[Set]>,
    /// Bytes. Relaxed: a number to look at, that orders nothing.
    used: AtomicU64,
    /// What is in the window. A frame of it is open, or closing. Changed by apply alone; no request looks at it.
    pub(super) window: Mutex<Window>,
    /// How often it was widened. Written by apply. Relaxed: whoever misses one is told an old plan once more.
    pub(super) openings: AtomicU64,
    /// Held while a plan is made, so that those who need room at one time open the same frames.
    pub(super) planned: Mutex<Planned>,
}

impl FrameSpace {
    /// The space of a segment of `size` bytes, all free, with an empty window. A remainder smaller than a unit (at most 1/8192 of the segment,
    /// or a page) is not used; nothing fits a segment smaller than a page. Costs about 80 bytes of memory for each 2 MiB.
    pub fn new(size: u64) -> Self {
        let shape = Shape::new(size);
        let stride = bitmap::words(shape.most_slots());
        let kinds = SLABS + shape.class_count();
        let shelves =
            (0..2 * kinds).map(|shelf| if shelf == kinds + FREE { Set::full(shape.frames) } else { Set::empty(shape.frames) }).collect();
        Self {
            frames: (0..shape.frames).map(|_| Frame::default()).collect(),
            slots: (0..shape.frames * stride).map(|_| Word::new(0)).collect(),
            stride,
            shelves,
            used: AtomicU64::new(0),
            window: Mutex::default(),
            openings: AtomicU64::new(0),
            planned: Mutex::default(),
            shape,
        }
    }

    /// How many kinds of shelves there are; the shelf of shut frames of a kind is so much above that of open ones.
    pub(super) fn kinds(&self) -> usize {
        self.shelves.len() / 2
    }

    fn bits(&self, frame: usize, class: u8) -> Bitmap<'_> {
        Bitmap::over(&self.slots[frame * self.stride..][..self.stride], self.shape.slots_of(frame, class))
    }

    /// The units of `frame` that are taken or do not exist, if it is no slab.
    fn taken_units(&self, frame: usize, state: FrameState) -> Option<u8> {
        let absent = !self.shape.all_units(frame);
        match state {
            FrameState::Free => Some(absent),
            FrameState::Split(taken) => Some(taken | absent),
            FrameState::Slab { .. } => None,
        }
    }

    /// The units of `frame` that `taker` cannot have, if it may come in at all.
    pub(super) fn taken_for(&self, frame: usize, taker: Taker) -> Option<u8> {
        let seen = self.frames[frame].seen();
        if taker == Taker::Owner || seen.gate == Gate::Open { self.taken_units(frame, seen.state) } else { None }
    }

    /// Where a frame belongs; nowhere when it has nothing to give.
    fn shelf(&self, frame: usize, seen: Seen) -> Option<usize> {
        let kind = match seen.state {
            FrameState::Free => Some(FREE),
            FrameState::Split(taken) => longest_zeros(taken | !self.shape.all_units(frame)).checked_sub(1),
            FrameState::Slab { class, promised } => {
                (usize::from(promised) < self.shape.slots_of(frame, class)).then_some(SLABS + usize::from(class))
            }
        }?;
        match seen.gate {
            Gate::Open => Some(kind),
            Gate::Shut => Some(self.kinds() + kind),
            Gate::Closing => None,
        }
    }

    /// Bytes that a frame has left.
    pub(super) fn left(&self, frame: usize) -> u64 {
        match self.frames[frame].seen().state {
            FrameState::Slab { class, promised } => {
                (self.shape.slots_of(frame, class) as u64).saturating_sub(promised.into()) * self.shape.slot(class)
            }
            state => self.taken_units(frame, state).map_or(0, |taken| u64::from(taken.count_zeros()) * self.shape.unit),
        }
    }

    pub(super) fn refile(&self, frame: usize, moved: Moved) {
        let (before, after) = (self.shelf(frame, moved.before), self.shelf(frame, moved.after));
        if before != after {
            if let Some(shelf) = after {
                self.shelves[shelf].insert(frame);
            }
            if let Some(shelf) = before {
                self.heal(frame, shelf);
            }
        }
    }

    /// Takes `frame` off `shelf` unless it belongs there.
    pub(super) fn heal(&self, frame: usize, shelf: usize) {
        self.shelves[shelf].remove_unless(frame, || self.shelf(frame, self.frames[frame].seen()) == Some(shelf));
    }

    /// Takes any slot of `class` in `frame`.
    pub(super) fn take_slot_in(&self, frame: usize, class: u8, taker: Taker) -> Option<Slot> {
        let index = self.frames[frame].take_slot(class, self.bits(frame, class), taker, |moved| self.refile(frame, moved))?;
        self.used.fetch_add(self.shape.slot(class), Ordering::Relaxed);
        Some(Slot { frame, class, index })
    }

    /// Takes units of one frame.
    pub(super) fn take_units(&self, frame: usize, mask: u8, taker: Taker) -> bool {
        let took = self.frames[frame].take_units(mask, taker, |moved| self.refile(frame, moved));
        if took {
            self.used.fetch_add(u64::from(mask.count_ones()) * self.shape.unit, Ordering::Relaxed);
        }
        took
    }

    fn release_units(&self, frame: usize, mask: u8, taker: Taker) -> bool {
        let released = self.frames[frame].release_units(mask, taker, |moved| self.refile(frame, moved));
        if released {
            self.used.fetch_sub(u64::from(mask.count_ones()) * self.shape.unit, Ordering::Relaxed);
        }
        released
    }

    /// Takes all of `run` or nothing.
    pub(super) fn take_run(&self, run: Run, taker: Taker) -> bool {
        let missed = run.masks().position(|(frame, mask)| !self.take_units(frame, mask, taker));
        if let Some(taken) = missed {
            run.masks().take(taken).for_each(|(frame, mask)| {
                self.release_units(frame, mask, taker);
            });
        }
        missed.is_none()
    }

    fn take_place(&self, place: Place) -> bool {
        match place {
            Place::Units(run) => self.take_run(run, Taker::Owner),
            Place::Slot(Slot { frame, class, index }) => {
                let took =
                    self.frames[frame].take_slot_at(class, self.bits(frame, class), index, Taker::Owner, |moved| self.refile(frame, moved));
                if took {
                    self.used.fetch_add(self.shape.slot(class), Ordering::Relaxed);
                }
                took
            }
        }
    }

    /// Releases a place; `false` where a part of it was not taken, which is a defect of the caller: that part is left as it is.
    pub(super) fn release_place(&self, place: Place, taker: Taker) -> bool {
        match place {
            Place::Units(run) => run.masks().fold(true, |all, (frame, mask)| self.release_units(frame, mask, taker) && all),
            Place::Slot(Slot { frame, class, index }) => {
                let released =
                    self.frames[frame].release_slot(class, self.bits(frame, class), index, taker, |moved| self.refile(frame, moved));
                if released {
                    self.used.fetch_sub(self.shape.slot(class), Ordering::Relaxed);
                }
                released
            }
        }
    }

    /// Takes whatever units of `among` are free in `frame`, as runs.
    fn take_free_units(&self, frame: usize, among: u8, runs: &mut Vec<Run>) {
        while let Some(taken) = self.taken_for(frame, Taker::Owner).map(|taken| taken | !among).filter(|taken| *taken != u8::MAX) {
            let first = (!taken).trailing_zeros();
            let count = (taken >> first).trailing_zeros().min(8 - first);
            let run = Run { first: frame as u64 * super::shape::UNITS + u64::from(first), count: count.into() };
            if self.take_run(run, Taker::Owner) {
                runs.push(run);
            }
        }
    }

    /// The frames in which `place` lies, one for each time that a writer who took it was counted.
    pub(super) fn frames_of(place: Place) -> impl Iterator<Item = usize> {
        let (run, slot) = match place {
            Place::Units(run) => (Some(run), None),
            Place::Slot(slot) => (None, Some(slot.frame)),
        };
        run.into_iter().flat_map(|run| run.masks().map(|(frame, _)| frame)).chain(slot)
    }
}

/// The length of the longest run of zeros.
fn longest_zeros(taken: u8) -> usize {
    let (mut free, mut longest) = (!taken, 0);
    while free != 0 {
        free &= free << 1;
        longest += 1;
    }
    longest
}

impl Space for FrameSpace {
    fn allocate(&self, len: u64, extents_max: usize) -> Result<Vec<Extent>, AllocError> {
        if len > self.shape.capacity() {
            return Err(AllocError::TooLarge);
        }
        let most = extents_max.max(1);
        if let Some(extents) = self.find(len, most, Taker::Writer) {
            return Ok(extents);
        }
        // Whoever plans has room in hand for a moment.
        let _planned = self.planned.lock().unwrap_or_else(PoisonError::into_inner);
        let elsewhere = self.find(len, most, Taker::Owner).ok_or(AllocError::Full)?;
        self.release(&elsewhere);
        Err(AllocError::Window)
    }

    fn settle(&self, extents: &[Extent]) {
        for frame in extents.iter().filter_map(|extent| self.shape.place(*extent).ok()).flat_map(Self::frames_of) {
            let settled = self.frames[frame].settle();
            debug_assert!(settled, "nobody was writing in frame {frame}");
        }
    }

    fn release(&self, extents: &[Extent]) {
        for extent in extents {
            let released = self.shape.place(*extent).is_ok_and(|place| self.release_place(place, Taker::Owner));
            debug_assert!(released, "extent {}+{} was released but nobody held it", extent.offset, extent.len);
        }
    }

    fn claim(&self, extents: &[Extent]) -> Result<(), ClaimError> {
        let places = extents.iter().map(|extent| self.shape.place(*extent)).collect::<Result<Vec<_>, _>>()?;
        let Some(refused) = places.iter().position(|place| !self.take_place(*place)) else { return Ok(()) };
        for place in &places[..refused] {
            self.release_place(*place, Taker::Owner);
        }
        Err(ClaimError::Overlap(extents[refused]))
    }

    fn claim_rest(&self, extents: &[Extent]) -> Vec<Extent> {
        let (mut runs, mut claimed) = (Vec::new(), Vec::new());
        for extent in extents {
            match self.shape.place(*extent) {
                Ok(Place::Units(run)) => {
                    run.masks().for_each(|(frame, mask)| self.take_free_units(frame, mask, &mut runs));
                }
                Ok(place @ Place::Slot(_)) if self.take_place(place) => claimed.push(*extent),
                _ => {}
            }
        }
        claimed.extend(Run::merge(runs).into_iter().map(|run| self.shape.run_extent(run)));
        claimed
    }

    fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn free_frames(&self) -> (u64, u64) {
        let free = self.frames.iter().filter(|frame| matches!(frame.seen().state, FrameState::Free)).count();
        (free as u64, self.frames.len() as u64)
    }

    fn capacity(&self) -> u64 {
        self.shape.capacity()
    }
}
