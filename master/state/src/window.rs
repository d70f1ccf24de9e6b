//! How wide the windows of segments are: wide enough that few log entries are spent on them, narrow enough that a new leader, which leaves
//! what is free in them alone, has all the rest at once.

use crate::alloc::{AllocError, FrameRun};
use crate::apply::State;
use crate::effect::Effect;
use crate::segments::Segment;
use crate::write::extents_max;
use perilune_protocol::Extent;

/// What a window grows by: a 4096th of the segment, of small ones 4 MiB or a 16th, and two values of the size that needs it.
fn step(segment: &Segment, size: u64) -> u64 {
    let capacity = segment.desc().size;
    (capacity / 4096).max((4 << 20).min(capacity / 16)).max(2 * size)
}

/// How often room is asked for that others took, or gave back, between the asking and the planning.
const TRIES: usize = 4;

/// Why there is no room.
pub(crate) enum NoRoom {
    /// There is once this is logged.
    Window(Box<Effect>),
    /// The segment is full.
    Full,
}

/// Takes room for a value of `size` bytes.
pub(crate) fn take(segment: &Segment, size: u64) -> Result<Vec<Extent>, NoRoom> {
    for _ in 0..TRIES {
        match segment.space().allocate(size, extents_max(size)) {
            Ok(extents) => return Ok(extents),
            Err(AllocError::Window) => {
                if let Some(effect) = wider(segment, size) {
                    return Err(NoRoom::Window(effect));
                }
            }
            Err(AllocError::Full | AllocError::TooLarge) => break,
        }
    }
    Err(NoRoom::Full)
}

/// What to log so that a value of `size` bytes finds room; `None` where there is nothing to open.
fn wider(segment: &Segment, size: u64) -> Option<Box<Effect>> {
    let open = segment.space().plan(size, extents_max(size), step(segment, size));
    (!open.is_empty()).then(|| Box::new(Effect::Frames { segment: segment.id(), open, close: Vec::new(), inherit: Vec::new() }))
}

/// What [`Effect::Window`] says, in frames.
pub(crate) fn below(segment: &Segment, limit: u64) -> [FrameRun; 1] {
    let space = segment.space();
    let frames = space.free_frames().1;
    let count = if limit >= space.capacity() { frames } else { frames * limit / space.capacity() };
    [FrameRun { first: 0, count: count as u32 }]
}

impl State {
    /// What to log of the windows that this leader found: that they are inherited, and once all who may have been given room there must have
    /// stopped, that they close. Second, whether there are any: as long as that is so, the log's clock must go on ([`Effect::Passed`]).
    pub fn left_behind(&self) -> (Vec<Effect>, bool) {
        let (mut effects, mut any) = (Vec::new(), false);
        let (now, wait) = (self.elapsed(), self.rules.put_discard_ms);
        for segment in self.segments.table().iter() {
            let sealed = segment.space().sealed();
            any |= !sealed.is_empty();
            let of = |fits: &dyn Fn(Option<u64>) -> bool| sealed.iter().filter(|o| fits(o.inherited)).map(|o| o.frames).collect::<Vec<_>>();
            let inherit = of(&|at| at.is_none());
            let close = of(&|at| at.is_some_and(|at| at.saturating_add(wait) <= now));
            if !inherit.is_empty() || !close.is_empty() {
                effects.push(Effect::Frames { segment: segment.id(), open: Vec::new(), close, inherit });
            }
        }
        (effects, any)
    }

    /// What to log so that windows get no wider than the puts of the next moment need. Nobody is given room any more in what it names, so it
    /// must be logged.
    pub fn narrower(&self) -> Vec<Effect> {
        let surplus = |segment: &Segment| {
            let close = segment.space().surplus(2 * step(segment, 0));
            (!close.is_empty()).then(|| Effect::Frames { segment: segment.id(), open: Vec::new(), close, inherit: Vec::new() })
        };
        self.segments.table().iter().filter_map(|segment| surplus(segment)).collect()
    }
}
