//! What changefeeds need of the engine.

use super::Engine;
use crate::feeds::{Kept, Place, Progress};
use perilune_protocol::{Outcome, Tso};
use perilune_state::Effect;
use perilune_state::directory::FeedRecord;

impl Engine {
    /// A fresh stamp of the one clock.
    pub(crate) async fn feed_clock(&self) -> Outcome<Tso> {
        self.stamps(1).await
    }

    /// How far a feed is: as it says itself while it is delivered, otherwise as it was kept.
    pub(crate) fn feed_progress(&self, feed: &FeedRecord) -> Progress {
        self.reign.feeds.progress(feed).unwrap_or_else(|| self.kept_progress(feed).progress())
    }

    /// How far it was when that was written down last.
    pub(crate) fn kept_progress(&self, feed: &FeedRecord) -> Kept {
        let kept = self.setting(&feed.progress_key()).and_then(|text| Kept::read(&text));
        kept.filter(|kept| kept.run == feed.run).unwrap_or_else(|| Kept::begin(feed))
    }

    /// Writes it down; `None`: it is of no account any more.
    pub(crate) async fn keep_progress(&self, key: String, kept: Option<&Kept>) -> Outcome<()> {
        self.commit(&Effect::Setting { key, value: kept.map(Kept::text) }).await
    }

    /// What sinks may use of this process.
    pub(crate) fn feed_place(&self) -> Place {
        Place { root: self.inner.config.vault_root.clone() }
    }
}
