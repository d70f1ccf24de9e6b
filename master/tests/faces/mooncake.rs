//! Every endpoint of Mooncake's admin: the document's examples, the transcripts' shapes, and bad input.

use crate::engine::{Served, Small};
use crate::http;
use perilune_protocol::{NodeId, SegmentId, SegmentStatus};
use serde_json::json;
use std::io::Write;

const TEXT: &str = "text/plain; version=0.0.4";
const JSON: &str = "application/json; charset=utf-8";

/// The objects of the transcripts: `k1`, `k"q` and `a/b c` on one segment of 64 MiB.
fn transcript(engine: &Small) -> SegmentId {
    let segment = engine.mount("127.0.0.1:17400", 0x7fc7_4600_0000, 64 << 20, 9);
    engine.put("k1", &[(segment, &[(0, 5)])]);
    engine.put("a/b c", &[(segment, &[(5, 3)])]);
    engine.put("k\"q", &[(segment, &[(8, 1)])]);
    segment
}

#[test]
fn query_key_serves_both_kinds_of_readers() {
    let served = Served::start();
    transcript(&served.engine);
    let reply = served.get("/query_key?key=k1");
    assert_eq!((reply.status, reply.header("content-type")), (200, TEXT));
    let buffer = json!({"size_": 5, "buffer_address_": 0x7fc7_4600_0000_u64, "protocol_": "tcp", "transport_endpoint_": "127.0.0.1:17400"});
    assert_eq!(
        reply.json(),
        json!({"success": true, "data": [buffer], "transport_endpoint_": "127.0.0.1:17400", "buffer_descriptors": [buffer]})
    );
    assert_eq!(*served.engine.leased.lock().unwrap(), ["k1".into()], "a query grants a lease");
}

#[test]
fn query_key_lists_every_extent_of_every_replica() {
    let served = Served::start();
    let (a, b) = (served.engine.mount("a", 0x1000, 4096, 0), served.engine.mount("b", 0x9000, 4096, 0));
    served.engine.put("big", &[(a, &[(0, 10), (100, 20)]), (b, &[(7, 30)])]);
    served.engine.put("gone", &[(SegmentId::random(), &[(0, 10)])]);
    let reply = served.get("/query_key?key=big").json();
    let addresses = |list: &serde_json::Value| -> Vec<u64> {
        list.as_array().unwrap().iter().map(|buffer| buffer["buffer_address_"].as_u64().unwrap()).collect()
    };
    assert_eq!(addresses(&reply["data"]), [0x1000, 0x1000 + 100, 0x9000 + 7]);
    assert_eq!(addresses(&reply["buffer_descriptors"]), [0x1000, 0x1000 + 100]);
    let reply = served.get("/query_key?key=gone");
    assert_eq!((reply.status, reply.json()["error_code"].as_i64()), (503, Some(-703)));
}

#[test]
fn keys_are_found_however_they_are_written() {
    let served = Served::start();
    transcript(&served.engine);
    let segment = served.engine.mount("s", 0, 4096, 0);
    for key in ["a+b", "100%", "%41", "x=y&z", "ключ"] {
        served.engine.put(key, &[(segment, &[(0, 1)])]);
    }
    for path in [
        "a%2Fb%20c",
        "a/b+c",
        "a/b%20c",
        "k%22q",
        "a+b",
        "a%2Bb",
        "100%",
        "100%25",
        "%2541",
        "%41",
        "x%3Dy%26z",
        "%D0%BA%D0%BB%D1%8E%D1%87",
    ] {
        let reply = served.get(&format!("/query_key?key={path}"));
        assert_eq!(reply.status, 200, "{path}: {}", reply.body);
    }
}

#[test]
fn query_key_says_what_is_wrong() {
    let served = Served::start();
    let reply = served.get("/query_key?key=nope");
    assert_eq!((reply.status, reply.header("content-type")), (404, JSON));
    assert_eq!(
        reply.json(),
        json!({"success": false, "error_code": -704, "error_message": "OBJECT_NOT_FOUND", "message": "there is no object `nope`"})
    );
    for (path, says) in [
        ("/query_key", "Missing key"),
        ("/query_key?key=", "the key is empty"),
        (&*format!("/query_key?key={}", "k".repeat(4097)), "4097 bytes"),
    ] {
        let reply = served.get(path);
        assert_eq!((reply.status, reply.json()["error_code"].as_i64()), (400, Some(-600)), "{}", reply.body);
        assert!(reply.json()["error_message"].as_str().unwrap().contains(says), "{}", reply.body);
    }
    let reply = served.get("/query_key?key=k&tenant_id=other");
    assert_eq!((reply.status, reply.json()["error_code"].as_i64()), (404, Some(-1495)), "{}", reply.body);
}

