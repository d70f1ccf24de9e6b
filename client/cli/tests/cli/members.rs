//! Real masters, one of which joins, is promoted, leads and leaves, by `perilune members`.

use crate::group::{CLUSTER, Process, at, master};
use crate::harness::{perilune, run, said, wait_for};
use serde_json::Value;
use std::path::Path;
use std::process::{Output, Stdio};

const GROUP: u8 = 1;

fn members(args: &[&str]) -> Output {
    let masters = (1..=4).map(|nth| at(GROUP, 10_000 + nth)).collect::<Vec<_>>().join(",");
    run(["members"].iter().chain(args).copied().chain(["--json", "--deadline", "30s", "--master", &masters]))
}

fn listed() -> Vec<Value> {
    let output = members(&["list"]);
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ok(args: &[&str]) {
    let output = members(args);
    assert!(output.status.success(), "{args:?}: {}", said(&output));
}

fn refused(args: &[&str], why: &str) {
    let output = members(args);
    assert!(output.status.code() == Some(1) && said(&output).contains(why), "{args:?}: {}", said(&output));
}

fn joins(dir: &Path, id: &str, more: &[&str]) -> std::process::Command {
    let nth: usize = id.parse().unwrap();
    let mut command = perilune();
    command.args(["master", "--id", id, "--join", &at(GROUP, 30_001), "--peer-listen", &at(GROUP, 20_000 + nth)]);
    command.args(["--rpc", &at(GROUP, 10_000 + nth), "--http", &at(GROUP, 30_000 + nth)]).args(more);
    command.arg("--data-dir").arg(dir.join(format!("m{nth}")));
    command
}

#[test]
fn a_fourth_master_joins_votes_leads_and_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let _masters: Vec<Process> = (1..=3).map(|nth| master(GROUP, dir.path(), nth)).collect();
    let first = wait_for("three masters", || Some(listed()).filter(|all| all.len() == 3));
    assert_eq!(first.iter().filter(|m| m["leads"] == true).count(), 1);
    assert!(first.iter().all(|m| m["votes"] == true));

    // What must not be, before anything is begun.
    let output = joins(dir.path(), "4", &["--cluster", &CLUSTER.replace('6', "7")]).output().unwrap();
    assert!(output.status.code() == Some(1) && said(&output).contains("this is the cluster"), "{}", said(&output));
    let output = joins(dir.path(), "4", &["--peers", "4=a:1/b:2"]).output().unwrap();
    assert!(output.status.code() == Some(2) && said(&output).contains("--peers"), "{}", said(&output));
    for args in [&["--raft-election", "60ms,500ms"][..], &["--raft-election", "500ms"], &["--raft-heartbeat", "0s"]] {
        let output = joins(dir.path(), "4", args).output().unwrap();
        assert!(output.status.code() == Some(2) && said(&output).contains("raft-"), "{args:?}: {}", said(&output));
    }

    let ready = dir.path().join("ready-4");
    let times = ["--learner", "--raft-heartbeat", "60ms", "--raft-election", "300ms,600ms"];
    let mut fourth = joins(dir.path(), "4", &times);
    let fourth = fourth.arg("--ready-file").arg(&ready).stdout(Stdio::null());
    let fourth = Process(fourth.spawn().unwrap());
    wait_for("it to be up", || ready.exists().then_some(()));
    let seen = |id: u64| listed().into_iter().find(|m| m["id"] == id);
    let learner = wait_for("it to keep up", || seen(4).filter(|m| m["active"] == true && m["lag"] == 0));
    assert_eq!((&learner["votes"], &learner["rises"]), (&false.into(), &false.into()));
    assert_eq!((learner["rpc"].as_str(), learner["http"].as_str()), (Some(&*at(GROUP, 10_004)), Some(&*at(GROUP, 30_004))));
    refused(&["transfer", "4"], "no voter");
    ok(&["promote", "4"]);
    assert_eq!(seen(4).unwrap()["votes"], true);
    refused(&["promote", "4"], "votes already");

    ok(&["transfer", "4"]);
    assert_eq!(seen(4).unwrap()["leads"], true);
    refused(&["remove", "4"], "leads");
    refused(&["transfer", "9"], "no voter");
    refused(&["add", "1", &at(GROUP, 20_009)], "used in this group");
    refused(&["add", "5", "nowhere"], "not host:port");
    ok(&["transfer", "1"]);
    ok(&["remove", "4"]);
    assert_eq!(listed().len(), 3);
    refused(&["add", "4", &at(GROUP, 20_004)], "used in this group");
    drop(fourth);

    let table = run(["members", "list", "--master", &at(GROUP, 10_001)]);
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("leader") && table.contains(&at(GROUP, 20_002)), "{table}");
}
