//! The binary on a machine that has devices but not the library for them.

use crate::harness::{PROGRAM, finish, said};
use std::path::PathBuf;
use std::process::Command;

/// Every file of libibverbs.so.1, and what it is a link to.
fn libraries() -> Vec<PathBuf> {
    let folders = ["/lib", "/usr/lib", "/lib64", "/usr/lib64", "/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu"];
    let found = folders.iter().filter_map(|folder| std::fs::canonicalize(format!("{folder}/libibverbs.so.1")).ok());
    let mut found: Vec<PathBuf> = found.collect();
    found.dedup();
    found
}

#[test]
#[ignore = "needs an RDMA device: scripts/rxe-vm"]
fn without_the_library_the_binary_runs_and_says_so() {
    let hide: String = libraries().iter().map(|library| format!("mount --bind /dev/null {} && ", library.display())).collect();
    assert!(!hide.is_empty(), "libibverbs.so.1 is in none of the usual folders");
    let output = finish(Command::new("unshare").args(["-m", "sh", "-c"]).arg(format!("{hide} exec {PROGRAM} status --json")));
    assert!(output.status.success(), "{}", said(&output));
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["transports"], serde_json::json!(["shm", "tcp"]));
    assert!(status["rdma"]["reason"].as_str().is_some_and(|why| why.contains("libibverbs")), "{status}");
}
