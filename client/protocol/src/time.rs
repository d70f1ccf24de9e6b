//! Time as data. Nothing here reads a clock: whoever proposes a change stamps it.

use serde::{Deserialize, Serialize};

/// A duration in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Millis(pub u64);

impl From<std::time::Duration> for Millis {
    fn from(d: std::time::Duration) -> Self {
        Self(u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
    }
}

impl From<Millis> for std::time::Duration {
    fn from(m: Millis) -> Self {
        Self::from_millis(m.0)
    }
}

/// The one clock of a cluster: milliseconds since 1970 shifted left by 18, plus a counter.
/// Issued by the leader; never goes back, not even across leaders. Also the version of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Tso(pub u64);

impl Tso {
    /// Bits of the counter.
    pub const LOGICAL_BITS: u32 = 18;

    /// The first stamp of a millisecond.
    pub fn from_physical(ms: u64) -> Self {
        Self(ms << Self::LOGICAL_BITS)
    }

    /// Milliseconds since 1970.
    pub fn physical_ms(self) -> u64 {
        self.0 >> Self::LOGICAL_BITS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn composes_as_the_documents_say() {
        // 2024-05-20T04:00:00.000Z
        assert_eq!(Tso::from_physical(1_716_177_600_000).0, 449_885_660_774_400_000);
        assert_eq!(Tso(449_885_660_774_400_000).physical_ms(), 1_716_177_600_000);
    }
}
