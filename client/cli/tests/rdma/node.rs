//! kill -9 of a store node that lends over RDMA: after its restart everything is there, and read over RDMA again.

use crate::harness::{fetch, moved, perilune, remove_segments, run, said, wait_for};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

/// A role of its own process; killed when dropped.
struct Role {
    child: Child,
    addresses: Value,
}

impl Role {
    fn start(dir: &Path, role: &str, flags: &[&str]) -> Self {
        let ready = dir.join(role);
        let _ = std::fs::remove_file(&ready);
        let mut command = perilune();
        command.arg(role).args(flags).args(["--http", "127.0.0.1:0", "--data-dir"]).arg(dir.join("data")).arg("--ready-file").arg(&ready);
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        let addresses = wait_for(role, || {
            assert_eq!(child.try_wait().unwrap(), None, "perilune {role} ended instead of serving");
            std::fs::read(&ready).ok().map(|text| serde_json::from_slice(&text).unwrap())
        });
        Self { child, addresses }
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Removes the memory that the node leaves behind on purpose.
struct Leftover(PathBuf);

impl Drop for Leftover {
    fn drop(&mut self) {
        remove_segments(&self.0);
    }
}

#[test]
#[ignore = "needs an RDMA device: scripts/rxe-vm"]
fn a_killed_node_comes_back_with_its_objects_and_serves_them_over_rdma() {
    let dir = tempfile::tempdir().unwrap();
    let _leftover = Leftover(dir.path().join("data"));
    let master = Role::start(dir.path(), "master", &["--rpc", "127.0.0.1:0"]);
    let rpc = master.addresses["rpc"].as_str().unwrap();
    let lend = || Role::start(dir.path(), "store", &["--master", rpc, "--segment-size", "64MiB", "--protocol", "rdma"]);
    let acked = dir.path().join("acked");
    let replay = |args: &[&str]| -> Value {
        let output = run(["replay", "--block-size", "64KiB", "--transports", "rdma", "--deadline", "60s", "--json", "--master", rpc]
            .iter()
            .chain(args));
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    };

    let node = lend();
    let report = replay(&["--generate", "2000", "--limit-requests", "8", "--acked", acked.to_str().unwrap()]);
    assert_eq!(report["wrong"], 0, "{report}");
    // Dropping kills with SIGKILL.
    drop(node);

    let node = lend();
    let check = replay(&["--check", acked.to_str().unwrap(), "--expect-all"]);
    assert!(check["acknowledged"].as_u64() > Some(100) && check["verified"] == check["acknowledged"], "{check}");
    let page = fetch(node.addresses["rest"].as_str().unwrap(), "/metrics");
    assert_eq!(moved(&page, "tcp", "served"), Some(0), "{page}");
}
