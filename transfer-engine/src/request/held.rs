//! Local memory that may be touched, and as long as what.

use super::{LocalSlice, Single};
use crate::memory::Memory;
use crate::transport::Work;
use std::marker::PhantomData;

/// A stretch of local memory that is there, and that nobody else uses in a way that would matter, as long as `'a` lasts. There is none that
/// is not made of one of these, so who is given one may touch it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held<'a> {
    slice: LocalSlice,
    of: PhantomData<&'a ()>,
}

impl<'a> Held<'a> {
    fn new(base: u64, len: u64) -> Self {
        Self { slice: LocalSlice { base, len }, of: PhantomData }
    }

    /// At most `len` bytes of the local stretch at `place`, from `skip` on. Whoever has the work, and nobody else, may touch them.
    pub(crate) fn of_work(work: &'a Work, place: usize, skip: u64, len: u64) -> Option<Self> {
        let LocalSlice { base, len: all } = *work.local.get(place)?;
        let len = all.checked_sub(skip)?.min(len);
        Some(Self::new(base + skip, len))
    }

    /// All of a single operation, whose caller waits for it.
    pub(crate) fn of_single(single: &'a Single<'_>) -> Self {
        Self::new(single.local.base, single.local.len)
    }

    /// Memory of our own; `None` for a range that leaves it.
    pub(crate) fn of_memory(memory: &'a Memory, offset: u64, len: u64) -> Option<Self> {
        let end = offset.checked_add(len)?;
        (end <= memory.len()).then(|| Self::new(memory.base() + offset, len))
    }

    /// Where it is.
    pub(crate) fn slice(self) -> LocalSlice {
        self.slice
    }
}
