//! One thread, random calls, and a map of extents that knows the truth.

use super::*;
use std::collections::BTreeSet;

const SIZES: [u64; 8] =
    [4096, 20_000, 100 << 10, (1 << 20) + 7, (16 << 20) + 12_345, (130 << 20) + (700 << 10), (600 << 20) + 5, (3 << 30) + (1 << 20)];

/// All that is taken, object by object.
struct World {
    space: FrameSpace,
    taken: Taken,
    /// With whether it is being written.
    objects: Vec<(Vec<Extent>, bool)>,
}

impl World {
    fn new(size: u64) -> Self {
        Self { space: FrameSpace::new(size), taken: Taken::default(), objects: Vec::new() }
    }

    fn frames(&self, runs: &[FrameRun]) -> BTreeSet<u32> {
        runs.iter().flat_map(|run| run.first..run.first.saturating_add(run.count).min(self.space.shape.frames as u32)).collect()
    }

    fn allocate(&mut self, len: u64, most: usize) -> Result<(), AllocError> {
        let extents = self.space.allocate(len, most)?;
        assert_eq!(lens(&extents), len);
        assert!(extents.len() <= most, "{} extents instead of {most}", extents.len());
        let window = self.frames(&window(&self.space));
        for extent in &extents {
            assert!(extent.len > 0 && extent.offset.is_multiple_of(PAGE), "{extent:?}");
            let frame = self.space.shape.frame();
            let lies_in = (extent.offset / frame..=(extent.offset + extent.len - 1) / frame).map(|frame| frame as u32);
            assert!(lies_in.into_iter().all(|frame| window.contains(&frame)), "{extent:?} lies outside of the window");
        }
        self.taken.add(&extents).unwrap();
        self.objects.push((extents, true));
        Ok(())
    }

    fn settle(&mut self, index: usize) {
        let (extents, writing) = &mut self.objects[index];
        if std::mem::take(writing) {
            self.space.settle(extents);
        }
    }

    fn release(&mut self, index: usize) {
        self.settle(index);
        let (extents, _) = self.objects.swap_remove(index);
        self.taken.remove(&extents);
        self.space.release(&extents);
    }

    /// Closes what is not needed, and checks that nobody writes there.
    fn narrow(&mut self, keep: u64) -> bool {
        let closing = self.space.surplus(keep);
        let writing = self.objects.iter().filter(|(_, writing)| *writing).flat_map(|(extents, _)| extents);
        for extent in writing {
            assert!(!lies_in(&self.space, *extent, &closing), "{extent:?} is being written and its frame closes");
        }
        self.space.close(&closing);
        !closing.is_empty()
    }
}

#[test]
fn nothing_overlaps_and_everything_comes_back() {
    for seed in 0..160 {
        let mut random = Random(seed);
        let size = SIZES[seed as usize % SIZES.len()];
        let mut world = World::new(size);
        let (capacity, mut outcomes) = (world.space.capacity(), [0; 5]);
        assert!(capacity <= size && size - capacity <= (size / 8192).max(PAGE), "{capacity} of {size} bytes are used");
        for _ in 0..600 {
            match random.below(20) {
                0 => outcomes[4] += usize::from(world.narrow(random.below(size / 4))),
                1..8 if !world.objects.is_empty() => world.release(random.below(world.objects.len() as u64) as usize),
                8..11 if !world.objects.is_empty() => world.settle(random.below(world.objects.len() as u64) as usize),
                _ => {
                    let len = random.log_uniform(1, size.max(2) * 3 / 4);
                    let most = [1, 2, 4, 16][random.below(4) as usize];
                    let mut outcome = world.allocate(len, most);
                    if outcome == Err(AllocError::Window) {
                        outcomes[2] += 1;
                        let plan = world.space.plan(len, most, 1 + random.below(size / 16 + 1));
                        let (plan, window) = (world.frames(&plan), world.frames(&window(&world.space)));
                        assert!(!plan.is_empty() && plan.is_disjoint(&window), "seed {seed}: {plan:?} beside {window:?}");
                        world.space.open(&FrameRun::of(plan.into_iter().map(|frame| frame as usize)));
                        outcome = world.allocate(len, most);
                        assert_eq!(outcome, Ok(()), "seed {seed}: {len} bytes in {most} after the plan was carried out");
                    }
                    match outcome {
                        Ok(()) => outcomes[0] += 1,
                        Err(AllocError::TooLarge) => {
                            assert!(len > capacity, "seed {seed}: {len} fits {capacity}");
                            outcomes[3] += 1;
                        }
                        Err(_) => {
                            assert_eq!(world.space.plan(len, most, 1), [], "seed {seed}: full, and yet it knows where");
                            outcomes[1] += 1;
                        }
                    }
                }
            }
            let live: u64 = world.taken.0.values().sum();
            assert!(world.space.used() >= live && world.space.used() <= capacity, "seed {seed}: {} used, {live} live", world.space.used());
        }
        assert!(outcomes[0] > 10 || size < 100_000, "seed {seed}: {outcomes:?}");
        while !world.objects.is_empty() {
            world.release(0);
        }
        while world.narrow(0) {}
        assert_eq!((world.space.used(), window(&world.space)), (0, vec![]), "seed {seed}");
        world.space.open(&ALL);
        assert_eq!(world.space.allocate(capacity, 1), Ok(vec![Extent { offset: 0, len: capacity }]), "seed {seed}: whole again");
    }
}

