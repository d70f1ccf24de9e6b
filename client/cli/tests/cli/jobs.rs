//! Background jobs with real processes: three masters and store nodes, killed in the middle.

use crate::group::{Process, Shared, all, leader, lends, master};
use crate::harness::{run, said, wait_for};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::path::Path;

const GROUP: u8 = 9;
const VALUES: usize = 40;

fn store(dir: &Path, name: &str) -> (Process, Shared) {
    lends(&all(GROUP), dir, name, "64MiB")
}

/// A command that must succeed, and what it printed as JSON.
fn ok(args: &[&str]) -> Vec<Value> {
    let output = run(args.iter().copied().chain(["--json", "--deadline", "60s", "--master", &all(GROUP)]));
    assert!(output.status.success(), "{args:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn job(name: &str) -> Value {
    ok(&["jobs"]).into_iter().find(|job| job["job"] == name).unwrap_or_default()
}

/// Whether every object has two copies that can be read.
fn all_have_two() -> bool {
    let copies = |n| ok(&["query", &format!("k{n}")])[0]["replicas"].as_array().unwrap().len();
    (0..VALUES).all(|n| copies(n) == 2)
}

fn check(value: &[u8]) {
    for n in 0..VALUES {
        let got = run(["get", &format!("k{n}"), "--deadline", "60s", "--master", &all(GROUP)]);
        assert!(got.status.success() && got.stdout == value, "k{n}: {}", String::from_utf8_lossy(&got.stderr));
    }
}

#[test]
fn a_repair_goes_on_when_the_leader_and_a_target_are_killed_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut masters: Vec<Process> = (1..=3).map(|nth| master(GROUP, dir.path(), nth)).collect();
    let mut stores: Vec<_> = ["a", "b", "c", "d"].map(|name| store(dir.path(), name)).into();
    let mounted = || ok(&["segments"]).iter().filter(|segment| segment["status"] == "MOUNTED").count();
    wait_for("all memory to be mounted", || (mounted() == 4).then_some(()));
    let value: Vec<u8> = (0..500_000u32).map(|i| (i * 7 % 251) as u8).collect();
    let file = dir.path().join("value");
    std::fs::write(&file, &value).unwrap();
    for n in 0..VALUES {
        ok(&["put", &format!("k{n}"), file.to_str().unwrap(), "--replicas", "2"]);
    }
    assert!(all_have_two());

    stores[0].0.signal(Signal::SIGKILL);
    let broken = || job("disk_repair")["segments"].as_array().filter(|s| s.iter().any(|s| s["status"] == "broken")).map(drop);
    wait_for("the segment to be lost", broken);
    assert_eq!((job("disk_repair")["counts"]["copied"].clone(), all_have_two()), (0.into(), false), "nobody has switched it on");
    ok(&["jobs", "rate", "1MiB"]);
    ok(&["jobs", "enable", "disk_repair"]);
    wait_for("the repair to have begun", || (job("disk_repair")["counts"]["copied"].as_u64()? > 0).then_some(()));
    let killed = leader(GROUP);
    masters[killed - 1].signal(Signal::SIGKILL);
    masters[killed - 1] = master(GROUP, dir.path(), killed);
    let then = job("disk_repair");
    assert!(then["on"] == true && !all_have_two(), "the next leader has something left to do: {then}");
    ok(&["jobs", "rate", "32MiB"]);
    wait_for("all copies to be there again", || all_have_two().then_some(()));
    check(&value);

    // Another node dies while copies are being moved to it.
    ok(&["jobs", "rate", "2MiB"]);
    ok(&["jobs", "enable", "balance"]);
    stores.push(store(dir.path(), "e"));
    wait_for("copies to move", || {
        (job("balance")["in_flight"].as_u64()? > 0 || job("balance")["counts"]["copied"].as_u64()? > 0).then_some(())
    });
    stores[4].0.signal(Signal::SIGKILL);
    ok(&["jobs", "rate", "256MiB"]);
    wait_for("all copies to be there again", || all_have_two().then_some(()));
    check(&value);
    ok(&["jobs", "disable", "balance"]);
    wait_for("nothing to move any more", || (job("balance")["in_flight"] == 0).then_some(()));
    ok(&["jobs", "enable", "vol_inspect"]);
    let looked =
        wait_for("everything to be looked at", || Some(job("vol_inspect")).filter(|job| job["counts"]["passes"].as_u64() >= Some(1)));
    assert_eq!((&looked["counts"]["bad"], &looked["counts"]["removed"]), (&0.into(), &0.into()), "{looked}");
    assert!(looked["counts"]["verified"].as_u64() >= Some(2 * VALUES as u64), "{looked}");
}
