//! Directories that are not as they were left.

use crate::machine::{Table, config, file_with, open, put_each, until};
use perilune_master::log::{Durability, Log, LogConfig, LogError};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

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
    // The same with the rest of the file still there, as a power cut may leave it.
    for (cut, fill) in (offsets[9] - 20..whole.len()).step_by(9).flat_map(|cut| [(cut, 0), (cut, 0xa5)]) {
        let mut torn = whole.clone();
        torn[cut..].fill(fill);
        torn.extend([fill; 3000]);
        fs::write(&path, torn).unwrap();
        let (_log, table) = open(config(dir.path()));
        assert_eq!(table.seen().len(), 9, "cut at {cut}, filled with {fill}");
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

/// The files of an open log, as a kill at this moment would leave them.
fn copy_as_killed(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap().map(Result::unwrap).filter(|f| f.file_name() != "LOCK") {
        let to = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            copy_as_killed(&file.path(), &to);
        } else {
            fs::copy(file.path(), to).unwrap();
        }
    }
}

/// Forty acknowledged effects that no sync was ever heard of, killed; and the offsets where their bytes lie.
fn forty_killed(dir: &Path) -> Vec<usize> {
    let live = tempfile::tempdir().unwrap();
    let (log, _) = open(LogConfig { durability: Durability::Quorum, sync_every: Duration::from_secs(3600), ..config(live.path()) });
    put_each(&log, (0..40).map(|n| format!("effect-{n:02}=x")));
    copy_as_killed(live.path(), dir);
    let bytes = fs::read(file_with(&dir.join("raft"), ".raftlog")).unwrap();
    let find = |n| bytes.windows(9).position(|w| w == format!("effect-{n:02}").as_bytes()).unwrap();
    (0..40).map(find).collect()
}

#[test]
fn damage_with_whole_writes_behind_it_is_refused_though_nothing_was_synced() {
    let dir = tempfile::tempdir().unwrap();
    let offsets = forty_killed(dir.path());
    let path = file_with(&dir.path().join("raft"), ".raftlog");
    let whole = fs::read(&path).unwrap();
    let refused_with = |damaged: &[u8], what: &str| {
        fs::write(&path, damaged).unwrap();
        let error = refused(dir.path());
        assert!(matches!(error, LogError::Corrupt { .. }), "{what}: {error}");
        assert!(error.to_string().contains("backup"), "{what}: {error}");
        // Where what was written ends well, the zeros behind it may go.
        let left = fs::read(&path).unwrap();
        assert!(damaged.starts_with(&left) && damaged[left.len()..].iter().all(|b| *b == 0), "{what}: the file was changed");
    };
    // Two bytes anywhere, from the file's own header to the last write but one.
    for at in (0..offsets[38]).step_by(31) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x41;
        damaged[at + 1] ^= 0x41;
        refused_with(&damaged, &format!("at {at}"));
    }
    // A whole stretch gone, with only the very last write behind it.
    for from in [offsets[38] - 20, offsets[30], offsets[2] + 50] {
        for fill in [0, 0xa5] {
            let mut damaged = whole.clone();
            damaged[from..offsets[39] - 40].fill(fill);
            refused_with(&damaged, &format!("from {from}, filled with {fill}"));
        }
    }
    // Giving up what lies behind, as the advice says.
    let mut damaged = whole.clone();
    damaged[offsets[20] + 60] ^= 1;
    refused_with(&damaged, "at the record of effect 20");
    let error = refused(dir.path()).to_string();
    let at = error.split_once("at byte ").and_then(|(_, rest)| rest.split_once(',')).unwrap_or_else(|| panic!("{error}")).0;
    OpenOptions::new().write(true).open(&path).unwrap().set_len(at.parse().unwrap()).unwrap();
    assert_eq!(open(config(dir.path())).1.seen().len(), 20);
    fs::write(&path, &whole).unwrap();
    assert_eq!(open(config(dir.path())).1.seen().len(), 40);
}

