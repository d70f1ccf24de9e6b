//! A disk that fills up: the log stops, says why, and loses nothing it acknowledged.

use crate::machine::{config, open, put_each};
use perilune_protocol::FaultCode;
use std::path::Path;
use std::process::{Command, ExitStatus};

/// Fills the log in `dir` until it refuses; gives the number of effects stored before that, and the fault's sentence.
fn fill(dir: &Path) -> (usize, String) {
    let (log, table) = open(config(dir));
    let value = "x".repeat(10_000);
    let refused = (0..100_000).find_map(|n| {
        let fault = log.propose(format!("{n}={value}").into_bytes()).wait().err()?;
        Some((n, fault))
    });
    let (stored, fault) = refused.expect("the disk never filled up");
    assert_eq!(fault.code, FaultCode::Storage);
    assert_eq!(log.propose(b"small=1".to_vec()).wait().unwrap_err(), fault, "it stays refused");
    assert_eq!(table.rows().len(), stored, "reads go on");
    assert!(log.status().poisoned.is_some_and(|why| fault.message.contains(&why)));
    (stored, fault.message)
}

#[test]
fn a_full_disk_stops_the_log_and_room_lets_it_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "perilune-test"]).arg(dir.path()).output();
    if !mounted.as_ref().is_ok_and(|o| o.status.success()) {
        println!("skipped: no tmpfs can be mounted here ({mounted:?}); the_largest_file_stops_the_log covers the rest");
        return;
    }
    let _unmount = Unmount(dir.path());
    let (stored, message) = fill(dir.path());
    assert!(message.contains("No space left on device"), "{message}");
    assert!(stored > 50, "{stored}");
    let remounted = Command::new("mount").args(["-o", "remount,size=8m"]).arg(dir.path()).status();
    assert!(remounted.as_ref().is_ok_and(ExitStatus::success), "{remounted:?}");
    let (log, table) = open(config(dir.path()));
    assert!(table.rows().len() >= stored, "{} of {stored}", table.rows().len());
    put_each(&log, ["after=1".into()]);
}

struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("--lazy").arg(self.0).status();
        assert!(unmounted.is_ok_and(|s| s.success()), "{} stays mounted", self.0.display());
    }
}

const CHILD_DIR: &str = "PERILUNE_TEST_LOG_LIMITED";

/// Not a test of its own: the process that [`the_largest_file_stops_the_log`] limits.
#[test]
fn limited_child() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let (stored, message) = fill(Path::new(&dir));
    assert!(message.contains("File too large"), "{message}");
    println!("\nstored {stored}");
}

#[test]
fn the_largest_file_stops_the_log() {
    let dir = tempfile::tempdir().unwrap();
    // `ulimit -f` counts blocks of 512 bytes; with the signal ignored, a write beyond it fails as on a full disk.
    let child = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 2048; exec \"$0\" --exact full::limited_child --nocapture --test-threads=1"])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD_DIR, dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    let stored = said.lines().find_map(|l| l.strip_prefix("stored ")?.parse::<usize>().ok());
    let stored = stored.unwrap_or_else(|| panic!("{said}\n{}", String::from_utf8_lossy(&child.stderr)));
    let (log, table) = open(config(dir.path()));
    assert!(table.rows().len() >= stored && stored > 50, "{} of {stored}", table.rows().len());
    put_each(&log, ["after=1".into()]);
}
