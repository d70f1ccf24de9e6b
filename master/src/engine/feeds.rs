//! What changefeeds need of the engine.

use super::Engine;
use crate::feeds::{Counts, Kept, Place, Progress};
use crate::observe::FeedUse;
use perilune_protocol::{Outcome, Tso};
use perilune_state::Effect;
use perilune_state::directory::{FeedId, FeedRecord, FeedState};

impl Engine {
    /// A fresh stamp of the one clock.
    pub(crate) async fn feed_clock(&self) -> Outcome<Tso> {
        self.stamps(1).await
    }

    /// How far a feed is: as it says itself while it is delivered, otherwise as it was kept. What is complete in the log is known however far its
    /// sink is, unless nobody is to deliver it.
    pub(crate) fn feed_progress(&self, feed: &FeedRecord) -> Progress {
        let told = self.reign.feeds.progress(feed).unwrap_or_else(|| self.kept_progress(feed).progress());
        if !feed.state.runs() && feed.state != FeedState::Pending {
            return told;
        }
        let complete = self.events().resolved().0;
        Progress { resolved: feed.target.map_or(complete, |target| target.min(complete)).max(told.resolved), ..told }
    }

    /// How far it was when that was written down last.
    pub(crate) fn kept_progress(&self, feed: &FeedRecord) -> Kept {
        let kept = self.setting(&feed.progress_key()).and_then(|text| Kept::read(&text));
        kept.filter(|kept| kept.run == feed.run).unwrap_or_else(|| Kept::begin(feed))
    }

    /// Writes down how far a feed says that it is, which is more than it writes down itself, so that it stays there when it is delivered no more.
    pub(crate) async fn keep_live(&self, feed: &FeedRecord) -> Outcome<()> {
        let Some(Progress { checkpoint, last_synced, .. }) = self.reign.feeds.progress(feed) else { return Ok(()) };
        let live = Kept { run: feed.run, checkpoint, last_synced };
        if live == self.kept_progress(feed) {
            return Ok(());
        }
        self.keep_progress(feed, &live).await
    }

    /// Writes it down.
    pub(crate) async fn keep_progress(&self, feed: &FeedRecord, kept: &Kept) -> Outcome<()> {
        self.commit(&Effect::Setting { key: feed.progress_key(), value: Some(kept.text()) }).await
    }

    /// Somebody lets a feed go on that stands still: from now on it has all its time to deliver what it held before.
    pub(crate) async fn note_resumed(&self, feed: FeedId, now: Tso) -> Outcome<()> {
        let value = Some(now.physical_ms().to_string());
        self.commit(&Effect::Setting { key: FeedRecord::resumed_key_of(feed), value }).await
    }

    /// Since when a feed holds what it has not delivered, in milliseconds of the one clock: since that happened, or since it was let go on.
    pub(crate) fn held_since_ms(&self, feed: &FeedRecord) -> u64 {
        let resumed = self.setting(&FeedRecord::resumed_key_of(feed.id)).and_then(|text| text.parse().ok());
        self.feed_progress(feed).checkpoint.physical_ms().max(resumed.unwrap_or(0))
    }

    /// Whether it has held that for longer than feeds may.
    pub(crate) fn is_overdue(&self, feed: &FeedRecord) -> bool {
        u128::from(self.wall_ms().saturating_sub(self.held_since_ms(feed))) > self.inner.config.feed_gc_ttl.as_millis()
    }

    /// A feed is gone: nothing that was written down about it is of account any more.
    pub(crate) async fn forget_feed(&self, feed: FeedId) -> Outcome<()> {
        for key in [FeedRecord::progress_key_of(feed), FeedRecord::resumed_key_of(feed)] {
            if self.setting(&key).is_some() {
                self.commit(&Effect::Setting { key, value: None }).await?;
            }
        }
        Ok(())
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
