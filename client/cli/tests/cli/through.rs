//! Reading out of a vault without a copy in memory, with real processes and a real S3 server: some bytes of an object, and what memory has no
//! room for.

use crate::cold::{MIB, PATIENCE, Stand, change_memory, key};
use crate::harness::{Dev, run, said, wait_for};
use crate::s3d::{AK, BUCKET, S3d, SK};
use crate::tenants::node;
use crate::vaults::vaults;
use perilune_client::{Part, Put, Store, StoreConfig};
use perilune_protocol::rpc::cold::ReadThrough;
use perilune_protocol::rpc::segment::{Describe, ListSegments};
use perilune_protocol::{FaultCode, PutConfig};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::time::Duration;

const PIECE: usize = 4 * MIB;
/// More than a node has room for at a time.
const READERS: usize = 10;

fn value(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + seed * 7 + (i >> 10)) as u8).collect()
}

fn put(store: &Store, n: usize, value: &[u8]) {
    assert_eq!(store.put(&key(n), value, &PutConfig::default()), Ok(Put::Stored));
}

fn some(range: &Range<usize>) -> Range<u64> {
    range.start as u64..range.end as u64
}

/// Bytes of objects that the service was asked for.
fn asked(s3: &S3d) -> u64 {
    let ranges =
        s3.requests().into_iter().filter(|asked| asked["method"] == "GET" && asked["target"].as_str().unwrap().contains("/objects/"));
    ranges
        .map(|asked| {
            let (first, last) = asked["headers"]["range"].as_str().unwrap().strip_prefix("bytes=").unwrap().split_once('-').unwrap();
            last.parse::<u64>().unwrap() + 1 - first.parse::<u64>().unwrap()
        })
        .sum()
}

