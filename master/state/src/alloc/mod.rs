//! The space of a segment: who gets which bytes of it, decided without a lock and remembered outside of it.

mod frames;
mod search;
mod shape;
#[cfg(test)]
mod tests;

pub use frames::FrameSpace;

use perilune_protocol::Extent;
use thiserror::Error;

/// The space of one segment. Called from many threads at once; no call blocks another.
pub trait Space: Send + Sync {
    /// Takes `len` bytes as at most `extents_max` extents (1 = contiguous), in value order; their lengths sum to `len` exactly
    /// and each offset is a multiple of [`PAGE`]. Nothing is taken on an error. A `len` of 0 takes nothing and gives no extent.
    fn allocate(&self, len: u64, extents_max: usize) -> Result<Vec<Extent>, AllocError>;

    /// Gives back exactly what one `allocate`, `claim` or `quarantine` gave, whole extents of it, each once.
    fn release(&self, extents: &[Extent]);

    /// Takes the extents that a committed object holds, all or none of them; used when a space is rebuilt from the log.
    /// Works above the limit too, so the order of `claim` and `raise_limit` does not matter.
    fn claim(&self, extents: &[Extent]) -> Result<(), ClaimError>;

    /// Takes all that is free below the limit, so that nobody gets it until it is released.
    fn quarantine(&self) -> Vec<Extent>;

    /// Bytes taken, what rounding adds included.
    fn used(&self) -> u64;

    /// Frames of which nothing is taken, and all there are. Looks at each.
    fn free_frames(&self) -> (u64, u64);

    /// Bytes that can be taken at all, the part above the limit included.
    fn capacity(&self) -> u64;

    /// Nothing is allocated at or above this offset in bytes.
    fn limit(&self) -> u64;

    /// Raises the limit to `bytes`, rounded down to whole frames (`capacity` and more means all of it). It never goes down.
    fn raise_limit(&self, bytes: u64);
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
    /// No room below the limit, but the segment goes on above it: raise the limit and retry.
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
