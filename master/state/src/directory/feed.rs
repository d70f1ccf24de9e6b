//! What is recorded of each changefeed, as it is stored, and the life of one as a table.
//!
//! How far it is stands elsewhere: in a setting of the group (`FeedRecord::progress_key`), since that moves every second.

use perilune_protocol::sealed::Sealed;
use perilune_protocol::{TenantId, Tso};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The number of a changefeed, never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FeedId(pub u64);

/// A changefeed. No secret of its sink is here but sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedRecord {
    /// Its number.
    pub id: FeedId,
    /// Whose events it carries. The name of that tenant is its namespace.
    pub tenant: TenantId,
    /// What it is called; no other of the tenant is called so.
    pub name: String,
    /// Where events go, with what may be a secret masked.
    pub sink: String,
    /// The whole of that, where anything is masked.
    pub sealed: Option<Sealed>,
    /// How they go there, as JSON.
    pub config: String,
    /// Events after this stamp.
    pub start: Tso,
    /// Events up to this stamp; then it is finished.
    pub target: Option<Tso>,
    /// Where it is in its life.
    pub state: FeedState,
    /// Why it stands still.
    pub error: Option<Trouble>,
    /// Why it stumbled last.
    pub warning: Option<Trouble>,
    /// Rises whenever it is to begin at `start` again: how far a run before came is of no account.
    pub run: u32,
    /// The release that created it.
    pub creator: String,
    /// When it was created, in milliseconds of the one clock.
    pub ctime_ms: u64,
    /// When it was last changed.
    pub mtime_ms: u64,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// When, in milliseconds of the one clock.
    pub at_ms: u64,
    /// Which master met it, `host:port` of its service.
    pub addr: String,
    /// Its kind, such as `CDC:ErrSnapshotLostByGC`.
    pub code: String,
    /// In a sentence.
    pub message: String,
}

/// Where a changefeed is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FeedState {
    /// It delivers.
    Normal,
    /// It delivers, or tries to, and stumbled not long ago.
    Warning,
    /// It met an error and waits before it tries again.
    Pending,
    /// It met an error that does not pass.
    Failed,
    /// Somebody paused it.
    Stopped,
    /// It has delivered everything up to its target.
    Finished,
}

/// What happens to a changefeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedEvent {
    /// Somebody pauses it.
    Pause,
    /// Somebody lets it go on.
    Resume,
    /// It has delivered everything up to its target.
    Reached,
    /// It met an error that does not pass, or for too long.
    Broken,
    /// It met one that may pass.
    Stumbled,
    /// It has waited, and tries again.
    Retried,
    /// It gets on.
    Recovered,
}

impl FeedState {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Normal, Self::Warning, Self::Pending, Self::Failed, Self::Stopped, Self::Finished];

    /// What it is after that; `None`: then nothing happens.
    pub fn after(self, event: FeedEvent) -> Option<Self> {
        use FeedEvent::{Broken, Pause, Reached, Recovered, Resume, Retried, Stumbled};
        Some(match (event, self) {
            (Pause, Self::Normal | Self::Warning | Self::Pending) => Self::Stopped,
            (Resume, Self::Failed | Self::Stopped | Self::Finished) => Self::Normal,
            (Reached, Self::Normal | Self::Warning) => Self::Finished,
            // Also one that is paused: what it needs may be gone meanwhile.
            (Broken, Self::Normal | Self::Warning | Self::Pending | Self::Stopped) => Self::Failed,
            (Stumbled, Self::Normal | Self::Warning) => Self::Pending,
            (Retried, Self::Pending) => Self::Warning,
            (Recovered, Self::Warning) => Self::Normal,
            _ => return None,
        })
    }

    /// Whether it is to deliver.
    pub fn runs(self) -> bool {
        matches!(self, Self::Normal | Self::Warning)
    }

    /// As callers write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Warning => "warning",
            Self::Pending => "pending",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
            Self::Finished => "finished",
        }
    }
}

impl FeedRecord {
    /// The setting that keeps how far it is.
    pub fn progress_key(&self) -> String {
        Self::progress_key_of(self.id)
    }

    /// The same by its number.
    pub fn progress_key_of(id: FeedId) -> String {
        format!("{}feed.{}", crate::settings::JOB_RECORD, id.0)
    }

    /// The setting that keeps when somebody let it go on last, in milliseconds of the one clock.
    pub fn resumed_key_of(id: FeedId) -> String {
        format!("{}.resumed", Self::progress_key_of(id))
    }
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Feeds {
    /// The last number that was given.
    last: u64,
    records: BTreeMap<FeedId, FeedRecord>,
}

/// How snapshots keep them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredFeeds {
    last: u64,
    records: Vec<FeedRecord>,
}

impl From<StoredFeeds> for Feeds {
    fn from(stored: StoredFeeds) -> Self {
        let records = stored.records.into_iter().map(|record| (record.id, record)).collect();
        Self { last: stored.last, records }
    }
}

impl Feeds {
    /// `None` where there never was one.
    pub(super) fn stored(&self) -> Option<StoredFeeds> {
        (self.last > 0).then(|| StoredFeeds { last: self.last, records: self.records.values().cloned().collect() })
    }

    pub(super) fn enter(&mut self, record: FeedRecord) {
        self.last = self.last.max(record.id.0);
        self.records.insert(record.id, record);
    }

    pub(super) fn leave(&mut self, id: FeedId) {
        self.records.remove(&id);
    }

    pub(super) fn leave_all_of(&mut self, tenant: TenantId) {
        self.records.retain(|_, record| record.tenant != tenant);
    }

    /// A number that none had.
    pub(super) fn fresh(&self) -> FeedId {
        FeedId(self.last + 1)
    }

    pub(super) fn get(&self, id: FeedId) -> Option<&FeedRecord> {
        self.records.get(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &FeedRecord> {
        self.records.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every event in every state, as the documents draw it.
    #[test]
    fn the_life_of_a_feed() {
        let rows = [
            (FeedEvent::Pause, "stopped stopped stopped - - -"),
            (FeedEvent::Resume, "- - - normal normal normal"),
            (FeedEvent::Reached, "finished finished - - - -"),
            (FeedEvent::Broken, "failed failed failed - failed -"),
            (FeedEvent::Stumbled, "pending pending - - - -"),
            (FeedEvent::Retried, "- - warning - - -"),
            (FeedEvent::Recovered, "- normal - - - -"),
        ];
        for (event, row) in rows {
            let found: Vec<_> = FeedState::ALL.map(|state| state.after(event).map_or("-", FeedState::name)).into();
            assert_eq!(found.join(" "), row, "{event:?}");
        }
    }
}
