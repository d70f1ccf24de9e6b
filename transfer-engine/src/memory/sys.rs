//! The unsafe calls on memory: map, unmap, copy.

use crate::fault::Failure;
#[cfg(feature = "rdma")]
use crate::request::Held;
use crate::request::Op;
use crate::transport::Work;
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

/// A shared mapping of a stretch of a file; unmapped on drop. Its bytes may change at any moment, so they are only ever copied.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is plain shared memory without thread affinity; every access goes through raw copies.
unsafe impl Send for Mapping {}
// SAFETY: as above; racing copies may see torn bytes, as with any other process that maps the same object.
unsafe impl Sync for Mapping {}

/// Bytes of a huge page on the machines we know.
const HUGE: usize = 2 << 20;

impl Mapping {
    /// Maps `len` bytes from `offset`, readable and writable; in huge pages, where the system gives some to shared memory that asks for them.
    pub(crate) fn new(file: BorrowedFd<'_>, offset: u64, len: u64) -> Result<Self, Errno> {
        let size = usize::try_from(len).ok().and_then(NonZeroUsize::new).ok_or(Errno::EINVAL)?;
        let offset = i64::try_from(offset).map_err(|_| Errno::EINVAL)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address the kernel chooses; no existing memory is touched.
        let base = unsafe { mmap(None, size, protection, MapFlags::MAP_SHARED, file, offset)? };
        if size.get() >= HUGE {
            // Fewer entries for the processor and for devices to look up. Small pages do as well, so a refusal is none.
            // SAFETY: the mapping was just made and nobody else knows it; advice changes no byte.
            let _ = unsafe { madvise(base, size.get(), MmapAdvise::MADV_HUGEPAGE) };
        }
        Ok(Self { base: base.cast(), len: size.get() })
    }

    pub(crate) fn len(&self) -> u64 {
        self.len as u64
    }

    pub(crate) fn base(&self) -> u64 {
        self.base.as_ptr().expose_provenance() as u64
    }

    pub(crate) fn read_at(&self, offset: u64, into: &mut [u8]) -> bool {
        self.holds(offset, into.len()) && {
            // SAFETY: the range lies in this mapping, and `into` is ours alone.
            unsafe { copy(self.base() + offset, into.as_mut_ptr().expose_provenance() as u64, into.len() as u64) };
            true
        }
    }

    pub(crate) fn write_at(&self, offset: u64, from: &[u8]) -> bool {
        self.holds(offset, from.len()) && {
            // SAFETY: the range lies in this mapping, and `from` is borrowed.
            unsafe { copy(from.as_ptr().expose_provenance() as u64, self.base() + offset, from.len() as u64) };
            true
        }
    }

    fn holds(&self, offset: u64, len: usize) -> bool {
        offset.checked_add(len as u64).is_some_and(|end| end <= self.len())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and len are those of our own mapping, which nobody else unmaps.
        let _ = unsafe { munmap(self.base.cast(), self.len) };
    }
}

/// Copies `len` bytes between two addresses of this process without making references to them.
///
/// # Safety
/// Both ranges must be mapped, the target writable, and they must not overlap. Other processes may change shared bytes meanwhile.
pub unsafe fn copy(from: u64, to: u64, len: u64) {
    let source = std::ptr::with_exposed_provenance::<u8>(from as usize);
    let target = std::ptr::with_exposed_provenance_mut::<u8>(to as usize);
    // SAFETY: promised by the caller.
    unsafe { std::ptr::copy_nonoverlapping(source, target, len as usize) };
}

/// Copies local bytes into a mapping for a write, out of it for a read. A range that leaves the mapping moves nothing.
#[cfg(feature = "rdma")]
pub(crate) fn stage(op: Op, local: Held<'_>, mapping: &Mapping, offset: u64) {
    let local = local.slice();
    if !usize::try_from(local.len).is_ok_and(|len| mapping.holds(offset, len)) {
        return;
    }
    let there = mapping.base() + offset;
    let (from, to) = if op == Op::Read { (there, local.base) } else { (local.base, there) };
    // SAFETY: one side lies in the mapping, which is borrowed; the other is held.
    unsafe { copy(from, to, local.len) };
}

/// As many bytes are copied between two questions whether to go on; well under a millisecond.
const STRIDE: u64 = 2 << 20;

/// Moves the bytes of `work` between its local buffers and a mapped segment; stops when `may` refuses.
/// Extents that leave the mapping were refused before; if any came here it would move nothing.
pub(crate) fn transfer(work: &Work, mapping: &Mapping, may: impl Fn() -> Result<(), Failure>) -> Result<(), Failure> {
    let mut local = work.local.iter().copied();
    let Some(mut slice) = local.next() else { return Ok(()) };
    // Bytes that may move before the next question.
    let mut granted = 0;
    for extent in work.extents.iter().filter(|extent| extent.fits(mapping.len())) {
        let (mut at, mut left) = (mapping.base() + extent.offset, extent.len);
        while left > 0 {
            if slice.len == 0 {
                let Some(next) = local.next() else { return Ok(()) };
                slice = next;
                continue;
            }
            if granted == 0 {
                may()?;
                granted = STRIDE;
            }
            let now = left.min(slice.len).min(granted);
            let (from, to) = if work.op == Op::Read { (at, slice.base) } else { (slice.base, at) };
            // SAFETY: one side lies in the mapping, which is borrowed; the other in memory that the submitter keeps valid while the work exists.
            unsafe { copy(from, to, now) };
            (at, left) = (at + now, left - now);
            (slice.base, slice.len) = (slice.base + now, slice.len - now);
            granted -= now;
        }
    }
    Ok(())
}
