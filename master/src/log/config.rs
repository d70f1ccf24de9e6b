//! What a log is opened with: where it lives, how durable it is, when it is cut.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// When a proposal counts as stored. Killing the process (`kill -9`, a panic, out of memory) loses nothing acknowledged under any of
/// them, because every acknowledged entry has been handed to the kernel by then. They differ in what a power loss, or a crash of the
/// kernel, of every member at once may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Durability {
    /// `fdatasync` before the answer. A power loss takes nothing acknowledged.
    QuorumFsync,
    /// Written before the answer, synced in the background every [`LogConfig::sync_every`].
    /// A power loss takes at most the entries of the last such interval (100 ms by default).
    #[default]
    Quorum,
    /// Written before the answer and never synced on purpose, except when the log is cut, a file is full, or the log is closed.
    /// A power loss takes what the kernel had not yet written back, usually up to 30 seconds.
    Leader,
}

impl Durability {
    /// The word used in flags and configuration files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QuorumFsync => "quorum-fsync",
            Self::Quorum => "quorum",
            Self::Leader => "leader",
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Durability {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::QuorumFsync, Self::Quorum, Self::Leader]
            .into_iter()
            .find(|d| d.as_str() == text)
            .ok_or_else(|| format!("unknown durability {text:?}: use quorum-fsync, quorum or leader"))
    }
}

/// Everything a log is opened with.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// The data directory. Made (mode 0700) when it does not exist.
    pub dir: PathBuf,
    /// When a proposal counts as stored.
    pub durability: Durability,
    /// Interval of the background sync under [`Durability::Quorum`].
    pub sync_every: Duration,
    /// A snapshot is taken after this many applied raft entries; 0 means never by count.
    pub snapshot_entries: u64,
    /// A snapshot is taken after this many bytes of applied effects, whatever their count; 0 means never by bytes.
    pub snapshot_bytes: u64,
    /// Most effects in one raft entry.
    pub batch_effects: usize,
    /// Most bytes of effects in one raft entry, unless a single effect is larger.
    pub batch_bytes: usize,
    /// Most effects that wait to be packed. A proposal beyond it waits for room, so a slow disk slows its callers down.
    pub queue_effects: usize,
}

/// The largest effect that can be proposed, in bytes.
pub const EFFECT_BYTES_MAX: usize = 16 << 20;

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("perilune-data"),
            durability: Durability::default(),
            sync_every: Duration::from_millis(100),
            snapshot_entries: 100_000,
            snapshot_bytes: 256 << 20,
            batch_effects: 4096,
            batch_bytes: 1 << 20,
            queue_effects: 16_384,
        }
    }
}
