//! Each command once, as a person and as a script would use it.

use crate::harness::{Dev, fetch, finish, perilune, run, said, wait_for};
use std::io::Write;
use std::process::Stdio;

#[test]
fn an_object_from_put_to_rm() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(dir.path());
    let value: Vec<u8> = (0..300_000u32).map(|i| (i * 7) as u8).collect();
    let file = dir.path().join("value");
    std::fs::write(&file, &value).unwrap();
    assert!(dev.ok(&["put", "k/1", file.to_str().unwrap()]).contains("stored k/1"));
    assert_eq!(dev.json(&["put", "k/1", file.to_str().unwrap()])[0]["stored"], false, "a key keeps its value");

    assert_eq!(dev.run(&["get", "k/1"]).stdout, value, "binary to the standard output");
    let copy = dir.path().join("copy");
    dev.ok(&["get", "k/1", "-o", copy.to_str().unwrap()]);
    assert_eq!(std::fs::read(&copy).unwrap(), value);

    let mut put = perilune()
        .args(["put", "k/2", "-", "--pin", "soft", "--master", &dev.rpc])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    put.stdin.take().unwrap().write_all(b"from stdin").unwrap();
    assert!(put.wait().unwrap().success());
    assert_eq!(dev.ok(&["get", "k/2"]), "from stdin");

    std::fs::write(&file, b"newer").unwrap();
    assert_eq!(dev.json(&["put", "k/2", file.to_str().unwrap(), "--upsert"])[0]["stored"], true);
    assert_eq!(dev.ok(&["get", "k/2"]), "newer");

    let output = dev.run(&["exists", "k/1", "nope"]);
    assert_eq!((output.status.code(), String::from_utf8(output.stdout).unwrap()), (Some(1), "yes k/1\nno  nope\n".to_owned()));
    assert_eq!(dev.ok(&["exists", "k/1"]), "yes k/1\n");

    assert_eq!(dev.json(&["ls"]).iter().map(|l| l["key"].as_str().unwrap().to_owned()).collect::<Vec<_>>(), ["k/1", "k/2"]);
    assert_eq!(dev.json(&["ls", "2$"])[0]["size"], 5);
    let cut = dev.run(&["ls", "--limit", "1"]);
    assert!(said(&cut).contains("raise --limit"), "{}", said(&cut));

    let place = &dev.json(&["query", "k/1"])[0];
    let extents = place["replicas"][0]["extents"].as_array().unwrap();
    assert_eq!((place["size"].as_u64(), extents.iter().map(|e| e["length"].as_u64().unwrap()).sum()), (Some(300_000), 300_000));
    assert!(dev.ok(&["query", "k/1"]).contains("checksum"));

    assert_eq!(dev.run(&["rm", "k/1"]).status.code(), Some(1), "leased by the reads above");
    let outcome = dev.run(&["rm", "k/1", "nope", "--force", "--json"]);
    assert_eq!(outcome.status.code(), Some(1));
    let told: Vec<serde_json::Value> =
        String::from_utf8(outcome.stdout).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!((&told[0]["removed"], &told[1]["removed"], &told[1]["code"]), (&true.into(), &false.into(), &(-704).into()));
    assert_eq!(dev.json(&["rm", "--regex", "^k/", "--force"])[0]["removed"], 1);
    assert_eq!(dev.json(&["rm", "--all", "--force"])[0]["removed"], 0);
    assert_eq!(dev.ok(&["ls"]), "size\n");
}

#[test]
fn the_cluster_shows_itself_and_both_http_ports_answer_everything() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(dir.path());
    assert_eq!(dev.json(&["stat"])[0]["capacity"], 64 << 20);
    assert!(dev.ok(&["stat"]).contains("64 MiB"));
    assert_eq!(dev.json(&["segments"])[0]["status"], "MOUNTED");
    assert!(dev.ok(&["segments"]).contains("MOUNTED"));
    assert_eq!(dev.json(&["nodes"])[0]["segments"], 1);
    assert!(dev.ok(&["nodes"]).contains("ALIVE"));
    for address in [&dev.http, &dev.rest] {
        assert_eq!(fetch(address, "/health"), "OK");
        assert!(fetch(address, "/api/exist/nope").contains('0') || fetch(address, "/api/exist/nope").contains("false"));
    }
    assert_eq!(dev.stop(), Some(0), "SIGTERM is a clean end");
}

