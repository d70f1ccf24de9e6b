//! `vol_inspect`: bytes that changed are found by the node that holds them, and made right, or the object goes.

use super::*;
use cluster::{MIB, damage};
use perilune_client::protocol::FaultCode;

#[test]
fn a_damaged_copy_is_found_and_made_anew_and_an_object_without_a_good_one_goes() {
    let cluster = hurried();
    let nodes = [cluster.node("a", 32 * MIB), cluster.node("b", 32 * MIB)];
    let store = cluster.store();
    let filled = Filled::put(&store, 40, 100_000, 2);
    let single = ObjectKey::from("single");
    store.put(&single, &value(9, 6 << 20), &PutConfig::default()).unwrap();
    let descs: Vec<_> = nodes.iter().flat_map(|node| node.segments()).collect();
    let spoil = |key: &ObjectKey| {
        let place = locate(&store, key).unwrap();
        damage(descs.iter().find(|desc| desc.id == place.replicas[0].segment).unwrap(), &place);
    };
    for n in [3, 17, 29] {
        spoil(&filled.items[n].0);
    }
    spoil(&single);
    assert_eq!(job(&store, "vol_inspect").counts.verified, 0);

    switch(&store, "vol_inspect", true);
    eventually("all was looked at", || job(&store, "vol_inspect").counts.passes == 1);
    let job = job(&store, "vol_inspect");
    assert_eq!((job.counts.bad, job.counts.copied, job.counts.removed), (4, 3, 1), "{job:?}");
    assert!(job.counts.verified >= 81 && job.last_error.contains("checksum"), "{job:?}");
    assert!(filled.has(&store, 2));
    let fresh = cluster.store();
    filled.check(&fresh);
    assert!(fresh.metrics().contains("perilune_store_checksum_mismatches_total 0"), "no reader meets a bad copy any more");
    assert_eq!(fresh.get(&single).unwrap_err().code, FaultCode::ObjectNotFound);
    for (key, _) in &filled.items {
        let place = locate(&fresh, key).unwrap();
        assert_ne!(place.replicas[0].segment, place.replicas[1].segment, "{key}");
    }
}
