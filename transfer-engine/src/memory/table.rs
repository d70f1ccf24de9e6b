//! From an address to the registered buffer that holds it.

use crate::fault::EngineError;
use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A registered stretch of this process's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// The first byte.
    pub base: u64,
    /// Bytes.
    pub len: u64,
}

/// The registered buffers, by their first byte. They never overlap, so one neighbour decides every lookup.
#[derive(Debug, Default)]
pub(crate) struct Table {
    regions: RwLock<BTreeMap<u64, u64>>,
}

impl Table {
    /// Adds a buffer; O(log n).
    pub(crate) fn insert(&self, region: Region) -> Result<(), EngineError> {
        let Region { base, len } = region;
        let end = base.checked_add(len).filter(|_| len > 0 && base > 0).ok_or(EngineError::BadBuffer { base, len })?;
        let mut regions = self.write();
        if let Some((&other, &other_len)) = regions.range(..end).next_back()
            && other + other_len > base
        {
            return Err(EngineError::Overlap { base, len, other, other_len });
        }
        regions.insert(base, len);
        Ok(())
    }

    /// Removes the buffer that starts at `base`; O(log n).
    pub(crate) fn remove(&self, base: u64) -> Result<Region, EngineError> {
        self.write().remove(&base).map(|len| Region { base, len }).ok_or(EngineError::NotRegistered(base))
    }

    /// The buffer that starts at `base`; O(log n).
    pub(crate) fn get(&self, base: u64) -> Result<Region, EngineError> {
        self.read().get(&base).map(|&len| Region { base, len }).ok_or(EngineError::NotRegistered(base))
    }

    /// The buffer that holds all of `len` bytes from `base` on; O(log n).
    #[cfg_attr(not(test), expect(dead_code, reason = "for transports that need registration"))]
    pub(crate) fn find(&self, base: u64, len: u64) -> Option<Region> {
        let end = base.checked_add(len)?;
        let regions = self.read();
        let (&start, &size) = regions.range(..=base).next_back()?;
        (end <= start + size).then_some(Region { base: start, len: size })
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<u64, u64>> {
        self.regions.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<u64, u64>> {
        self.regions.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_thousand_buffers_are_found_and_none_may_overlap() {
        let table = Table::default();
        for i in 1..=100_000u64 {
            table.insert(Region { base: i * 64, len: 48 }).unwrap();
        }
        for i in 1..=100_000u64 {
            assert_eq!(table.find(i * 64 + 8, 40), Some(Region { base: i * 64, len: 48 }));
            assert_eq!(table.find(i * 64 + 8, 41), None, "past the end");
            assert_eq!(table.find(i * 64 - 1, 1), None, "in the gap");
        }
        for (base, len) in [(6400, 1), (6447, 1), (6399, 2), (6448, 17), (1, u64::MAX - 1), (6400, 48)] {
            assert!(matches!(table.insert(Region { base, len }), Err(EngineError::Overlap { .. })), "{base} {len}");
        }
        for (base, len) in [(0, 5), (9, 0), (9, u64::MAX)] {
            assert!(matches!(table.insert(Region { base, len }), Err(EngineError::BadBuffer { .. })), "{base} {len}");
        }
        assert_eq!(table.get(6400).unwrap(), Region { base: 6400, len: 48 });
        assert!(matches!(table.get(6401), Err(EngineError::NotRegistered(6401))));
        table.remove(6400).unwrap();
        assert!(matches!(table.remove(6400), Err(EngineError::NotRegistered(6400))));
        table.insert(Region { base: 6390, len: 60 }).unwrap();
    }
}
