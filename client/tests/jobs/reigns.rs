//! A job goes on when another leader takes over in the middle.

use super::*;
use cluster::MIB;

#[test]
fn the_next_leader_goes_on_where_the_last_one_was() {
    let mut cluster = hurried();
    let leaving = cluster.node("a", 32 * MIB);
    let store = cluster.store();
    let filled = Filled::put(&store, 80, 200_000, 1);
    let _staying = cluster.node("b", 32 * MIB);
    cluster.set("job_bytes_per_second", "2MiB");
    let id = leaving.segments()[0].id;
    assert_eq!(leaving.unmount(&[id], Duration::from_secs(300)), [Ok(())]);
    eventually("some copies were made", || job(&store, "disk_drop").counts.copied >= 30);
    cluster.stop_master();
    cluster.start_master();
    let before = job(&store, "disk_drop");
    assert!(before.on && before.counts.copied > 0 && before.counts.copied < 80, "it knows what was done: {before:?}");
    cluster.set("job_bytes_per_second", "1GiB");
    eventually("the segment has gone", || segments(&store).iter().all(|s| s.desc.id != id));
    filled.check(&store);
    assert!(filled.has(&store, 1));
    let used: u64 = segments(&store).iter().map(|s| s.used).sum();
    eventually("nothing is held twice", || segments(&store).iter().map(|s| s.used).sum::<u64>() <= 80 * 204_800);
    assert!(used > 0);
}
