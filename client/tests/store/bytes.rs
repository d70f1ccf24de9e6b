//! What is put comes back, and nothing else.

use crate::cluster::{Cluster, MIB, value};
use perilune_client::protocol::{FaultCode, ObjectKey, PutConfig};
use perilune_client::{Put, Store};

const SIZES: [usize; 8] = [1, 7, 4095, 4096, 65_539, 1 << 20, (1 << 20) + 1, 5 << 20];

fn upsert() -> PutConfig {
    PutConfig { upsert: true, ..PutConfig::default() }
}

fn items() -> Vec<(ObjectKey, Vec<u8>)> {
    SIZES.iter().map(|size| (ObjectKey::from(format!("size/{size}")), value(*size as u64, *size))).collect()
}

fn check_all(store: &Store, items: &[(ObjectKey, Vec<u8>)]) {
    for (key, value) in items {
        assert!(store.get(key).unwrap() == *value, "{key}");
        assert_eq!(store.size(key), Ok(value.len() as u64));
        let mut into = vec![0xEE; value.len() + 3];
        assert_eq!(store.get_into(key, &mut into), Ok(value.len()));
        assert!(into[..value.len()] == *value && into[value.len()..] == [0xEE; 3], "{key}: what is beyond the value stays");
        if value.len() > 1 {
            assert_eq!(store.get_into(key, &mut vec![0; value.len() - 1]).unwrap_err().code, FaultCode::InvalidParams);
        }
    }
}

#[test]
fn values_of_every_size_come_back() {
    let cluster = Cluster::start();
    let _node = cluster.node("node", 64 * MIB);
    let (writer, reader) = (cluster.store(), cluster.store());
    let items = items();
    for (key, value) in &items {
        assert_eq!(writer.put(key, value, &PutConfig::default()), Ok(Put::Stored), "{key}");
    }
    check_all(&writer, &items);
    check_all(&reader, &items);
    // The second time, the places are remembered.
    check_all(&reader, &items);
}

#[test]
fn batches_answer_in_order_and_misses_harm_nobody() {
    let cluster = Cluster::start();
    let _node = cluster.node("node", 64 * MIB);
    let store = cluster.store();
    let items = items();
    let batch: Vec<(ObjectKey, &[u8])> = items.iter().map(|(key, value)| (key.clone(), value.as_slice())).collect();
    assert!(store.put_batch(&batch, &PutConfig::default()).iter().all(|put| *put == Ok(Put::Stored)));
    assert!(store.put_batch(&batch, &PutConfig::default()).iter().all(|put| *put == Ok(Put::Existed)));
    check_all(&store, &items);

    let keys: Vec<ObjectKey> = items.iter().flat_map(|(key, _)| [key.clone(), ObjectKey::from(format!("no {key}"))]).collect();
    let got = store.get_batch(&keys);
    for (nth, (_, value)) in items.iter().enumerate() {
        assert!(got[2 * nth].as_ref().unwrap() == value);
        assert_eq!(got[2 * nth + 1].as_ref().unwrap_err().code, FaultCode::ObjectNotFound);
    }
    let known: Vec<bool> = (0..keys.len()).map(|nth| nth % 2 == 0).collect();
    assert_eq!(store.exists(&keys), Ok(known));
    assert_eq!(store.match_prefix(&keys), Ok(1));
    let chain: Vec<ObjectKey> = items.iter().map(|(key, _)| key.clone()).chain(["end".into()]).collect();
    assert_eq!(store.match_prefix(&chain), Ok(items.len() as u64));

    let mut buffers: Vec<Vec<u8>> = items.iter().map(|(_, value)| vec![0; value.len()]).collect();
    let mut into: Vec<(ObjectKey, &mut [u8])> =
        items.iter().zip(&mut buffers).map(|((key, _), b)| (key.clone(), b.as_mut_slice())).collect();
    assert_eq!(store.get_batch_into(&mut into), SIZES.map(Ok));
    assert!(items.iter().zip(&buffers).all(|((_, value), buffer)| value == buffer));
    assert_eq!(store.get_batch(&[]), []);
    assert_eq!(store.put_batch(&[], &PutConfig::default()), []);
}

#[test]
fn more_keys_than_one_question_holds() {
    let cluster = Cluster::start();
    let _node = cluster.node("node", 256 * MIB);
    let store = cluster.store();
    let keys: Vec<ObjectKey> = (0..20_000).map(|n| ObjectKey::from(format!("many/{n}"))).collect();
    let values: Vec<[u8; 8]> = (0..20_000u64).map(u64::to_le_bytes).collect();
    let items: Vec<(ObjectKey, &[u8])> = keys.iter().cloned().zip(values.iter().map(<[u8; 8]>::as_slice)).collect();
    assert!(store.put_batch(&items, &PutConfig::default()).iter().all(|put| *put == Ok(Put::Stored)));
    let got = store.get_batch(&keys);
    assert!(got.iter().zip(&values).all(|(got, value)| got.as_ref().unwrap() == value));
    assert_eq!(store.match_prefix(&keys), Ok(20_000));
}

