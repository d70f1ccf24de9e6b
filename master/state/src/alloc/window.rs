//! Which frames the leader may allocate in: opened and closed by the log, planned and given up by the leader.
//!
//! ```text
//!             plan ──► log ──► open                     surplus ──► log ──► close
//!     shut ─────────────────────────► in the window, open ──► closing ────────────► shut
//!                                      writers come and go     none is left
//! ```
//!
//! A new leader does not know who writes in the window it inherits, and leaves alone what is free there; what is free elsewhere is nobody's.

use super::frames::{FREE, FrameSpace};
use super::{FrameRun, Space};
use perilune_stdx::frame::{Gate, Taker};
use perilune_stdx::set;
use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

/// Values for which room is looked for at once.
const PLAN_VALUES: usize = 64;

impl FrameRun {
    /// Ascending frames as runs.
    pub(super) fn of(frames: impl IntoIterator<Item = usize>) -> Vec<Self> {
        let mut runs: Vec<Self> = Vec::new();
        for frame in frames {
            match runs.last_mut() {
                Some(run) if run.first as usize + run.count as usize == frame => run.count += 1,
                _ => runs.push(Self { first: frame as u32, count: 1 }),
            }
        }
        runs
    }
}

/// What was planned last.
#[derive(Debug, Default)]
pub(super) struct Planned {
    frames: Vec<FrameRun>,
    /// How often the window had been widened then.
    openings: u64,
}

impl FrameSpace {
    /// The frames of `runs` that there are.
    fn frames(&self, runs: &[FrameRun]) -> impl Iterator<Item = usize> {
        let end = self.shape.frames;
        runs.iter().flat_map(move |run| run.first as usize..(run.first as usize).saturating_add(run.count as usize).min(end))
    }

    /// The window, ascending.
    pub(super) fn frames_in_window(&self) -> impl Iterator<Item = usize> {
        (0..self.shape.frames.div_ceil(64)).flat_map(|index| set::members(index, self.window.word(index)))
    }

    pub(super) fn widen(&self, frames: &[FrameRun]) {
        let mut wider = false;
        for frame in self.frames(frames) {
            self.window.insert(frame);
            self.frames[frame].open(|moved| {
                wider |= moved.before.gate != Gate::Open;
                self.refile(frame, moved);
            });
        }
        self.openings.fetch_add(u64::from(wider), Ordering::Relaxed);
    }

    pub(super) fn narrow(&self, frames: &[FrameRun]) {
        for frame in self.frames(frames) {
            self.window.remove_unless(frame, || false);
            self.frames[frame].shut(|moved| self.refile(frame, moved));
        }
    }

    pub(super) fn plan_window(&self, len: u64, extents_max: usize, bytes: u64) -> Vec<FrameRun> {
        let shut = |frame: &usize| self.frames[*frame].seen().gate == Gate::Shut;
        let mut planned = self.planned.lock().unwrap_or_else(PoisonError::into_inner);
        let openings = self.openings.load(Ordering::Relaxed);
        if planned.frames.is_empty() || planned.openings != openings {
            // As if all were open: the room itself says which frames have it.
            let mut values = Vec::new();
            while values.len() < PLAN_VALUES
                && len * (values.len() as u64) < bytes
                && let Some(extents) = self.find(len, extents_max, Taker::Owner)
            {
                values.push(extents);
            }
            let mut frames: BTreeSet<usize> = values
                .iter()
                .flatten()
                .filter_map(|extent| self.shape.place(*extent).ok())
                .flat_map(Self::frames_of)
                .filter(shut)
                .collect();
            values.iter().for_each(|extents| self.release(extents));
            if !frames.is_empty() {
                let more = (bytes / self.shape.frame()).saturating_sub(frames.len() as u64);
                let free = &self.shelves[self.kinds() + FREE];
                let unused = std::iter::successors(free.first_from(0), |frame| free.first_from(frame + 1));
                let unused: Vec<_> = unused.filter(|frame| !frames.contains(frame)).take(more as usize).collect();
                frames.extend(unused);
            }
            *planned = Planned { frames: FrameRun::of(frames), openings };
        }
        planned.frames.clone()
    }

    pub(super) fn bar_surplus(&self, keep: u64) -> Vec<FrameRun> {
        let (mut kept, mut barred) = (0, Vec::new());
        for frame in self.frames_in_window() {
            let left = self.left(frame);
            if left > 0 && kept < keep {
                kept += left;
            } else if self.frames[frame].bar(|moved| self.refile(frame, moved)) {
                barred.push(frame);
            }
        }
        FrameRun::of(barred)
    }
}
