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
use super::disk::{Cursor, Disk, For, read_all};
use super::engine::corrupt;
use super::entry::crc;
use super::files::is_append;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
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
    pub(super) disk: Arc<dyn Disk>,
    pub(super) cluster: Uuid,
    /// Whether the log held entries before.
    pub(super) used: bool,
    /// Whether USED says so; directories of versions before it have at most snapshots to say so.
    pub(super) marked: bool,
    _lock: Box<dyn Send>,
}

impl Directory {
    /// Opens or makes it, for the cluster with this id, or any.
    pub(super) fn open(disk: Arc<dyn Disk>, path: &Path, expected: Option<Uuid>) -> Result<Self, LogError> {
        match disk.is_dir(path) {
            Ok(false) => return Err(LogError::NotADirectory(path.into())),
            Ok(true) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => make(&*disk, path)?,
            Err(e) if e.kind() == ErrorKind::NotADirectory => return Err(LogError::NotADirectory(path.into())),
            Err(e) => return Err(io_error(path, "cannot be looked at", e)),
        }
        let lock = disk.lock(path)?;
        let found = read_format(&*disk, path)?;
        let marked = disk.is_file(&path.join(MARK));
        let used = marked || holds(&*disk, &snapshots(path), |name| name.contains('-'))?;
        if !holds(&*disk, &raft(path), |name| is_append(Path::new(name)))? {
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
            (None, expected) => write_format(&*disk, path, expected.unwrap_or_else(Uuid::new_v4))?,
        };
        for inner in [raft(path), snapshots(path)] {
            if !disk.is_dir(&inner).unwrap_or(false) {
                make(&*disk, &inner)?;
            }
        }
        sync_dir(&*disk, path)?;
        Ok(Self { path: path.into(), disk, cluster, used, marked, _lock: lock })
    }

    /// Called once the log holds an entry, and that is on disk.
    pub(super) fn mark(&mut self) {
        let path = self.path.join(MARK);
        let said = "The log in this directory holds entries; without them the directory is not opened.\n";
        // The names of the files come before the mark.
        let marked = sync_dir(&*self.disk, &raft(&self.path)).map_err(|e| e.to_string());
        match marked.and_then(|()| write_whole(&*self.disk, &path, |file| file.write_all(said.as_bytes())).map_err(|e| e.to_string())) {
            Ok(()) => (self.used, self.marked) = (true, true),
            // It only serves to tell a log that is gone from one that never was; the next open tries again.
            Err(e) => tracing::warn!(file = %path.display(), "the mark of a log in use cannot be written: {e}"),
        }
    }
}

pub(super) fn raft(dir: &Path) -> PathBuf {
    dir.join("raft")
}

pub(super) fn snapshots(dir: &Path) -> PathBuf {
    dir.join("snapshots")
}

/// Whether a data directory is there already.
pub(super) fn is_made(disk: &dyn Disk, dir: &Path) -> bool {
    disk.is_file(&dir.join("FORMAT"))
}

/// Whether a file with anything in it, of a name that fits, is in a directory that may be missing.
fn holds(disk: &dyn Disk, dir: &Path, fits: impl Fn(&str) -> bool) -> Result<bool, LogError> {
    match disk.list(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Ok(files) => Ok(files.iter().any(|(name, bytes)| fits(name) && *bytes > 0)),
        Err(e) => Err(io_error(dir, "cannot be listed", e)),
    }
}

/// Makes names in a directory durable.
pub(super) fn sync_dir(disk: &dyn Disk, path: &Path) -> Result<(), LogError> {
    disk.sync_dir(path).map_err(|e| io_error(path, "cannot be synced", e))
}

/// Writes a whole file so that after a crash it is there entirely or not at all.
pub(super) fn write_whole(disk: &dyn Disk, path: &Path, write: impl FnOnce(&mut Cursor) -> io::Result<()>) -> io::Result<()> {
    let unfinished = path.with_extension("tmp");
    let written = (|| {
        let file = disk.open(&unfinished, For::Replacing)?;
        write(&mut Cursor::new(Arc::clone(&file)))?;
        file.sync()?;
        disk.rename(&unfinished, path)?;
        disk.sync_dir(path.parent().unwrap_or(Path::new(".")))
    })();
    if written.is_err() {
        // Best effort: a leftover is removed at the next open.
        let _ = disk.remove(&unfinished);
    }
    written
}

pub(super) fn io_error(path: &Path, what: &'static str, cause: io::Error) -> LogError {
    match cause.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => LogError::Permission { path: path.into(), cause },
        _ => LogError::Io { path: path.into(), what, cause },
    }
}

fn make(disk: &dyn Disk, path: &Path) -> Result<(), LogError> {
    match disk.make_dir(path) {
        Err(e) if matches!(e.kind(), ErrorKind::AlreadyExists | ErrorKind::NotADirectory) => Err(LogError::NotADirectory(path.into())),
        made => made.map_err(|e| io_error(path, "cannot be made", e)),
    }
}

fn format_text(cluster: Uuid) -> String {
    let body = format!("{TITLE}\nformat {FORMAT_VERSION}\ncluster {cluster}\n");
    format!("{body}checksum {:08x}\n", crc(body.as_bytes()))
}

/// The cluster id, or nothing in a new directory.
fn read_format(disk: &dyn Disk, dir: &Path) -> Result<Option<Uuid>, LogError> {
    let path = dir.join("FORMAT");
    let text = match read_all(disk, &path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            // FORMAT is written before anything else, so entries without it are not ours.
            let there = [raft(dir), snapshots(dir)].iter().any(|inner| disk.is_dir(inner).is_ok());
            return if there { Err(LogError::Foreign(dir.into())) } else { Ok(None) };
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

fn write_format(disk: &dyn Disk, dir: &Path, cluster: Uuid) -> Result<Uuid, LogError> {
    let path = dir.join("FORMAT");
    write_whole(disk, &path, |file| file.write_all(format_text(cluster).as_bytes()))
        .map_err(|e| io_error(&path, "cannot be written", e))?;
    Ok(cluster)
}
