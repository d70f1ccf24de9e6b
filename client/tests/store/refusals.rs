//! Bad input gets a sentence.

use crate::cluster::{Cluster, MIB};
use perilune_client::Put;
use perilune_client::protocol::rpc::segment::Describe;
use perilune_client::protocol::{FaultCode, ObjectKey, Pin, PutConfig, SegmentId};

#[test]
fn keys_and_values_have_limits() {
    let cluster = Cluster::start();
    let _node = cluster.node("node", 4 * MIB);
    let store = cluster.store();
    let put = |key: &str, value: &[u8]| store.put(&key.into(), value, &PutConfig::default());
    for (key, value, word) in [("", &b"v"[..], "empty"), (&"k".repeat(4097), b"v", "4097"), ("k", b"", "at least one byte")] {
        let fault = put(key, value).unwrap_err();
        assert!(fault.code == FaultCode::InvalidParams && fault.message.contains(word), "{fault}");
    }
    let large = vec![1; 5 * MIB as usize];
    let fault = put("large", &large).unwrap_err();
    assert!(matches!(fault.code, FaultCode::NoSpace | FaultCode::InvalidParams), "larger than any segment: {fault}");
    let none = PutConfig { replicas: 0, ..PutConfig::default() };
    assert_eq!(store.put(&"k".into(), b"v", &none).unwrap_err().code, FaultCode::InvalidParams);
    assert_eq!(put(&"k".repeat(4096), b"v"), Ok(Put::Stored));

    // One bad item leaves the others of its batch alone.
    let items: [(ObjectKey, &[u8]); 4] = [("a".into(), b"1"), ("".into(), b"2"), ("b".into(), b""), ("c".into(), b"4")];
    let puts = store.put_batch(&items, &PutConfig::default());
    assert_eq!((&puts[0], &puts[3]), (&Ok(Put::Stored), &Ok(Put::Stored)));
    assert!(puts[1].is_err() && puts[2].is_err());
    let got = store.get_batch(&["a".into(), "".into(), "c".into()]);
    assert_eq!((got[0].as_deref(), got[2].as_deref()), (Ok(&b"1"[..]), Ok(&b"4"[..])));
    assert_eq!(got[1].as_ref().unwrap_err().code, FaultCode::InvalidParams);
    let unknown = store.call(&Describe { segments: vec![SegmentId::random()] }).unwrap();
    assert_eq!(unknown[0].as_ref().unwrap_err().code, FaultCode::SegmentNotFound);
}

#[test]
fn a_full_store_of_pinned_objects_says_so() {
    let cluster = Cluster::start();
    let _node = cluster.node("node", 4 * MIB);
    let store = cluster.store();
    let pinned = PutConfig { pin: Pin::Hard, ..PutConfig::default() };
    let value = vec![1; MIB as usize / 2];
    let fault = (0..20).find_map(|n| store.put(&ObjectKey::from(format!("k{n}")), &value, &pinned).err()).expect("4 MiB fill up");
    assert_eq!(fault.code, FaultCode::NoSpace, "{fault}");
    assert!(store.get(&"k0".into()).unwrap() == value);
}
