//! A stretch that is free, or split into eight units, or cut into equal slots; it becomes free again exactly once, and it is not closed while
//! somebody writes into it.

use crate::bitmap::Bitmap;
use crate::primitive::{AtomicU64, Ordering, pause};

/// How many units a frame splits into.
pub const UNITS: u32 = 8;

/// The state of one frame in one word, so that its transitions have one order.
///
/// ```text
///   63  62 61             32 31        24 23                    8 7             0
///  +------+-----------------+------------+-----------------------+---------------+
///  | gate | writers         | class + 1  | slots promised        | units taken   |
///  +------+-----------------+------------+-----------------------+---------------+
///
///                 take units                           take a slot of class c
///      Split <───────────────────── Free ─────────────────────────> Slab c, 1 promised
///      │   ^   ──────────────────────^ ^──────────────────────────  │    ^
///      └───┘      last unit released        last slot released      └────┘
///   take, release                                            take (only class c), release
///
///                   open                    bar, where nobody writes
///      Shut ───────────────────────> Open ─────────────────────────────> Closing ──── shut ───> Shut
/// ```
///
/// A writer takes from an open frame only, and is counted until it settles; an owner takes from any and is not counted. So a frame that is
/// barred or shut has no writer, and gets none.
///
/// Which slots of a slab are taken stands in a bitmap outside. A taker first raises the count in the word (it is now *promised* one of the
/// slots, and the frame cannot drain), then takes a bit; a releaser first clears the bit, then lowers the count. So at any moment no more
/// bits are set than slots promised, a promise always finds a bit, and when the count falls to 0 all bits are clear: whoever cuts the frame
/// into other slots next starts from an empty bitmap.
///
/// Any thread may call anything at any time. Each transition is one RMW of the word; its Acquire pairs with the Release of the transition
/// before it, so the bits cleared before a count was lowered are seen by whoever raises it next.
#[derive(Debug, Default)]
pub struct Frame {
    word: AtomicU64,
}

/// What a frame is cut into at the moment.
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

/// Whether writers are let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Gate {
    /// No.
    Shut = 0,
    /// Yes.
    Open = 1,
    /// No more, and none is inside; about to be shut.
    Closing = 2,
}

/// Who takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taker {
    /// Somebody who is about to write there: only through an open gate, and counted until [`Frame::settle`], or until it gives back as one.
    Writer,
    /// Somebody who has it already, or is only looking for room: from any frame.
    Owner,
}

/// A frame as it was at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Whether writers are let in.
    pub gate: Gate,
    /// How many are inside.
    pub writers: u32,
    /// What it is cut into.
    pub state: FrameState,
}

/// A transition that took place. Whoever caused it updates what is kept about the frame elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// What it was.
    pub before: Seen,
    /// What it became; other transitions may have followed by now.
    pub after: Seen,
}

const WRITERS_MAX: u32 = (1 << 30) - 1;

impl Seen {
    fn read(word: u64) -> Self {
        let state = match ((word >> 24) as u8, (word >> 8) as u16, word as u8) {
            (0, _, 0) => FrameState::Free,
            (0, _, taken) => FrameState::Split(taken),
            (class, promised, _) => FrameState::Slab { class: class - 1, promised },
        };
        let gate = match word >> 62 {
            0 => Gate::Shut,
            1 => Gate::Open,
            _ => Gate::Closing,
        };
        Self { gate, writers: (word >> 32) as u32 & WRITERS_MAX, state }
    }

    fn word(self) -> u64 {
        let state = match self.state {
            FrameState::Free => 0,
            FrameState::Split(taken) => u64::from(taken),
            FrameState::Slab { class, promised } => (u64::from(class) + 1) << 24 | u64::from(promised) << 8,
        };
        (self.gate as u64) << 62 | u64::from(self.writers) << 32 | state
    }

    /// `state` taken by `taker`, if it may.
    fn taken(self, taker: Taker, state: FrameState) -> Option<Self> {
        match taker {
            Taker::Owner => Some(Self { state, ..self }),
            Taker::Writer if self.gate == Gate::Open && self.writers < WRITERS_MAX => {
                Some(Self { state, writers: self.writers + 1, ..self })
            }
            Taker::Writer => None,
        }
    }

    /// `state` given back by `taker`.
    fn released(self, taker: Taker, state: FrameState) -> Option<Self> {
        match taker {
            Taker::Owner => Some(Self { state, ..self }),
            Taker::Writer => Some(Self { state, writers: self.writers.checked_sub(1)?, ..self }),
        }
    }
}

