//! Directories that are not as they were left.

use crate::machine::{Table, config, file_with, open, put_each};
use perilune_master::log::{Durability, Log, LogConfig, LogError};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

fn refused(dir: &Path) -> LogError {
    Log::open(config(dir), Table::default()).err().expect("it opened")
}

/// A closed log with effects `a0` to `a9`, each an entry of its own, and the offsets where their bytes lie.
fn ten(dir: &Path) -> Vec<usize> {
    let (log, _) = open(LogConfig { durability: Durability::QuorumFsync, ..config(dir) });
    put_each(&log, (0..10).map(|n| format!("effect-{n}=x")));
    drop(log);
    let bytes = fs::read(file_with(&dir.join("raft"), ".raftlog")).unwrap();
    let find = |n| bytes.windows(8).position(|w| w == format!("effect-{n}").as_bytes()).unwrap();
    (0..10).map(find).collect()
}

#[test]
fn a_torn_last_record_is_cut_off_wherever_it_was_torn() {
    let dir = tempfile::tempdir().unwrap();
    let offsets = ten(dir.path());
    let path = file_with(&dir.path().join("raft"), ".raftlog");
    let whole = fs::read(&path).unwrap();
    for cut in (offsets[9] - 20..whole.len()).step_by(7) {
        fs::write(&path, &whole[..cut]).unwrap();
        let (log, table) = open(config(dir.path()));
        assert_eq!(table.seen().len(), 9, "cut at {cut} of {}", whole.len());
        put_each(&log, ["after=1".into()]);
        drop(log);
        let (_log, table) = open(config(dir.path()));
        assert_eq!(table.seen().len(), 10, "cut at {cut}");
        assert_eq!(table.seen()[9], "after=1");
    }
    // As a kill leaves it: space allocated ahead, or garbage in it.
    for tail in [vec![0; 5000], vec![0xa5; 5000]] {
        fs::write(&path, [&whole[..], &tail].concat()).unwrap();
        let (_log, table) = open(config(dir.path()));
        assert_eq!(table.seen().len(), 10);
    }
}

#[test]
fn damage_in_the_middle_is_refused_and_nothing_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let offsets = ten(dir.path());
    let path = file_with(&dir.path().join("raft"), ".raftlog");
    let whole = fs::read(&path).unwrap();
    // In an effect, in a record behind it, in the length before it.
    for at in [offsets[4], offsets[4] + 40, offsets[4] - 30, offsets[0], offsets[7]] {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        fs::write(&path, &damaged).unwrap();
        let error = refused(dir.path());
        assert!(matches!(error, LogError::Corrupt { .. }), "at {at}: {error}");
        assert!(error.to_string().contains("backup"), "{error}");
        assert!(fs::read(&path).unwrap() == damaged, "at {at} the file was changed");
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(open(config(dir.path())).1.seen().len(), 10);
}

#[test]
fn a_newer_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    ten(dir.path());
    let path = dir.path().join("FORMAT");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("format 1", "format 2")).unwrap();
    let error = refused(dir.path());
    assert!(matches!(error, LogError::NewerFormat { found: 2, known: 1, .. }), "{error}");
    for broken in ["", "something else\n", &text.replace("cluster ", "cluster 0"), &text[..text.len() - 3]] {
        fs::write(&path, broken).unwrap();
        assert!(matches!(refused(dir.path()), LogError::Corrupt { .. }), "{broken:?}");
    }
    fs::remove_file(&path).unwrap();
    assert!(matches!(refused(dir.path()), LogError::Foreign(_)));
}

#[test]
fn a_path_that_is_no_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    File::create(&file).unwrap().write_all(b"x").unwrap();
    assert!(matches!(refused(&file), LogError::NotADirectory(_)));
    assert!(matches!(refused(&file.join("below")), LogError::NotADirectory(_)));
    // What no user may write, not even root.
    let error = refused(Path::new("/proc/perilune"));
    assert!(matches!(error, LogError::Permission { .. } | LogError::Io { .. }), "{error}");
    assert!(error.to_string().contains("/proc/perilune"), "{error}");
}

#[test]
fn an_old_log_file_that_vanished_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(config(dir.path()));
    // More than a log file holds, so that there are two.
    put_each(&log, (0..5).map(|n| format!("{n}={}", "x".repeat(10 << 20))));
    drop(log);
    let raft = dir.path().join("raft");
    fs::remove_file(file_with(&raft, "0001.raftlog")).unwrap();
    assert!(matches!(refused(dir.path()), LogError::Corrupt { .. }));
    // A file cut short that is not the last is no torn write either.
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(raft.join("0000000000000001.raftlog")).unwrap();
    file.write_all_at(b"RAFT-LOG-FILE-HEADER", 0).unwrap();
    assert!(matches!(refused(dir.path()), LogError::Corrupt { .. }));
}
