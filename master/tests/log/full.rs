//! A disk that fills up: the log waits, says why, goes on when there is room, and loses nothing it acknowledged.

use crate::machine::{config, open, put_each, until};
use perilune_master::log::{LogConfig, Room};
use perilune_protocol::FaultCode;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

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

/// A small file system of its own at `dir`, or `None`, loudly, where none can be mounted.
fn small(dir: &Path) -> Option<Unmount<'_>> {
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "perilune-test"]).arg(dir).output();
    if !mounted.as_ref().is_ok_and(|o| o.status.success()) {
        println!("skipped: no tmpfs can be mounted here ({mounted:?})");
        return None;
    }
    Some(Unmount(dir))
}

/// Takes what is left of the disk but for so many bytes; gives the file that has it.
fn hog(dir: &Path, but: u64) -> PathBuf {
    let path = dir.join("hog");
    let file = std::fs::File::options().create(true).append(true).open(&path).unwrap();
    let mut bytes = file.metadata().unwrap().len() as i64;
    let left = || nix::sys::statvfs::statvfs(dir).map(|s| s.blocks_available() * s.fragment_size()).unwrap();
    while left() > but {
        let more = ((left() - but) / 2).max(4096);
        nix::fcntl::fallocate(&file, nix::fcntl::FallocateFlags::empty(), bytes, more as i64).unwrap();
        bytes += more as i64;
    }
    path
}

#[test]
fn what_finds_no_room_waits_for_it_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let Some(_unmount) = small(dir.path()) else { return };
    let settings = || LogConfig { reserve: 0, ..config(dir.path()) };
    let (log, table) = open(settings());
    put_each(&log, ["before=1".into()]);
    let hog = hog(dir.path(), 0);
    // More than was set aside for the file in use, so that one of them meets the end of the disk.
    let value = "x".repeat(10_000);
    let (mut stored, mut waits) = (0, Vec::new());
    while log.status().crowded.is_none() {
        let (tell, told) = channel();
        let proposal = log.propose(format!("{}={value}", stored + waits.len()).into_bytes());
        thread::spawn(move || tell.send(proposal.wait()));
        let outcome = loop {
            match told.recv_timeout(Duration::from_millis(10)) {
                Ok(outcome) => break Some(outcome),
                Err(_) if log.status().crowded.is_some() => break None,
                Err(_) => {}
            }
        };
        match outcome {
            Some(outcome) => {
                outcome.unwrap();
                stored += 1;
            }
            None => waits.push(told),
        }
    }
    assert_eq!(waits.len(), 1);
    let fault = log.propose(b"refused=1".to_vec()).wait().unwrap_err();
    assert_eq!(fault.code, FaultCode::WrongState);
    let told = fault.message;
    assert!(
        told.contains("No space left on device") && told.contains(&*dir.path().to_string_lossy()) && told.contains("by itself"),
        "{told}"
    );
    assert_eq!(log.room().0, Room::Brim);
    log.read_barrier().wait().unwrap();
    assert_eq!(table.rows().len(), stored + 1, "reads go on");

    std::fs::remove_file(hog).unwrap();
    let waited = waits.len();
    for told in waits {
        told.recv().unwrap().expect("what waited is stored after all");
    }
    until(&log, "the log has room", |status| status.crowded.is_none());
    put_each(&log, ["after=1".into()]);
    assert_eq!(table.rows().len(), stored + waited + 2);
    assert!(!table.rows().contains_key("refused"));
    let rows = table.rows();
    log.close();
    assert_eq!(open(settings()).1.rows(), rows, "and found again");
}

#[test]
fn below_the_mark_it_says_so_and_at_the_brim_it_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let Some(_unmount) = small(dir.path()) else { return };
    let (log, table) = open(LogConfig { reserve: 4 << 20, ..config(dir.path()) });
    put_each(&log, ["before=1".into()]);
    hog(dir.path(), 2 << 20);
    until(&log, "the disk is found to fill up", |status| status.crowded.is_some());
    assert_eq!(log.room().0, Room::Low);
    put_each(&log, ["small=1".into()]);
    let hog = hog(dir.path(), 0);
    until(&log, "the disk is found to be full", |_| log.room().0 == Room::Brim);
    let fault = log.propose(b"refused=1".to_vec()).wait().unwrap_err();
    assert!(fault.code == FaultCode::WrongState && fault.message.contains("4 MiB wanted"), "{fault}");
    std::fs::remove_file(hog).unwrap();
    until(&log, "there is room", |status| status.crowded.is_none() && status.free.is_some_and(|free| free > 4 << 20));
    put_each(&log, ["after=1".into()]);
    assert_eq!(table.rows().keys().map(String::as_str).collect::<Vec<_>>(), ["after", "before", "small"]);
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
