//! Masters and nodes that go and come back.

use crate::cluster::{Cluster, MIB, eventually, objects_of, value};
use perilune_client::Put;
use perilune_client::protocol::{FaultCode, ObjectKey, PutConfig};
use std::time::{Duration, Instant};

fn items(count: u64) -> Vec<(ObjectKey, Vec<u8>)> {
    (0..count).map(|n| (ObjectKey::from(format!("k{n}")), value(n, 10_000 + n as usize))).collect()
}

#[test]
fn a_node_that_returns_has_its_objects() {
    let cluster = Cluster::start();
    let config = cluster.node_config("node", 16 * MIB);
    let node = cluster.node_with(config.clone());
    let (id, segments) = (node.id(), node.segments());
    node.mount(5000, None, "").unwrap();
    let store = cluster.store();
    let items = items(100);
    for (key, value) in &items {
        assert_eq!(store.put(key, value, &PutConfig::default()), Ok(Put::Stored));
    }
    node.stop();
    let started = Instant::now();
    let fault = store.get(&items[0].0).unwrap_err();
    assert!(matches!(fault.code, FaultCode::NoReadableReplica | FaultCode::TransferFailed), "{fault}");
    assert!(started.elapsed() < Duration::from_secs(20), "a miss is said soon");
    assert_eq!(objects_of(id).len(), 2, "the memory stays");

    let node = cluster.node_with(config);
    assert_eq!((node.id(), node.segments().len()), (id, 2), "no segment is made anew when some were found");
    assert_eq!(node.segments()[0].id, segments[0].id);
    assert_ne!(node.segments()[0].capability, segments[0].capability);
    for (key, value) in &items {
        assert!(store.get(key).unwrap() == *value, "{key}");
    }
    node.retire().unwrap();
    assert!(objects_of(id).is_empty(), "retired, the memory goes");
}

#[test]
fn a_node_that_cannot_map_its_memory_just_now_refuses_to_start_and_keeps_it() {
    let cluster = Cluster::start();
    let config = cluster.node_config("node", 4 * MIB);
    let node = cluster.node_with(config.clone());
    let (id, segment) = (node.id(), node.segments()[0].id);
    node.stop();
    let object = objects_of(id).remove(0);
    let file = std::fs::File::options().write(true).open(&object).unwrap();
    file.set_len(4096).unwrap();
    for _ in 0..2 {
        let fault = perilune_client::StoreNode::start(config.clone()).err().expect("a segment cannot be mapped");
        assert!(fault.code == FaultCode::Storage && fault.message.contains(&segment.to_string()), "{fault}");
        assert_eq!(objects_of(id), std::slice::from_ref(&object), "its memory stays");
    }
    file.set_len(4 * MIB).unwrap();
    let node = cluster.node_with(config.clone());
    assert_eq!(node.segments()[0].id, segment);
    node.stop();
    // What is really gone is done without.
    std::fs::remove_file(&object).unwrap();
    std::fs::write(&object, [0; 4096]).unwrap();
    let node = cluster.node_with(config);
    assert_ne!(node.segments()[0].id, segment, "another object has its name");
}

#[test]
fn a_master_that_returns_knows_every_object() {
    // A new master leaves free space alone until the leases of its predecessor have lapsed.
    let mut cluster = Cluster::start_with(|config| config.lease = Duration::from_millis(500));
    let node = cluster.node("node", 16 * MIB);
    let store = cluster.store();
    let items = items(100);
    for (key, value) in &items {
        assert_eq!(store.put(key, value, &PutConfig::default()), Ok(Put::Stored));
    }
    cluster.stop_master();
    eventually("the node notices", || !node.is_heard());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| store.put(&ObjectKey::from("while away"), b"patience", &PutConfig::default()));
        cluster.start_master();
        // The put may have been too early for the node, which announces itself again by its next beat.
        let put = waiting.join().unwrap();
        assert!(put == Ok(Put::Stored) || put.as_ref().is_err_and(|f| f.code == FaultCode::NoSpace), "{put:?}");
    });
    eventually("the node is heard again", || node.is_heard());
    for (key, value) in &items {
        assert!(store.get(key).unwrap() == *value, "{key}");
    }
    eventually("puts work again", || store.put(&ObjectKey::from("after"), b"v", &PutConfig::default()).is_ok());
}

#[test]
fn a_master_that_is_away_is_named() {
    let mut cluster = Cluster::start();
    let store = cluster.store_with(|config| config.deadline = Duration::from_millis(200));
    cluster.stop_master();
    let fault = store.put(&ObjectKey::from("k"), b"v", &PutConfig::default()).unwrap_err();
    assert_eq!(fault.code, FaultCode::Unreachable, "{fault}");
    assert!(fault.message.contains(&cluster.masters()[0]), "{fault}");
    assert_eq!(store.exists(&["k".into()]).unwrap_err().code, FaultCode::Unreachable);
}

#[test]
fn a_node_may_start_before_its_master() {
    let mut cluster = Cluster::start();
    cluster.stop_master();
    let node = cluster.node("node", 16 * MIB);
    assert!(!node.is_heard());
    cluster.start_master();
    eventually("the node is heard", || node.is_heard());
    let store = cluster.store();
    assert_eq!(store.put(&"k".into(), b"v", &PutConfig::default()), Ok(Put::Stored));
    assert_eq!(store.get(&"k".into()).unwrap(), b"v");
}
