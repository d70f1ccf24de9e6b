//! What changefeeds need of the engine.

use super::Engine;
use crate::feeds::{Counts, Kept, Place, Progress};
use crate::observe::FeedUse;
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

    /// How feeds fare, those of tenants that are there. Where this member does not lead, none: it does not know.
    pub(crate) fn feed_uses(&self) -> Vec<FeedUse> {
        let (known, now_ms) = (self.directory(), self.wall_ms());
        let seen = |feed: &FeedRecord| {
            let Progress { checkpoint, resolved, .. } = self.feed_progress(feed);
            let lag = |stamp: Tso| now_ms.saturating_sub(stamp.physical_ms());
            let Counts { rows, bytes, flushes, flush_micros, errors } = self.reign.feeds.counts(feed.id);
            Some(FeedUse {
                namespace: known.tenant(feed.tenant)?.name.clone(),
                name: feed.name.clone(),
                state: feed.state.name(),
                checkpoint_lag_ms: lag(checkpoint),
                resolved_lag_ms: lag(resolved),
                rows,
                bytes,
                flushes,
                flush_micros,
                errors,
            })
        };
        if self.leads() { known.feeds().filter_map(seen).collect() } else { Vec::new() }
    }

    /// What sinks may use of this process.
    pub(crate) fn feed_place(&self) -> Place {
        Place {
            root: self.inner.config.vault_root.clone(),
            #[cfg(feature = "simulation")]
            within: self.safe().ok().and_then(|safe| safe.within),
        }
    }
}
