//! `disk_repair` and `shard_repair`: copies that are lacking are made again, and only when that was switched on.

use super::*;
use cluster::MIB;
use perilune_client::protocol::SegmentStatus;

#[test]
fn what_a_lost_node_held_is_copied_again_once_that_is_switched_on() {
    let cluster = hurried();
    let mut nodes: Vec<_> = ["a", "b", "c"].map(|name| cluster.node(name, 32 * MIB)).into();
    let store = cluster.store();
    let filled = Filled::put(&store, 60, 100_000, 2);
    assert!(filled.has(&store, 2));
    let lost = nodes[0].segments()[0].id;
    let lacking =
        filled.items.iter().filter(|(key, _)| locate(&store, key).unwrap().replicas.iter().any(|r| r.segment == lost)).count() as u64;
    assert!(lacking > 10);
    nodes.remove(0).stop();
    let is_lost = || segments(&store).iter().any(|s| s.desc.id == lost && s.status == SegmentStatus::Lost);
    eventually("the node is lost", is_lost);
    eventually("the job sees it", || job(&store, "disk_repair").segments.iter().any(|s| s.segment == lost && s.status == "broken"));
    assert!(!filled.has(&store, 2));
    let before = job(&store, "disk_repair");
    assert_eq!((before.on, before.counts.copied, job(&store, "shard_repair").counts.copied), (false, 0, 0), "nobody has switched it on");

    switch(&store, "disk_repair", true);
    eventually("every object has two copies again", || filled.has(&store, 2));
    eventually("the segment is repaired", || {
        job(&store, "disk_repair").segments.iter().any(|s| s.segment == lost && s.status == "repaired")
    });
    let after = job(&store, "disk_repair");
    assert_eq!((after.counts.copied, after.counts.dropped, after.last_error.as_str()), (lacking, lacking, ""), "{after:?}");
    filled.check(&store);

    // The node returns with its memory: it has nothing of them any more, and is used again.
    let returned = cluster.node("a", 0);
    assert_eq!(returned.segments()[0].id, lost);
    eventually("its segment is there, and empty", || {
        segments(&store).iter().any(|s| s.desc.id == lost && s.status == SegmentStatus::Mounted && s.used == 0)
    });
    assert!(filled.has(&store, 2));
    filled.check(&store);
}

#[test]
fn a_copy_that_could_not_be_made_when_it_was_put_is_made_when_there_is_a_place_for_it() {
    let cluster = hurried();
    let _first = cluster.node("a", 32 * MIB);
    let store = cluster.store();
    let config = PutConfig { replicas: 2, best_effort: true, ..PutConfig::default() };
    let key = ObjectKey::from("wanted twice");
    store.put(&key, &value(5, 5 << 20), &config).unwrap();
    switch(&store, "shard_repair", true);
    eventually("the job tried", || !job(&store, "shard_repair").last_error.is_empty());
    let second = cluster.node("b", 32 * MIB);
    eventually("there are two copies", || locate(&store, &key).unwrap().replicas.len() == 2);
    // One of them goes with its segment, without grace: from the other a third is made when there is a place again.
    second.retire().unwrap();
    eventually("one copy is left", || locate(&store, &key).unwrap().replicas.len() == 1);
    let _third = cluster.node("c", 32 * MIB);
    eventually("there are two copies again", || locate(&store, &key).unwrap().replicas.len() == 2);
    assert!(store.get(&key).unwrap() == value(5, 5 << 20));
    assert_eq!(job(&store, "shard_repair").counts.copied, 2);
}
