//! `perilune dev` over RDMA: values of many sizes, foreign memory, a trace, and the figures that prove which way the bytes went.

use crate::harness::{Dev, fetch, metric, moved, said};
use serde_json::{Value, json};
use std::path::PathBuf;

/// The deadline is for emulated guests.
const BY_RDMA: [&str; 4] = ["--transports", "rdma", "--deadline", "60s"];

/// Bytes that differ from place to place.
fn value(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(len).collect()
}

/// Neither TCP nor shared memory was used to reach this node, or by it. What peers do by shared memory no node sees; those of these
/// tests may not.
fn nothing_went_another_way(dev: &Dev) {
    let page = fetch(&dev.rest, "/metrics/node");
    assert_eq!(moved(&page, "tcp", "served"), Some(0), "{page}");
    for transport in ["tcp", "shm"] {
        assert!(moved(&page, transport, "asked").is_none_or(|bytes| bytes == 0), "{transport}: {page}");
    }
}

/// Packets that all devices sent, by their own count; one carries at most 4096 bytes. Soft-RoCE has this count, not every device.
fn packets_sent() -> u64 {
    let devices = std::fs::read_dir("/sys/class/infiniband").unwrap().map(|device| device.unwrap().path());
    let counts = devices.map(|device| std::fs::read_to_string(device.join("ports/1/hw_counters/sent_pkts")).unwrap());
    counts.map(|count| count.trim().parse::<u64>().unwrap()).sum()
}

fn put(dev: &Dev, key: &str, bytes: &[u8], file: &std::path::Path) {
    std::fs::write(file, bytes).unwrap();
    let output = dev.run(&[&["put", key, file.to_str().unwrap()], &BY_RDMA[..]].concat());
    assert!(output.status.success(), "{key}: {}", said(&output));
}

fn assert_reads(dev: &Dev, key: &str, bytes: &[u8]) {
    let output = dev.run(&[&["get", key], &BY_RDMA[..]].concat());
    assert!(output.status.success(), "{key}: {}", said(&output));
    assert!(output.stdout == bytes, "{key}: {} bytes came, other than were put", output.stdout.len());
}

#[test]
#[ignore = "needs an RDMA device: scripts/rxe-vm"]
fn values_of_many_sizes_come_back_and_went_by_rdma() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start_with(dir.path(), &["--protocol", "rdma", "--segment-size", "128MiB", "--transports", "rdma"]);
    let status: Value = serde_json::from_str(&fetch(&dev.http, "/transports")).unwrap();
    assert_eq!((&status["transports"], &status["rdma"]["reason"]), (&json!(["shm", "rdma", "tcp"]), &Value::Null), "{status}");

    let before = packets_sent();
    // Around a page, around the stripes and work requests of a transfer, and beyond the largest message of a device.
    let sizes = [1, 63, 4095, 4096, 65_537, (1 << 20) + 1, 9 << 20];
    for size in sizes {
        let bytes = value(size as u64, size);
        put(&dev, &format!("size/{size}"), &bytes, &dir.path().join("value"));
        assert_reads(&dev, &format!("size/{size}"), &bytes);
    }

    // The node's own client, behind REST, in the process whose figures can be asked for.
    for size in sizes {
        let mut reply = ureq::get(format!("http://{}/api/get/size/{size}", dev.rest)).call().unwrap();
        let bytes = reply.body_mut().with_config().limit(1 << 30).read_to_vec().unwrap();
        assert!(bytes == value(size as u64, size), "{size} bytes by REST");
    }
    let page = fetch(&dev.rest, "/metrics/node");
    assert_eq!(moved(&page, "rdma", "asked"), Some(sizes.iter().sum::<usize>() as u64), "{page}");
    let moved = 3 * sizes.iter().sum::<usize>() as u64;
    assert!((packets_sent() - before) * 4096 >= moved, "the devices sent {} packets for {moved} bytes", packets_sent() - before);
    for name in ["doorbells", "work_requests", "completions", "rails_connected"] {
        assert!(metric(&page, &format!("perilune_transfer_rdma_{name}_total")) > Some(0), "{name}: {page}");
    }
    nothing_went_another_way(&dev);
}

/// An object in `/dev/shm` that is removed with the value.
struct Object(String);

impl Object {
    fn new(name: &str, size: u64) -> Self {
        let name = format!("perilune-test-{}-{name}", std::process::id());
        std::fs::File::create(Self::path(&name)).unwrap().set_len(size).unwrap();
        Self(name)
    }

    fn path(name: &str) -> PathBuf {
        PathBuf::from("/dev/shm").join(name)
    }

    fn contains(&self, bytes: &[u8]) -> bool {
        std::fs::read(Self::path(&self.0)).unwrap().windows(bytes.len()).any(|here| here == bytes)
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(Self::path(&self.0));
    }
}

fn ask(dev: &Dev, path: &str, question: &Value) -> Value {
    ureq::post(format!("http://{}{path}", dev.rest)).send_json(question).unwrap().body_mut().read_json().unwrap()
}

#[test]
#[ignore = "needs an RDMA device: scripts/rxe-vm"]
fn memory_of_others_is_mounted_for_rdma_on_a_node_that_was_started_for_tcp() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start_with(dir.path(), &["--segment-size", "8MiB"]);
    let file = dir.path().join("value");
    std::fs::write(&file, b"not for RDMA").unwrap();
    let refused = dev.run(&["put", "early", file.to_str().unwrap(), "--transports", "rdma"]);
    assert_eq!(refused.status.code(), Some(1), "the only segment is not lent for RDMA: {}", said(&refused));
    let own = dev.json(&["segments"])[0]["segment_id"].clone();
    ask(&dev, "/api/unmount", &json!({ "segment_ids": [own] }));

    let object = Object::new("foreign", 8 << 20);
    let mounted = ask(&dev, "/api/mount_shm", &json!({ "name": object.0, "size": 8 << 20, "protocol": "rdma" }));
    assert_eq!(mounted["status"], "success", "{mounted}");
    assert_eq!(dev.json(&["segments"])[0]["protocol"], "rdma");
    let bytes = value(1, 300_000);
    put(&dev, "foreign", &bytes, &file);
    assert_reads(&dev, "foreign", &bytes);
    assert!(object.contains(&bytes[..1000]), "the bytes lie in the memory that was mounted");
    nothing_went_another_way(&dev);

    let unmounted = ask(&dev, "/api/unmount_shm", &json!({ "segment_ids": mounted["segment_ids"] }));
    assert_eq!(unmounted["status"], "success", "{unmounted}");
    assert!(object.contains(&bytes[..1000]), "the memory keeps its contents");
    let again = ask(&dev, "/api/mount_shm", &json!({ "name": object.0, "size": 8 << 20, "protocol": "rdma" }));
    assert_eq!(again["status"], "success", "registered anew: {again}");
}

#[test]
#[ignore = "needs an RDMA device: scripts/rxe-vm"]
fn a_part_of_a_trace_is_replayed_with_every_byte_verified() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start_with(dir.path(), &["--protocol", "rdma", "--segment-size", "64MiB"]);
    let replay = ["replay", "--generate", "2000", "--limit-requests", "12", "--block-size", "64KiB", "--verify-all"];
    let report = &dev.json(&[&replay, &BY_RDMA[..]].concat())[0];
    assert_eq!((&report["wrong"], &report["check"]["unreadable"]), (&0.into(), &0.into()), "{report}");
    assert!(report["check"]["verified"].as_u64() > Some(100), "{report}");
    nothing_went_another_way(&dev);
}
