//! Put, get, exist, remove.

use crate::cluster::{Cluster, MIB};
use crate::http::{Reply, send};
use perilune_client::StoreNode;
use perilune_client::protocol::PutConfig;

fn put(node: &StoreNode, body: &str) -> Reply {
    send(node.rest_addr().unwrap(), "PUT", "/api/put", body.as_bytes())
}

fn ask(node: &StoreNode, method: &str, path: &str) -> Reply {
    send(node.rest_addr().unwrap(), method, path, b"")
}

#[test]
fn the_transcript_of_the_original_holds() {
    let cluster = Cluster::start();
    let node = cluster.node("node", 16 * MIB);
    let reply = put(&node, r#"{"key":"a","value":"hello"}"#);
    assert_eq!((reply.status, reply.text()), (200, r#"{"status": "success"}"#));
    assert!(reply.head.contains("application/json; charset=utf-8"));
    let reply = ask(&node, "GET", "/api/exist/a");
    assert_eq!((reply.status, reply.text()), (200, r#"{"exists": true}"#));
    assert_eq!(ask(&node, "HEAD", "/api/exist/a").status, 200);
    let reply = ask(&node, "GET", "/api/exist/zz");
    assert_eq!((reply.status, reply.text()), (200, r#"{"exists": false}"#));
    let reply = ask(&node, "GET", "/api/get/a");
    assert_eq!((reply.status, reply.text()), (200, "hello"));
    assert!(reply.head.contains("application/octet-stream"));
    let reply = ask(&node, "GET", "/api/get/zz");
    assert_eq!((reply.status, reply.text()), (404, r#"{"error": "Key not found"}"#));
    // Leased by the get.
    ask(&node, "DELETE", "/api/remove/a").refuses(409, "Remove operation failed");
    ask(&node, "DELETE", "/api/remove/zz").refuses(404, "Remove operation failed");
    assert_eq!(put(&node, r#"{"key":"b","value":"x"}"#).status, 200);
    let reply = ask(&node, "DELETE", "/api/remove/b");
    assert_eq!((reply.status, reply.text()), (200, r#"{"status": "success"}"#));
    ask(&node, "DELETE", "/api/remove/b").refuses(404, "Remove operation failed");
    for n in 0..3 {
        assert_eq!(put(&node, &format!(r#"{{"key":"c{n}","value":"x"}}"#)).status, 200);
    }
    let reply = ask(&node, "DELETE", "/api/remove_all");
    assert_eq!((reply.status, reply.text()), (200, r#"{"status": "success removed 3 keys"}"#), "the leased one stays");
    let reply = ask(&node, "GET", "/nope");
    assert_eq!((reply.status, reply.text()), (404, "404: Not Found"));
    let reply = ask(&node, "POST", "/api/put");
    assert_eq!((reply.status, reply.text()), (405, "405: Method Not Allowed"));
    assert!(reply.head.to_lowercase().contains("allow: put"), "{}", reply.head);
}

#[test]
fn an_existing_key_keeps_its_value() {
    let cluster = Cluster::start();
    let node = cluster.node("node", 16 * MIB);
    for value in ["first", "second"] {
        assert_eq!(put(&node, &format!(r#"{{"key":"k","value":"{value}"}}"#)).status, 200);
    }
    assert_eq!(ask(&node, "GET", "/api/get/k").text(), "first");
}

#[test]
fn keys_may_hold_slashes_escapes_and_any_bytes() {
    let cluster = Cluster::start();
    let node = cluster.node("node", 16 * MIB);
    assert_eq!(put(&node, r#"{"key":"model/layer 0/é%","value":"ü€"}"#).status, 200);
    let path = "model/layer%200/%C3%A9%25";
    assert_eq!(ask(&node, "GET", &format!("/api/get/{path}")).text(), "ü€");
    assert_eq!(ask(&node, "GET", &format!("/api/exist/{}", path.replace('/', "%2F"))).text(), r#"{"exists": true}"#);
    let key = perilune_client::protocol::ObjectKey::new(*b"raw\xff\0");
    cluster.store().put(&key, b"bytes", &PutConfig::default()).unwrap();
    assert_eq!(ask(&node, "GET", "/api/get/raw%ff%00").text(), "bytes");
    for (method, path) in [("GET", "/api/get/"), ("GET", "/api/exist/"), ("DELETE", "/api/remove/")] {
        ask(&node, method, path).refuses(400, "Missing key");
    }
    let long = "k".repeat(5000);
    ask(&node, "GET", &format!("/api/get/{long}")).refuses(400, "GET operation failed: the key has 5000 bytes");
    ask(&node, "GET", &format!("/api/exist/{long}")).refuses(400, "Exist check failed");
    ask(&node, "DELETE", &format!("/api/remove/{long}")).refuses(400, "Remove operation failed");
}

#[test]
fn bad_puts_are_refused() {
    let cluster = Cluster::start();
    let node = cluster.node("node", 4 * MIB);
    for (body, status, error) in [
        (r#"{"key":"a"}"#, 400, "Missing key or value"),
        (r#"{"value":"a"}"#, 400, "Missing key or value"),
        (r#"{"key":null,"value":"a"}"#, 400, "Missing key or value"),
        (r#"{"key":"c","value":5}"#, 400, "Missing key or value: `value` must be a string"),
        (r#"{"key":["c"],"value":"5"}"#, 400, "Missing key or value: `key` must be a string"),
        (r#"{"key":"b","value":""}"#, 400, "PUT operation failed: the value of b is empty"),
        (r#"{"key":"","value":"x"}"#, 400, "PUT operation failed: the key is empty"),
        (r#"{"key":"a","value":"b","ttl":3}"#, 400, "Unknown field `ttl`"),
        ("xx", 400, "Malformed JSON body"),
        ("", 400, "Malformed JSON body"),
        (r#"{"key":"a","value":"b"} x"#, 400, "Malformed JSON body"),
        ("\u{0}", 400, "Malformed JSON body"),
        ("[]", 400, "Request body must be a JSON object"),
        ("null", 400, "Request body must be a JSON object"),
    ] {
        put(&node, body).refuses(status, error);
    }
    let deep = "[".repeat(100_000);
    put(&node, &deep).refuses(400, "Malformed JSON body");
    send(node.rest_addr().unwrap(), "PUT", "/api/put", b"{\"key\":\"\xff\",\"value\":\"x\"}").refuses(400, "Malformed JSON body");
    let larger = format!(r#"{{"key":"large","value":"{}"}}"#, "x".repeat(5 << 20));
    let reply = put(&node, &larger);
    assert!(matches!(reply.status, 400 | 503) && reply.text().contains("PUT operation failed"), "{} {}", reply.status, reply.text());
    assert_eq!(ask(&node, "GET", "/api/get/a").status, 404);
}

#[test]
fn a_body_beyond_the_limit_is_refused() {
    let cluster = Cluster::start();
    let node = cluster.node("node", 4 * MIB);
    let body = vec![b' '; (100 << 20) + 1];
    send(node.rest_addr().unwrap(), "PUT", "/api/put", &body).refuses(413, "the body is longer than");
}

#[test]
fn without_memory_or_master_the_face_says_so() {
    let mut cluster = Cluster::start();
    let mut config = cluster.node_config("node", 0);
    config.deadline = std::time::Duration::from_millis(300);
    let node = cluster.node_with(config);
    put(&node, r#"{"key":"a","value":"b"}"#).refuses(503, "PUT operation failed");
    assert_eq!((ask(&node, "GET", "/health").status, ask(&node, "GET", "/health").text()), (200, "OK"));
    let page = ask(&node, "GET", "/metrics");
    assert!(page.head.contains("text/plain; version=0.0.4"));
    assert!(page.text().contains("perilune_store_objects_total{operation=\"put\",outcome=\"error\"} 1"), "{}", page.text());
    assert!(page.text().contains("perilune_node_segments 0") && page.text().contains("perilune_store_seconds_bucket"));
    cluster.stop_master();
    put(&node, r#"{"key":"a","value":"b"}"#).refuses(503, "PUT operation failed: no master answered");
    ask(&node, "GET", "/api/get/a").refuses(503, "GET operation failed: no master answered");
    ask(&node, "GET", "/api/exist/a").refuses(503, "Exist check failed: no master answered");
    ask(&node, "DELETE", "/api/remove_all").refuses(503, "RemoveAll operation failed: no master answered");
    crate::cluster::eventually("the node is not healthy", || ask(&node, "GET", "/health").status == 503);
}
