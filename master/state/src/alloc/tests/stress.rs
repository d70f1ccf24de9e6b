//! Real threads over one small space, so that frames are cut, drain and are cut anew all the time.

use super::*;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// One flag a page; whoever is handed a page must find it unowned.
fn own(pages: &[AtomicBool], extents: &[Extent], owned: bool) {
    for extent in extents {
        for page in &pages[(extent.offset / PAGE) as usize..(extent.offset + extent.len).div_ceil(PAGE) as usize] {
            // Relaxed: only the allocator orders two owners of a page.
            assert_eq!(page.swap(owned, Ordering::Relaxed), !owned, "a page of {extent:?} was handed out twice");
        }
    }
}

/// Threads allocate and release sizes below `largest`, while another opens and closes the frames of a segment of `size` bytes, all of them below `end`.
fn churn(size: u64, end: u64, largest: u64, threads: u64, rounds: u64) {
    let space = FrameSpace::new(size);
    let all = [FrameRun { first: 0, count: end.div_ceil(space.shape.frame()) as u32 }];
    space.open(&all);
    let end = (u64::from(all[0].count) * space.shape.frame()).min(space.capacity());
    let pages: Vec<AtomicBool> = (0..end / PAGE).map(|_| AtomicBool::new(false)).collect();
    let (worked, working) = (AtomicU64::new(0), AtomicU64::new(threads));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random(threads);
            while working.load(Ordering::Relaxed) > 0 {
                // One thread opens and closes, as apply does.
                let closing = space.surplus(random.below(end));
                space.close(&closing);
                space.open(&closing);
            }
        });
        for seed in 0..threads {
            let (space, pages, worked, working) = (&space, &pages, &worked, &working);
            scope.spawn(move || {
                let (mut random, mut held, mut got) = (Random(seed), Vec::new(), 0u64);
                for _ in 0..rounds {
                    if random.below(2) == 0 && !held.is_empty() {
                        let extents: Vec<Extent> = held.swap_remove(random.below(held.len() as u64) as usize);
                        own(pages, &extents, false);
                        space.settle(&extents);
                        space.release(&extents);
                    } else if let Ok(extents) = space.allocate(random.log_uniform(1, largest), 1 + random.below(6) as usize) {
                        own(pages, &extents, true);
                        held.push(extents);
                        got += 1;
                    }
                }
                for extents in held {
                    own(pages, &extents, false);
                    space.settle(&extents);
                    space.release(&extents);
                }
                worked.fetch_add(got, Ordering::Relaxed);
                working.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    // Of all threads together: one may hold a tiny space for as long as the others run.
    let worked = worked.into_inner();
    assert!(worked > rounds / 50, "only {worked} allocations worked");
    assert_eq!(space.used(), 0);
    // At rest no frame is lost to the search, whatever the threads did to the shelves.
    assert_eq!(space.allocate(end, 1).map(|extents| extents.len()), Ok(1));
}

#[test]
fn slots_of_draining_frames_are_handed_out_once() {
    churn(4 << 30, 4 << 20, 16 << 10, 4, 20_000);
    churn(4 << 30, 100 << 20, 224 << 10, 4, 10_000);
}

#[test]
fn units_and_slots_share_frames_in_turn() {
    churn(300 << 20, 3 << 20, 100 << 10, 2, 20_000);
    churn(4 << 30, 32 << 20, 12 << 20, 4, 10_000);
    churn(1 << 20, 1 << 20, 300 << 10, 4, 10_000);
}

#[test]
fn one_frame_changes_hands_without_being_lost() {
    churn(4096, 4096, 4096, 4, 20_000);
    churn(4 << 30, 2 << 20, 2 << 20, 4, 20_000);
}
