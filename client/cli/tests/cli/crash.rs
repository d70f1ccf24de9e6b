//! kill -9 in the middle of a replay: everything acknowledged is there afterwards, byte for byte.

use crate::harness::{Dev, perilune, said, wait_for};
use std::process::Stdio;

#[test]
fn what_was_acknowledged_before_a_kill_is_read_back_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--segment-size", "512MiB"];
    let mut dev = Dev::start_with(dir.path(), &flags);
    let acked = dir.path().join("acked");
    let mut command = perilune();
    command.args([
        "replay",
        "--generate",
        "4000",
        "--block-size",
        "4KiB",
        "--deadline",
        "500ms",
        "--json",
        "--master",
        &dev.rpc,
        "--acked",
    ]);
    let mut replay = command.arg(&acked).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = || std::fs::read_to_string(&acked).map_or(0, |text| text.lines().count());
    wait_for("some blocks to be acknowledged", || {
        assert_eq!(replay.try_wait().unwrap(), None, "the replay ended before it could be disturbed");
        (lines() > 200).then_some(())
    });
    dev.kill();
    wait_for("the replay to notice", || replay.try_wait().unwrap());
    let output = replay.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["stopped"].as_str().is_some_and(|why| why.contains("no master")), "{report}");
    assert_eq!(report["wrong"], 0, "{report}");

    let dev = dev.start_again(dir.path(), &flags);
    let check = &dev.json(&["replay", "--check", acked.to_str().unwrap(), "--expect-all"])[0];
    assert!(check["acknowledged"].as_u64() >= Some(200) && check["verified"] == check["acknowledged"], "{check}");

    // And it goes on as if nothing had been: the same trace again finds most of its first blocks.
    let again = &dev.json(&["replay", "--generate", "20", "--block-size", "4KiB", "--verify-all"])[0];
    assert_eq!((&again["wrong"], &again["check"]["unreadable"]), (&0.into(), &0.into()), "{again}");
    assert!(again["prefix_hit"].as_f64() > Some(0.5), "{again}");
}
