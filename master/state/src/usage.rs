//! How full each segment is, in bytes and in whole frames.

use crate::alloc::{FrameSpace, Space};
use crate::apply::State;
use crate::segments::Segment;
use perilune_protocol::SegmentId;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

/// What of one segment is taken.
pub struct Usage {
    /// Which.
    pub segment: Arc<Segment>,
    /// Bytes taken, rounding included.
    pub used: u64,
    /// Frames of which nothing is taken: the largest value that fits in one piece needs adjacent ones.
    pub free_frames: u64,
    /// Frames it has.
    pub frames: u64,
}

impl State {
    /// Every segment, in no order. Space that puts in progress or readers hold shows on the leader only. A state that does not know whose
    /// space is whose enters the objects into empty segments first, which takes a walk over the whole index.
    pub fn usage(&self) -> Vec<Usage> {
        let table = self.segments.table();
        let look = |segment: &Arc<Segment>, space: &dyn Space| {
            let (free_frames, frames) = space.free_frames();
            Usage { segment: segment.clone(), used: space.used(), free_frames, frames }
        };
        if self.is_leading() || self.is_ready() {
            return table.iter().map(|segment| look(segment, segment.space())).collect();
        }
        let spaces: HashMap<SegmentId, FrameSpace> = table.iter().map(|s| (s.id(), FrameSpace::new(s.desc().size))).collect();
        self.index.for_each(&mut |object| {
            for replica in &object.replicas {
                if let Some(space) = spaces.get(&replica.segment.id()) {
                    // Refused where an object moved while this walks: a moment's difference.
                    let _ = space.claim(&replica.extents);
                }
            }
            ControlFlow::Continue(())
        });
        table.iter().filter_map(|segment| Some(look(segment, spaces.get(&segment.id())?))).collect()
    }
}
