//! `disk_drop`: a segment that drains is emptied while it can be read, and goes when it is empty.

use super::*;
use cluster::MIB;
use perilune_client::protocol::SegmentStatus;
use std::time::Instant;

const GRACE: Duration = Duration::from_secs(300);

#[test]
fn a_segment_that_drains_is_emptied_and_goes_before_its_time_and_nothing_is_lost() {
    let cluster = hurried();
    let leaving = cluster.node("a", 32 * MIB);
    let store = cluster.store();
    let filled = Filled::put(&store, 60, 200_000, 1);
    let _staying = cluster.node("b", 32 * MIB);
    cluster.set("job_bytes_per_second", "8MiB");
    let id = leaving.segments()[0].id;
    let begun = Instant::now();
    assert_eq!(leaving.unmount(&[id], GRACE), [Ok(())]);
    let state = segments(&store).into_iter().find(|s| s.desc.id == id).unwrap();
    assert_eq!(state.status, SegmentStatus::Draining);
    eventually("copies are on their way", || job(&store, "disk_drop").counts.copied > 5);
    filled.check(&store);
    assert_eq!(job(&store, "disk_drop").segments[0].status, "dropping");
    eventually("the segment has gone", || segments(&store).iter().all(|s| s.desc.id != id));
    eventually("its node freed the memory", || leaving.segments().is_empty());
    assert!(begun.elapsed() < GRACE / 2);
    filled.check(&store);
    assert!(filled.has(&store, 1));
    let job = job(&store, "disk_drop");
    assert_eq!((job.counts.copied, job.counts.removed), (60, 0), "{job:?}");
}

#[test]
fn what_would_be_lost_at_the_pace_that_is_set_is_moved_faster() {
    let cluster = hurried();
    let leaving = cluster.node("a", 32 * MIB);
    let store = cluster.store();
    let filled = Filled::put(&store, 60, 200_000, 1);
    let _staying = cluster.node("b", 32 * MIB);
    cluster.set("job_bytes_per_second", "100KiB");
    let id = leaving.segments()[0].id;
    // At that pace it would take two minutes.
    assert_eq!(leaving.unmount(&[id], Duration::from_secs(20)), [Ok(())]);
    eventually("the segment has gone", || segments(&store).iter().all(|s| s.desc.id != id));
    filled.check(&store);
    assert_eq!(job(&store, "disk_drop").counts.copied, 60);
}

#[test]
fn copies_that_exist_elsewhere_are_not_made_again() {
    let cluster = hurried();
    let nodes = [cluster.node("a", 32 * MIB), cluster.node("b", 32 * MIB), cluster.node("c", 32 * MIB)];
    let store = cluster.store();
    let filled = Filled::put(&store, 30, 100_000, 3);
    switch(&store, "shard_repair", true);
    let id = nodes[0].segments()[0].id;
    assert_eq!(nodes[0].unmount(&[id], GRACE), [Ok(())]);
    // Three copies are wanted and only two segments are left for them: the third stays until the grace is over.
    eventually("the job says that there is no room", || job(&store, "disk_drop").last_error.contains("no segment without a copy"));
    assert!(filled.has(&store, 3));
    let _fresh = cluster.node("d", 32 * MIB);
    eventually("the segment has gone", || segments(&store).iter().all(|s| s.desc.id != id));
    assert!(filled.has(&store, 3));
    filled.check(&store);
    // With four nodes and three copies wanted, a second one leaves nothing to copy to, but for objects that lie on the other three.
    assert_eq!(job(&store, "disk_drop").counts.copied, 30);
}

#[test]
fn switched_off_it_moves_nothing() {
    let cluster = hurried();
    let leaving = cluster.node("a", 32 * MIB);
    let store = cluster.store();
    let filled = Filled::put(&store, 10, 100_000, 1);
    let _staying = cluster.node("b", 32 * MIB);
    switch(&store, "disk_drop", false);
    eventually("it is off", || job(&store, "disk_drop").state == "off");
    let id = leaving.segments()[0].id;
    assert_eq!(leaving.unmount(&[id], Duration::from_millis(1500)), [Ok(())]);
    filled.check(&store);
    eventually("the grace is over", || segments(&store).iter().all(|s| s.desc.id != id));
    assert_eq!(job(&store, "disk_drop").counts.copied, 0);
    assert!(filled.items.iter().all(|(key, _)| store.get(key).is_err()), "what nobody moved went with the segment");
    eventually("and is forgotten", || job(&store, "blob_delete").counts.removed == 10);
}
