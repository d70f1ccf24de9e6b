//! Several copies: a bad one is not returned and does not matter.

use crate::cluster::{Cluster, MIB, damage, locate, value};
use perilune_client::Put;
use perilune_client::protocol::{FaultCode, ObjectKey, PutConfig};

fn copies(replicas: u8) -> PutConfig {
    PutConfig { replicas, ..PutConfig::default() }
}

#[test]
fn a_damaged_copy_is_never_returned() {
    let cluster = Cluster::start();
    let nodes = [cluster.node("a", 16 * MIB), cluster.node("b", 16 * MIB)];
    let store = cluster.store();
    let key = ObjectKey::from("precious");
    let bytes = value(7, 300_000);
    assert_eq!(store.put(&key, &bytes, &copies(2)), Ok(Put::Stored));
    let place = locate(&store, &key).unwrap();
    assert_eq!(place.replicas.len(), 2);
    let segments: Vec<_> = nodes.iter().flat_map(|node| node.segments()).collect();
    let first = segments.iter().find(|desc| desc.id == place.replicas[0].segment).unwrap();
    damage(first, &place);
    for _ in 0..4 {
        assert!(store.get(&key).unwrap() == bytes, "the other copy is right");
    }
    assert!(!store.metrics().contains("perilune_store_checksum_mismatches_total 0"), "the bad one was met and counted");
    let second = segments.iter().find(|desc| desc.id == place.replicas[1].segment).unwrap();
    damage(second, &place);
    let fault = store.get(&key).unwrap_err();
    assert_eq!(fault.code, FaultCode::ChecksumMismatch, "{fault}");
    assert!(fault.message.contains("precious"), "{fault}");
    damage(first, &place); // the same bit again: whole
    assert!(store.get(&key).unwrap() == bytes);
}

#[test]
fn copies_lie_on_different_segments_or_are_refused() {
    let cluster = Cluster::start();
    let _nodes = [cluster.node("a", 16 * MIB), cluster.node("b", 16 * MIB)];
    let store = cluster.store();
    let key = ObjectKey::from("k");
    let fault = store.put(&key, b"value", &copies(3)).unwrap_err();
    assert!(matches!(fault.code, FaultCode::NoSpace | FaultCode::InvalidParams), "{fault}");
    assert_eq!(store.get(&key).unwrap_err().code, FaultCode::ObjectNotFound);
    let effort = PutConfig { best_effort: true, ..copies(3) };
    assert_eq!(store.put(&key, b"value", &effort), Ok(Put::Stored));
    let place = locate(&store, &key).unwrap();
    assert_eq!(place.replicas.len(), 2);
    assert_ne!(place.replicas[0].segment, place.replicas[1].segment);
}

#[test]
fn a_copy_on_a_node_that_left_does_not_matter() {
    let cluster = Cluster::start();
    let (stays, leaves) = (cluster.node("a", 16 * MIB), cluster.node("b", 16 * MIB));
    let store = cluster.store();
    let items: Vec<(ObjectKey, Vec<u8>)> = (0..50).map(|n| (ObjectKey::from(format!("k{n}")), value(n, 20_000))).collect();
    let batch: Vec<(ObjectKey, &[u8])> = items.iter().map(|(key, value)| (key.clone(), value.as_slice())).collect();
    assert!(store.put_batch(&batch, &copies(2)).iter().all(|put| *put == Ok(Put::Stored)));
    let keys: Vec<ObjectKey> = items.iter().map(|(key, _)| key.clone()).collect();
    assert!(store.get_batch(&keys).iter().all(Result::is_ok), "and their places are remembered");
    leaves.stop();
    let got = store.get_batch(&keys);
    assert!(got.iter().zip(&items).all(|(got, (_, value))| got.as_ref().unwrap() == value));
    drop(stays);
}
