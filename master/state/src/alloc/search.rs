//! Where to take space from: the lowest frame that can give it, few extents before many.

use super::frames::{FREE, FrameSpace, SLABS};
use super::shape::{Place, Run, Slot, UNITS};
use perilune_protocol::Extent;
use perilune_stdx::bitmap::zeros;
use perilune_stdx::frame::Taker;
use perilune_stdx::set;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

impl Run {
    /// The same units, sorted, with adjacent runs as one.
    pub(super) fn merge(mut runs: Vec<Self>) -> Vec<Self> {
        runs.sort_unstable();
        runs.dedup_by(|next, run| {
            let adjacent = run.end() == next.first;
            run.count += if adjacent { next.count } else { 0 };
            adjacent
        });
        runs
    }
}

impl FrameSpace {
    /// Takes `len` bytes in at most `most` extents, where `taker` may.
    pub(super) fn find(&self, len: u64, most: usize, taker: Taker) -> Option<Vec<Extent>> {
        if len == 0 {
            return Some(Vec::new());
        }
        if self.shape.class_of(len).is_some() {
            return self.find_slots(len, most, taker);
        }
        let (whole, tail) = (len / self.shape.unit, len % self.shape.unit);
        if tail > 0
            && most > 1
            && self.shape.class_of(tail).is_some()
            && let Some(runs) = self.find_units(whole, most - 1, taker)
        {
            if let Some(tail) = self.find_slots(tail, most - runs.len(), taker) {
                return Some(runs.into_iter().map(|run| self.shape.run_extent(run)).chain(tail).collect());
            }
            self.give_back(&runs, taker);
        }
        self.find_rounded(len, most, taker)
    }

    /// Takes `len` bytes, more than a slot holds, as units alone; the last of them may be taken in part.
    fn find_rounded(&self, len: u64, most: usize, taker: Taker) -> Option<Vec<Extent>> {
        let mut runs = self.find_units(len.div_ceil(self.shape.unit), most, taker)?;
        // The last extent is the one that ends early, and it must still be too long to be taken for a slot: so the longest comes last.
        if let Some(longest) = (0..runs.len()).max_by_key(|index| runs[*index].count) {
            let run = runs.remove(longest);
            runs.push(run);
        }
        let mut extents: Vec<Extent> = runs.iter().map(|run| self.shape.run_extent(*run)).collect();
        let spare = len.next_multiple_of(self.shape.unit) - len;
        let last = extents.last_mut()?;
        last.len -= spare;
        if self.shape.class_of(last.len).is_some() {
            self.give_back(&runs, taker);
            return None;
        }
        Some(extents)
    }

    fn give_back(&self, runs: &[Run], taker: Taker) {
        runs.iter().for_each(|run| {
            self.release_place(Place::Units(*run), taker);
        });
    }

    /// Takes `len` bytes, at most what a slot holds: one slot or, where no frame is left to cut, several smaller ones.
    fn find_slots(&self, len: u64, most: usize, taker: Taker) -> Option<Vec<Extent>> {
        let (mut slots, mut extents, mut left) = (Vec::new(), Vec::new(), len);
        while left > 0 {
            let class = self.shape.class_of(left)?;
            let found = if slots.len() < most { (0..=class).rev().find_map(|class| self.find_slot(class, taker)) } else { None };
            let Some(slot) = found else {
                slots.into_iter().for_each(|slot| {
                    self.release_place(Place::Slot(slot), taker);
                });
                return None;
            };
            let bytes = left.min(self.shape.slot(slot.class));
            slots.push(slot);
            extents.push(self.shape.slot_extent(slot, bytes));
            left -= bytes;
        }
        Some(extents)
    }

    /// Takes a slot of `class` in the lowest slab that has one, else in the lowest free frame.
    fn find_slot(&self, class: u8, taker: Taker) -> Option<Slot> {
        [SLABS + usize::from(class), FREE]
            .into_iter()
            .find_map(|shelf| self.on(shelf, taker, |frame| self.take_slot_in(frame, class, taker)))
    }

    /// The shelves of one kind where `taker` looks: those of open frames, and as an owner those of shut ones, too.
    fn where_to_look(&self, kind: usize, taker: Taker) -> impl Iterator<Item = usize> + Clone {
        let shut = (taker == Taker::Owner).then(|| self.kinds() + kind);
        std::iter::once(kind).chain(shut)
    }

    /// The first answer that a frame on the shelves of a kind gives, lowest first.
    fn on<T>(&self, kind: usize, taker: Taker, take: impl Fn(usize) -> Option<T>) -> Option<T> {
        let shelves = self.where_to_look(kind, taker);
        let mut from = 0;
        while let Some((frame, shelf)) = shelves.clone().filter_map(|shelf| Some((self.shelves[shelf].first_from(from)?, shelf))).min() {
            if let Some(taken) = take(frame) {
                return Some(taken);
            }
            self.heal(frame, shelf);
            from = frame + 1;
        }
        None
    }

