//! A stretch that is free, or split into eight units, or cut into equal slots; it becomes free again exactly once.

use crate::bitmap::Bitmap;
use crate::primitive::{AtomicU32, Ordering, pause};

/// How many units a frame splits into.
pub const UNITS: u32 = 8;

/// The state of one frame in one word, so that its transitions have one order.
///
/// ```text
///   31        24 23                    8 7             0
///  +------------+-----------------------+---------------+
///  | class + 1  | slots promised        | units taken   |
///  +------------+-----------------------+---------------+
///
///                 take units                           take a slot of class c
///      Split <───────────────────── Free ─────────────────────────> Slab c, 1 promised
///      │   ^   ──────────────────────^ ^──────────────────────────  │    ^
///      └───┘      last unit released        last slot released      └────┘
///   take, release                                            take (only class c), release
/// ```
///
/// Which slots of a slab are taken stands in a bitmap outside. A taker first raises the count in the word (it is now *promised* one of the
/// slots, and the frame cannot drain), then takes a bit; a releaser first clears the bit, then lowers the count. So at any moment no more
/// bits are set than slots promised, a promise always finds a bit, and when the count falls to 0 all bits are clear: whoever cuts the frame
/// into other slots next starts from an empty bitmap.
///
/// Any thread may call anything at any time. Each transition is one RMW of the word; its Acquire pairs with the Release of the transition
/// before it, so the bits cleared before a count was lowered are seen by whoever raises it next.
#[derive(Debug)]
pub struct Frame {
    word: AtomicU32,
}

/// What a frame is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameState {
    /// Nobody has any of it.
    Free,
    /// Bit `i` is set when unit `i` is taken; at least one is.
    Split(u8),
    /// Cut into slots of one class, of which `promised` (at least one) are taken or about to be.
    Slab {
        /// The class, below 255.
        class: u8,
        /// Slots taken, or about to be taken or released.
        promised: u16,
    },
}

/// A transition that took place. Whoever caused it updates what is kept about the frame elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The state it left.
    pub before: FrameState,
    /// The state it entered; other transitions may have followed by now.
    pub after: FrameState,
}

impl FrameState {
    fn read(word: u32) -> Self {
        match ((word >> 24) as u8, (word >> 8) as u16, word as u8) {
            (0, _, 0) => Self::Free,
            (0, _, taken) => Self::Split(taken),
            (class, promised, _) => Self::Slab { class: class - 1, promised },
        }
    }

    fn word(self) -> u32 {
        match self {
            Self::Free => 0,
            Self::Split(taken) => u32::from(taken),
            Self::Slab { class, promised } => (u32::from(class) + 1) << 24 | u32::from(promised) << 8,
        }
    }
}

impl Default for Frame {
    fn default() -> Self {
        Self { word: AtomicU32::new(FrameState::Free.word()) }
    }
}

impl Frame {
    /// What the frame is now, or was a moment ago.
    pub fn state(&self) -> FrameState {
        FrameState::read(self.word.load(Ordering::Acquire))
    }

