//! Memory that comes and goes.

use crate::cluster::{Cluster, MIB, Object, eventually, objects_of, value};
use perilune_client::protocol::rpc::segment::{ListSegments, SegmentState};
use perilune_client::protocol::{FaultCode, ObjectKey, PutConfig, SegmentStatus};
use perilune_client::{Put, StoreNode};
use std::time::Duration;

fn code<T: std::fmt::Debug>(outcome: Result<T, perilune_client::protocol::Fault>) -> FaultCode {
    outcome.unwrap_err().code
}

#[test]
fn what_is_mounted_is_rounded_split_and_taken_back() {
    let cluster = Cluster::start();
    let mut config = cluster.node_config("node", 0);
    config.max_registration = MIB;
    let node = cluster.node_with(config);
    let store = cluster.store();
    let fault = store.put(&"k".into(), b"v", &PutConfig::default()).unwrap_err();
    assert_eq!(fault.code, FaultCode::NoSpace, "no segment is mounted: {fault}");

    let segments = node.mount(2 * MIB + 1, None, "numa:0").unwrap();
    assert_eq!(segments.iter().map(|desc| desc.size).collect::<Vec<_>>(), [MIB, MIB, 4096]);
    assert!(segments.iter().all(|desc| desc.location == "numa:0" && desc.name == desc.tcp_endpoint() && desc.node == node.id()));
    let seen = store.call(&ListSegments {}).unwrap();
    assert_eq!((seen.len(), seen[0].status), (3, SegmentStatus::Mounted));
    assert_eq!(objects_of(node.id()).len(), 3);
    assert_eq!(store.put(&"k".into(), b"v", &PutConfig::default()), Ok(Put::Stored));

    let ids: Vec<_> = segments.iter().map(|desc| desc.id).collect();
    assert_eq!(node.unmount(&ids, Duration::ZERO), [Ok(()), Ok(()), Ok(())]);
    assert_eq!(code(node.unmount(&ids[..1], Duration::ZERO).remove(0)), FaultCode::SegmentNotFound, "twice");
    assert_eq!((node.segments().len(), objects_of(node.id()).len()), (0, 0));
    assert_eq!(store.call(&ListSegments {}).unwrap(), []);
    assert_ne!(code(store.get(&"k".into())), FaultCode::ChecksumMismatch);
}

#[test]
fn a_grace_period_keeps_objects_readable_until_it_ends() {
    let cluster = Cluster::start();
    let node = cluster.node("node", 8 * MIB);
    let store = cluster.store_with(|config| config.places = 0);
    let bytes = value(3, 70_000);
    assert_eq!(store.put(&"k".into(), &bytes, &PutConfig::default()), Ok(Put::Stored));
    let id = node.segments()[0].id;
    assert_eq!(node.unmount(&[id], Duration::from_secs(1)), [Ok(())]);
    assert!(store.get(&"k".into()).unwrap() == bytes);
    assert_eq!(code(store.put(&"other".into(), b"v", &PutConfig::default())), FaultCode::NoSpace, "nothing new is placed there");
    assert_eq!(code(node.unmount(&[id], Duration::from_secs(1)).remove(0)), FaultCode::WrongState, "it is leaving already");
    eventually("the memory is freed", || objects_of(node.id()).is_empty());
    assert!(store.get(&"k".into()).is_err());
    assert!(node.segments().is_empty());
}

#[test]
fn named_shared_memory_keeps_its_contents_and_its_name() {
    let cluster = Cluster::start();
    let node = cluster.node("node", 0);
    let object = Object::new("named", 4 * MIB);
    let path = format!("/dev/shm/{}", object.0);
    std::fs::write(&path, vec![0xAB; 4 * MIB as usize]).unwrap();
    let mounted = node.mount_shm(&format!("/{}", object.0), 4096, 2 * MIB, None, "").unwrap();
    assert_eq!((mounted.len(), mounted[0].size, mounted[0].name.as_str()), (1, 2 * MIB, object.0.as_str()));
    assert!(std::fs::read(&path).unwrap().iter().all(|byte| *byte == 0xAB), "mounting changes nothing");

    assert_eq!(code(node.mount_shm(&object.0, 2 * MIB, MIB, None, "")), FaultCode::SegmentExists, "these bytes are mounted");
    let rest = node.mount_shm(&object.0, 2 * MIB + 4096, MIB, None, "").unwrap();
    let store = cluster.store();
    for n in 0..100 {
        assert_eq!(store.put(&ObjectKey::from(format!("k{n}")), &value(n, 10_000), &PutConfig::default()), Ok(Put::Stored));
    }
    std::fs::remove_file(&path).unwrap();
    for n in 0..100 {
        assert!(store.get(&ObjectKey::from(format!("k{n}"))).unwrap() == value(n, 10_000), "removed while mounted, it stays");
    }
    // What is put there from now on would not outlive the node, so it is not taken.
    let is_draining = |segments: Vec<SegmentState>| segments.iter().all(|s| s.status == SegmentStatus::Draining);
    eventually("the node notices", || is_draining(store.call(&ListSegments {}).unwrap()));
    assert_eq!(code(store.put(&"late".into(), b"v", &PutConfig::default())), FaultCode::NoSpace);
    assert_eq!(node.unmount(&[mounted[0].id, rest[0].id], Duration::ZERO), [Ok(()), Ok(())]);
}

