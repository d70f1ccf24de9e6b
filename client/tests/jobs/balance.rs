//! `balance`: copies move from full to empty segments, at the pace that was set, until all are near the mean.

use super::*;
use cluster::MIB;
use perilune_client::protocol::rpc::segment::SegmentState;
use std::time::Instant;

fn fill(segment: &SegmentState) -> f64 {
    segment.used as f64 / segment.desc.size as f64
}

fn spread(store: &Store) -> f64 {
    let segments = segments(store);
    let mean = segments.iter().map(|s| s.used as f64).sum::<f64>() / segments.iter().map(|s| s.desc.size as f64).sum::<f64>();
    segments.iter().map(|s| (fill(s) - mean).abs()).fold(0.0, f64::max)
}

#[test]
fn used_shares_of_segments_come_together_and_every_value_is_right() {
    let cluster = hurried();
    let _full = [cluster.node("a", 32 * MIB), cluster.node("b", 32 * MIB)];
    let store = cluster.store();
    let filled = Filled::put(&store, 160, 256 << 10, 1);
    let doubled: Vec<ObjectKey> = (0..10).map(|n| ObjectKey::from(format!("double{n}"))).collect();
    for key in &doubled {
        store.put(key, &value(1, 200_000), &PutConfig { replicas: 2, ..PutConfig::default() }).unwrap();
    }
    let _empty = cluster.node("c", 32 * MIB);
    assert!(spread(&store) > 0.3, "{}", spread(&store));
    assert_eq!((job(&store, "balance").state.as_str(), job(&store, "balance").counts.copied), ("off", 0));

    switch(&store, "balance", true);
    eventually("the segments are filled within 5 % of the mean", || {
        // Meanwhile everything can be read.
        assert!(store.get(&filled.items[7].0).unwrap() == filled.items[7].1);
        spread(&store) <= 0.05
    });
    eventually("the job rests", || job(&store, "balance").state == "idle");
    let job = job(&store, "balance");
    assert!(job.counts.copied > 40 && job.counts.copied_bytes > 10 * MIB, "{job:?}");
    assert!(job.note.contains("within 5 %") && job.last_error.is_empty(), "{job:?}");
    filled.check(&store);
    for key in &doubled {
        let place = locate(&store, key).unwrap();
        assert!(place.replicas.len() == 2 && place.replicas[0].segment != place.replicas[1].segment, "{place:?}");
    }
    // Nothing was left behind: what is used is what lives.
    eventually("the space of copies that moved is free", || {
        segments(&store).iter().map(|s| s.used).sum::<u64>() < 160 * (256 << 10) + 20 * 200_000 + 20 * 8192 + MIB
    });
}

#[test]
fn no_more_bytes_are_moved_than_was_set() {
    const RATE: u64 = 2 * MIB;
    let cluster = hurried();
    let _full = cluster.node("a", 32 * MIB);
    let store = cluster.store();
    let filled = Filled::put(&store, 64, 256 << 10, 1);
    let _empty = cluster.node("b", 32 * MIB);
    cluster.set("job_bytes_per_second", &RATE.to_string());
    let begun = Instant::now();
    switch(&store, "balance", true);
    let mut moved = 0;
    while moved < 5 * MIB {
        moved = job(&store, "balance").counts.copied_bytes;
        // What a quarter of a second saves up may be moved at once, and one step may overdraw it.
        let most = (begun.elapsed().as_secs_f64() * RATE as f64) as u64 + RATE / 4 + (256 << 10);
        assert!(moved <= most, "{moved} bytes moved after {:?}, at most {most} may be", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(200), "only {moved} bytes were moved");
        std::thread::sleep(Duration::from_millis(20));
    }
    cluster.set("job_bytes_per_second", "1GiB");
    eventually("the rest goes faster", || spread(&store) <= 0.05);
    filled.check(&store);
}
