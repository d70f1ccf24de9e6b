//! What this machine can move bytes with: told by the binary and by a running node, and refused where it is missing.

use crate::harness::{Dev, fetch, finish, perilune, run, said};
use serde_json::Value;

fn status() -> Value {
    serde_json::from_slice(&run(["status", "--json"]).stdout).unwrap()
}

/// Whether this build and machine have RDMA. Without the feature there is none, whatever the machine has.
fn has_rdma() -> bool {
    cfg!(feature = "rdma") && std::fs::read_dir("/sys/class/infiniband").is_ok_and(|mut devices| devices.next().is_some())
}

#[test]
fn status_names_the_transports_and_says_why_there_is_no_rdma() {
    let status = status();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    let names: Vec<&str> = status["transports"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    let text = String::from_utf8(run(["status"]).stdout).unwrap();
    if has_rdma() {
        assert!(!status["rdma"]["devices"].as_array().unwrap().is_empty(), "{status}");
    } else {
        assert_eq!(names, ["shm", "tcp"]);
        let why = status["rdma"]["reason"].as_str().unwrap();
        assert!(!why.is_empty() && text.contains(why), "{text:?} does not say {why:?}");
    }
    assert!(text.contains(env!("CARGO_PKG_VERSION")) && text.contains(&names.join(", ")), "{text}");
}

#[test]
fn a_running_node_tells_the_same_and_counts_rdma() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(dir.path());
    for address in [&dev.http, &dev.rest] {
        assert_eq!(serde_json::from_str::<Value>(&fetch(address, "/transports")).unwrap(), status());
    }
    let page = fetch(&dev.http, "/metrics/node");
    assert!(page.contains("perilune_transfer_rdma_doorbells_total"), "{page}");
}

#[test]
fn where_there_is_no_rdma_it_cannot_be_asked_for() {
    if has_rdma() {
        return;
    }
    let why = status()["rdma"]["reason"].as_str().unwrap().to_owned();
    let dir = tempfile::tempdir().unwrap();
    let refused = |output: std::process::Output| {
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains(&why), "{:?} does not say {why:?}", said(&output));
    };
    refused(finish(perilune().args(["store", "--protocol", "rdma", "--http", "127.0.0.1:0", "--data-dir"]).arg(dir.path())));
    let dev = Dev::start(dir.path());
    let refusal = ureq::post(format!("http://{}/api/mount", dev.rest))
        .config()
        .http_status_as_error(false)
        .build()
        .send_json(serde_json::json!({ "size": 1 << 20, "protocol": "rdma" }));
    let mut refusal = refusal.unwrap();
    assert_eq!(refusal.status(), 400);
    let text = refusal.body_mut().read_to_string().unwrap();
    assert!(text.contains(&why), "{text}");
    let file = dir.path().join("value");
    std::fs::write(&file, b"value").unwrap();
    let output = dev.run(&["put", "key", file.to_str().unwrap(), "--transports", "rdma", "--deadline", "1s"]);
    refused(output);
    for only in ["shm", "tcp", "tcp,shm"] {
        assert!(dev.run(&["put", only, file.to_str().unwrap(), "--transports", only]).status.success(), "{only}");
        assert_eq!(dev.ok(&["get", only, "--transports", only]), "value");
    }
}
