//! Bad input gets a sentence that says what and where, and the right exit code: 1 failed, 2 usage.

use crate::harness::{Dev, finish, perilune, run, said};
use std::process::Output;

fn refused(output: &Output, code: i32, words: &[&str]) {
    let text = said(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(words.iter().all(|word| text.contains(word)), "{text:?} says nothing of {words:?}");
    assert!(!text.contains("panicked"), "{text}");
}

#[test]
fn wrong_usage() {
    for (args, words) in [
        (vec![], vec!["Usage"]),
        (vec!["frobnicate"], vec!["frobnicate"]),
        (vec!["put", "key"], vec!["FILE"]),
        (vec!["rm"], vec!["--all"]),
        (vec!["rm", "key", "--all"], vec!["--all"]),
        (vec!["rm", "--regex", ""], vec!["--all"]),
        (vec!["stat", "--deadline", "10"], vec!["10s"]),
        (vec!["store", "--segment-size", "big"], vec!["big", "64KiB"]),
        (vec!["store", "--protocol", "warp"], vec!["warp", "tcp"]),
        (vec!["master", "--eviction-high-watermark", "7"], vec!["watermark", "7"]),
        (vec!["dev", "--http", "0.0.0.0:0"], vec!["--http", "--insecure"]),
        (vec!["master", "--rpc", "0.0.0.0:0"], vec!["--insecure"]),
        (vec!["replay", "--speed", "0"], vec!["10x"]),
        (vec!["replay", "--block-size", "0"], vec!["--block-size"]),
        (vec!["replay", "--workers", "0"], vec!["--workers"]),
        (vec!["replay", "--generate", "0"], vec!["--generate"]),
        (vec!["bench", "store", "--sizes", "0"], vec!["--sizes"]),
        (vec!["--log", "a=b=c", "stat"], vec!["--log"]),
        (vec!["--log", "wran", "stat"], vec!["--log", "wran"]),
        (vec!["--config", "/no/such/file", "stat"], vec!["/no/such/file"]),
    ] {
        refused(&run(&args), 2, &words);
    }
}

#[test]
fn a_master_that_is_down() {
    for command in [vec!["stat"], vec!["ls"], vec!["get", "k"], vec!["exists", "k"], vec!["rm", "k"], vec!["replay", "--generate", "5"]] {
        let args = command.into_iter().chain(["--master", "127.0.0.1:1", "--deadline", "300ms"]);
        refused(&run(args), 1, &["127.0.0.1:1"]);
    }
    refused(&run(["stat", "--master", "nowhere"]), 1, &["nowhere"]);
}

#[test]
fn bad_keys_values_and_files() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start_with(dir.path(), &["--segment-size", "1MiB"]);
    let file = dir.path().join("value");
    let path = file.to_str().unwrap();
    std::fs::write(&file, b"").unwrap();
    refused(&dev.run(&["put", "k", path]), 1, &["empty"]);
    std::fs::write(&file, b"x").unwrap();
    refused(&dev.run(&["put", "", path]), 1, &["key is empty"]);
    let output = dev.run(&["get", "nobody", "--json"]);
    refused(&output, 1, &["nobody"]);
    let said: serde_json::Value = serde_json::from_slice(&output.stderr).expect("with --json, errors are JSON too");
    assert_eq!((&said["code"], &said["name"]), (&(-704).into(), &"OBJECT_NOT_FOUND".into()));
    refused(&dev.run(&["put", &"k".repeat(5000), path]), 1, &["5000", "4096"]);
    refused(&dev.run(&["put", "k", path, "--replicas", "2"]), 1, &["2"]);
    refused(&dev.run(&["put", "k", "/no/such/file"]), 1, &["/no/such/file"]);
    std::fs::write(&file, vec![1; 2 << 20]).unwrap();
    refused(&dev.run(&["put", "k", path]), 1, &["-200"]);
    refused(&dev.run(&["get", "unknown"]), 1, &["unknown", "-704"]);
    refused(&dev.run(&["query", "unknown"]), 1, &["-704"]);
    refused(&dev.run(&["ls", "("]), 1, &["("]);
    refused(&dev.run(&["rm", "--regex", "("]), 1, &["("]);
    std::fs::write(&file, "{\"timestamp\": 0}\n").unwrap();
    refused(&dev.run(&["replay", path]), 1, &[":1:", "missing field"]);
    refused(&dev.run(&["replay", "--check", path]), 1, &["--acked"]);
    refused(&dev.run(&["replay", "/no/such/trace"]), 1, &["/no/such/trace"]);
}

#[test]
fn a_full_store_is_counted_and_nothing_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start_with(dir.path(), &["--segment-size", "2MiB", "--lease", "1h"]);
    let report = &dev.json(&["replay", "--generate", "40", "--block-size", "16KiB", "--workers", "2"])[0];
    assert!(report["full"].as_u64().unwrap() + report["evictions"].as_u64().unwrap() > 0, "{report}");
    assert_eq!((report["wrong"].as_u64(), report["requests"].as_u64()), (Some(0), Some(40)), "{report}");
}

#[test]
fn a_port_that_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let holder = std::net::TcpListener::bind(&taken).unwrap();
    for flag in ["--rpc", "--http", "--rest"] {
        let mut command = perilune();
        command.arg("dev").args(["--segment-size", "0", "--data-dir"]).arg(dir.path());
        for free in ["--rpc", "--http", "--rest"] {
            command.args([free, if free == flag { taken.as_str() } else { "127.0.0.1:0" }]);
        }
        refused(&finish(&mut command), 1, &[&taken, flag]);
    }
    drop(holder);
}

#[test]
fn a_data_directory_that_cannot_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let dev = |data: &std::path::Path| {
        let ports = ["--rpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--rest", "127.0.0.1:0", "--segment-size", "0"];
        finish(perilune().arg("dev").args(ports).arg("--data-dir").arg(data))
    };
    let file = dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    refused(&dev(&file), 1, &[file.to_str().unwrap()]);
    refused(&dev(std::path::Path::new("/proc/no/permission")), 1, &["/proc/no"]);

    let data = dir.path().join("of-a-newer-version");
    let mut before = Dev::start_with(dir.path(), &["--segment-size", "0"]);
    refused(&dev(&dir.path().join("data")), 1, &["data"]); // In use by another process.
    before.stop();
    std::fs::rename(dir.path().join("data"), &data).unwrap();
    let format = data.join("master/FORMAT");
    let text = std::fs::read_to_string(&format).unwrap();
    assert!(text.contains("format 1\n"), "{text}");
    std::fs::write(&format, text.replace("format 1\n", "format 999\n")).unwrap();
    refused(&dev(&data), 1, &["newer version", "FORMAT"]);
}
