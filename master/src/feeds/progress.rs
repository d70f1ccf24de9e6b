//! How far a feed is.

use perilune_protocol::Tso;
use perilune_state::directory::FeedRecord;

/// As it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Everything up to this stamp is durable at the sink.
    pub(crate) checkpoint: Tso,
    /// Everything up to this one is known: was read for it, or is complete in the log.
    pub(crate) resolved: Tso,
    /// The stamp of the last row that the sink has.
    pub(crate) last_synced: Tso,
}

impl Progress {
    /// Of a feed that begins there.
    pub(crate) fn at(stamp: Tso) -> Self {
        Self { checkpoint: stamp, resolved: stamp, last_synced: stamp }
    }
}

/// What a feed has done in this reign.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Rows that its sink took, and their bytes there. What comes again counts again.
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    /// How often everything was made durable, and what that took, in microseconds.
    pub(crate) flushes: u64,
    pub(crate) flush_micros: u64,
    /// How often it ended with an error.
    pub(crate) errors: u64,
}

/// As it is kept, in a setting of the group: three numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Of which run of the feed.
    pub(crate) run: u32,
    pub(crate) checkpoint: Tso,
    pub(crate) last_synced: Tso,
}

impl Kept {
    pub(crate) fn begin(feed: &FeedRecord) -> Self {
        Self { run: feed.run, checkpoint: feed.start, last_synced: feed.start }
    }

    pub(crate) fn progress(self) -> Progress {
        Progress { checkpoint: self.checkpoint, resolved: self.checkpoint, last_synced: self.last_synced }
    }

    pub(crate) fn text(&self) -> String {
        format!("{} {} {}", self.run, self.checkpoint.0, self.last_synced.0)
    }

    /// What was kept so.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let mut parts = text.split(' ');
        let (run, checkpoint, last) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some(Self { run, checkpoint: Tso(checkpoint), last_synced: Tso(last) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back() {
        let kept = Kept { run: 3, checkpoint: Tso(u64::MAX), last_synced: Tso(7) };
        assert_eq!(Kept::read(&kept.text()), Some(kept));
        for noise in ["", "1", "1 2", "x 1 2", "-1 2 3"] {
            assert_eq!(Kept::read(noise), None, "{noise}");
        }
    }
}
