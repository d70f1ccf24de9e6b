//! One thread, random calls, and a map of extents that knows the truth.

use super::*;

const SIZES: [u64; 8] =
    [4096, 20_000, 100 << 10, (1 << 20) + 7, (16 << 20) + 12_345, (130 << 20) + (700 << 10), (600 << 20) + 5, (3 << 30) + (1 << 20)];

/// All that is taken, object by object.
struct World {
    space: FrameSpace,
    taken: Taken,
    objects: Vec<Vec<Extent>>,
}

impl World {
    fn new(size: u64) -> Self {
        Self { space: FrameSpace::new(size), taken: Taken::default(), objects: Vec::new() }
    }

    fn allocate(&mut self, len: u64, most: usize) -> Result<(), AllocError> {
        let extents = self.space.allocate(len, most)?;
        assert_eq!(lens(&extents), len);
        assert!(extents.len() <= most, "{} extents instead of {most}", extents.len());
        for extent in &extents {
            assert!(extent.len > 0 && extent.offset.is_multiple_of(PAGE), "{extent:?}");
            assert!(extent.offset + extent.len <= self.space.limit(), "{extent:?} lies above the limit");
        }
        self.taken.add(&extents).unwrap();
        self.objects.push(extents);
        Ok(())
    }

    fn release(&mut self, index: usize) {
        let extents = self.objects.swap_remove(index);
        self.taken.remove(&extents);
        self.space.release(&extents);
    }
}

#[test]
fn nothing_overlaps_and_everything_comes_back() {
    for seed in 0..160 {
        let mut random = Random(seed);
        let size = SIZES[seed as usize % SIZES.len()];
        let mut world = World::new(size);
        let (capacity, mut outcomes) = (world.space.capacity(), [0; 4]);
        assert!(capacity <= size && size - capacity <= (size / 8192).max(PAGE), "{capacity} of {size} bytes are used");
        for _ in 0..600 {
            match random.below(20) {
                0 => {
                    let limit = world.space.limit();
                    world.space.raise_limit(random.below(size + size / 8));
                    assert!(world.space.limit() >= limit && world.space.limit() <= capacity, "seed {seed}");
                }
                1..8 if !world.objects.is_empty() => world.release(random.below(world.objects.len() as u64) as usize),
                _ => {
                    let len = random.log_uniform(1, size.max(2) * 3 / 4);
                    let most = [1, 2, 4, 16][random.below(4) as usize];
                    let whole = world.space.limit() == capacity;
                    match world.allocate(len, most) {
                        Ok(()) => outcomes[0] += 1,
                        Err(AllocError::Full) => {
                            assert!(whole, "seed {seed}: full below a limit");
                            outcomes[1] += 1;
                        }
                        Err(AllocError::Window) => {
                            assert!(!whole, "seed {seed}: no window to raise");
                            outcomes[2] += 1;
                        }
                        Err(AllocError::TooLarge) => {
                            assert!(len > capacity, "seed {seed}: {len} fits {capacity}");
                            outcomes[3] += 1;
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
        world.space.raise_limit(u64::MAX);
        assert_eq!(world.space.used(), 0, "seed {seed}");
        assert_eq!(world.space.allocate(capacity, 1), Ok(vec![Extent { offset: 0, len: capacity }]), "seed {seed}: whole again");
    }
}

#[test]
fn claims_and_quarantine_rebuild_the_same_space() {
    for seed in 0..80 {
        let mut random = Random(seed);
        let size = SIZES[seed as usize % SIZES.len()];
        let mut world = World::new(size);
        world.space.raise_limit(size / 2 + random.below(size));
        for _ in 0..400 {
            if random.below(3) == 0 && !world.objects.is_empty() {
                world.release(random.below(world.objects.len() as u64) as usize);
            } else {
                _ = world.allocate(random.log_uniform(1, (size / 3).max(2)), 1 + random.below(8) as usize);
            }
        }
        let again = FrameSpace::new(size);
        // Whether the limit is known before the objects does not matter.
        if seed % 2 == 0 {
            again.raise_limit(world.space.limit());
        }
        for extents in world.objects.iter().rev() {
            assert_eq!(again.claim(extents), Ok(()), "seed {seed}");
        }
        again.raise_limit(world.space.limit());
        assert_eq!((again.used(), again.limit()), (world.space.used(), world.space.limit()), "seed {seed}");
        for extents in &world.objects {
            assert_eq!(again.claim(extents), Err(ClaimError::Overlap(extents[0])), "seed {seed}");
        }
        let quarantined = again.quarantine();
        world.taken.add(&quarantined).unwrap();
        assert!(quarantined.iter().all(|extent| extent.offset + extent.len <= again.limit()));
        for len in [1, PAGE, size / 300 + 1, size / 10 + 1] {
            assert!(again.allocate(len, 16).is_err(), "seed {seed}: {len} bytes found although all is in quarantine");
        }
        assert_eq!(again.quarantine(), [], "seed {seed}: nothing was left");
        again.release(&quarantined);
        assert_eq!(again.used(), world.space.used(), "seed {seed}");
        for extents in &world.objects {
            again.release(extents);
        }
        again.raise_limit(u64::MAX);
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
fn nothing_lies_above_the_limit() {
    let space = FrameSpace::new(4 << 30);
    assert_eq!(space.allocate(1, 1), Err(AllocError::Window));
    space.raise_limit((7 << 20) + 5);
    assert_eq!(space.limit(), 6 << 20, "whole frames");
    assert_eq!(space.allocate(6 << 20, 1).unwrap(), [Extent { offset: 0, len: 6 << 20 }]);
    assert_eq!(space.allocate(1, 1), Err(AllocError::Window));
    space.raise_limit(4 << 20);
    assert_eq!(space.limit(), 6 << 20, "it never goes down");
    space.raise_limit(4 << 30);
    assert_eq!(space.allocate(1, 1).unwrap(), [Extent { offset: 6 << 20, len: 1 }]);
    assert_eq!(space.allocate(4 << 30, 16), Err(AllocError::Full));
}

#[test]
fn scattered_room_is_found_when_several_extents_are_allowed() {
    let space = FrameSpace::new(4 << 30);
    space.raise_limit(64 << 20);
    let frames: Vec<_> = std::iter::from_fn(|| space.allocate(1 << 20, 1).ok()).collect();
    assert_eq!(frames.len(), 64);
    for extents in frames.iter().step_by(2).take(16) {
        space.release(extents);
    }
    assert_eq!(space.allocate(2 << 20, 1), Err(AllocError::Window));
    assert_eq!(space.allocate(4 << 20, 3), Err(AllocError::Window));
    assert_eq!(space.allocate(4 << 20, 4).unwrap().len(), 4);
    assert_eq!(space.allocate(12 << 20, 16).unwrap().len(), 12);
    assert_eq!(space.used(), space.limit());
}
