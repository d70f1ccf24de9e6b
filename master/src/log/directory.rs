//! The data directory: made once, locked while open, marked with its format and the group's id.
//!
//! ```text
//! <dir>/FORMAT              format version, cluster id, checksum; text
//! <dir>/LOCK                flock of the process that has it open
//! <dir>/USED                there once the log held an entry: from then on a directory without a log is a damaged one
//! <dir>/raft/               the entries (raft-engine)
//! <dir>/snapshots/I-T       the machine after entry I of term T
//! ```

use super::LogError;
use super::engine::corrupt;
use super::entry::crc;
use super::files::is_append;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// The newest format of the whole directory that this version reads, and the one it writes.
pub(super) const FORMAT_VERSION: u32 = 1;
/// What is wrong when a directory that was in use has no log.
pub(super) const LOG_GONE: &str = "the log is gone: this directory was in use, but none of its log files (*.raftlog) holds anything";
const MARK: &str = "USED";
const TITLE: &str = "perilune data directory";

/// An open, locked data directory. Dropped last of all that works in it: that unlocks it.
pub(super) struct Directory {
    pub(super) path: PathBuf,
    pub(super) cluster: Uuid,
    /// Whether the log held entries before.
    pub(super) used: bool,
    /// Whether USED says so; directories of versions before it have at most snapshots to say so.
    pub(super) marked: bool,
    lock: File,
}

impl Directory {
    /// Opens or makes it, for the cluster with this id, or any.
    pub(super) fn open(path: &Path, expected: Option<Uuid>) -> Result<Self, LogError> {
        match fs::metadata(path) {
            Ok(found) if !found.is_dir() => return Err(LogError::NotADirectory(path.into())),
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => make(path)?,
            Err(e) if e.kind() == ErrorKind::NotADirectory => return Err(LogError::NotADirectory(path.into())),
            Err(e) => return Err(io_error(path, "cannot be looked at", e)),
        }
        let lock = lock(path)?;
        let found = read_format(path)?;
        let marked = path.join(MARK).exists();
        let used = marked || holds(&snapshots(path), |name| name.contains('-'))?;
        if !holds_log(path)? {
            if used {
                return Err(corrupt(&raft(path), LOG_GONE.into()));
            }
            if found.is_some() {
                tracing::warn!(dir = %path.display(), "the directory was made before but holds no log: nothing was stored yet, or its log was removed");
            }
        }
        let cluster = match (found, expected) {
            (Some(found), Some(expected)) if found != expected => {
                return Err(LogError::OtherCluster { path: path.into(), found, expected });
            }
            (Some(found), _) => found,
            (None, expected) => write_format(path, expected.unwrap_or_else(Uuid::new_v4))?,
        };
        for inner in [raft(path), snapshots(path)] {
            if !inner.is_dir() {
                make(&inner)?;
            }
        }
        sync_dir(path)?;
        Ok(Self { path: path.into(), cluster, used, marked, lock })
    }

    /// Called once the log holds an entry, and that is on disk.
    pub(super) fn mark(&mut self) {
        let path = self.path.join(MARK);
        let said = "The log in this directory holds entries; without them the directory is not opened.\n";
        // The names of the files come before the mark.
        let marked = sync_dir(&raft(&self.path)).map_err(|e| e.to_string());
        match marked.and_then(|()| write_whole(&path, |file| file.write_all(said.as_bytes())).map_err(|e| e.to_string())) {
            Ok(()) => (self.used, self.marked) = (true, true),
            // It only serves to tell a log that is gone from one that never was; the next open tries again.
            Err(e) => tracing::warn!(file = %path.display(), "the mark of a log in use cannot be written: {e}"),
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Closing would not do: a child process that is just being forked holds a copy of the descriptor until it execs.
        let _ = self.lock.unlock();
    }
}

pub(super) fn raft(dir: &Path) -> PathBuf {
    dir.join("raft")
}

pub(super) fn snapshots(dir: &Path) -> PathBuf {
    dir.join("snapshots")
}

/// Whether a data directory is there already.
pub fn is_made(dir: &Path) -> bool {
    dir.join("FORMAT").exists()
}

/// Whether a file with anything in it, of a name that fits, is in a directory that may be missing.
fn holds(dir: &Path, fits: impl Fn(&str) -> bool) -> Result<bool, LogError> {
    let looked = || -> io::Result<bool> {
        for file in fs::read_dir(dir)? {
            let file = file?;
            if file.file_name().to_str().is_some_and(&fits) && file.metadata()?.len() > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    };
    match looked() {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        looked => looked.map_err(|e| io_error(dir, "cannot be listed", e)),
    }
}

fn holds_log(dir: &Path) -> Result<bool, LogError> {
    holds(&raft(dir), |name| is_append(Path::new(name)))
}

/// Makes names in a directory durable.
pub(super) fn sync_dir(path: &Path) -> Result<(), LogError> {
    File::open(path).and_then(|d| d.sync_all()).map_err(|e| io_error(path, "cannot be synced", e))
}

/// Writes a whole file so that after a crash it is there entirely or not at all.
pub(super) fn write_whole(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let unfinished = path.with_extension("tmp");
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        write(&mut file)?;
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    })();
    if written.is_err() {
        // Best effort: a leftover is removed at the next open.
        let _ = fs::remove_file(&unfinished);
    }
    written
}