impl Frame {
    /// What the frame is now, or was a moment ago.
    pub fn seen(&self) -> Seen {
        Seen::read(self.word.load(Ordering::Acquire))
    }

    /// Makes the transition that `next` names for what it is given, if any, and tells `moved`.
    fn go(&self, next: impl Fn(Seen) -> Option<Seen>, moved: &mut impl FnMut(Moved)) -> bool {
        let went = self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| next(Seen::read(word)).map(Seen::word));
        let Ok(before) = went.map(Seen::read) else { return false };
        // `next` is a function of the word alone, so this is what was written.
        if let Some(after) = next(before) {
            moved(Moved { before, after });
        }
        true
    }

    /// Lets writers in; not where it is closing, which was decided after whoever opens it once more had decided.
    pub fn open(&self, mut moved: impl FnMut(Moved)) -> bool {
        self.go(|seen| (seen.gate != Gate::Closing).then_some(Seen { gate: Gate::Open, ..seen }), &mut moved)
    }

    /// Lets no more writers in, if none is inside.
    pub fn bar(&self, mut moved: impl FnMut(Moved)) -> bool {
        self.go(|seen| (seen.gate == Gate::Open && seen.writers == 0).then_some(Seen { gate: Gate::Closing, ..seen }), &mut moved)
    }

    /// Lets no writers in; those who are inside stay until they settle.
    pub fn shut(&self, mut moved: impl FnMut(Moved)) -> bool {
        self.go(|seen| Some(Seen { gate: Gate::Shut, ..seen }), &mut moved)
    }

    /// A writer is done; what it took stays taken. `false`, and no change, where none was inside.
    pub fn settle(&self) -> bool {
        self.go(|seen| seen.released(Taker::Writer, seen.state), &mut |_| {})
    }

    /// Takes all the units of `mask`, or none where one is taken, the frame is a slab or `taker` is not let in. Nothing to take is nothing taken.
    pub fn take_units(&self, mask: u8, taker: Taker, mut moved: impl FnMut(Moved)) -> bool {
        let next = |seen: Seen| match seen.state {
            FrameState::Free if mask != 0 => seen.taken(taker, FrameState::Split(mask)),
            FrameState::Split(taken) if mask != 0 && taken & mask == 0 => seen.taken(taker, FrameState::Split(taken | mask)),
            _ => None,
        };
        self.go(next, &mut moved)
    }

    /// Releases all the units of `mask`; `false`, and no change, where one was not taken.
    pub fn release_units(&self, mask: u8, taker: Taker, mut moved: impl FnMut(Moved)) -> bool {
        let next = |seen: Seen| match seen.state {
            FrameState::Split(taken) if mask != 0 && taken == mask => seen.released(taker, FrameState::Free),
            FrameState::Split(taken) if mask != 0 && taken & mask == mask => seen.released(taker, FrameState::Split(taken & !mask)),
            _ => None,
        };
        self.go(next, &mut moved)
    }

    /// Takes any slot of `class`, cutting the frame if it is free. `slots` says which are taken, its length how many there are.
    pub fn take_slot(&self, class: u8, slots: Bitmap<'_>, taker: Taker, mut moved: impl FnMut(Moved)) -> Option<usize> {
        self.promise(class, slots, taker, &mut moved).then(|| {
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
    pub fn take_slot_at(&self, class: u8, slots: Bitmap<'_>, slot: usize, taker: Taker, mut moved: impl FnMut(Moved)) -> bool {
        if slot >= slots.len() || !self.promise(class, slots, taker, &mut moved) {
            return false;
        }
        let took = slots.take(slot);
        if !took {
            self.unpromise(taker, &mut moved);
        }
        took
    }

    /// Releases a slot of `class`; `false`, and no change, where it was not taken.
    pub fn release_slot(&self, class: u8, slots: Bitmap<'_>, slot: usize, taker: Taker, mut moved: impl FnMut(Moved)) -> bool {
        // Whoever holds the slot holds a promise too, so for a rightful caller the class cannot change under this check.
        let ours = matches!(self.seen().state, FrameState::Slab { class: of, .. } if of == class) && slots.release(slot);
        if ours {
            self.unpromise(taker, &mut moved);
        }
        ours
    }

    fn promise(&self, class: u8, slots: Bitmap<'_>, taker: Taker, moved: &mut impl FnMut(Moved)) -> bool {
        let next = |seen: Seen| match seen.state {
            FrameState::Free if !slots.is_empty() => seen.taken(taker, FrameState::Slab { class, promised: 1 }),
            FrameState::Slab { class: of, promised } if of == class && usize::from(promised) < slots.len() => {
                seen.taken(taker, FrameState::Slab { class, promised: promised + 1 })
            }
            _ => None,
        };
        self.go(next, moved)
    }

    fn unpromise(&self, taker: Taker, moved: &mut impl FnMut(Moved)) {
        let next = |seen: Seen| match seen.state {
            FrameState::Slab { promised: 1, .. } => seen.released(taker, FrameState::Free),
            FrameState::Slab { class, promised } => seen.released(taker, FrameState::Slab { class, promised: promised - 1 }),
            FrameState::Free | FrameState::Split(_) => None,
        };
        let held = self.go(next, moved);
        debug_assert!(held, "a promise was given back that nobody held");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primitive::AtomicU32;
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
            let rig = Self { frame: Frame::default(), bits: [AtomicU64::new(0)], owners };
            assert!(rig.frame.open(|_| {}));
            Arc::new(rig)
        }

        fn slots(&self) -> Bitmap<'_> {
            Bitmap::over(&self.bits, 2)
        }

        fn take(&self, class: u8) -> Option<usize> {
            let slot = self.frame.take_slot(class, self.slots(), Taker::Writer, |_| {})?;
            assert_eq!(self.owners[slot].load(Ordering::Relaxed), 0, "slot {slot} was handed out twice");
            self.owners[slot].store(1, Ordering::Relaxed);
            Some(slot)
        }

        fn release(&self, class: u8, slot: usize) -> usize {
            self.owners[slot].store(0, Ordering::Relaxed);
            let mut freed = 0;
            assert!(self.frame.release_slot(class, self.slots(), slot, Taker::Writer, |moved| freed +=
                usize::from(moved.after.state == FrameState::Free)));
            freed
        }
    }

    #[cfg(not(loom))]
    #[test]
    fn everything_seen_survives_its_word() {
        let states = [FrameState::Free, FrameState::Split(1), FrameState::Split(255)];
        let slabs = [(0, 1), (0, 512), (254, u16::MAX)].map(|(class, promised)| FrameState::Slab { class, promised });
        for state in states.into_iter().chain(slabs) {
            for (gate, writers) in [(Gate::Shut, 0), (Gate::Open, WRITERS_MAX), (Gate::Closing, 1)] {
                let seen = Seen { gate, writers, state };
                assert_eq!(Seen::read(seen.word()), seen);
            }
        }
        assert_eq!(Frame::default().seen(), Seen { gate: Gate::Shut, writers: 0, state: FrameState::Free });
    }

    #[cfg(not(loom))]
    #[test]
    fn transitions_are_those_of_the_drawing() {
        use Taker::Owner;
        let (frame, words) = (Frame::default(), [AtomicU64::new(0)]);
        let slots = Bitmap::over(&words, 2);
        let mut log = Vec::new();
        let mut note = |moved: Moved| log.push(moved.after.state);
        assert!(
            !frame.take_units(0, Owner, |_| {})
                && !frame.release_units(1, Owner, |_| {})
                && !frame.release_slot(3, slots, 0, Owner, |_| {})
        );
        assert!(frame.take_units(0b0110, Owner, &mut note));
        assert!(!frame.take_units(0b0100, Owner, |_| {}) && !frame.release_units(0b1000, Owner, |_| {}));
        assert!(!frame.take_slot_at(3, slots, 0, Owner, |_| {}));
        assert!(frame.release_units(0b0010, Owner, &mut note) && frame.release_units(0b0100, Owner, &mut note));
        assert!(frame.take_slot_at(3, slots, 1, Owner, &mut note));
        assert!(!frame.take_slot_at(3, slots, 1, Owner, |_| {}), "taken");
        assert!(!frame.take_slot_at(3, slots, 2, Owner, |_| {}), "does not exist");
        assert!(!frame.take_units(1, Owner, |_| {}) && frame.take_slot(2, slots, Owner, |_| {}).is_none());
        assert_eq!(frame.take_slot(3, slots, Owner, &mut note), Some(0));
        assert_eq!(frame.take_slot(3, slots, Owner, |_| {}), None, "full");
        assert!(!frame.release_slot(2, slots, 0, Owner, |_| {}), "another class");
        assert!(frame.release_slot(3, slots, 0, Owner, &mut note) && !frame.release_slot(3, slots, 0, Owner, |_| {}));
        assert!(frame.release_slot(3, slots, 1, Owner, &mut note));
        let slab = |promised| FrameState::Slab { class: 3, promised };
        let expected = [FrameState::Split(6), FrameState::Split(4), FrameState::Free, slab(1), slab(2), slab(1), FrameState::Free];
        assert_eq!(log, expected);
        assert!(frame.take_slot(0, Bitmap::over(&words, 0), Owner, |_| {}).is_none(), "a frame too short for the class");
    }

    #[cfg(not(loom))]
    #[test]
    fn writers_are_let_in_and_counted_as_the_drawing_says() {
        use Taker::{Owner, Writer};
        let (frame, words) = (Frame::default(), [AtomicU64::new(0)]);
        let slots = Bitmap::over(&words, 2);
        let seen = |frame: &Frame| (frame.seen().gate, frame.seen().writers);
        assert!(!frame.take_units(1, Writer, |_| {}) && frame.take_slot(0, slots, Writer, |_| {}).is_none(), "shut");
        assert!(!frame.bar(|_| {}), "not open");
        assert!(frame.open(|_| {}) && frame.take_units(1, Writer, |_| {}) && frame.take_units(2, Writer, |_| {}));
        assert!(frame.take_units(4, Owner, |_| {}) && !frame.bar(|_| {}));
        assert_eq!(seen(&frame), (Gate::Open, 2));
        assert!(frame.settle() && frame.release_units(2, Writer, |_| {}) && !frame.settle());
        assert!(frame.bar(|_| {}) && !frame.take_units(2, Writer, |_| {}) && frame.take_units(2, Owner, |_| {}));
        assert!(!frame.open(|_| {}));
        assert_eq!(seen(&frame), (Gate::Closing, 0));
        assert!(frame.shut(|_| {}) && frame.release_units(7, Owner, |_| {}) && frame.open(|_| {}));
        assert!(frame.take_slot_at(0, slots, 1, Writer, |_| {}) && !frame.take_slot_at(0, slots, 1, Writer, |_| {}));
        assert_eq!(seen(&frame), (Gate::Open, 1), "who did not get its slot is not counted");
        assert!(frame.settle() && frame.release_slot(0, slots, 1, Owner, |_| {}));
        assert_eq!(frame.seen(), Seen { gate: Gate::Open, writers: 0, state: FrameState::Free });
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
            assert_eq!((rig.frame.seen().state, rig.slots().count()), (FrameState::Free, 0));
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
                    if rig.frame.take_units(1, Taker::Owner, |_| {}) {
                        assert_eq!(rig.slots().count(), 0, "units were taken over slots");
                        assert!(rig.frame.release_units(1, Taker::Owner, |_| {}));
                    }
                })
            };
            rig.release(1, first);
            other.join().unwrap();
            assert_eq!((rig.frame.seen().state, rig.slots().count()), (FrameState::Free, 0));
        });
    }

    /// Guards against a failed attempt at a particular slot that leaves a promise behind.
    #[test]
    fn of_two_takers_of_one_slot_one_gets_it() {
        model(|| {
            let rig = Rig::new();
            let other = {
                let rig = Arc::clone(&rig);
                thread::spawn(move || rig.frame.take_slot_at(1, rig.slots(), 0, Taker::Writer, |_| {}))
            };
            let here = rig.frame.take_slot_at(1, rig.slots(), 0, Taker::Writer, |_| {});
            assert_ne!(here, other.join().unwrap());
            let state = FrameState::Slab { class: 1, promised: 1 };
            assert_eq!(rig.frame.seen(), Seen { gate: Gate::Open, writers: 1, state });
        });
    }

    /// Guards against a writer in a frame that counts as closed.
    #[test]
    fn a_frame_is_barred_or_written_but_not_both() {
        model(|| {
            let rig = Rig::new();
            let other = {
                let rig = Arc::clone(&rig);
                thread::spawn(move || {
                    let writes = rig.frame.take_units(1, Taker::Writer, |_| {});
                    if writes {
                        assert_eq!(rig.frame.seen().gate, Gate::Open, "barred while somebody writes");
                        assert!(rig.frame.settle());
                    }
                    writes
                })
            };
            let barred = rig.frame.bar(|_| {});
            if barred {
                assert_eq!(rig.frame.seen().writers, 0);
            }
            let wrote = other.join().unwrap();
            assert!(wrote || barred, "one of them came first");
        });
    }
}
