//! All jobs at once under load, while segments come and go: every read is right, and nothing that was put is missing.

use super::*;
use cluster::MIB;
use perilune_client::protocol::FaultCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const KEYS: u64 = 80;
const ROUNDS: usize = 5;

/// Puts, replaces, reads and removes keys of its own until it is over; what it knows must be so.
fn load(store: &Store, thread: u64, over: &AtomicBool, done: &AtomicU64) {
    let mut known: Vec<Option<u64>> = vec![None; KEYS as usize];
    let bytes = |seed: u64| value(seed, 1000 + (seed * 7919 % 200_000) as usize);
    let (mut step, mut draw) = (0, thread);
    while !over.load(Ordering::Relaxed) {
        step += 1;
        draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (nth, what) = if step <= KEYS { (step - 1, 0) } else { ((draw >> 33) % KEYS, (draw >> 50) % 40) };
        let key = ObjectKey::from(format!("t{thread}/k{nth}"));
        let at = format!("thread {thread} step {step}: {key}");
        let known = &mut known[nth as usize];
        match what {
            0 | 1 => {
                let seed = thread << 32 | step;
                let config = PutConfig { replicas: 1 + (step % 2) as u8, upsert: true, ..PutConfig::default() };
                assert_eq!(store.put(&key, &bytes(seed), &config), Ok(Put::Stored), "{at}");
                *known = Some(seed);
            }
            2 => {
                let removed = store.remove(std::slice::from_ref(&key), true).remove(0);
                assert_eq!(removed.is_ok(), known.is_some(), "{at}: {removed:?}");
                *known = None;
            }
            _ => match (store.get(&key), *known) {
                (Ok(found), Some(seed)) => assert!(found == bytes(seed), "{at}: other bytes"),
                (Err(fault), None) => assert_eq!(fault.code, FaultCode::ObjectNotFound, "{at}"),
                (Ok(_), None) => panic!("{at} is there after it was removed"),
                (Err(fault), Some(_)) => panic!("{at}: {fault}"),
            },
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn everything_at_once_loses_nothing_and_breaks_no_read() {
    let cluster = hurried();
    let nodes = ["a", "b", "c"].map(|name| cluster.node(name, 64 * MIB));
    let store = cluster.store();
    for name in ["balance", "shard_repair", "disk_repair", "vol_inspect"] {
        switch(&store, name, true);
    }
    let (over, done) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let (over, done) = (&over, &done);
        // One that panics must not let the others go on for ever.
        struct Ends<'a>(&'a AtomicBool);
        impl Drop for Ends<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        for thread in 0..3 {
            let store = cluster.store();
            scope.spawn(move || {
                let _ends = Ends(over);
                load(&store, thread, over, done);
                assert!(store.metrics().contains("perilune_store_checksum_mismatches_total 0"), "no bad copy was ever met");
            });
        }
        let _ends = Ends(over);
        for round in 0..ROUNDS {
            let node = &nodes[round % nodes.len()];
            let leaving = node.segments()[0].id;
            node.mount(64 * MIB, None, "").unwrap();
            assert_eq!(node.unmount(&[leaving], Duration::from_secs(300)), [Ok(())]);
            eventually("the segment has gone", || {
                assert!(!over.load(Ordering::Relaxed), "the load ended");
                segments(&store).iter().all(|s| s.desc.id != leaving)
            });
            // Looks at everything again.
            switch(&store, "vol_inspect", false);
            eventually("it is off", || job(&store, "vol_inspect").state == "off");
            switch(&store, "vol_inspect", true);
            let aim = done.load(Ordering::Relaxed) + 1000;
            eventually("the load goes on", || done.load(Ordering::Relaxed) >= aim);
        }
    });
    let (inspect, drop) = (job(&store, "vol_inspect"), job(&store, "disk_drop"));
    assert_eq!((inspect.counts.bad, inspect.counts.removed), (0, 0), "{inspect:?}");
    assert!(inspect.counts.verified > 0 && drop.counts.copied > 0, "{inspect:?} {drop:?}");
}
