//! How far back the log is kept for those who read what happened, beyond what its own members need.

use std::collections::VecDeque;

/// What an entry takes beside its data: on disk, and in raft-engine's table in memory.
const ENTRY_BYTES: u64 = 256;
/// So many stretches are told apart in what is kept.
const STRETCHES: u64 = 64;

/// However little is kept, stretches have so many bytes.
const STRETCH_BYTES: u64 = 512;

/// The bytes of the log, by stretches of entries. Owned by the log thread.
pub(super) struct Retention {
    /// So many are kept.
    most: u64,
    /// Of what is kept, oldest first.
    stretches: VecDeque<Stretch>,
    bytes: u64,
}

struct Stretch {
    /// Its last entry.
    last: u64,
    bytes: u64,
}

impl Retention {
    /// Keeps so many bytes. The entries behind `cut` up to `last` have `bytes` together; which of them has how many is not known any more.
    pub(super) fn new(most: u64, cut: u64, last: u64, bytes: u64) -> Self {
        let (count, mut begun) = (last.saturating_sub(cut), Self { most, stretches: VecDeque::new(), bytes: 0 });
        for nth in 1..=count.min(STRETCHES) {
            let last = cut + count * nth / count.min(STRETCHES);
            begun.stretches.push_back(Stretch { last, bytes: bytes / count.min(STRETCHES) });
            begun.bytes += bytes / count.min(STRETCHES);
        }
        begun
    }

    /// An entry with so many bytes of data was applied. One that was before, by a process before, counts once more.
    pub(super) fn applied(&mut self, index: u64, data: u64) {
        let bytes = data + ENTRY_BYTES;
        self.bytes += bytes;
        match self.stretches.back_mut().filter(|stretch| stretch.bytes < (self.most / STRETCHES).max(STRETCH_BYTES)) {
            Some(stretch) => (stretch.last, stretch.bytes) = (stretch.last.max(index), stretch.bytes + bytes),
            None => self.stretches.push_back(Stretch { last: index, bytes }),
        }
    }

    /// The entries up to this one are more than is kept.
    pub(super) fn floor(&self) -> u64 {
        let mut bytes = self.bytes;
        let beyond = self.stretches.iter().take_while(|stretch| {
            let beyond = bytes > self.most;
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
        let mut retention = Retention::new(most, 0, 0, 0);
        for index in 1..=1000 {
            retention.applied(index, 744);
            let floor = retention.floor();
            assert!(
                (index.saturating_sub(66)..=index.saturating_sub(64)).contains(&floor) || index <= 64 && floor == 0,
                "{index}: {floor}"
            );
            if index % 10 == 0 {
                retention.cut(floor);
                assert_eq!(retention.floor(), 0);
            }
        }
        // After a restart they are taken to be alike.
        let begun = Retention::new(most, 100, 740, 2 * most);
        assert_eq!(begun.floor(), 100 + 320);
        assert_eq!(Retention::new(0, 5, 9, 100).floor(), 9);
        assert_eq!(Retention::new(most, 5, 5, 100).floor(), 0);
    }
}
