//! Mount and unmount.

use crate::cluster::{Cluster, MIB, Object, eventually, objects_of};
use crate::http::{Reply, send};
use perilune_client::StoreNode;
use perilune_client::protocol::SegmentId;
use serde_json::{Value, json};

fn post(node: &StoreNode, path: &str, body: &str) -> Reply {
    send(node.rest_addr().unwrap(), "POST", path, body.as_bytes())
}

fn ids(reply: &Reply) -> Vec<String> {
    assert_eq!(reply.status, 200, "{}", reply.text());
    let ids: Vec<String> = serde_json::from_value(reply.json()["segment_ids"].clone()).unwrap();
    assert!(!ids.is_empty() && ids.iter().all(|id| id.parse::<SegmentId>().is_ok()));
    ids
}

#[test]
fn the_requests_of_the_document_work_verbatim() {
    let cluster = Cluster::start();
    let node = cluster.node("node", 0);
    let object = Object::new("document", 16 * MIB);
    let body = r#"{
        "name": "mooncake_segment",
        "size": 16777216,
        "offset": 0,
        "protocol": "tcp",
        "location": ""
      }"#;
    let shm = ids(&post(&node, "/api/mount_shm", &body.replace("mooncake_segment", &object.0)));
    let reply = post(&node, "/api/mount", r#"{"size": 16777216, "protocol": "tcp", "location": ""}"#);
    let allocated = ids(&reply);
    let expected = format!(r#"{{"status": "success", "segment_ids": ["{}"], "allocated_size": 16777216}}"#, allocated[0]);
    assert_eq!(reply.text(), expected);
    let put = send(node.rest_addr().unwrap(), "PUT", "/api/put", br#"{"key":"k","value":"v"}"#);
    assert_eq!(put.text(), r#"{"status": "success"}"#);

    let unmount =
        |path: &str, id: &str, grace: u64| post(&node, path, &format!(r#"{{"segment_ids": ["{id}"], "grace_period_seconds": {grace}}}"#));
    let reply = unmount("/api/unmount", &allocated[0], 1);
    assert_eq!((reply.status, reply.text()), (200, r#"{"status": "success"}"#));
    eventually("the grace period ends", || objects_of(node.id()).is_empty());
    let reply = unmount("/api/unmount_shm", &shm[0], 0);
    assert_eq!((reply.status, reply.text()), (200, r#"{"status": "success"}"#));
    assert!(node.segments().is_empty());
    assert!(std::fs::exists(format!("/dev/shm/{}", object.0)).unwrap(), "an object of somebody else stays");
}

#[test]
fn sizes_are_rounded_and_split() {
    let cluster = Cluster::start();
    let mut config = cluster.node_config("node", 0);
    config.max_registration = MIB;
    let node = cluster.node_with(config);
    let reply = post(&node, "/api/mount", r#"{"size": 2097153, "location": null}"#);
    assert_eq!((ids(&reply).len(), &reply.json()["allocated_size"]), (3, &json!(2 * MIB + 4096)));
    let object = Object::new("split", 3 * MIB);
    let reply = post(&node, "/api/mount_shm", &json!({"name": format!("/{}", object.0), "size": 2 * MIB + 5}).to_string());
    assert_eq!(ids(&reply).len(), 3);
    assert_eq!(reply.json().get("allocated_size"), None);
    // One id may stand alone, without a list.
    let one = ids(&reply).remove(0);
    assert_eq!(post(&node, "/api/unmount_shm", &json!({ "segment_ids": one }).to_string()).status, 200);
    assert_eq!(node.segments().len(), 5);
}

#[test]
fn bad_mounts_are_refused() {
    let cluster = Cluster::start();
    let node = cluster.node("node", 0);
    let size = "Invalid size, must be a positive integer";
    for (body, status, error) in [
        ("{}", 400, size),
        (r#"{"size":0}"#, 400, size),
        (r#"{"size":-1}"#, 400, size),
        (r#"{"size":"1"}"#, 400, size),
        (r#"{"size":true}"#, 400, size),
        (r#"{"size":1.5}"#, 400, size),
        (r#"{"size":1e30}"#, 400, size),
        (r#"{"size":99999999999999999999}"#, 400, size),
        (r#"{"size":18446744073709551615}"#, 400, "Allocate and mount failed"),
        (r#"{"size":70368744177664}"#, 400, "Allocate and mount failed"),
        (r#"{"size":4096,"protocol":"carrier pigeon"}"#, 400, "Invalid protocol: unknown protocol `carrier pigeon`"),
        (r#"{"size":4096,"protocol":7}"#, 400, "Invalid protocol"),
        (r#"{"size":4096,"location":[]}"#, 400, "Invalid location"),
        (r#"{"size":4096,"sise":1}"#, 400, "Unknown field `sise`"),
        ("{", 400, "Malformed JSON body"),
        ("3", 400, "Request body must be a JSON object"),
    ] {
        post(&node, "/api/mount", body).refuses(status, error);
    }
    assert!(node.segments().is_empty() && objects_of(node.id()).is_empty());
}

#[test]
fn bad_shared_memory_is_refused() {
    let cluster = Cluster::start();
    let node = cluster.node("node", 0);
    let object = Object::new("bad", MIB);
    let name = object.0.as_str();
    let words = "Missing or invalid name or size";
    let unreadable = Object::new("unreadable", MIB);
    for (body, status, error) in [
        (json!({}), 400, words),
        (json!({"name": name}), 400, words),
        (json!({"size": 4096}), 400, words),
        (json!({"name": 5, "size": 4096}), 400, words),
        (json!({"name": "../x", "size": 4096}), 400, words),
        (json!({"name": "a/b", "size": 4096}), 400, words),
        (json!({"name": "..", "size": 4096}), 400, words),
        (json!({"name": "/", "size": 4096}), 400, words),
        (json!({"name": name, "size": 0}), 400, words),
        (json!({"name": name, "size": -4096}), 400, words),
        (json!({"name": name, "size": "4096"}), 400, words),
        (json!({"name": name, "size": 4096, "offset": -1}), 400, "Invalid offset"),
        (json!({"name": name, "size": 4096, "offset": "0"}), 400, "Invalid offset"),
        (json!({"name": name, "size": 4096, "offset": 1}), 400, "Mount failed: offset 1 is not a multiple of the page size"),
        (json!({"name": name, "size": MIB + 1}), 400, "Mount failed"),
        (json!({"name": name, "size": MIB, "offset": 4096}), 400, "Mount failed"),
        (json!({"name": name, "size": u64::MAX, "offset": 4096}), 400, "Mount failed"),
        (json!({"name": name, "size": 4096, "protocol": "rfc1149"}), 400, "Invalid protocol"),
        (json!({"name": name, "size": 4096, "mode": 1}), 400, "Unknown field `mode`"),
        (json!({"name": "perilune-test-nonexist", "size": 4_194_304}), 404, "Mount failed: there is no shared memory object"),
    ] {
        post(&node, "/api/mount_shm", &body.to_string()).refuses(status, error);
    }
    std::fs::set_permissions(format!("/dev/shm/{}", unreadable.0), std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    let reply = post(&node, "/api/mount_shm", &json!({"name": unreadable.0, "size": 4096}).to_string());
    // The superuser may read everything.
    assert!(matches!(reply.status, 200 | 403), "{}", reply.text());
    assert_eq!(post(&node, "/api/mount_shm", &json!({"name": name, "size": MIB}).to_string()).status, 200);
    post(&node, "/api/mount_shm", &json!({"name": name, "size": 4096, "offset": 8192}).to_string()).refuses(409, "Mount failed");
}

#[test]
fn half_an_unmount_says_which_half() {
    let cluster = Cluster::start();
    let node = cluster.node("node", 0);
    let object = Object::new("half", MIB);
    let allocated = ids(&post(&node, "/api/mount", r#"{"size":4096}"#)).remove(0);
    let shm = ids(&post(&node, "/api/mount_shm", &json!({"name": object.0, "size": MIB}).to_string())).remove(0);
    let unknown = SegmentId::random().to_string();
    for path in ["/api/unmount", "/api/unmount_shm"] {
        for (body, error) in [
            ("{}", "Missing segment_ids"),
            (r#"{"segment_ids":[]}"#, "Missing segment_ids"),
            (r#"{"segment_ids":""}"#, "Missing segment_ids"),
            (r#"{"segment_ids":7}"#, "Invalid segment_ids"),
            (r#"{"segment_ids":["1-2", 3]}"#, "Invalid segment_ids"),
            (r#"{"segment_ids":["1-2"],"grace":3}"#, "Unknown field `grace`"),
            (r#"{"segment_ids":["1-2"],"grace_period_seconds":-1}"#, "Invalid grace_period_seconds"),
            (r#"{"segment_ids":["1-2"],"grace_period_seconds":3601}"#, "Invalid grace_period_seconds"),
            (r#"{"segment_ids":["1-2"],"grace_period_seconds":"1"}"#, "Invalid grace_period_seconds"),
            ("xx", "Malformed JSON body"),
        ] {
            post(&node, path, body).refuses(400, error);
        }
    }
    let reply = post(&node, "/api/unmount_shm", r#"{"segment_ids":["1-2"]}"#);
    assert_eq!(reply.status, 404);
    assert_eq!(reply.json()["error"], "Unmount failed for one or more segments");
    assert_eq!(reply.json()["failed_segment_ids"], json!(["1-2"]));

    let reply = post(&node, "/api/unmount", &json!({"segment_ids": [unknown, allocated, shm]}).to_string());
    assert_eq!(reply.json()["failed_segment_ids"], json!([unknown, shm]));
    let reason = |id: &str| -> String { reply.json()["reasons"][id].as_str().map(str::to_owned).unwrap() };
    assert!(reason(&unknown).contains("not mounted") && reason(&shm).contains("/api/unmount_shm"), "{}", reply.text());
    assert!(objects_of(node.id()).is_empty(), "the one that could be unmounted was");
    let again = post(&node, "/api/unmount", &json!({ "segment_ids": allocated }).to_string());
    assert_eq!((again.status, &again.json()["failed_segment_ids"]), (404, &Value::from(vec![allocated.clone()])), "twice");
}