#[test]
fn an_existing_key_keeps_its_value_unless_upserted() {
    let cluster = Cluster::start();
    let _node = cluster.node("node", 16 * MIB);
    let (store, other) = (cluster.store(), cluster.store_with(|config| config.places = 0));
    let key = ObjectKey::from("k");
    assert_eq!(store.put(&key, b"first", &PutConfig::default()), Ok(Put::Stored));
    assert_eq!(store.put(&key, b"second", &PutConfig::default()), Ok(Put::Existed));
    assert_eq!(store.get(&key).unwrap(), b"first");
    assert_eq!(store.put(&key, b"second, longer", &upsert()), Ok(Put::Stored));
    assert_eq!(store.get(&key).unwrap(), b"second, longer", "a client sees its own upsert at once");
    assert_eq!(other.get(&key).unwrap(), b"second, longer");
    // Another client's remembered place still holds the version it was granted.
    assert_eq!(other.put(&key, b"third", &upsert()), Ok(Put::Stored));
    assert_eq!(store.get(&key).unwrap(), b"second, longer");
    assert_eq!(cluster.store().get(&key).unwrap(), b"third");
}

#[test]
fn readers_see_whole_versions_while_writers_replace_them() {
    const VERSIONS: u64 = 60;
    let cluster = Cluster::start_with(|config| config.lease = std::time::Duration::from_millis(300));
    let _node = cluster.node("node", 256 * MIB);
    let keys: Vec<ObjectKey> = (0..4).map(|n| ObjectKey::from(format!("hot/{n}"))).collect();
    let size_of = |version: u64| 1000 + version as usize * 997;
    let store = cluster.store();
    for key in &keys {
        assert_eq!(store.put(key, &value(0, size_of(0)), &PutConfig::default()), Ok(Put::Stored));
    }
    std::thread::scope(|scope| {
        for key in &keys {
            let (writer, reader) = (cluster.store(), cluster.store());
            scope.spawn(move || {
                for version in 1..VERSIONS {
                    assert_eq!(writer.put(key, &value(version, size_of(version)), &upsert()), Ok(Put::Stored));
                }
            });
            scope.spawn(move || {
                let mut seen = 0;
                while seen < VERSIONS - 1 {
                    let got = reader.get(key).unwrap();
                    let version = (got.len() as u64 - 1000) / 997;
                    assert!(got == value(version, size_of(version)), "a torn value");
                    assert!(version >= seen, "{version} after {seen}");
                    seen = version;
                }
            });
        }
    });
}

#[test]
fn a_leased_object_is_removed_only_by_force() {
    let cluster = Cluster::start();
    let _node = cluster.node("node", 16 * MIB);
    let (store, other) = (cluster.store(), cluster.store());
    let key = [ObjectKey::from("k")];
    store.put(&key[0], b"value", &PutConfig::default()).unwrap();
    assert_eq!(other.get(&key[0]).unwrap(), b"value");
    assert_eq!(store.remove(&key, false)[0].as_ref().unwrap_err().code, FaultCode::ObjectLeased);
    assert_eq!(store.remove(&key, true), [Ok(())]);
    assert_eq!(store.get(&key[0]).unwrap_err().code, FaultCode::ObjectNotFound);
    assert_eq!(store.remove(&key, true)[0].as_ref().unwrap_err().code, FaultCode::ObjectNotFound);
    assert_eq!(other.get(&key[0]).unwrap(), b"value", "who holds a lease keeps the bytes until it ends");
    for n in 0..10 {
        store.put(&ObjectKey::from(format!("{}/{n}", if n < 4 { "a" } else { "b" })), b"v", &PutConfig::default()).unwrap();
    }
    assert_eq!(store.remove_matching("^a/", false), Ok(4));
    assert_eq!(store.remove_matching("(", false).unwrap_err().code, FaultCode::InvalidParams);
    assert_eq!(store.remove_matching("", true), Ok(6));
}

#[test]
fn a_key_that_is_put_twice_in_one_batch_keeps_one_of_the_values_whole() {
    let cluster = Cluster::start();
    let _node = cluster.node("node", 16 * MIB);
    let store = cluster.store();
    let (first, second, other) = (vec![1; 5000], vec![2; 5000], vec![3; 5000]);
    let items: [(ObjectKey, &[u8]); 4] = [("k".into(), &first), ("other".into(), &other), ("k".into(), &second), ("k".into(), &first)];
    for (config, expected) in [(PutConfig::default(), Put::Existed), (upsert(), Put::Stored)] {
        let outcomes = store.put_batch(&items, &config);
        assert_eq!(outcomes[2], Ok(expected), "the second value");
        assert_eq!(store.get(&"k".into()).unwrap(), first);
        assert_eq!(store.get(&"other".into()).unwrap(), other);
    }
}
