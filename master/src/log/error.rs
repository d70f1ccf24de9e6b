//! Why a data directory could not be opened. Everything after that is a [`perilune_protocol::Fault`] in the proposal's answer.

use std::io;
use std::path::PathBuf;
use uuid::Uuid;

/// Why a log could not be opened. Each sentence says what was wrong, where, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The path names something else than a directory.
    #[error("the data directory {} is not a directory: choose another path", .0.display())]
    NotADirectory(PathBuf),
    /// The user of this process may not use the directory.
    #[error("no permission for {}: {cause}; give its owner's rights to this process's user, or choose another data directory", path.display())]
    Permission {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// A setting cannot be.
    #[error("{0}")]
    Config(String),
    /// The directory belongs to another cluster.
    #[error("{} belongs to the cluster {found}, not to {expected}: choose another data directory, or the members it belongs to", path.display())]
    OtherCluster {
        /// The directory.
        path: PathBuf,
        /// Its cluster.
        found: Uuid,
        /// The one that was asked for.
        expected: Uuid,
    },
    /// The directory belongs to another member.
    #[error("{} belongs to member {found} of its group, not to member {expected}: choose another data directory, or another member id", path.display())]
    OtherMember {
        /// The directory.
        path: PathBuf,
        /// Its member.
        found: u64,
        /// The one that was asked for.
        expected: u64,
    },
    /// Another process has the directory open.
    #[error("the data directory {} is in use by another process{holder}: stop it first, or choose another data directory", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// ` (pid N)`, or nothing when unknown.
        holder: String,
    },
    /// Files are there, but none that says this is one of ours.
    #[error("{} holds files but no FORMAT file: it is not a data directory of this program, or its FORMAT was removed; choose an empty directory", .0.display())]
    Foreign(PathBuf),
    /// A new group is to begin in a directory that is not empty.
    #[error("{} is not empty: a snapshot is restored into a new data directory; choose another, or start what is there without restoring", .0.display())]
    Occupied(PathBuf),
    /// A file cannot be restored from.
    #[error("{} cannot be restored from: {what}; nothing was changed. Take another copy, or another snapshot", path.display())]
    NotASnapshot {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// Written by a newer version.
    #[error("{} was written in format {found}, this version reads up to {known}: start the newer version, or choose another data directory", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format version.
        found: u32,
        /// The newest that this version reads.
        known: u32,
    },
    /// Bytes that were once written and synced are not there as they were written.
    #[error("{} is damaged: {what}; nothing was changed. {advice}", path.display())]
    Corrupt {
        /// The file or directory.
        path: PathBuf,
        /// What was found.
        what: String,
        /// What to do.
        advice: &'static str,
    },
    /// The file system refused.
    #[error("{}: {what}: {cause}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        cause: io::Error,
    },
    /// The log could not be brought to lead; a defect.
    #[error("the log in {} did not start: {what}", path.display())]
    Start {
        /// The directory.
        path: PathBuf,
        /// What happened.
        what: String,
    },
}
