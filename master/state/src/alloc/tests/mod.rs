//! The allocator against a model, against many threads, and against the utilisation it promises.

mod model;
mod stress;
mod utilisation;

use super::{AllocError, ClaimError, FrameRun, FrameSpace, Opened, PAGE, Space, Windowed};
use perilune_protocol::Extent;
use std::collections::BTreeMap;

/// SplitMix64: the same numbers for the same seed, everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Between `low` and `high`, each doubling as likely as any other.
    fn log_uniform(&mut self, low: u64, high: u64) -> u64 {
        let share = self.below(1 << 32) as f64 / (1u64 << 32) as f64;
        (low as f64 * (high as f64 / low as f64).powf(share)) as u64
    }
}

/// The plain truth about who has what: extents by offset. Refuses overlap.
#[derive(Default)]
struct Taken(BTreeMap<u64, u64>);

impl Taken {
    fn add(&mut self, extents: &[Extent]) -> Result<(), String> {
        for extent in extents {
            let end = extent.offset + extent.len;
            if let Some((offset, len)) = self.0.range(..end).next_back().filter(|(offset, len)| *offset + **len > extent.offset) {
                return Err(format!("{}+{} overlaps {offset}+{len}", extent.offset, extent.len));
            }
            self.0.insert(extent.offset, extent.len);
        }
        Ok(())
    }

    fn remove(&mut self, extents: &[Extent]) {
        for extent in extents {
            assert_eq!(self.0.remove(&extent.offset), Some(extent.len), "what is released was taken");
        }
    }
}

/// All there is.
const ALL: [FrameRun; 1] = [FrameRun { first: 0, count: u32::MAX }];

/// A space that is all in the window.
fn open(size: u64) -> FrameSpace {
    let space = FrameSpace::new(size);
    space.open(&ALL);
    space
}

/// What is in the window.
fn window(space: &FrameSpace) -> Vec<FrameRun> {
    space.window().into_iter().map(|opened| opened.frames).collect()
}

/// Whether some bytes of an extent lie in these frames.
fn lies_in(space: &FrameSpace, extent: Extent, frames: &[FrameRun]) -> bool {
    let frame = space.shape.frame();
    let (first, last) = (extent.offset / frame, (extent.offset + extent.len - 1) / frame);
    frames.iter().any(|run| u64::from(run.first) <= last && first < u64::from(run.first) + u64::from(run.count))
}

fn lens(extents: &[Extent]) -> u64 {
    extents.iter().map(|extent| extent.len).sum()
}