pub(super) fn io_error(path: &Path, what: &'static str, cause: io::Error) -> LogError {
    match cause.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => LogError::Permission { path: path.into(), cause },
        _ => LogError::Io { path: path.into(), what, cause },
    }
}

fn make(path: &Path) -> Result<(), LogError> {
    match DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Err(e) if matches!(e.kind(), ErrorKind::AlreadyExists | ErrorKind::NotADirectory) => Err(LogError::NotADirectory(path.into())),
        made => made.map_err(|e| io_error(path, "cannot be made", e)),
    }
}

fn lock(dir: &Path) -> Result<File, LogError> {
    let path = dir.join("LOCK");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|e| io_error(&path, "cannot be opened", e))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let pid = file.read_to_string(&mut holder).ok().and_then(|_| holder.trim().parse::<u32>().ok());
            return Err(LogError::Locked { path: dir.into(), holder: pid.map(|p| format!(" (pid {p})")).unwrap_or_default() });
        }
        Err(TryLockError::Error(e)) => return Err(io_error(&path, "cannot be locked", e)),
    }
    // The pid is a courtesy to the next who tries; on a full disk it may be missing.
    let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

fn format_text(cluster: Uuid) -> String {
    let body = format!("{TITLE}\nformat {FORMAT_VERSION}\ncluster {cluster}\n");
    format!("{body}checksum {:08x}\n", crc(body.as_bytes()))
}

/// The cluster id, or nothing in a new directory.
fn read_format(dir: &Path) -> Result<Option<Uuid>, LogError> {
    let path = dir.join("FORMAT");
    let text = match fs::read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            // FORMAT is written before anything else, so entries without it are not ours.
            return if raft(dir).exists() || snapshots(dir).exists() { Err(LogError::Foreign(dir.into())) } else { Ok(None) };
        }
        Err(e) => return Err(io_error(&path, "cannot be read", e)),
    };
    let damaged = |what: &str| LogError::Corrupt {
        path: path.clone(),
        what: what.into(),
        advice: "Restore the file from a backup; it holds the format version and the cluster id.",
    };
    let mut lines = text.lines();
    if lines.next() != Some(TITLE) {
        return Err(damaged("it does not begin with its title"));
    }
    // The version comes first and alone: what follows may look different in a later one.
    let found = lines.next().and_then(|l| l.strip_prefix("format ")).and_then(|v| v.parse::<u32>().ok());
    match found.ok_or_else(|| damaged("its second line is not a format version"))? {
        FORMAT_VERSION => {}
        0 => return Err(damaged("format version 0")),
        found => return Err(LogError::NewerFormat { path, found, known: FORMAT_VERSION }),
    }
    let cluster = lines.next().and_then(|l| l.strip_prefix("cluster ")).and_then(|v| v.parse::<Uuid>().ok());
    let cluster = cluster.ok_or_else(|| damaged("its third line is not a cluster id"))?;
    if text != format_text(cluster) {
        return Err(damaged("its checksum does not match"));
    }
    Ok(Some(cluster))
}

fn write_format(dir: &Path, cluster: Uuid) -> Result<Uuid, LogError> {
    let path = dir.join("FORMAT");
    write_whole(&path, |file| file.write_all(format_text(cluster).as_bytes())).map_err(|e| io_error(&path, "cannot be written", e))?;
    Ok(cluster)
}