#[test]
fn a_master_and_a_store_node_as_processes_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let start = |role: &str, flags: &[&str]| {
        let ready = dir.path().join(role);
        let mut command = perilune();
        command.arg(role).args(flags).args(["--http", "127.0.0.1:0", "--json", "--data-dir"]).arg(dir.path().join("data"));
        let child = command.arg("--ready-file").arg(&ready).stdout(Stdio::null()).spawn().unwrap();
        let addresses: serde_json::Value = wait_for(role, || std::fs::read(&ready).ok().map(|text| serde_json::from_slice(&text).unwrap()));
        (child, addresses)
    };
    let (mut master, addresses) = start("master", &["--rpc", "127.0.0.1:0"]);
    let rpc = addresses["rpc"].as_str().unwrap();
    let (mut node, _) = start("store", &["--master", rpc, "--segment-size", "8MiB", "--protocol", "shm", "--free-on-stop"]);
    let file = dir.path().join("value");
    std::fs::write(&file, b"over two processes").unwrap();
    let put = run(["put", "k", file.to_str().unwrap(), "--master", rpc]);
    assert!(put.status.success(), "{}", said(&put));
    assert_eq!(run(["get", "k", "--master", rpc]).stdout, b"over two processes");
    for child in [&mut node, &mut master] {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().cast_signed()), nix::sys::signal::Signal::SIGINT).unwrap();
        assert_eq!(wait_for("a clean end", || child.try_wait().unwrap()).code(), Some(0));
    }
}

#[test]
fn what_needs_no_cluster() {
    let bash = String::from_utf8(run(["completions", "bash"]).stdout).unwrap();
    assert!(bash.contains("--block-size"), "the completions know the flags");
    assert!(String::from_utf8(run(["man"]).stdout).unwrap().starts_with(".ie"));
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man");
    assert!(run(["man", "--out", pages.to_str().unwrap()]).status.success());
    for name in ["perilune.1", "perilune-put.1", "perilune-replay.1", "perilune-bench-store.1"] {
        assert!(pages.join(name).is_file(), "{name}");
    }
    let help = String::from_utf8(run(["store", "--help"]).stdout).unwrap();
    assert!(help.contains("[default: 1GiB]") && help.contains("[env: PERILUNE_SEGMENT_SIZE]"), "{help}");

    let trace = dir.path().join("trace.jsonl");
    let wrote = run(["replay", "--generate", "50", "--seed", "3", "--write-trace", trace.to_str().unwrap()]);
    assert!(wrote.status.success(), "{}", said(&wrote));
    assert_eq!(std::fs::read_to_string(&trace).unwrap().lines().count(), 50);
}

#[test]
fn settings_come_from_the_command_line_the_environment_and_the_file_in_this_order() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(dir.path());
    let file = dir.path().join("perilune.toml");
    std::fs::write(&file, format!("master = \"127.0.0.1:1\"\ndeadline = \"300ms\"\n[stat]\nmaster = {:?}\n", dev.rpc)).unwrap();
    let with_file = |command: &mut std::process::Command| finish(command.arg("--config").arg(&file));
    assert!(with_file(perilune().arg("stat")).status.success(), "the section of the command");
    assert_eq!(with_file(perilune().arg("nodes")).status.code(), Some(1), "the top of the file");
    assert!(with_file(perilune().arg("nodes").env("PERILUNE_MASTER", &dev.rpc)).status.success(), "the environment");
    assert_eq!(with_file(perilune().args(["nodes", "--master", "127.0.0.1:1"]).env("PERILUNE_MASTER", &dev.rpc)).status.code(), Some(1));
}

#[test]
fn jobs_are_listed_and_switched() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(dir.path());
    let balance = |field: &str| {
        let jobs = dev.json(&["jobs"]);
        assert_eq!(jobs.len(), 6, "{jobs:?}");
        jobs.iter().find(|job| job["job"] == "balance").unwrap()[field].clone()
    };
    assert_eq!((balance("on"), balance("state")), (false.into(), "off".into()));
    dev.ok(&["jobs", "enable", "balance"]);
    wait_for("the job is on", || (balance("on") == true).then_some(()));
    assert!(fetch(&dev.http, "/metrics").contains("perilune_job_enabled{job=\"balance\"} 1"));
    let table = dev.ok(&["jobs"]);
    assert!(table.contains("vol_inspect"), "{table}");
    dev.ok(&["jobs", "disable", "balance"]);
    wait_for("the job is off", || (balance("state") == "off").then_some(()));
    let unknown = dev.run(&["jobs", "enable", "everything"]);
    assert!(
        !unknown.status.success() && said(&unknown).contains("there is no job `everything`; there are disk_repair, balance"),
        "{}",
        said(&unknown)
    );
    dev.ok(&["jobs", "rate", "64MiB"]);
    for (wrong, exit) in
        [(&["jobs", "enable"][..], 2), (&["jobs", "rate", "fast"], 2), (&["jobs", "rate", "0"], 1), (&["jobs", "stop", "x"], 2)]
    {
        assert_eq!(dev.run(wrong).status.code(), Some(exit), "{wrong:?}");
    }
}