#[test]
fn claims_rebuild_the_same_space_and_what_was_open_is_left_alone() {
    for seed in 0..80 {
        let mut random = Random(seed);
        let size = SIZES[seed as usize % SIZES.len()];
        let mut world = World::new(size);
        let mut gone = Vec::new();
        for _ in 0..400 {
            match random.below(3) {
                0 if !world.objects.is_empty() => {
                    let index = random.below(world.objects.len() as u64) as usize;
                    gone.push(world.objects[index].0.clone());
                    world.release(index);
                }
                _ => {
                    let (len, most) = (random.log_uniform(1, (size / 3).max(2)), 1 + random.below(8) as usize);
                    if world.allocate(len, most) == Err(AllocError::Window) {
                        world.space.open(&world.space.plan(len, most, 1));
                    }
                }
            }
        }
        let opened = window(&world.space);
        let again = FrameSpace::new(size);
        // Whether the window is known before the objects does not matter.
        if seed % 2 == 0 {
            again.open(&opened);
        }
        for (extents, _) in world.objects.iter().rev() {
            assert_eq!(again.claim(extents), Ok(()), "seed {seed}");
        }
        again.open(&opened);
        assert_eq!((again.used(), window(&again)), (world.space.used(), opened), "seed {seed}");
        for (extents, _) in &world.objects {
            assert_eq!(again.claim(extents), Err(ClaimError::Overlap(extents[0])), "seed {seed}");
        }
        again.seal();
        for len in [1, PAGE, size / 300 + 1, size / 10 + 1] {
            assert!(again.allocate(len, 16).is_err(), "seed {seed}: {len} bytes found in what somebody else may write into");
            let plan = again.plan(len, 16, 1);
            assert!(world.frames(&plan).is_disjoint(&world.frames(&window(&again))), "seed {seed}: sealed frames are opened once more");
        }
        // What is gone in the meantime is left alone as far as nobody else has it.
        for extents in &gone {
            let rest = again.claim_rest(extents);
            world.taken.add(&rest).unwrap();
            assert_eq!(again.claim_rest(extents), [], "seed {seed}: of {extents:?}");
            world.objects.push((rest, false));
        }
        for (extents, _) in &world.objects {
            again.release(extents);
        }
        again.close(&window(&again));
        again.open(&ALL);
        assert_eq!(again.used(), 0, "seed {seed}");
        assert!(again.allocate(again.capacity(), 1).is_ok(), "seed {seed}: whole again");
    }
}

#[test]
fn what_cannot_be_claimed_is_refused_whole() {
    let space = open(4 << 30);
    let at = |offset, len| Extent { offset, len };
    assert_eq!(space.claim(&[at(0, 8192), at(4 << 30, 1)]), Err(ClaimError::OutOfRange(at(4 << 30, 1))));
    assert_eq!(space.claim(&[at(0, 8192), at(8192, 0)]), Err(ClaimError::OutOfRange(at(8192, 0))));
    assert_eq!(space.claim(&[at(u64::MAX, u64::MAX)]), Err(ClaimError::OutOfRange(at(u64::MAX, u64::MAX))));
    assert_eq!(space.claim(&[at(0, 8192), at(4096, 8192)]), Err(ClaimError::Misplaced(at(4096, 8192))));
    assert_eq!(space.claim(&[at(4096, 1 << 20)]), Err(ClaimError::Misplaced(at(4096, 1 << 20))));
    assert_eq!(space.claim(&[at(0, 8192), at(8192, 4096)]), Err(ClaimError::Overlap(at(8192, 4096))), "one frame, two classes");
    assert_eq!(space.claim(&[at(0, 8192), at(0, 1 << 20)]), Err(ClaimError::Overlap(at(0, 1 << 20))), "slots and units");
    assert_eq!(space.used(), 0, "nothing of it was claimed");
    assert_eq!(space.claim(&[at(0, 8192), at(8192, 5000)]), Ok(()));
    assert_eq!(space.used(), 16384);
}

