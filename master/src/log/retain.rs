//! How far back the log is kept for those who read what happened, beyond what its own members need.
//!
//! ```text
//!   | gone | kept while it is needed | kept for whoever comes | newest
//!          '-- most -----------------'-- whoever -------------'
//! ```

use perilune_protocol::Tso;
use std::collections::VecDeque;

/// What an entry takes beside its data: on disk, and in raft-engine's table in memory.
const ENTRY_BYTES: u64 = 256;
/// So many stretches are told apart in what is kept.
const STRETCHES: u64 = 64;

/// However little is kept, stretches have so many bytes.
const STRETCH_BYTES: u64 = 512;

/// The bytes of the log, by stretches of entries. Owned by the log thread.
pub(super) struct Retention {
    keeps: Keeps,
    /// Of what is kept, oldest first.
    stretches: VecDeque<Stretch>,
    bytes: u64,
}

/// How many bytes are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keeps {
    /// Whether somebody has said that they need them, or not.
    pub whoever: u64,
    /// While somebody needs them; `whoever`, where that is more.
    pub most: u64,
}

struct Stretch {
    /// Its last entry.
    last: u64,
    /// The highest stamp in it; `None`: that is not known any more.
    stamp: Option<Tso>,
    bytes: u64,
}

impl Retention {
    /// The entries behind `cut` up to `last` have `bytes` together; which of them has how many is not known any more.
    pub(super) fn new(keeps: Keeps, cut: u64, last: u64, bytes: u64) -> Self {
        let keeps = Keeps { most: keeps.most.max(keeps.whoever), ..keeps };
        let (count, mut begun) = (last.saturating_sub(cut), Self { keeps, stretches: VecDeque::new(), bytes: 0 });
        for nth in 1..=count.min(STRETCHES) {
            let last = cut + count * nth / count.min(STRETCHES);
            begun.stretches.push_back(Stretch { last, stamp: None, bytes: bytes / count.min(STRETCHES) });
            begun.bytes += bytes / count.min(STRETCHES);
        }
        begun
    }

    /// An entry with so many bytes of data was applied. One that was before, by a process before, counts once more.
    pub(super) fn applied(&mut self, index: u64, stamp: Option<Tso>, data: u64) {
        let bytes = data + ENTRY_BYTES;
        self.bytes += bytes;
        match self.stretches.back_mut().filter(|stretch| stretch.bytes < (self.keeps.most / STRETCHES).max(STRETCH_BYTES)) {
            Some(stretch) => {
                // Stamps rise with the entries.
                (stretch.last, stretch.stamp) = (stretch.last.max(index), stretch.stamp.max(stamp));
                stretch.bytes += bytes;
            }
            None => self.stretches.push_back(Stretch { last: index, stamp, bytes }),
        }
    }

    /// The entries up to this one are more than is kept, where somebody needs all with a higher stamp than `needed`.
    pub(super) fn floor(&self, needed: Option<Tso>) -> u64 {
        let Keeps { whoever, most } = self.keeps;
        let mut bytes = self.bytes;
        let beyond = self.stretches.iter().take_while(|stretch| {
            let is_needed = needed.is_some_and(|needed| stretch.stamp.is_none_or(|stamp| stamp > needed));
            let beyond = bytes > if is_needed { most } else { whoever };
            bytes -= stretch.bytes;
            beyond
        });
        beyond.last().map_or(0, |stretch| stretch.last)
    }

    /// The entries up to this one are gone.
    pub(super) fn cut(&mut self, index: u64) {
        while self.stretches.front().is_some_and(|stretch| stretch.last <= index) {
            self.bytes -= self.stretches.pop_front().map_or(0, |stretch| stretch.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_has_about_so_many_bytes() {
        let most = 64 * 1000;
        let keeps = Keeps { whoever: most, most: 0 };
        let mut retention = Retention::new(keeps, 0, 0, 0);
        for index in 1..=1000 {
            retention.applied(index, Some(Tso(index)), 744);
            let floor = retention.floor(None);
            assert!(
                (index.saturating_sub(66)..=index.saturating_sub(64)).contains(&floor) || index <= 64 && floor == 0,
                "{index}: {floor}"
            );
            if index % 10 == 0 {
                retention.cut(floor);
                assert_eq!(retention.floor(None), 0);
            }
        }
        // After a restart they are taken to be alike.
        let begun = Retention::new(keeps, 100, 740, 2 * most);
        assert_eq!(begun.floor(None), 100 + 320);
        assert_eq!(Retention::new(Keeps::default(), 5, 9, 100).floor(None), 9);
        assert_eq!(Retention::new(keeps, 5, 5, 100).floor(None), 0);
    }

    #[test]
    fn what_is_needed_is_kept_longer_and_not_without_end() {
        let keeps = Keeps { whoever: 10_000, most: 50_000 };
        let mut retention = Retention::new(keeps, 0, 0, 0);
        (1..=40).for_each(|index| retention.applied(index, Some(Tso(index * 10)), 744));
        assert_eq!(retention.floor(None), 30, "nobody needs more");
        assert_eq!(retention.floor(Some(Tso(99))), 9, "needed from the tenth on");
        assert_eq!(retention.floor(Some(Tso(100))), 10);
        assert_eq!(retention.floor(Some(Tso(1000))), 30, "kept all the same");
        (41..=60).for_each(|index| retention.applied(index, None, 744));
        assert_eq!(retention.floor(Some(Tso(99))), 10, "more than is kept for anybody");
        assert_eq!(retention.floor(Some(Tso(1000))), 40, "of those without a stamp it is not known");
        // After a restart it is not known which of them are needed.
        let begun = Retention::new(keeps, 0, 60, 60_000);
        assert_eq!((begun.floor(None), begun.floor(Some(Tso(1000)))), (50, 10));
    }
}
