//! What a master finds again, and what it says of nodes that come and go.

use super::*;
use perilune_protocol::rpc::cluster;
use perilune_protocol::{FaultCode, SegmentStatus};

#[test]
fn objects_outlive_the_master() {
    let dir = tempfile::tempdir().unwrap();
    let master = start(dir.path());
    let mut peer = Peer::hello(&master);
    let desc = peer.lend();
    let grants: Vec<_> = (0..100).map(|n| peer.put(&format!("k{n}"), 5000)).collect();
    let unfinished = peer.put_start("unfinished", 5000).unwrap();
    master.stop();

    let master = start(dir.path());
    let mut peer = Peer::hello(&master);
    let keys: Vec<_> = (0..100).map(|n| format!("k{n}").into()).collect();
    let places = peer.call(&object::Locate { keys }).unwrap();
    for (place, grant) in places.into_iter().zip(grants) {
        let place = place.unwrap();
        assert_eq!((place.version, place.checksum, place.replicas), (grant.version, 7, grant.replicas));
    }
    let ended = peer.call(&object::PutEnd { puts: vec![("unfinished".into(), unfinished.version, 7)] }).unwrap().remove(0);
    assert_eq!(ended.unwrap_err().code, FaultCode::InvalidWrite);
    let back = peer.register(&desc, true);
    assert_eq!(back.unknown, []);
    assert!(peer.put_start("k1", 10).is_err(), "it exists");
    peer.put("fresh", 10);
}

#[test]
fn a_node_that_lost_its_memory_takes_its_objects_along() {
    let dir = tempfile::tempdir().unwrap();
    let master = start(dir.path());
    let mut node = Peer::hello(&master);
    let desc = node.lend();
    node.put("k", 100);
    drop(node);
    let mut peer = Peer::hello(&master);
    until("a closed connection makes its node suspect", || {
        peer.call(&segment::ListSegments {}).unwrap()[0].status == SegmentStatus::Suspect
    });
    assert_eq!(peer.call(&object::Exists { keys: vec!["k".into()] }).unwrap(), [true]);
    peer.register(&desc, false);
    assert_eq!(peer.call(&object::Exists { keys: vec!["k".into()] }).unwrap(), [false]);
    until("the orphan is forgotten", || peer.call(&cluster::Stat {}).unwrap().objects == 0);
}

#[test]
fn a_grace_period_ends_and_the_node_is_told_to_free_the_memory() {
    let dir = tempfile::tempdir().unwrap();
    let master = start(dir.path());
    let mut node = Peer::hello(&master);
    let desc = node.lend();
    node.put("k", 100);
    let outcomes = node.call(&segment::Unmount { segments: vec![desc.id, SegmentId::random()], grace_ms: 200 }).unwrap();
    assert!(outcomes[0].is_ok());
    assert_eq!(outcomes[1].as_ref().unwrap_err().code, FaultCode::SegmentNotFound);
    assert_eq!(node.call(&object::Exists { keys: vec!["k".into()] }).unwrap(), [true], "readable during the grace period");
    assert_eq!(node.put_start("n", 1).unwrap_err().code, FaultCode::NoSpace);
    until("the node is told", || node.call(&session::Heartbeat { node: desc.node }).unwrap().release == [desc.id]);
    assert_eq!(node.call(&object::Exists { keys: vec!["k".into()] }).unwrap(), [false]);
}

#[test]
fn eviction_makes_as_much_room_as_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(MasterConfig { lease: Duration::from_millis(50), ..config(dir.path()) }).unwrap();
    let mut peer = Peer::hello(&master);
    peer.lend();
    for n in 0..200 {
        peer.put(&format!("k{n}"), 1 << 20);
    }
    let stat = peer.call(&cluster::Stat {}).unwrap();
    assert!((136..=144).contains(&stat.evictions) && (56..=64).contains(&stat.objects), "{stat:?}");
    let found = peer.call(&object::Exists { keys: vec!["k0".into(), "k144".into(), "k199".into()] }).unwrap();
    assert_eq!(found, [false, true, true], "the oldest went, and no more than had to");
    let removed = peer.call(&object::RemoveMatching { pattern: "^k1[0-9]9$".into(), force: true }).unwrap();
    assert!(removed >= 1);
    assert_eq!(peer.call(&object::RemoveMatching { pattern: "(".into(), force: true }).unwrap_err().code, FaultCode::InvalidParams);
}

#[test]
fn a_second_master_on_the_same_directory_or_port_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let master = start(dir.path());
    let config = config(dir.path());
    let refused = |config| Master::start(config).err().expect("refused").to_string();
    assert!(refused(config.clone()).contains("in use"));
    let taken = MasterConfig { rpc: master.rpc_addr(), ..config.clone() };
    assert!(refused(taken).contains(&master.rpc_addr().to_string()));
    let beyond = MasterConfig { rpc: ([0, 0, 0, 0], 0).into(), ..config };
    assert!(refused(beyond).contains("--insecure"));
}

#[test]
fn what_no_node_can_lend_is_refused_and_the_master_starts_again() {
    let dir = tempfile::tempdir().unwrap();
    let master = start(dir.path());
    let mut peer = Peer::hello(&master);
    let desc = peer.lend();
    let too_large = SegmentDesc { id: SegmentId::random(), size: 1 << 60, ..desc.clone() };
    assert_eq!(peer.call(&segment::Mount { segments: vec![too_large] }).unwrap_err().code, FaultCode::InvalidParams);
    let resized = SegmentDesc { size: 1 << 20, ..desc.clone() };
    assert_eq!(peer.register(&resized, true).unknown, [desc.id], "the same id with another size is another segment");
    let long = segment::Unmount { segments: vec![desc.id], grace_ms: u64::MAX };
    assert_eq!(peer.call(&long).unwrap()[0].as_ref().unwrap_err().code, FaultCode::InvalidParams);
    master.stop();
    start(dir.path());
}
