//! Memory that readers take bytes of vaults from, which no master places anything on: a stretch is one reader's for a moment, then the next
//! one's. It is made when it is needed first.

use super::lending::Lending;
use perilune_protocol::rpc::cold::Passed;
use perilune_protocol::{Extent, Outcome, SegmentDesc};
use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of it: the longest stretch for so many readers at a time.
const BYTES: u64 = 8 * Passed::BYTES_MAX;
/// Stretches begin at multiples of this.
const ALIGN: u64 = 4096;

pub(super) struct Passage {
    lending: Arc<Lending>,
    inner: Mutex<Inner>,
    freed: Condvar,
    /// Draws tickets, which nobody guesses.
    tickets: RandomState,
}

#[derive(Default)]
struct Inner {
    lent: Option<SegmentDesc>,
    /// By where they begin.
    stretches: BTreeMap<u64, Stretch>,
    drawn: u64,
}

struct Stretch {
    len: u64,
    ticket: u64,
    /// Until when a reader may take it; nobody may yet where there is none.
    until: Option<Instant>,
}

/// A stretch that is being filled. Free again when dropped.
pub(super) struct Filling<'a> {
    passage: &'a Passage,
    pub(super) segment: SegmentDesc,
    pub(super) extent: Extent,
    ticket: u64,
}

impl Passage {
    pub(super) fn new(lending: &Arc<Lending>) -> Self {
        Self { lending: Arc::clone(lending), inner: Mutex::default(), freed: Condvar::new(), tickets: RandomState::new() }
    }

    /// Room for `len` bytes, for which it waits until then. What was `taken` is free.
    ///
    /// # Errors
    /// What there is no memory for, or no room until then.
    pub(super) fn room(&self, len: u64, taken: u64, until: Instant) -> Result<Filling<'_>, String> {
        if !(1..=Passed::BYTES_MAX).contains(&len) {
            return Err(format!("{len} bytes cannot be passed at a time, but 1 to {}", Passed::BYTES_MAX));
        }
        let mut inner = self.lock();
        inner.stretches.retain(|_, stretch| stretch.until.is_none() || stretch.ticket != taken);
        let segment = match &inner.lent {
            Some(segment) => segment.clone(),
            None => inner.lent.insert(self.lend().map_err(|fault| fault.to_string())?).clone(),
        };
        loop {
            let now = Instant::now();
            inner.stretches.retain(|_, stretch| stretch.until.is_none_or(|until| until > now));
            if let Some(offset) = gap(&inner.stretches, len) {
                inner.drawn += 1;
                // Zero names nothing.
                let ticket = self.tickets.hash_one(inner.drawn).max(1);
                inner.stretches.insert(offset, Stretch { len, ticket, until: None });
                return Ok(Filling { passage: self, segment, extent: Extent { offset, len }, ticket });
            }
            let next = inner.stretches.values().filter_map(|stretch| stretch.until).min().unwrap_or(until).min(until);
            if now >= until {
                return Err(format!("as much is being read through this node as it has room for, {BYTES} bytes"));
            }
            inner = self.freed.wait_timeout(inner, next - now).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lend(&self) -> Outcome<SegmentDesc> {
        self.lending.pass(BYTES)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Filling<'_> {
    /// The bytes are there, and have this checksum: a reader may take them from now on.
    pub(super) fn pass(self, checksum: u64) -> Passed {
        let passed = Passed { segment: self.segment.clone(), extent: self.extent, checksum, ticket: self.ticket };
        if let Some(stretch) = self.passage.lock().stretches.get_mut(&self.extent.offset) {
            stretch.until = Some(Instant::now() + Duration::from_millis(Passed::VALID_MS));
        }
        passed
    }
}

impl Drop for Filling<'_> {
    fn drop(&mut self) {
        let mut inner = self.passage.lock();
        if inner.stretches.get(&self.extent.offset).is_some_and(|stretch| stretch.ticket == self.ticket && stretch.until.is_none()) {
            inner.stretches.remove(&self.extent.offset);
        }
        drop(inner);
        // Whoever waits looks at what has become of the others, too.
        self.passage.freed.notify_all();
    }
}

/// Where `len` bytes have room between stretches.
fn gap(stretches: &BTreeMap<u64, Stretch>, len: u64) -> Option<u64> {
    let mut at = 0;
    for (begin, stretch) in stretches {
        if begin - at >= len {
            break;
        }
        at = (begin + stretch.len).next_multiple_of(ALIGN);
    }
    (at + len <= BYTES).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_lie_beside_each_other_and_fill_gaps() {
        let mut stretches = BTreeMap::new();
        let put = |stretches: &mut BTreeMap<_, _>, len| {
            let at = gap(stretches, len)?;
            stretches.insert(at, Stretch { len, ticket: 0, until: None });
            Some(at)
        };
        assert_eq!([10, ALIGN, 5].map(|len| put(&mut stretches, len)), [Some(0), Some(ALIGN), Some(2 * ALIGN)]);
        stretches.remove(&ALIGN);
        assert_eq!(put(&mut stretches, ALIGN + 1), Some(3 * ALIGN), "it does not fit in between");
        assert_eq!(put(&mut stretches, ALIGN), Some(ALIGN));
        assert_eq!(put(&mut stretches, BYTES - 5 * ALIGN), Some(5 * ALIGN), "up to the last byte");
        assert_eq!(put(&mut stretches, 1), None);
    }
}
