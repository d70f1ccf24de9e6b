//! How much of a full segment is live data under random eviction: 90 % at least, whatever the mix.

use super::*;

/// Fills a segment, then evicts random objects for each new one, `turns` times the segment's bytes; the average and the lowest share of
/// requested bytes once it was full.
fn live_share(size: u64, turns: u64, seed: u64, mut next: impl FnMut(&mut Random) -> u64) -> (f64, f64) {
    let space = open(size);
    let (mut random, mut objects, mut live, mut written) = (Random(seed), Vec::<Vec<Extent>>::new(), 0, 0);
    let (mut sum, mut samples, mut lowest, mut was_full) = (0.0, 0u32, 1.0f64, false);
    while written < turns * size {
        let len = next(&mut random);
        let most = if len < 8 << 20 { 4 } else { 16 };
        let extents = loop {
            match space.allocate(len, most) {
                Ok(extents) => break extents,
                Err(error) => {
                    assert_eq!(error, AllocError::Full, "seed {seed}");
                    was_full = true;
                    let victim = objects.swap_remove(random.below(objects.len() as u64) as usize);
                    live -= lens(&victim);
                    space.settle(&victim);
                    space.release(&victim);
                }
            }
        };
        objects.push(extents);
        live += len;
        written += len;
        if was_full {
            let share = live as f64 / size as f64;
            (sum, samples, lowest) = (sum + share, samples + 1, lowest.min(share));
        }
    }
    (sum / f64::from(samples), lowest)
}

#[test]
fn kv_sizes_keep_nine_tenths_of_a_segment_live() {
    let seed = 11;
    // Blocks of 16 tokens of four models, one size after the other.
    let models = [(656u64 << 10) + 320, 1152 << 10, 2 << 20, (3 << 20) + (200 << 10)];
    let mixed = live_share(1 << 30, 6, seed, |random| models[random.below(4) as usize]);
    let uniform = live_share(1 << 30, 3, seed, |_| 2 << 20);
    let log_uniform = live_share(1 << 30, 6, seed, |random| random.log_uniform(4 << 10, 16 << 20));
    let small = live_share(256 << 20, 4, seed, |random| random.log_uniform(16 << 10, 1 << 20));
    let narrow = live_share(16 << 20, 20, seed, |random| random.log_uniform(16 << 10, 256 << 10));
    for (name, (average, lowest)) in
        [("mixed", mixed), ("uniform", uniform), ("log-uniform", log_uniform), ("small", small), ("16 MiB", narrow)]
    {
        println!("{name:12} average {:.1} %, lowest {:.1} % (seed {seed})", average * 100.0, lowest * 100.0);
        assert!(average >= 0.9, "{name}: {average:.3} of the segment is live on average, lowest {lowest:.3} (seed {seed})");
    }
}
