//! Snapshots, the cut behind them, and restart from them.

use crate::machine::{Table, config, file_with, open, put_each, until};
use perilune_master::log::{Log, LogConfig};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

fn snapshotting(dir: &Path, every: u64) -> LogConfig {
    LogConfig { snapshot_entries: every, ..config(dir) }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir.join("snapshots")).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn snapshots_cut_the_log_and_a_restart_begins_at_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let (log, table) = open(snapshotting(dir.path(), 50));
    for round in 1..=4 {
        put_each(&log, (0..50).map(|n| format!("{n}={round}")));
        until(&log, "a snapshot", |s| s.snapshots >= round);
        // The next turn of the log may only now hear of it.
        put_each(&log, ["round=over".into()]);
    }
    let (status, rows) = (log.status(), table.rows());
    assert_eq!(names(dir.path()).len(), 2);
    assert!(status.first_index > 100 && status.first_index < status.snapshot_index, "{status:?}");
    assert_eq!(status.snapshot_failures, 0);
    log.close();

    let (log, table) = open(snapshotting(dir.path(), 50));
    assert_eq!(table.rows(), rows);
    assert_eq!(table.seen().len() as u64, status.last_index - status.snapshot_index, "only what follows the snapshot is replayed");
    assert_eq!(log.status().snapshot_index, status.snapshot_index);
    assert_eq!(log.status().first_index, status.first_index);
    // And it goes on from there.
    put_each(&log, (0..120).map(|n| format!("{n}=again")));
    until(&log, "a snapshot after a restart", |s| s.snapshots >= 1);
}

#[test]
fn many_bytes_make_a_snapshot_too() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(LogConfig { snapshot_entries: 0, snapshot_bytes: 100_000, ..config(dir.path()) });
    put_each(&log, (0..11).map(|n| format!("{n}={}", "x".repeat(10_000))));
    until(&log, "a snapshot", |s| s.snapshots == 1);
}

#[test]
fn proposals_during_snapshots_converge() {
    let seed = 11u64;
    println!("seed {seed}");
    let dir = tempfile::tempdir().unwrap();
    let (log, table) = open(snapshotting(dir.path(), 20));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (log, done) = (&log, &done);
            scope.spawn(move || {
                let mut state = seed + thread;
                while !done.load(Ordering::Relaxed) {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    log.propose(format!("{}={state}", (state >> 33) % 500).into_bytes()).wait().unwrap();
                }
            });
        }
        until(&log, "ten snapshots under load", |s| s.snapshots >= 10);
        done.store(true, Ordering::Relaxed);
    });
    log.close();
    let rows = table.rows();
    let (_log, table) = open(config(dir.path()));
    assert_eq!(table.rows(), rows);
}

/// A log with two snapshots, and what it held.
fn with_two_snapshots(dir: &Path) -> BTreeMap<String, String> {
    let (log, table) = open(snapshotting(dir, 30));
    for round in 1..=3 {
        put_each(&log, (0..30).map(|n| format!("{round}/{n}=x")));
        until(&log, "a snapshot", |s| s.snapshots >= round);
        put_each(&log, ["round=over".into()]);
    }
    log.close();
    assert_eq!(names(dir).len(), 2);
    table.rows()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_snapshot_is_set_aside_for_the_older_one() {
    let dir = tempfile::tempdir().unwrap();
    let rows = with_two_snapshots(dir.path());
    let index = |name: &String| name.split_once('-').unwrap().0.parse::<u64>().unwrap();
    let newest = names(dir.path()).into_iter().max_by_key(index).unwrap();
    flip(&dir.path().join("snapshots").join(&newest), 60);
    let (log, table) = open(config(dir.path()));
    assert_eq!(table.rows(), rows);
    drop(log);
    assert!(file_with(&dir.path().join("snapshots"), ".damaged").exists());
    // With the other gone too there is nothing to begin from, and it says so.
    let older = names(dir.path()).into_iter().find(|n| !n.ends_with("damaged")).unwrap();
    flip(&dir.path().join("snapshots").join(older), 60);
    let error = Log::open(config(dir.path()), Table::default()).err().unwrap().to_string();
    assert!(error.contains("no whole snapshot") && error.contains("backup"), "{error}");
}

#[test]
fn an_unfinished_snapshot_is_swept_away() {
    let dir = tempfile::tempdir().unwrap();
    let rows = with_two_snapshots(dir.path());
    fs::write(dir.path().join("snapshots/9999-1.tmp"), b"half").unwrap();
    let (_log, table) = open(config(dir.path()));
    assert_eq!(table.rows(), rows);
    assert_eq!(names(dir.path()).len(), 2);
}