#[test]
fn a_log_that_is_gone_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    ten(dir.path());
    let raft = dir.path().join("raft");
    let path = file_with(&raft, ".raftlog");
    let whole = fs::read(&path).unwrap();
    let refused = |what: &str| {
        let error = refused(dir.path());
        assert!(matches!(error, LogError::Corrupt { .. }), "{what}: {error}");
        assert!(error.to_string().contains("the log is gone") && error.to_string().contains("backup"), "{what}: {error}");
    };
    // Twice, for a refusal must not make the next one pass.
    for _ in 0..2 {
        fs::write(&path, b"").unwrap();
        refused("emptied");
        // Its header alone, as a new file has it, and what cannot be read at all.
        fs::write(&path, &whole[..64]).unwrap();
        refused("only a header");
        fs::write(&path, [0; 4096]).unwrap();
        refused("zeros");
        fs::remove_file(&path).unwrap();
        refused("removed");
        fs::remove_dir_all(&raft).unwrap();
        refused("all removed");
        assert!(!raft.exists(), "it was made anew");
        fs::create_dir(&raft).unwrap();
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(open(config(dir.path())).1.seen().len(), 10);
}

#[test]
fn a_directory_that_never_held_a_log_opens() {
    // Stopped at any moment of the very first open: with FORMAT, with empty rooms, with a log file begun.
    for begun in 0..4 {
        let dir = tempfile::tempdir().unwrap();
        drop(open(config(dir.path())));
        fs::remove_file(dir.path().join("USED")).unwrap();
        let raft = dir.path().join("raft");
        let path = file_with(&raft, ".raftlog");
        match begun {
            0 => (fs::remove_dir_all(&raft).unwrap(), fs::remove_dir(dir.path().join("snapshots")).unwrap()).0,
            1 => fs::remove_file(&path).unwrap(),
            2 => fs::write(&path, b"").unwrap(),
            _ => fs::write(&path, b"RAFT-LOG").unwrap(),
        }
        let (log, _) = open(config(dir.path()));
        put_each(&log, ["first=1".into()]);
        drop(log);
        assert_eq!(open(config(dir.path())).1.seen(), ["first=1"], "{begun}");
    }
}

#[test]
fn a_log_that_is_gone_is_refused_for_its_snapshots_too() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(LogConfig { snapshot_entries: 5, ..config(dir.path()) });
    put_each(&log, (0..6).map(|n| format!("{n}=x")));
    until(&log, "a snapshot", |s| s.snapshots == 1);
    drop(log);
    // Made before there was a mark.
    fs::remove_file(dir.path().join("USED")).unwrap();
    fs::remove_file(file_with(&dir.path().join("raft"), ".raftlog")).unwrap();
    let error = refused(dir.path());
    assert!(matches!(error, LogError::Corrupt { .. }) && error.to_string().contains("the log is gone"), "{error}");
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
    let old = file_with(&raft, "0001.raftlog");
    // A last write that is torn in any file but the last is damage.
    let whole = fs::read(&old).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.iter().rposition(|b| *b == b'x').unwrap() - 1000] ^= 1;
    fs::write(&old, &damaged).unwrap();
    let error = refused(dir.path());
    assert!(matches!(error, LogError::Corrupt { .. }) && error.to_string().contains("a later file follows"), "{error}");
    assert!(fs::read(&old).unwrap() == damaged);
    fs::write(&old, &whole).unwrap();
    fs::remove_file(&old).unwrap();
    assert!(matches!(refused(dir.path()), LogError::Corrupt { .. }));
    // A file cut short that is not the last is no torn write either.
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(raft.join("0000000000000001.raftlog")).unwrap();
    file.write_all_at(b"RAFT-LOG-FILE-HEADER", 0).unwrap();
    assert!(matches!(refused(dir.path()), LogError::Corrupt { .. }));
}
