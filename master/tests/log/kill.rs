//! kill -9 of a real process in the middle of proposals.

use crate::machine::{Table, config, open};
use perilune_master::log::{Durability, Log, LogConfig};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

const CHILD_DIR: &str = "PERILUNE_TEST_LOG_CHILD";

/// Not a test of its own: the process that [`nothing_acknowledged_is_lost`] kills.
#[test]
fn child() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let (durability, dir) = dir.split_once(':').unwrap();
    let config = LogConfig { durability: durability.parse().unwrap(), snapshot_entries: 40, ..config(Path::new(dir)) };
    let (log, table) = open(config);
    let mut next = table.rows().len();
    let mut flying = VecDeque::new();
    let mut out = std::io::stdout().lock();
    loop {
        flying.push_back((next, log.propose(format!("{next:08}=x").into_bytes())));
        next += 1;
        if flying.len() == 16 {
            let (n, proposal) = flying.pop_front().unwrap();
            proposal.wait().unwrap();
            writeln!(out, "stored {n}").unwrap();
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost() {
    for durability in [Durability::QuorumFsync, Durability::Quorum, Durability::Leader] {
        let dir = tempfile::tempdir().unwrap();
        let mut acknowledged = 0;
        for lines in [1, 300, 77, 500] {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "kill::child", "--nocapture", "--test-threads=1"])
                .env(CHILD_DIR, format!("{durability}:{}", dir.path().display()))
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut read = BufReader::new(child.stdout.take().unwrap()).lines();
            let mut stored = || loop {
                let line = read.next()?;
                // The test harness writes lines of its own, and the beginning of one before ours.
                if let Some((_, n)) = line.unwrap().rsplit_once("stored ") {
                    return Some(n.parse::<usize>().unwrap());
                }
            };
            // In the last round until it has been through a snapshot, too.
            let snapshots = || std::fs::read_dir(dir.path().join("snapshots")).unwrap().count();
            let mut seen = 0;
            while seen < lines || (lines == 500 && snapshots() == 0) {
                acknowledged = stored().expect("the child died by itself");
                seen += 1;
            }
            child.kill().unwrap();
            // What it still said before it died counts too; a last line may be cut short.
            while let Some(n) = stored() {
                acknowledged = acknowledged.max(n.min(acknowledged + 1));
            }
            child.wait().unwrap();
            let (log, table) = open(config(dir.path()));
            let rows = table.rows();
            for n in 0..=acknowledged {
                assert!(rows.contains_key(&format!("{n:08}")), "{durability}: {n} of {acknowledged} is gone; {:?}", log.status());
            }
        }
    }
}

#[test]
fn two_processes_do_not_share_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(config(dir.path()));
    let error = Log::open(config(dir.path()), Table::default()).err().unwrap().to_string();
    assert!(error.contains("in use by another process") && error.contains(&std::process::id().to_string()), "{error}");
    drop(log);
    open(config(dir.path()));
}
