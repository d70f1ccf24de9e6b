//! Who is to collect what nobody refers to any more in the cold tier: one master at a time, by a lease that is kept as a record of the group.
//! It need not be the leader, who only writes down who it is.

/// How long it is held without being renewed, in milliseconds.
pub const LEASE_MS: u64 = 60_000;
/// Renewed once less than this is left.
const RENEW_MS: u64 = 40_000;

/// Who has it, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GcOwner {
    /// The number of the master.
    pub member: u64,
    /// In milliseconds of the one clock.
    pub until_ms: u64,
}

impl GcOwner {
    /// How it is kept: two numbers.
    pub fn record(self) -> String {
        format!("{} {}", self.member, self.until_ms)
    }

    /// What was kept so.
    pub fn read(record: &str) -> Option<Self> {
        let (member, until_ms) = record.split_once(' ')?;
        Some(Self { member: member.parse().ok()?, until_ms: until_ms.parse().ok()? })
    }

    /// Whether it still has it.
    pub fn holds(self, now_ms: u64) -> bool {
        now_ms < self.until_ms
    }

    /// Who is to have it from now on, where that is to be written down. `heard`: the masters that are there, by number; each has its turn.
    pub fn next(present: Option<Self>, heard: &[u64], now_ms: u64) -> Option<Self> {
        let lease = |member| Self { member, until_ms: now_ms + LEASE_MS };
        match present {
            Some(owner) if owner.holds(now_ms) => {
                let low = owner.until_ms - now_ms < RENEW_MS;
                (low && heard.contains(&owner.member)).then(|| lease(owner.member))
            }
            lapsed => Self::after(lapsed.map_or(0, |owner| owner.member), heard).map(lease),
        }
    }

    /// The same when the owner gives it up: somebody else has a go, where there is somebody else.
    pub fn resigned(self, heard: &[u64], now_ms: u64) -> Self {
        let member = Self::after(self.member, heard).unwrap_or(self.member);
        Self { member, until_ms: now_ms + LEASE_MS }
    }

    fn after(last: u64, heard: &[u64]) -> Option<u64> {
        heard.iter().copied().filter(|id| *id > last).min().or_else(|| heard.iter().copied().min())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lease_goes_on_while_its_owner_is_heard_and_to_the_next_when_it_is_not() {
        let owner = |member, until_ms| GcOwner { member, until_ms };
        let first = GcOwner::next(None, &[2, 1, 3], 1000).unwrap();
        assert_eq!(first, owner(1, 61_000));
        assert_eq!(GcOwner::next(Some(first), &[1, 2], 20_000), None, "much is left");
        assert_eq!(GcOwner::next(Some(first), &[1, 2], 21_001), Some(owner(1, 81_001)));
        assert_eq!(GcOwner::next(Some(first), &[2, 3], 60_999), None, "it may be at work");
        assert_eq!(GcOwner::next(Some(first), &[2, 3], 61_000), Some(owner(2, 121_000)));
        assert_eq!(GcOwner::next(Some(owner(3, 0)), &[2, 3], 9), Some(owner(2, 60_009)), "each in turn");
        assert_eq!(GcOwner::next(None, &[], 9), None);
        assert_eq!((first.resigned(&[1, 2, 3], 5).member, owner(3, 9).resigned(&[3, 1], 5).member), (2, 1));
        assert_eq!(first.resigned(&[1], 5), owner(1, 60_005), "there is nobody else");
        assert_eq!((GcOwner::read(&first.record()), GcOwner::read("x"), GcOwner::read("1 ")), (Some(first), None, None));
    }
}
