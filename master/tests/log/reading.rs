//! What is read behind a barrier is never older than what was acknowledged before, whoever is asked and whatever happens to the leader.

use crate::cluster::{Cluster, Draw};
use perilune_master::log::LogConfig;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[test]
fn nobody_answers_with_what_is_out_of_date() {
    let mut draw = Draw::new(5);
    let mut cluster = Cluster::start(3, LogConfig::default());
    cluster.put(1);
    let (acknowledged, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let served = AtomicU64::new(0);
    let readers: Vec<_> = cluster.up.values().map(|node| (node.log.clone(), node.table.clone())).collect();
    std::thread::scope(|scope| {
        let (acknowledged, done, served) = (&acknowledged, &done, &served);
        for (log, table) in readers {
            scope.spawn(move || {
                let mut caught_up = 0;
                for nth in 0.. {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    let floor = acknowledged.load(Ordering::SeqCst);
                    let leased = log.holds_lease();
                    // Whoever follows may answer too, once it has caught up.
                    let barrier = if nth % 2 == 0 { log.read_barrier() } else { log.catch_up() };
                    if barrier.wait().is_err() {
                        std::thread::yield_now();
                        continue;
                    }
                    let read: u64 = table.rows().get("value").map_or(0, |v| v.parse().unwrap());
                    assert!(read >= floor, "member {} answered {read} after {floor} (leased: {leased})", log.status().member);
                    served.fetch_add(1, Ordering::Relaxed);
                    caught_up += nth % 2;
                    std::thread::yield_now();
                }
                assert!(caught_up > 0, "member {} never caught up", log.status().member);
            });
        }
        let mut value = 0;
        // Through whoever leads, except for one that is known to be stopped.
        let mut write = |cluster: &Cluster, but: u64, count: u64| {
            let goal = value + count;
            while value < goal {
                let leader = cluster.leader_but(but);
                if cluster.log(leader).propose(format!("value={}", value + 1).into_bytes()).wait().is_ok() {
                    value += 1;
                    acknowledged.store(value, Ordering::SeqCst);
                }
            }
        };
        for _ in 0..6 {
            write(&cluster, 0, 50);
            let old = cluster.leader();
            match draw.below(3) {
                0 => {
                    let gate = cluster.up[&old].table.gate.clone();
                    let closed = gate.lock().unwrap();
                    // Stops it at its next apply, while its readers go on asking.
                    let stopping = cluster.log(old).propose(b"stop=1".to_vec());
                    write(&cluster, old, 20);
                    drop((closed, stopping));
                }
                1 => {
                    cluster.net.isolate(old, 1..=3);
                    write(&cluster, old, 20);
                    cluster.net.heal();
                }
                _ => {
                    // Refused when the other is behind; then nothing happens to the leader this time.
                    let _ = cluster.log(old).transfer(old % 3 + 1).wait();
                    write(&cluster, 0, 20);
                }
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(served.load(Ordering::Relaxed) > 100, "{served:?} reads");
    cluster.check();
}
