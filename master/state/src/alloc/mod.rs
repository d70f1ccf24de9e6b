//! The space of a segment: who gets which bytes of it, decided without a lock and remembered outside of it.

mod frames;
mod search;
mod shape;
#[cfg(test)]
mod tests;
mod window;

pub use frames::FrameSpace;

use perilune_protocol::Extent;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The space of one segment. Called from many threads at once. Nobody waits for another as long as there is room; who finds none waits until
/// those who plan ([`Windowed::plan`]) have put back what they had in hand.
pub trait Space: Windowed {
    /// Takes `len` bytes for a writer, in the window, as at most `extents_max` extents (1 = contiguous), in value order; their lengths sum
    /// to `len` exactly and each offset is a multiple of [`PAGE`]. Nothing is taken on an error. A `len` of 0 takes nothing and gives no
    /// extent. The frames it lies in stay in the window until it is settled.
    fn allocate(&self, len: u64, extents_max: usize) -> Result<Vec<Extent>, AllocError>;

    /// Whoever was to write there is done, one way or another: exactly what one `allocate` gave, each extent once.
    /// It stays taken.
    fn settle(&self, extents: &[Extent]);

    /// Gives back exactly what one `allocate` or `claim` gave, whole extents of it, each once; what writers had, after it was settled.
    fn release(&self, extents: &[Extent]);

    /// Takes the extents that a committed object holds, all or none of them, wherever the window is; used when a space is rebuilt from the
    /// log.
    fn claim(&self, extents: &[Extent]) -> Result<(), ClaimError>;

    /// Takes what is free of `extents`, each of which some object once held.
    fn claim_rest(&self, extents: &[Extent]) -> Vec<Extent>;

    /// Bytes taken, what rounding adds included.
    fn used(&self) -> u64;

    /// Frames of which nothing is taken, and all there are. Looks at each.
    fn free_frames(&self) -> (u64, u64);

    /// Bytes that can be taken at all, the part above the limit included.
    fn capacity(&self) -> u64;
}

/// The window of a space: what the log lets leaders allocate in.
pub trait Windowed: Send + Sync {
    /// What is in it, ascending.
    fn window(&self) -> Vec<Opened>;

    /// Apply: these frames are in the window.
    fn open(&self, frames: &[FrameRun]);

    /// Apply: these are no longer.
    fn close(&self, frames: &[FrameRun]);

    /// Apply: those of the window among these are of a leader that has gone, as was known when the log's clock showed `at`.
    fn inherit(&self, frames: &[FrameRun], at: u64);

    /// A reign begins: nobody is given room any more in what is in the window now.
    fn seal(&self);

    /// What was sealed and is in the window still.
    fn sealed(&self) -> Vec<Opened>;

    /// What to open so that values of `len` bytes in `extents_max` extents find room, for about `bytes` of them: what was answered last for as
    /// long as that is not open. Empty when there is no such room. Waits for others who plan.
    fn plan(&self, len: u64, extents_max: usize, bytes: u64) -> Vec<FrameRun>;

    /// Frames of the window in which nobody writes, and of which nothing is free or that are not needed to have `keep` bytes free in it.
    /// Nobody is given room in them any more: whoever asks owes the log that they close.
    fn surplus(&self, keep: u64) -> Vec<FrameRun>;
}

/// Frames of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// Which.
    pub frames: FrameRun,
    /// When the leader that had opened them was known to have gone, in milliseconds of the log's clock.
    pub inherited: Option<u64>,
}

/// Adjacent frames: how parts of a space are named in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameRun {
    /// The first.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// Every extent starts at a multiple of this many bytes.
pub const PAGE: u64 = 4096;

/// Why space could not be allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AllocError {
    /// No room in as few extents as asked for: free something and retry. While other threads move space about this
    /// may also be said a moment too early.
    #[error("the segment has no room left for a value of this size")]
    Full,
    /// No room in the window, but in the rest of the segment: widen it and retry.
    #[error("the reservation window of the segment has no room left for a value of this size")]
    Window,
    /// Larger than the whole segment: it will never fit.
    #[error("the value is larger than the segment")]
    TooLarge,
}

/// Why extents could not be claimed. Names the extent that was refused; no other was claimed either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ClaimError {
    /// Somebody holds a part of it.
    #[error("extent {}+{} overlaps space that is taken", .0.offset, .0.len)]
    Overlap(Extent),
    /// Empty, or it ends above the capacity.
    #[error("extent {}+{} does not lie in the segment", .0.offset, .0.len)]
    OutOfRange(Extent),
    /// It starts where no allocation of this length can start.
    #[error("extent {}+{} starts where no allocation of its length can start", .0.offset, .0.len)]
    Misplaced(Extent),
}
