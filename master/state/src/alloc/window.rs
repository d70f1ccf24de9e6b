//! Which frames the leader may allocate in: opened and closed by the log, planned and given up by the leader.
//!
//! ```text
//!             plan ──► log ──► open                     surplus ──► log ──► close
//!     shut ─────────────────────────► in the window, open ──► closing ────────────► shut
//!                                      writers come and go     none is left
//! ```
//!
//! A new leader does not know who writes in the window it inherits, and gives nothing of it: it closes it once all who may write there must have
//! stopped. What is free elsewhere is nobody's. When that is says the log's clock, which adds up what leaders have seen pass, since no one
//! member may be there for so long.

use super::frames::{FREE, FrameSpace};
use super::{FrameRun, Opened, Space, Windowed};
use perilune_stdx::frame::{Gate, Taker};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

/// Values for which room is looked for at once.
const PLAN_VALUES: usize = 64;

impl FrameRun {
    fn end(self) -> usize {
        self.first as usize + self.count as usize
    }

    /// Ascending frames as runs.
    pub(super) fn of(frames: impl IntoIterator<Item = usize>) -> Vec<Self> {
        let mut runs: Vec<Self> = Vec::new();
        for frame in frames {
            match runs.last_mut() {
                Some(run) if run.end() == frame => run.count += 1,
                _ => runs.push(Self { first: frame as u32, count: 1 }),
            }
        }
        runs
    }
}

impl Opened {
    /// Ascending frames, and when each was inherited, as runs.
    fn of(frames: impl IntoIterator<Item = (usize, Option<u64>)>) -> Vec<Self> {
        let mut opened: Vec<Self> = Vec::new();
        for (frame, inherited) in frames {
            match opened.last_mut() {
                Some(last) if last.inherited == inherited && last.frames.end() == frame => last.frames.count += 1,
                _ => opened.push(Self { frames: FrameRun { first: frame as u32, count: 1 }, inherited }),
            }
        }
        opened
    }
}

/// What is in the window.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// And when each was inherited, in milliseconds of the log's clock.
    frames: BTreeMap<usize, Option<u64>>,
    /// What was in it when this reign began.
    sealed: BTreeSet<usize>,
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

    fn lock(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Windowed for FrameSpace {
    fn window(&self) -> Vec<Opened> {
        Opened::of(self.lock().frames.iter().map(|(frame, inherited)| (*frame, *inherited)))
    }

    fn inherit(&self, frames: &[FrameRun], at: u64) {
        let mut window = self.lock();
        for frame in self.frames(frames) {
            if let Some(inherited @ None) = window.frames.get_mut(&frame) {
                *inherited = Some(at);
            }
        }
    }

    fn seal(&self) {
        let mut window = self.lock();
        window.sealed = window.frames.keys().copied().collect();
        for frame in &window.sealed {
            self.frames[*frame].bar(|moved| self.refile(*frame, moved));
        }
    }

    fn sealed(&self) -> Vec<Opened> {
        let window = self.lock();
        Opened::of(window.sealed.iter().filter_map(|frame| Some((*frame, *window.frames.get(frame)?))))
    }

    fn open(&self, frames: &[FrameRun]) {
        let (mut window, mut wider) = (self.lock(), false);
        for frame in self.frames(frames) {
            window.frames.entry(frame).or_insert(None);
            self.frames[frame].open(|moved| {
                wider |= moved.before.gate != Gate::Open;
                self.refile(frame, moved);
            });
        }
        self.openings.fetch_add(u64::from(wider), Ordering::Relaxed);
    }

    fn close(&self, frames: &[FrameRun]) {
        let mut window = self.lock();
        for frame in self.frames(frames) {
            window.frames.remove(&frame);
            window.sealed.remove(&frame);
            self.frames[frame].shut(|moved| self.refile(frame, moved));
        }
    }

    fn plan(&self, len: u64, extents_max: usize, bytes: u64) -> Vec<FrameRun> {
        let shut = |frame: &usize| self.frames[*frame].seen().gate == Gate::Shut;
        let mut planned = self.planned.lock().unwrap_or_else(PoisonError::into_inner);
        let openings = self.openings.load(Ordering::Relaxed);
        if planned.frames.is_empty() || planned.openings != openings {
            // As if all were open: the room itself says which frames have it.
            let mut values = Vec::new();
            while values.len() < PLAN_VALUES
                && len * (values.len() as u64) < bytes
                && let Some(extents) = self.find(len, extents_max.max(1), Taker::Owner)
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

    fn surplus(&self, keep: u64) -> Vec<FrameRun> {
        let (mut kept, mut barred) = (0, Vec::new());
        for frame in self.lock().frames.keys().copied() {
            let left = self.left(frame);
            if self.frames[frame].seen().gate != Gate::Open {
                // Closing already.
            } else if left > 0 && kept < keep {
                kept += left;
            } else if self.frames[frame].bar(|moved| self.refile(frame, moved)) {
                barred.push(frame);
            }
        }
        FrameRun::of(barred)
    }
}