#[test]
fn batch_query_keys_answers_for_each_key() {
    let served = Served::start();
    transcript(&served.engine);
    let reply = served.get("/batch_query_keys?keys=k1,a%2Fb%20c,nokey,k1,");
    assert_eq!((reply.status, reply.header("content-type")), (200, JSON));
    let data = &reply.json()["data"];
    assert!(reply.body.starts_with(r#"{"success":true,"data":{"a/b c":{"ok":true,"error":null,"values":[{"size_":3,"#), "{}", reply.body);
    assert_eq!(data.as_object().unwrap().keys().collect::<Vec<_>>(), ["a/b c", "k1", "nokey"]);
    let buffer = json!({"size_": 5, "buffer_address_": 0x7fc7_4600_0000_u64, "protocol_": "tcp", "transport_endpoint_": "127.0.0.1:17400"});
    let mut value = buffer.clone();
    value["buffer_descriptor"] = buffer;
    let nulls = |ok: bool, error: serde_json::Value, values: serde_json::Value| json!({"ok": ok, "error": error, "values": values, "disk_values": null, "local_disk_values": null, "nof_values": null});
    assert_eq!(data["k1"], nulls(true, json!(null), json!([value])));
    assert_eq!(data["nokey"], nulls(false, json!("OBJECT_NOT_FOUND"), json!(null)));
    assert!(served.engine.leased.lock().unwrap().is_empty(), "a batch grants no lease");
    // Encoded as a whole, as Python's requests sends it.
    assert_eq!(served.get("/batch_query_keys?keys=k1%2Ca%2Fb+c").json()["data"]["a/b c"]["ok"], true);
    for path in ["/batch_query_keys", "/batch_query_keys?keys=", "/batch_query_keys?keys=,,"] {
        let reply = served.get(path);
        assert_eq!(reply.status, 400);
        assert_eq!(reply.body, r#"{"success":false,"error":"No keys provided. Use ?keys=key1,key2,..."}"#);
    }
}

#[test]
fn get_all_keys_writes_a_key_on_each_line() {
    let served = Served::start();
    let reply = served.get("/get_all_keys");
    assert_eq!((reply.status, &*reply.body, reply.header("content-type")), (200, "", TEXT));
    transcript(&served.engine);
    let reply = served.get("/get_all_keys");
    assert_eq!((&*reply.body, reply.header("content-length")), ("a/b c\nk\"q\nk1\n", "13"));
    served.engine.put("two\r\nlines", &[]);
    assert!(served.get("/get_all_keys").body.ends_with("\ntwo%0D%0Alines\n"));
}

#[test]
fn a_long_listing_is_whole_and_in_chunks() {
    let served = Served::start();
    for n in 0..200_000 {
        served.engine.put(format!("some/model/layer-{n:08}"), &[]);
    }
    let reply = served.get("/get_all_keys");
    assert_eq!((reply.status, reply.whole, reply.header("transfer-encoding")), (200, true, "chunked"));
    assert!(reply.body.lines().eq((0..200_000).map(|n| format!("some/model/layer-{n:08}"))));
}

#[test]
fn segments_are_listed_and_described() {
    let served = Served::start();
    assert_eq!(served.get("/get_all_segments").body, "", "nothing mounted is an empty list");
    assert_eq!(served.get("/get_segments_detail").body, r#"{"total_segments":0,"segments":[]}"#);
    let id = served.engine.mount("segment_0", 0x3_0000_0000, 16 << 30, 1 << 30);
    served.engine.mount("segment_0", 0x10, 4096, 0);
    served.engine.mount("odd name/1", 0, 0, 0);
    let node: NodeId = served.engine.segments.lock().unwrap()[0].desc.node;

    let reply = served.get("/get_all_segments");
    assert_eq!((&*reply.body, reply.header("content-type")), ("odd name/1\nsegment_0\n", TEXT));

    let reply = served.get("/query_segment?segment=segment_0");
    assert_eq!((reply.status, reply.header("content-type")), (200, TEXT));
    assert_eq!(
        reply.body,
        "segment_0\nUsed(bytes): 1073741824\nCapacity(bytes): 17179869184\nsegment_0\nUsed(bytes): 0\nCapacity(bytes): 4096\n"
    );
    assert_eq!(served.get("/query_segment?segment=odd%20name%2F1").status, 200);

    let reply = served.get("/get_segments_detail");
    assert_eq!((reply.status, reply.header("content-type")), (200, JSON));
    assert_eq!(reply.json()["total_segments"], 3);
    assert_eq!(
        reply.json()["segments"][0],
        json!({
            "segment_name": "segment_0",
            "segment_id": id.to_string(),
            "client_id": node.to_string(),
            "base_address": "0x300000000",
            "size_bytes": 17_179_869_184_u64,
            "size_human": "16 GiB",
            "te_endpoint": "127.0.0.1:17400",
            "protocol": "tcp",
            "status": "MOUNTED",
            "allocator_used_bytes": 1_073_741_824,
            "allocator_capacity_bytes": 17_179_869_184_u64,
            "allocator_usage_percent": 6.25
        })
    );
    assert_eq!(reply.json()["segments"][2]["allocator_usage_percent"], 0.0, "an empty segment is not NaN");
}

#[test]
fn segments_that_do_not_exist_are_refused() {
    let served = Served::start();
    for (path, status) in [("/query_segment?segment=nope", 404), ("/query_segment?segment=", 400), ("/query_segment", 400)] {
        let reply = served.get(path);
        assert_eq!((reply.status, reply.header("content-type")), (status, TEXT));
        assert!(reply.body.starts_with("Failed to query segment"), "{}", reply.body);
    }
    let reply = served.get("/api/v1/segments/status");
    assert_eq!((reply.status, &reply.json()["error_message"]), (400, &json!("Missing segment query parameter")));
    let reply = served.get("/api/v1/segments/status?segment=nope");
    assert_eq!((reply.status, &reply.json()["error_message"]), (404, &json!("SEGMENT_NOT_FOUND")));
}

#[test]
fn the_state_of_a_segment_shows() {
    let served = Served::start();
    served.engine.mount("s", 0, 4096, 0);
    let set = |status| served.engine.segments.lock().unwrap()[0].status = status;
    let get = || served.get("/api/v1/segments/status?segment=s").body;
    assert_eq!(get(), r#"{"success":true,"segment":"s","status":1,"status_name":"MOUNTED","error_code":0,"error_message":""}"#);
    set(SegmentStatus::Draining);
    assert_eq!(get(), r#"{"success":true,"segment":"s","status":2,"status_name":"DRAINING","error_code":0,"error_message":""}"#);
    set(SegmentStatus::Lost);
    assert!(get().contains(r#""status":0,"status_name":"LOST""#));
    assert_eq!(served.get("/get_all_segments").body, "", "a lost segment is not mounted");
}

#[test]
fn health_role_leader_and_version() {
    let served = Served::start();
    let reply = served.get("/health");
    assert_eq!((reply.status, &*reply.body, reply.header("content-type")), (200, "OK", TEXT));
    assert_eq!((served.get("/role").body, served.get("/ha_status").body), ("leader".into(), "serving".into()));
    assert_eq!(served.get("/leader").body, r#"{"present":true,"leader_address":"127.0.0.1:50051","view_version":2}"#);
    assert_eq!(served.get("/version").body, r#"{"version":"9.9.9","cluster":"small"}"#);
    *served.engine.poisoned.lock().unwrap() = Some("the disk is full".into());
    let reply = served.get("/health");
    assert_eq!(reply.status, 503);
    assert!(reply.body.contains("the disk is full"));
    // A page of somebody else learns that this one does not serve, and no more; of the rest it learns nothing.
    let page = |path: &str| {
        let mut stream = http::connect(served.addr);
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {0}\r\nOrigin: http://example.com\r\nConnection: close\r\n\r\n", served.addr).unwrap();
        http::read(stream, false)
    };
    assert_eq!((page("/health").status, page("/health").body.contains("disk")), (503, false));
    assert_eq!(page("/role").status, 403);
}

#[test]
fn remove_all_spares_leased_objects_unless_forced() {
    let served = Served::start();
    transcript(&served.engine);
    served.get("/query_key?key=k1");
    let reply = served.post("/api/v1/remove_all");
    assert_eq!((reply.status, &*reply.body, reply.header("content-type")), (200, r#"{"success":true,"removed_count":2}"#, JSON));
    assert_eq!(served.post("/api/v1/remove_all?force=maybe").status, 400);
    assert_eq!(served.post("/api/v1/remove_all?tenant_id=other").status, 404);
    assert_eq!(served.get("/get_all_keys").body, "k1\n", "refused requests removed nothing");
    assert_eq!(served.post("/api/v1/remove_all?force=true").body, r#"{"success":true,"removed_count":1}"#);
    assert_eq!(served.post("/api/v1/remove_all?tenant_id=default&force=1").body, r#"{"success":true,"removed_count":0}"#);
}

#[test]
fn what_is_not_there_is_refused_plainly() {
    let served = Served::start();
    let reply = served.get("/nothing/here");
    assert_eq!((reply.status, &*reply.body, reply.header("content-type")), (404, "404 Not Found", ""));
    for (method, path, allow) in [
        ("POST", "/health", "GET,HEAD"),
        ("DELETE", "/metrics", "GET,HEAD"),
        ("GET", "/api/v1/remove_all", "POST"),
        ("PUT", "/query_key", "GET,HEAD"),
    ] {
        let reply = http::ask(served.addr, method, path);
        assert_eq!((reply.status, &*reply.body, reply.header("allow")), (405, "405 Method Not Allowed", allow), "{method} {path}");
    }
    for path in ["/health", "/get_all_keys", "/metrics"] {
        let reply = http::ask(served.addr, "HEAD", path);
        assert_eq!((reply.status, &*reply.body, reply.header("content-type")), (200, "", TEXT), "{path}");
    }
}