#[test]
fn shared_memory_that_cannot_be_lent_is_refused() {
    let cluster = Cluster::start();
    let node = cluster.node("node", 4 * MIB);
    let object = Object::new("refused", MIB);
    let mount = |name: &str, offset, size| code(node.mount_shm(name, offset, size, None, ""));
    for name in ["", ".", "..", "../etc/passwd", "a/b", "//x", "nul\0"] {
        assert_eq!(mount(name, 0, 4096), FaultCode::InvalidParams, "{name:?}");
    }
    assert_eq!(mount("perilune-test-missing", 0, 4096), FaultCode::SegmentNotFound);
    assert_eq!(mount(&object.0, 0, MIB + 1), FaultCode::InvalidParams, "too short");
    assert_eq!(mount(&object.0, MIB, 1), FaultCode::InvalidParams, "behind its end");
    assert_eq!(mount(&object.0, 100, 4096), FaultCode::InvalidParams, "not on a page");
    assert_eq!(mount(&object.0, 0, 0), FaultCode::InvalidParams);
    assert_eq!(mount(&object.0, u64::MAX - 4095, u64::MAX), FaultCode::InvalidParams);
    let own = objects_of(node.id())[0].file_name().unwrap().to_str().unwrap().to_owned();
    assert_eq!(mount(&own, 0, 4096), FaultCode::InvalidParams, "a node's own memory");
    assert_eq!(code(node.mount(0, None, "")), FaultCode::InvalidParams);
    assert_eq!(code(node.mount(1 << 46, None, "")), FaultCode::InvalidParams, "more than this machine has");
    assert_eq!(code(node.mount(u64::MAX, None, "")), FaultCode::InvalidParams);
    assert_eq!(node.segments().len(), 1, "nothing was lent in between");
}

#[test]
fn a_node_that_cannot_start_says_why() {
    let cluster = Cluster::start();
    let config = cluster.node_config("node", 4 * MIB);
    let node = cluster.node_with(config.clone());
    let fault = StoreNode::start(config.clone()).err().unwrap();
    assert!(fault.message.contains("another store node uses"), "{fault}");

    let other = |change: fn(&mut perilune_client::NodeConfig)| {
        let mut config = cluster.node_config("other", 0);
        change(&mut config);
        StoreNode::start(config).err().unwrap()
    };
    let mut taken = cluster.node_config("other", 0);
    taken.rest = node.rest_addr();
    let fault = StoreNode::start(taken).err().unwrap();
    assert!(fault.message.contains(&node.rest_addr().unwrap().to_string()), "{fault}");
    assert_eq!(other(|config| config.listen = ([0, 0, 0, 0], 0).into()).code, FaultCode::Forbidden);
    assert_eq!(other(|config| config.rest = Some(([0, 0, 0, 0], 0).into())).code, FaultCode::Forbidden);
    assert_eq!(other(|config| config.max_registration = 4095).code, FaultCode::InvalidParams);
    assert_eq!(other(|config| config.masters.clear()).code, FaultCode::InvalidParams);
    assert_eq!(other(|config| config.data_dir = "/proc/nowhere".into()).code, FaultCode::Storage);

    node.stop();
    let path = config.data_dir.join("node.json");
    let good = std::fs::read_to_string(&path).unwrap();
    for (bad, word) in [(good.replace("\"version\": 1", "\"version\": 7"), "version 7"), (good[..good.len() / 2].to_owned(), "damaged")] {
        std::fs::write(&path, bad).unwrap();
        let fault = StoreNode::start(config.clone()).err().unwrap();
        assert!(fault.code == FaultCode::Storage && fault.message.contains(word), "{fault}");
    }
    std::fs::write(&path, good).unwrap();
    assert_eq!(cluster.node_with(config).segments().len(), 1);
}
