//! A new group of one from a snapshot file that was kept elsewhere.
//!
//! It is built in a directory beside the one that is asked for, which it becomes in one step: a file that cannot be used changes nothing.

use super::directory::{self, Directory, io_error, sync_dir};
use super::disk::System;
use super::files::Files;
use super::machine::Machine;
use super::members::Members;
use super::snapshot;
use super::store::Store;
use super::{LogConfig, LogError};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

/// What a group was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revived {
    /// The new group.
    pub cluster: Uuid,
    /// The group whose snapshot it was.
    pub from: Uuid,
    /// The last entry of the log that the snapshot holds.
    pub index: u64,
}

/// Feeds what `file` holds to `machine`.
///
/// # Errors
/// When the file is not a whole snapshot.
pub(crate) fn inspect<M: Machine>(file: &Path, machine: &mut M) -> Result<(), LogError> {
    feed(file, machine).map(drop)
}

/// The same; gives the entry it stands behind, and the group it is of.
fn feed<M: Machine>(file: &Path, machine: &mut M) -> Result<(snapshot::SnapshotId, Uuid), LogError> {
    let unusable = |e: io::Error| LogError::NotASnapshot { path: file.into(), what: e.to_string() };
    let (id, from) = snapshot::head(&System, file).map_err(unusable)?;
    let mut body = snapshot::open(&System, file, id, from).map_err(unusable)?;
    machine.restore(&mut body).map_err(unusable)?;
    Ok((id, from))
}

/// Writes what a new group begins with, from what a snapshot holds.
pub type PassOn = fn(&mut dyn io::Read, &mut dyn io::Write) -> io::Result<()>;

/// All of it.
pub fn unchanged(from: &mut dyn io::Read, to: &mut dyn io::Write) -> io::Result<()> {
    io::copy(from, to).map(drop)
}

/// Makes `config.dir` the directory of a group that begins with what `pass_on` makes of what `file` holds, with `config.members` and
/// `config.cluster` (or a new id). `machine` is only there to find out whether it can read it.
///
/// # Errors
/// When the directory holds anything, when the file is not a whole snapshot or is of the very cluster that is to begin, or when something cannot be written. Nothing is left behind.
pub fn revive<M: Machine>(config: &LogConfig, file: &Path, mut machine: M, pass_on: PassOn) -> Result<Revived, LogError> {
    check_empty(&config.dir)?;
    let mut members = config.first_members().map_err(LogError::Config)?;
    let (id, from) = feed(file, &mut machine)?;
    members.index = id.index;
    if config.cluster == Some(from) {
        let why = format!(
            "{} is of the cluster {from}: the restored group needs an id of its own: leave --cluster out or give another",
            file.display()
        );
        return Err(LogError::Config(why));
    }
    let cluster = config.cluster.unwrap_or_else(Uuid::new_v4);

    let unfinished = beside(&config.dir, ".restoring");
    let built = (|| {
        clear(&unfinished)?;
        let made = Directory::open(Arc::new(System), &unfinished, Some(cluster))?;
        let mut body =
            snapshot::open(&System, file, id, from).map_err(|e| LogError::NotASnapshot { path: file.into(), what: e.to_string() })?;
        let copy = Box::new(move |out: &mut dyn io::Write| pass_on(&mut body, out));
        let dir = directory::snapshots(&unfinished);
        snapshot::write(&System, &dir, id, cluster, copy).map_err(|e| io_error(&dir, "the snapshot cannot be written", e))?;
        begin_log(&unfinished, config.member, members, id)?;
        drop(made);
        place(&unfinished, &config.dir)
    })();
    if built.is_err() {
        let _ = clear(&unfinished);
    }
    built.map(|()| Revived { cluster, from, index: id.index })
}

/// The log begins behind the snapshot, as if another member had sent it.
fn begin_log(dir: &Path, me: u64, members: Members, id: snapshot::SnapshotId) -> Result<(), LogError> {
    let raft = directory::raft(dir);
    let files = Arc::new(Files::new(Arc::new(System), Arc::default()));
    let mut store = Store::open(&raft, files, me, || Ok(members.clone()), false)?;
    // No later entry may have an earlier term.
    store.record.term = id.term;
    let begun = store.install(id, members);
    begun.map_err(|what| io_error(&raft, "the log cannot be begun", io::Error::other(what)))
}

/// Whether a group may begin in a directory: there is nothing in it.
pub(crate) fn check_empty(dir: &Path) -> Result<(), LogError> {
    match fs::read_dir(dir).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) => Err(LogError::Occupied(dir.into())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == ErrorKind::NotADirectory => Err(LogError::NotADirectory(dir.into())),
        Err(e) => Err(io_error(dir, "cannot be listed", e)),
    }
}

/// A directory's name with more behind it.
pub(crate) fn beside(dir: &Path, what: &str) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(what);
    dir.with_file_name(name)
}

/// What an attempt that broke off left is of no use.
fn clear(dir: &Path) -> Result<(), LogError> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(io_error(dir, "cannot be removed", e)),
        _ => Ok(()),
    }
}

/// In one step; over an empty directory if one is there.
fn place(from: &Path, to: &Path) -> Result<(), LogError> {
    fs::rename(from, to).map_err(|e| io_error(to, "cannot be put in place", e))?;
    match to.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => sync_dir(&System, parent),
        None => sync_dir(&System, Path::new(".")),
    }
}