/// The head of an answer and its body.
fn rest(stand: &Stand, range: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(&stand.dev.rest).unwrap();
    write!(stream, "GET /api/get/model/block%200 HTTP/1.1\r\nHost: x\r\nRange: {range}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    (String::from_utf8(answer[..end].to_vec()).unwrap().to_lowercase(), answer[end..].to_vec())
}

#[test]
fn some_bytes_of_an_object_take_their_pieces_alone() {
    let stand = Stand::start(Some(S3d::start()), &["--segment-size", "64MiB"]);
    let s3 = stand.s3.as_ref().unwrap();
    let whole = value(0, 5 * PIECE + 1000);
    put(&stand.store, 0, &whole);
    let get = |range: Range<usize>| stand.store.get_range(&key(0), some(&range));
    let ranges = [0..1, PIECE - 5..PIECE + 5, 2 * PIECE..3 * PIECE, whole.len() - 1..whole.len(), 7..whole.len() + 100];
    let check = || {
        for range in &ranges {
            let bytes = whole[range.start..range.end.min(whole.len())].to_vec();
            assert!(get(range.clone()) == Ok(Part { bytes, size: whole.len() as u64 }), "{range:?}");
        }
        assert_eq!(get(whole.len()..whole.len() + 1).unwrap_err().code, FaultCode::InvalidParams);
    };
    check();
    assert_eq!(stand.offload()["left"], 0);
    stand.change_memory(64 * MIB);
    check();

    s3.say("requests forget");
    assert!(get(2 * PIECE + 9..2 * PIECE + 1009).unwrap().bytes == whole[2 * PIECE + 9..2 * PIECE + 1009]);
    let bytes = asked(s3);
    assert!((PIECE..PIECE + 4096).contains(&(bytes as usize)), "{bytes} bytes were asked for");
    let (head, body) = rest(&stand, "bytes=-1000");
    let told = format!("content-range: bytes {}-{}/{}\r\n", whole.len() - 1000, whole.len() - 1, whole.len());
    assert!(head.starts_with("http/1.1 206") && head.contains(&told) && body == whole[whole.len() - 1000..], "{head}");
    let (head, _) = rest(&stand, &format!("bytes={}-", whole.len()));
    assert!(head.starts_with("http/1.1 416") && head.contains(&format!("content-range: bytes */{}\r\n", whole.len())), "{head}");
    assert_eq!((stand.metric("recalled_total"), stand.offload()["cold"].as_u64()), (0, Some(1)), "nothing came to memory");

    // What was altered elsewhere does not matter; what is asked for is not given out.
    let upload = stand.uploads().remove(0);
    let mut stored = fs::read(&upload).unwrap();
    stored[64 + 3 * PIECE + 5] ^= 1;
    fs::write(&upload, stored).unwrap();
    assert!(get(PIECE..PIECE + 10).unwrap().bytes == whole[PIECE..PIECE + 10]);
    assert_eq!(get(3 * PIECE..3 * PIECE + 1).unwrap_err().code, FaultCode::ObjectNotFound);
    assert_eq!(stand.metric("cold_lost_total"), 1);
}

#[test]
fn what_memory_has_no_room_for_is_read_through_a_node() {
    let stand = Stand::start(Some(S3d::start()), &["--segment-size", "64MiB"]);
    let s3 = stand.s3.as_ref().unwrap();
    let (large, small) = (value(1, 12 * MIB + 3), value(2, MIB / 2));
    put(&stand.store, 1, &large);
    put(&stand.store, 2, &small);
    assert_eq!(stand.offload()["left"], 0);
    // Larger than all memory. Several readers share what a node has for it.
    stand.change_memory(8 * MIB);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(|| stand.store.get(&key(1)))).collect();
        readers.into_iter().for_each(|reader| assert!(reader.join().unwrap().unwrap() == large));
    });
    assert_eq!((stand.metric("recalled_total"), stand.metric("read_through_bytes_total")), (0, (READERS * large.len()) as u64));
    // Who can be told of memory alone is to ask again.
    let query = |n: usize| crate::tenants::send("GET", &format!("http://{}/query_key?key=model/block%20{n}", stand.dev.http), "");
    let (status, told) = query(1);
    assert!(status == 503 && told.contains("ask again") && told.contains("/api/get"), "{status} {told}");
    let mut into = vec![0; large.len() + 7];
    assert_eq!(stand.store.get_into(&key(1), &mut into), Ok(large.len()));
    assert!(into[..large.len()] == large);

    // Memory is full of what cannot leave, since nothing can be brought to the vault.
    s3.say("fault refuse 403 1000000 PUT");
    let strict = serde_json::json!({ "key": "write_back", "value": "strict" }).to_string();
    assert_eq!(crate::tenants::send("POST", &format!("http://{}/config/set", stand.dev.http), &strict).0, 200);
    let full = (100..).find_map(|n| stand.store.put(&key(n), &value(n, MIB / 2), &PutConfig::default()).err()).unwrap();
    assert_eq!(full.code, FaultCode::NoSpace, "{full}");
    assert!(stand.store.get(&key(2)).unwrap() == small);
    assert_eq!((stand.metric("recalled_total"), query(2).0), (0, 503));
    // There is room again: it comes to memory.
    s3.say("faults off");
    assert_eq!(stand.offload()["left"], 0);
    assert_eq!((query(2).0, stand.metric("recalled_total")), (200, 1));
    assert!(stand.store.get(&key(2)).unwrap() == small);
}

fn of_acme(dev: &Dev) -> Store {
    Store::connect(StoreConfig { masters: vec![dev.rpc.clone()], tenant: "acme".into(), deadline: PATIENCE, ..StoreConfig::default() })
        .unwrap()
}

