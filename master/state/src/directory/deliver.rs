//! What may become of changefeeds: a request in, the change to log or a refusal out.

use super::decide::Decision;
use super::feed::{FeedEvent, FeedId, FeedRecord, FeedState, Trouble};
use super::record::{Change, Known};
use perilune_protocol::sealed::Sealed;
use perilune_protocol::{TenantId, Tso};

/// Most changefeeds there may be: each is a reader of the log.
const FEEDS_MAX: usize = 128;
/// The longest name, in bytes.
pub const FEED_NAME_BYTES_MAX: usize = 128;

/// A changefeed that is to be.
#[derive(Clone, Debug)]
pub struct NewFeed {
    /// What it is called: [`is_feed_name`].
    pub name: String,
    /// Where events go, masked.
    pub sink: String,
    /// The same, sealed, where anything is masked.
    pub sealed: Option<Sealed>,
    /// How, as JSON.
    pub config: String,
    /// Events after this stamp.
    pub start: Tso,
    /// Events up to this one.
    pub target: Option<Tso>,
    /// The release that creates it.
    pub creator: String,
}

/// Why a changefeed is as it was. Faces say it in their own words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeedRefused {
    /// There is one of this name.
    #[error("there is a changefeed {0} already")]
    Exists(String),
    /// There is none.
    #[error("there is no such changefeed")]
    Unknown,
    /// There are as many as there may be.
    #[error("there are {FEEDS_MAX} changefeeds already, those of all tenants together: delete one first")]
    Full,
    /// Only one that stands still is changed.
    #[error("only a changefeed that is stopped or failed is changed")]
    Runs,
    /// It is another than whoever changes it has seen.
    #[error("the changefeed was changed meanwhile: look at it and ask again")]
    Changed,
}

/// Whether a changefeed may be called so: letters and digits, in parts with one `-` between them.
pub fn is_feed_name(name: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    name.len() <= FEED_NAME_BYTES_MAX && name.split('-').all(part)
}

impl Known {
    /// A changefeed begins. Its name was checked.
    ///
    /// # Errors
    /// [`super::Refused::Unknown`], [`super::Refused::Dropped`]; [`FeedRefused::Exists`], [`FeedRefused::Full`].
    pub fn create_feed(&self, tenant: &str, new: &NewFeed, now_ms: u64) -> Decision {
        let tenant = self.living(tenant)?.id;
        if self.feed_named(tenant, &new.name).is_some() {
            return Err(FeedRefused::Exists(new.name.clone()).into());
        }
        if self.feeds().count() >= FEEDS_MAX {
            return Err(FeedRefused::Full.into());
        }
        let NewFeed { name, sink, sealed, config, start, target, creator } = new.clone();
        Ok(Some(Change::Feed(FeedRecord {
            id: self.fresh_feed(),
            tenant,
            name,
            sink,
            sealed,
            config,
            start,
            target,
            state: FeedState::Normal,
            error: None,
            warning: None,
            run: 1,
            creator,
            ctime_ms: now_ms,
            mtime_ms: now_ms,
        })))
    }

    /// One that stands still gets another sink, config or target; `change` makes them.
    ///
    /// # Errors
    /// [`FeedRefused::Unknown`], [`FeedRefused::Runs`]; [`FeedRefused::Changed`], where it delivers otherwise than `seen`.
    pub fn alter_feed(&self, seen: &FeedRecord, change: &dyn Fn(&mut FeedRecord), now_ms: u64) -> Decision {
        let found = self.feed(seen.id).ok_or(FeedRefused::Unknown)?;
        let how = |feed: &FeedRecord| (feed.run, feed.sink.clone(), feed.sealed.clone(), feed.config.clone(), feed.target);
        if how(found) != how(seen) {
            return Err(FeedRefused::Changed.into());
        }
        if !matches!(found.state, FeedState::Stopped | FeedState::Failed) {
            return Err(FeedRefused::Runs.into());
        }
        Ok(Some(Change::Feed(changed(found, now_ms, change))))
    }

    /// Something happens to one; nothing where that changes nothing in its state. `trouble` is why.
    ///
    /// # Errors
    /// [`FeedRefused::Unknown`].
    pub fn advance_feed(&self, id: FeedId, event: FeedEvent, trouble: Option<&Trouble>, now_ms: u64) -> Decision {
        let found = self.feed(id).ok_or(FeedRefused::Unknown)?;
        let Some(state) = found.state.after(event) else { return Ok(None) };
        Ok(Some(Change::Feed(changed(found, now_ms, |feed| {
            feed.state = state;
            match event {
                FeedEvent::Broken | FeedEvent::Stumbled => feed.error = trouble.cloned(),
                FeedEvent::Retried => feed.warning = feed.error.take(),
                FeedEvent::Recovered => feed.error = None,
                FeedEvent::Resume | FeedEvent::Pause | FeedEvent::Reached => {}
            }
        }))))
    }

    /// One that stands still goes on: from where it was, or from `over`. Of one that does not, nothing becomes.
    ///
    /// # Errors
    /// [`FeedRefused::Unknown`].
    pub fn resume_feed(&self, id: FeedId, over: Option<Tso>, now_ms: u64) -> Decision {
        let found = self.feed(id).ok_or(FeedRefused::Unknown)?;
        let Some(state) = found.state.after(FeedEvent::Resume) else { return Ok(None) };
        Ok(Some(Change::Feed(changed(found, now_ms, |feed| {
            (feed.state, feed.error, feed.warning) = (state, None, None);
            if let Some(start) = over {
                feed.start = start;
                feed.run += 1;
            }
        }))))
    }

    /// One ends. Twice is as good as once.
    pub fn drop_feed(&self, id: FeedId) -> Decision {
        Ok(self.feed(id).map(|feed| Change::FeedGone(feed.id)))
    }

    /// The changefeed of this name.
    pub fn feed_named(&self, tenant: TenantId, name: &str) -> Option<&FeedRecord> {
        self.feeds().find(|feed| feed.tenant == tenant && feed.name == name)
    }
}

fn changed(found: &FeedRecord, now_ms: u64, change: impl FnOnce(&mut FeedRecord)) -> FeedRecord {
    let mut record = found.clone();
    change(&mut record);
    // The clock of one leader may be behind that of the one before.
    record.mtime_ms = now_ms.max(found.mtime_ms);
    record
}