    /// Takes `count` units in at most `most` runs: adjacent frames and the lowest frame with room for the rest, else the largest runs there are.
    fn find_units(&self, count: u64, most: usize, taker: Taker) -> Option<Vec<Run>> {
        let (whole, rest) = (count / UNITS, count % UNITS);
        if whole == 0
            && let Some(run) = self.find_within(rest, taker)
        {
            return Some(vec![run]);
        }
        if whole > 0
            && (rest == 0 || most > 1)
            && let Some(run) = self.find_frames(whole, taker)
        {
            if rest == 0 {
                return Some(vec![run]);
            }
            if let Some(more) = self.find_within(rest, taker) {
                return Some(Run::merge(vec![run, more]));
            }
            self.give_back(&[run], taker);
        }
        self.find_largest(count, most, taker)
    }

    /// Takes `count` adjacent units of one frame; of the tightest that has them, the lowest.
    fn find_within(&self, count: u64, taker: Taker) -> Option<Run> {
        let take = |frame: usize| loop {
            let taken = self.taken_for(frame, taker)?;
            let first = zeros(taken.into(), UNITS as u32, count as u32)?;
            let run = Run { first: frame as u64 * UNITS + u64::from(first), count };
            if self.take_run(run, taker) {
                return Some(run);
            }
        };
        (count as usize - 1..=FREE).find_map(|shelf| self.on(shelf, taker, take))
    }

    /// Takes `count` adjacent free frames, the lowest.
    fn find_frames(&self, count: u64, taker: Taker) -> Option<Run> {
        // The last frame may be short; as a whole frame it does not count then.
        let whole = (self.shape.units / UNITS) as usize;
        let shelves = self.where_to_look(FREE, taker);
        let word = |index| shelves.clone().fold(0, |all, shelf| all | self.shelves[shelf].word(index));
        let mut from = 0;
        loop {
            let first = shelves.clone().filter_map(|shelf| self.shelves[shelf].first_from(from)).min().filter(|first| *first < whole)?;
            let length = set::run_at(first, word);
            if (length.min(whole - first) as u64) < count {
                from = first + length;
                continue;
            }
            let run = Run { first: first as u64 * UNITS, count: count * UNITS };
            if self.take_run(run, taker) {
                return Some(run);
            }
            for frame in first..first + count as usize {
                shelves.clone().for_each(|shelf| self.heal(frame, shelf));
            }
            from = first + 1;
        }
    }

    /// Takes `count` units as the largest runs there are, wherever frames end; the lowest that suffices when one does.
    fn find_largest(&self, count: u64, most: usize, taker: Taker) -> Option<Vec<Run>> {
        loop {
            let mut left = count;
            let mut runs = self.largest(count, most, taker);
            runs.sort_unstable_by_key(|run| Reverse(run.count));
            for run in &mut runs {
                run.count = run.count.min(left);
                left -= run.count;
            }
            if left > 0 {
                return None;
            }
            runs.retain(|run| run.count > 0);
            let Some(missed) = runs.iter().position(|run| !self.take_run(*run, taker)) else { return Some(Run::merge(runs)) };
            // Another thread was faster: look again.
            self.give_back(&runs[..missed], taker);
        }
    }

    /// The `most` largest free runs, or only the lowest that has `enough` units.
    fn largest(&self, enough: u64, most: usize, taker: Taker) -> Vec<Run> {
        let mut heap: BinaryHeap<Reverse<(u64, Reverse<u64>)>> = BinaryHeap::new();
        let mut open = Run { first: 0, count: 0 };
        for frame in self.frames_with_units(taker) {
            let Some(taken) = self.taken_for(frame, taker) else { continue };
            let mut at = 0;
            while at < UNITS as u32 {
                let free = (taken >> at).trailing_zeros().min(UNITS as u32 - at);
                if free == 0 {
                    at += (taken >> at).trailing_ones();
                    continue;
                }
                let run = Run { first: frame as u64 * UNITS + u64::from(at), count: free.into() };
                if open.end() == run.first {
                    open.count += run.count;
                } else {
                    keep(&mut heap, open, most);
                    open = run;
                }
                if open.count >= enough {
                    return vec![open];
                }
                at += free;
            }
        }
        keep(&mut heap, open, most);
        heap.into_iter().map(|Reverse((count, Reverse(first)))| Run { first, count }).collect()
    }

    /// The frames that seem to have free units, ascending.
    fn frames_with_units(&self, taker: Taker) -> impl Iterator<Item = usize> {
        let shelves = self.where_to_look(0, taker);
        (0..self.shape.frames.div_ceil(64)).flat_map(move |index| {
            let on = |shelf: usize| self.shelves[shelf..=shelf + FREE].iter().fold(0, |all, shelf| all | shelf.word(index));
            set::members(index, shelves.clone().fold(0, |all, shelf| all | on(shelf)))
        })
    }
}

/// Keeps the `most` largest runs; of equal ones those that came first, which lie lowest.
fn keep(heap: &mut BinaryHeap<Reverse<(u64, Reverse<u64>)>>, run: Run, most: usize) {
    if run.count == 0 || (heap.len() >= most && heap.peek().is_some_and(|Reverse((least, _))| *least >= run.count)) {
        return;
    }
    heap.push(Reverse((run.count, Reverse(run.first))));
    if heap.len() > most {
        heap.pop();
    }
}
