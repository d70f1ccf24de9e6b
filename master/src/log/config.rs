//! What a log is opened with: where it lives, how durable it is, when it is cut.

use super::members::{Member, Members};
use super::retain::Keeps;
use perilune_protocol::access::Token;
use std::fmt;
use std::net::TcpListener;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// When a proposal counts as stored. Killing the process (`kill -9`, a panic, out of memory) loses nothing acknowledged under any of
/// them, because every acknowledged entry has been handed to the kernel by then. They differ in what a power loss, or a crash of the
/// kernel, of a majority at once may take. A single member that lost entries that way is sent them again.
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
    /// This member's id in its group, at least 1. A data directory belongs to one member for good.
    pub member: u64,
    /// The group as it begins, the same for all its members; or, to join one, as it was when this member was added. Counts only for a new
    /// data directory: afterwards the log knows better. Empty: this member alone.
    pub members: Members,
    /// The directory, if it was made before, is that of a member that joined a group: it begins none by itself.
    pub joined: bool,
    /// The group's id, the same for all its members. A group of one may leave it out and gets one of its own.
    pub cluster: Option<Uuid>,
    /// Where the other members call. A group of one that nobody joins needs none.
    pub listen: Option<Arc<TcpListener>>,
    /// What the others must know as well, and prove before they are listened to.
    pub token: Option<Token>,
    /// A leader is heard this often.
    pub heartbeat: Duration,
    /// A leader that was not heard for so long is replaced. Each member draws a time of its own between the two.
    pub election: (Duration, Duration),
    /// When a proposal counts as stored.
    pub durability: Durability,
    /// Interval of the background sync under [`Durability::Quorum`].
    pub sync_every: Duration,
    /// A snapshot is taken after this many applied raft entries; 0 means never by count.
    pub snapshot_entries: u64,
    /// A snapshot is taken after this many bytes of applied effects, whatever their count; 0 means never by bytes.
    pub snapshot_bytes: u64,
    /// Entries that no member needs any more are kept up to about so many bytes, for those who read what happened.
    pub keeps: Keeps,
    /// Most effects in one raft entry.
    pub batch_effects: usize,
    /// Most bytes of effects in one raft entry, unless a single effect is larger, or what was proposed together ([`super::Log::propose_all`]).
    pub batch_bytes: usize,
    /// Bytes that should be free on the disk; with less nothing new should be proposed, and with next to none nothing is taken. 0: any will do.
    pub reserve: u64,
    /// What the election timeouts are drawn from. Members that share one may stand for election at the same time.
    pub seed: u64,
    /// Most effects that wait to be packed, or sets of those that were proposed together. A proposal beyond it waits for room, so a slow disk slows
    /// its callers down.
    pub queue_effects: usize,
}

/// The largest effect that can be proposed, in bytes.
pub const EFFECT_BYTES_MAX: usize = 16 << 20;

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("perilune-data"),
            member: 1,
            members: Members::default(),
            joined: false,
            cluster: None,
            listen: None,
            token: None,
            heartbeat: Duration::from_millis(50),
            election: (Duration::from_millis(250), Duration::from_millis(500)),
            durability: Durability::default(),
            sync_every: Duration::from_millis(100),
            snapshot_entries: 100_000,
            snapshot_bytes: 256 << 20,
            keeps: Keeps::default(),
            batch_effects: 4096,
            batch_bytes: 1 << 20,
            reserve: 64 << 20,
            seed: Uuid::new_v4().as_u64_pair().0,
            queue_effects: 16_384,
        }
    }
}

/// Raft counts time in ticks. Fine ones keep two members from drawing the same time before they stand for election.
const TICKS_PER_HEARTBEAT: u32 = 5;

impl LogConfig {
    /// How often the log's clock ticks.
    pub(super) fn tick(&self) -> Duration {
        (self.heartbeat / TICKS_PER_HEARTBEAT).max(Duration::from_millis(1))
    }

    /// Ticks between heartbeats, and the bounds of the election timeout in ticks.
    pub(super) fn ticks(&self) -> (usize, (usize, usize)) {
        let ticks = |time: Duration| usize::try_from(time.as_nanos() / self.tick().as_nanos()).unwrap_or(usize::MAX);
        (ticks(self.heartbeat).max(1), (ticks(self.election.0), ticks(self.election.1)))
    }

    /// The bounds between which a member draws its wait, in ticks. For the shortest election timeout the others listen to no candidate, and
    /// not all count alike: who stood at that very moment would often stand in vain.
    pub(super) fn patience(&self) -> (usize, usize) {
        let (heartbeat, (shortest, longest)) = self.ticks();
        (shortest + (heartbeat / 2).min((longest - shortest) / 2), longest)
    }

    /// Which setting cannot be, whatever the directory holds.
    pub(super) fn check(&self) -> Result<(), String> {
        let (heartbeat, (shortest, longest)) = self.ticks();
        if shortest < heartbeat * 2 || longest <= shortest {
            return Err(format!(
                "heartbeat {:?}, election {:?} to {:?}: an election must wait for two heartbeats at least, and have room to choose",
                self.heartbeat, self.election.0, self.election.1
            ));
        }
        if self.batch_bytes > EFFECT_BYTES_MAX {
            return Err(format!("batch_bytes is {}, the limit is {EFFECT_BYTES_MAX}", self.batch_bytes));
        }
        if self.member == 0 { Err("member ids begin at 1".into()) } else { Ok(()) }
    }

    /// What a new directory begins with, or which setting cannot be.
    pub(super) fn first_members(&self) -> Result<Members, String> {
        let members = match self.members.is_empty() {
            true if self.joined => {
                return Err(format!(
                    "{} was made to join a group and never got its member list: remove it and join again",
                    self.dir.display()
                ));
            }
            true => Members::begin(vec![Member { id: self.member, ..Member::default() }])?,
            false => self.members.clone(),
        };
        if members.get(self.member).is_none() {
            return Err(format!("this member has the id {}, which is not among the members of the group", self.member));
        }
        if members.iter().nth(1).is_some() {
            if self.cluster.is_none() {
                return Err("a group of several members needs a cluster id that all of them are given".into());
            }
            self.check_listens()?;
            if let Some((nowhere, _)) = members.iter().find(|(m, _)| m.address.is_empty()) {
                return Err(format!("member {} has no address", nowhere.id));
            }
        }
        Ok(members)
    }

    /// What a directory holds must not be a group that one who is said to have joined began by itself.
    pub(super) fn check_joined(&self, members: &Members) -> Result<(), String> {
        if !self.joined || members.index > 0 || !members.is_alone(self.member) {
            return Ok(());
        }
        Err(format!(
            "{} holds a group of member {} alone, which never joined another: to join one, remove it or choose another data directory; \
             to go on with what it holds, start without joining",
            self.dir.display(),
            self.member
        ))
    }

    /// Whether this can be one of several members.
    pub(super) fn check_listens(&self) -> Result<(), String> {
        self.listen.as_ref().map(drop).ok_or_else(|| "a member of a group needs a listener where the others reach it".into())
    }
}