#[test]
fn values_take_few_extents_of_an_empty_space() {
    let space = open(4 << 30);
    let extents = space.allocate((5 << 20) + (300 << 10), 4).unwrap();
    // Two frames and five units behind them as one extent, and a slot for the rest.
    assert_eq!(extents[0], Extent { offset: 0, len: 5 << 20 | 256 << 10 });
    assert_eq!((extents.len(), extents[1].len), (2, 44 << 10));
    let contiguous = space.allocate((5 << 20) + (300 << 10), 1).unwrap();
    assert_eq!(contiguous.len(), 1);
    assert_eq!(space.allocate(100, 1).unwrap()[0].len, 100);
    assert_eq!(space.allocate(0, 4), Ok(vec![]));
    assert_eq!(space.allocate((4 << 30) + 1, 16), Err(AllocError::TooLarge));
    assert_eq!(space.allocate(u64::MAX, 16), Err(AllocError::TooLarge));
    assert_eq!(FrameSpace::new(100).allocate(1, 1), Err(AllocError::TooLarge));
}

#[test]
fn a_window_opens_where_there_is_room_and_closes_where_nobody_writes() {
    let space = FrameSpace::new(4 << 30);
    let runs = |runs: &[(u32, u32)]| runs.iter().map(|(first, count)| FrameRun { first: *first, count: *count }).collect::<Vec<_>>();
    assert_eq!(space.allocate(1, 1), Err(AllocError::Window));
    assert_eq!(space.plan(1, 1, 6 << 20), runs(&[(0, 3)]));
    assert_eq!(space.plan(64 << 20, 1, 1), runs(&[(0, 3)]), "until that is open");
    space.open(&runs(&[(0, 3)]));
    let all = space.allocate(6 << 20, 1).unwrap();
    assert_eq!(all, [Extent { offset: 0, len: 6 << 20 }]);
    assert_eq!(space.allocate(1, 1), Err(AllocError::Window));
    assert_eq!(space.surplus(0), [], "somebody writes in each of them");
    space.settle(&all);
    assert_eq!(space.surplus(u64::MAX), runs(&[(0, 3)]), "full");
    space.release(&all);
    assert_eq!(space.plan(2 << 20, 1, 1), runs(&[(3, 1)]), "what closes is not opened again before it is shut");
    space.close(&runs(&[(0, 3)]));
    assert_eq!(window(&space), []);
    space.open(&runs(&[(3, 1), (7, 2)]));
    assert_eq!(space.allocate(1, 1).unwrap(), [Extent { offset: 6 << 20, len: 1 }]);
    assert_eq!(space.surplus(1 << 20), runs(&[(7, 2)]));
    assert_eq!(window(&space), runs(&[(3, 1), (7, 2)]), "until the log says so");
    space.close(&runs(&[(7, 2)]));
    assert_eq!(space.allocate(4 << 30, 16), Err(AllocError::Full));
    space.open(&runs(&[(u32::MAX, u32::MAX), (5000, 7)]));
    assert_eq!(window(&space), runs(&[(3, 1)]), "frames that there are not");
}

#[test]
fn what_a_leader_finds_open_is_inherited_and_closes_in_its_time() {
    let space = FrameSpace::new(4 << 30);
    let runs = |runs: &[(u32, u32)]| runs.iter().map(|(first, count)| FrameRun { first: *first, count: *count }).collect::<Vec<_>>();
    space.open(&runs(&[(0, 3)]));
    space.inherit(&runs(&[(0, 1), (9, 1)]), 5);
    space.open(&runs(&[(0, 2)]));
    let opened = |frames: (u32, u32), inherited| Opened { frames: FrameRun { first: frames.0, count: frames.1 }, inherited };
    assert_eq!(space.window(), [opened((0, 1), Some(5)), opened((1, 2), None)]);
    assert_eq!(space.sealed(), [], "it is all this leader's own");
    space.seal();
    assert_eq!(space.sealed(), space.window());
    space.open(&runs(&[(7, 1)]));
    assert_eq!(space.allocate(1, 1).unwrap()[0].offset, 14 << 20, "nothing of what is sealed");
    space.inherit(&runs(&[(0, 3)]), 8);
    assert_eq!(space.sealed(), [opened((0, 1), Some(5)), opened((1, 2), Some(8))], "known once, and from the first time");
    assert_eq!(space.surplus(u64::MAX), [], "what is sealed is not closed before its time");
    space.close(&runs(&[(0, 3)]));
    assert_eq!((space.sealed(), window(&space)), (vec![], runs(&[(7, 1)])));
}

#[test]
fn scattered_room_is_found_when_several_extents_are_allowed() {
    let space = FrameSpace::new(4 << 30);
    space.open(&[FrameRun { first: 0, count: 32 }]);
    let frames: Vec<_> = std::iter::from_fn(|| space.allocate(1 << 20, 1).ok()).collect();
    assert_eq!(frames.len(), 64);
    for extents in frames.iter().step_by(2).take(16) {
        space.settle(extents);
        space.release(extents);
    }
    assert_eq!(space.allocate(2 << 20, 1), Err(AllocError::Window));
    assert_eq!(space.allocate(4 << 20, 3), Err(AllocError::Window));
    assert_eq!(space.allocate(4 << 20, 4).unwrap().len(), 4);
    assert_eq!(space.allocate(12 << 20, 16).unwrap().len(), 12);
    assert_eq!(space.used(), 64 << 20);
}
