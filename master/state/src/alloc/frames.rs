//! Frames.
use super::{AllocError, ClaimError, Space};
use perilune_protocol::Extent;
/// A space of frames.
#[derive(Debug)]
pub struct FrameSpace;
impl FrameSpace {
    /// The space of a segment of `size` bytes.
    pub fn new(_size: u64) -> Self {
        Self
    }
}
#[expect(unused_variables, clippy::unimplemented, reason = "the body follows in the next commit")]
impl Space for FrameSpace {
    fn allocate(&self, len: u64, extents_max: usize) -> Result<Vec<Extent>, AllocError> {
        unimplemented!()
    }
    fn release(&self, extents: &[Extent]) {
        unimplemented!()
    }
    fn claim(&self, extents: &[Extent]) -> Result<(), ClaimError> {
        unimplemented!()
    }
    fn quarantine(&self) -> Vec<Extent> {
        unimplemented!()
    }
    fn used(&self) -> u64 {
        unimplemented!()
    }
    fn capacity(&self) -> u64 {
        unimplemented!()
    }
    fn limit(&self) -> u64 {
        unimplemented!()
    }
    fn raise_limit(&self, bytes: u64) {
        unimplemented!()
    }
}