    /// Makes the transition that `next` names for the state it is given, if any, and tells `moved`.
    fn go(&self, next: impl Fn(FrameState) -> Option<FrameState>, moved: &mut impl FnMut(Moved)) -> bool {
        let went = self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| next(FrameState::read(word)).map(FrameState::word));
        let Ok(before) = went.map(FrameState::read) else { return false };
        // `next` is a function of the state alone, so this is the state that was written.
        if let Some(after) = next(before) {
            moved(Moved { before, after });
        }
        true
    }

    /// Takes all the units of `mask`, or none where one is taken or the frame is a slab. Nothing to take is nothing taken.
    pub fn take_units(&self, mask: u8, mut moved: impl FnMut(Moved)) -> bool {
        let next = |state| match state {
            FrameState::Free if mask != 0 => Some(FrameState::Split(mask)),
            FrameState::Split(taken) if mask != 0 && taken & mask == 0 => Some(FrameState::Split(taken | mask)),
            _ => None,
        };
        self.go(next, &mut moved)
    }

    /// Releases all the units of `mask`; `false`, and no change, where one was not taken.
    pub fn release_units(&self, mask: u8, mut moved: impl FnMut(Moved)) -> bool {
        let next = |state| match state {
            FrameState::Split(taken) if mask != 0 && taken == mask => Some(FrameState::Free),
            FrameState::Split(taken) if mask != 0 && taken & mask == mask => Some(FrameState::Split(taken & !mask)),
            _ => None,
        };
        self.go(next, &mut moved)
    }

    /// Takes any slot of `class`, cutting the frame if it is free. `slots` says which are taken, its length how many there are.
    pub fn take_slot(&self, class: u8, slots: Bitmap<'_>, mut moved: impl FnMut(Moved)) -> Option<usize> {
        self.promise(class, slots, &mut moved).then(|| {
            loop {
                // The promise holds a bit for us; another thread's release may show it behind us, so look again.
                match slots.take_any(0) {
                    Some(slot) => return slot,
                    None => pause(),
                }
            }
        })
    }

    /// Takes one particular slot of `class`, cutting the frame if it is free.
    pub fn take_slot_at(&self, class: u8, slots: Bitmap<'_>, slot: usize, mut moved: impl FnMut(Moved)) -> bool {
        if slot >= slots.len() || !self.promise(class, slots, &mut moved) {
            return false;
        }
        let took = slots.take(slot);
        if !took {
            self.unpromise(&mut moved);
        }
        took
    }

    /// Releases a slot of `class`; `false`, and no change, where it was not taken.
    pub fn release_slot(&self, class: u8, slots: Bitmap<'_>, slot: usize, mut moved: impl FnMut(Moved)) -> bool {
        // Whoever holds the slot holds a promise too, so for a rightful caller the class cannot change under this check.
        let ours = matches!(self.state(), FrameState::Slab { class: of, .. } if of == class) && slots.release(slot);
        if ours {
            self.unpromise(&mut moved);
        }
        ours
    }

    fn promise(&self, class: u8, slots: Bitmap<'_>, moved: &mut impl FnMut(Moved)) -> bool {
        let next = |state| match state {
            FrameState::Free if !slots.is_empty() => Some(FrameState::Slab { class, promised: 1 }),
            FrameState::Slab { class: of, promised } if of == class && usize::from(promised) < slots.len() => {
                Some(FrameState::Slab { class, promised: promised + 1 })
            }
            _ => None,
        };
        self.go(next, moved)
    }

    fn unpromise(&self, moved: &mut impl FnMut(Moved)) {
        let next = |state| match state {
            FrameState::Slab { promised: 1, .. } => Some(FrameState::Free),
            FrameState::Slab { class, promised } => Some(FrameState::Slab { class, promised: promised - 1 }),
            _ => None,
        };
        let held = self.go(next, moved);
        debug_assert!(held, "a promise was given back that nobody held");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primitive::AtomicU64;
    use crate::primitive::testing::{Arc, model, thread};

    /// A frame of two slots, and who owns them (Relaxed: only the frame orders the owners).
    struct Rig {
        frame: Frame,
        bits: [AtomicU64; 1],
        owners: [AtomicU32; 2],
    }

    impl Rig {
        fn new() -> Arc<Self> {
            let owners = [AtomicU32::new(0), AtomicU32::new(0)];
            Arc::new(Self { frame: Frame::default(), bits: [AtomicU64::new(0)], owners })
        }

        fn slots(&self) -> Bitmap<'_> {
            Bitmap::over(&self.bits, 2)
        }

        fn take(&self, class: u8) -> Option<usize> {
            let slot = self.frame.take_slot(class, self.slots(), |_| {})?;
            assert_eq!(self.owners[slot].load(Ordering::Relaxed), 0, "slot {slot} was handed out twice");
            self.owners[slot].store(1, Ordering::Relaxed);
            Some(slot)
        }

        fn release(&self, class: u8, slot: usize) -> usize {
            self.owners[slot].store(0, Ordering::Relaxed);
            let mut freed = 0;
            assert!(self.frame.release_slot(class, self.slots(), slot, |moved| freed += usize::from(moved.after == FrameState::Free)));
            freed
        }
    }

    #[cfg(not(loom))]
    #[test]
    fn every_state_survives_its_word() {
        let states = [FrameState::Free, FrameState::Split(1), FrameState::Split(255)];
        let slabs = [(0, 1), (0, 512), (254, u16::MAX)].map(|(class, promised)| FrameState::Slab { class, promised });
        for state in states.into_iter().chain(slabs) {
            assert_eq!(FrameState::read(state.word()), state);
        }
    }

    #[cfg(not(loom))]
    #[test]
    fn transitions_are_those_of_the_drawing() {
        let (frame, words) = (Frame::default(), [AtomicU64::new(0)]);
        let slots = Bitmap::over(&words, 2);
        let mut log = Vec::new();
        assert!(!frame.take_units(0, |_| {}) && !frame.release_units(1, |_| {}) && !frame.release_slot(3, slots, 0, |_| {}));
        assert!(frame.take_units(0b0110, |moved| log.push(moved.after)));
        assert!(!frame.take_units(0b0100, |_| {}) && !frame.release_units(0b1000, |_| {}) && !frame.take_slot_at(3, slots, 0, |_| {}));
        assert!(frame.release_units(0b0010, |moved| log.push(moved.after)) && frame.release_units(0b0100, |moved| log.push(moved.after)));
        assert!(frame.take_slot_at(3, slots, 1, |moved| log.push(moved.after)));
        assert!(!frame.take_slot_at(3, slots, 1, |_| {}), "taken");
        assert!(!frame.take_slot_at(3, slots, 2, |_| {}), "does not exist");
        assert!(!frame.take_units(1, |_| {}) && frame.take_slot(2, slots, |_| {}).is_none());
        assert_eq!(frame.take_slot(3, slots, |moved| log.push(moved.after)), Some(0));
        assert_eq!(frame.take_slot(3, slots, |_| {}), None, "full");
        assert!(!frame.release_slot(2, slots, 0, |_| {}), "another class");
        assert!(frame.release_slot(3, slots, 0, |moved| log.push(moved.after)) && !frame.release_slot(3, slots, 0, |_| {}));
        assert!(frame.release_slot(3, slots, 1, |moved| log.push(moved.after)));
        let slab = |promised| FrameState::Slab { class: 3, promised };
        let expected = [FrameState::Split(6), FrameState::Split(4), FrameState::Free, slab(1), slab(2), slab(1), FrameState::Free];
        assert_eq!(log, expected);
        assert!(frame.take_slot(0, Bitmap::over(&words, 0), |_| {}).is_none(), "a frame too short for the class");
    }

    /// Guards against a frame that drains while another thread takes a slot of it: nobody may get a slot that is owned, and the frame is
    /// free again once.
    #[test]
    fn a_slot_taken_while_the_frame_drains_is_taken_once() {
        model(|| {
            let rig = Rig::new();
            let first = rig.take(1).unwrap();
            let other = {
                let rig = Arc::clone(&rig);
                thread::spawn(move || {
                    let slot = rig.take(1).expect("one of two slots is free");
                    rig.release(1, slot)
                })
            };
            let freed = rig.release(1, first);
            let freed = freed + other.join().unwrap();
            assert!((1..=2).contains(&freed), "freed by the last releaser, or by each when they did not meet");
            assert_eq!((rig.frame.state(), rig.slots().count()), (FrameState::Free, 0));
        });
    }

    /// Guards against slots of two classes, or slots and units, in one frame.
    #[test]
    fn a_draining_frame_is_cut_anew_only_when_empty() {
        model(|| {
            let rig = Rig::new();
            let first = rig.take(1).unwrap();
            let other = {
                let rig = Arc::clone(&rig);
                thread::spawn(move || {
                    let cut = rig.take(2);
                    if let Some(slot) = cut {
                        assert_eq!(rig.slots().count(), 1, "slots of the old cut are still taken");
                        rig.release(2, slot);
                    }
                    if rig.frame.take_units(1, |_| {}) {
                        assert_eq!(rig.slots().count(), 0, "units were taken over slots");
                        assert!(rig.frame.release_units(1, |_| {}));
                    }
                })
            };
            rig.release(1, first);
            other.join().unwrap();
            assert_eq!((rig.frame.state(), rig.slots().count()), (FrameState::Free, 0));
        });
    }

    /// Guards against a failed attempt at a particular slot that leaves a promise behind.
    #[test]
    fn of_two_takers_of_one_slot_one_gets_it() {
        model(|| {
            let rig = Rig::new();
            let other = {
                let rig = Arc::clone(&rig);
                thread::spawn(move || rig.frame.take_slot_at(1, rig.slots(), 0, |_| {}))
            };
            let here = rig.frame.take_slot_at(1, rig.slots(), 0, |_| {});
            assert_ne!(here, other.join().unwrap());
            assert_eq!(rig.frame.state(), FrameState::Slab { class: 1, promised: 1 });
        });
    }
}