#[test]
fn tenants_read_through_their_own_nodes_out_of_their_own_vaults() {
    let stand = Stand::start(Some(S3d::start()), &["--segment-size", "64MiB"]);
    let (dev, s3) = (&stand.dev, stand.s3.as_ref().unwrap());
    assert!(run(["tenants", "create", "acme", "--http", &dev.http]).status.success());
    let added = vaults(dev, SK, &["add", "acme", "own", "--bucket", BUCKET, "--endpoint", s3.url(), "--prefix", "acme", "--ak", AK]);
    assert!(added.status.success(), "{}", said(&added));
    let first = node(dev, stand.dir.path(), "acme");
    let acme = of_acme(dev);
    let (ours, theirs) = (value(1, MIB), value(2, MIB));
    put(&stand.store, 0, &ours);
    put(&acme, 0, &theirs);
    put(&stand.store, 1, &ours);
    assert_eq!(stand.offload()["left"], 0);
    let saved = dev.run(&["offload", "--tenant", "acme", "--deadline", "60s"]);
    assert!(saved.status.success(), "{}", said(&saved));
    let all: Vec<_> = stand.store.call(&ListSegments {}).unwrap().into_iter().map(|segment| segment.desc.id).collect();
    let described = acme.call(&Describe { segments: all.clone() }).unwrap();
    for (id, its) in all.iter().zip(described) {
        let rest = if its.is_ok() { &first.rest } else { &dev.rest };
        change_memory(rest, vec![id.to_string()], 64 * MIB);
    }
    let part = |store: &Store| store.get_range(&key(0), 1000..2000).unwrap().bytes;
    assert!(part(&stand.store) == ours[1000..2000] && part(&acme) == theirs[1000..2000]);
    let through = |store: &Store| store.call(&ReadThrough { key: key(1), offset: 0, len: 10, taken: 0, wait_ms: 5000 });
    assert_eq!(through(&stand.store).unwrap().passed.extent.len, 10);
    assert_eq!(through(&acme).unwrap_err().code, FaultCode::ObjectNotFound);
    // Each tenant's bytes were in the memory of a node of its own.
    let nodes = |store: &Store, n| {
        let question = ReadThrough { key: key(n), offset: 0, len: 10, taken: 0, wait_ms: 5000 };
        store.call(&question).unwrap().passed.segment.node
    };
    assert_ne!(nodes(&stand.store, 0), nodes(&acme, 0));

    // Over its budget it has no fresh memory, and reads what it has: its machine began anew.
    assert!(run(["tenants", "overdue", "acme", "--http", &dev.http]).status.success());
    drop(first);
    let fresh = tempfile::tempdir().unwrap();
    let _again = node(dev, fresh.path(), "acme");
    assert!(acme.get(&key(0)).unwrap() == theirs && part(&acme) == theirs[1000..2000]);
    assert_eq!(acme.put(&key(2), b"more", &PutConfig::default()).unwrap_err().code, FaultCode::TenantOverdue);
}

#[test]
fn objects_of_one_batch_are_read_through_a_node_together() {
    let stand = Stand::start(Some(S3d::start()), &["--segment-size", "64MiB"]);
    let s3 = stand.s3.as_ref().unwrap();
    // Larger than the memory that is to come, and each of two stretches.
    let values: Vec<_> = (0..3).map(|n| value(n, 9 * MIB + n)).collect();
    let keys: Vec<_> = (0..3).map(key).collect();
    (0..3).for_each(|n| put(&stand.store, n, &values[n]));
    assert_eq!(stand.offload()["left"], 0);
    stand.change_memory(8 * MIB);
    for (got, value) in stand.store.get_batch(&keys).into_iter().zip(&values) {
        assert!(got.unwrap() == *value);
    }
    assert_eq!((stand.metric("recalled_total"), stand.metric("read_through_bytes_total")), (0, 3 * 9 * MIB as u64 + 3));

    // Nothing is answered any more, so what is asked for is all that is on its way at a time: two requests for each stretch.
    const FAULTS: u64 = 1000;
    s3.say(&format!("fault slow 600000 {FAULTS} GET /cold/kv/objects"));
    let hasty = crate::cold::connect(&stand.dev, Duration::from_secs(5));
    std::thread::scope(|scope| {
        let batch = scope.spawn(|| hasty.get_batch(&keys));
        wait_for("four stretches to be asked for", || (s3.say("faults").trim().parse::<u64>().unwrap() <= FAULTS - 8).then_some(()));
        assert!(batch.join().unwrap().iter().all(Result::is_err));
    });
}
