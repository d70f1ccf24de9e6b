//! Local memory the devices may touch: buffers that callers registered, and staging for the bytes of all others.

use super::device::Device;
use super::sys::{Access, Local, MemoryRegion};
use crate::fault::{Failure, TransferErrorKind};
use crate::memory::{Memory, PAGE, Region};
use crate::request::{Held, LocalSlice, Op};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;

/// A buffer, registered with every device in pieces.
pub(super) struct Registered {
    base: u64,
    len: u64,
    piece: u64,
    /// For each device, the region of each piece.
    regions: Vec<Vec<MemoryRegion>>,
    /// Where it is found.
    table: Arc<Table>,
}

type Table = Mutex<HashMap<(u64, u64), Weak<Registered>>>;

impl Drop for Registered {
    fn drop(&mut self) {
        let mut held = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(own) = held.entry((self.base, self.len))
            && std::ptr::eq(own.get().as_ptr(), self)
        {
            own.remove();
        }
    }
}

impl Registered {
    /// A buffer under keys that may be those of other memory: one region for each device.
    #[cfg(test)]
    pub(super) fn as_it_is(base: u64, len: u64, regions: Vec<Vec<MemoryRegion>>) -> Arc<Self> {
        Arc::new(Self { base, len, piece: len, regions, table: Arc::default() })
    }

    /// The end of the memory region that holds the byte at `at`, which is in the buffer.
    fn end_of(&self, at: u64) -> u64 {
        let piece = (at - self.base) / self.piece + 1;
        self.base + (piece * self.piece).min(self.len)
    }

    fn key(&self, device: usize, at: u64) -> Option<u32> {
        let piece = at.checked_sub(self.base)? / self.piece;
        Some(self.regions.get(device)?.get(piece as usize)?.lkey())
    }
}

/// The registered buffers of an engine. Each is registered once, however many lanes use it: by the thread that asks the engine to, which
/// keeps it until the last lane has let go of it.
#[derive(Default)]
pub(super) struct Registry {
    held: Arc<Table>,
}

impl Registry {
    pub(super) fn hold(&self, devices: &[Arc<Device>], region: Region, piece: u64) -> Result<Arc<Registered>, Failure> {
        let key = (region.base, region.len);
        let lock = || self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().get(&key).and_then(Weak::upgrade);
        if let Some(registered) = known {
            return Ok(registered);
        }
        // Not under the lock: lanes look here. The engine lets nobody register the same memory at the same time.
        let piece = piece_for(devices, piece);
        let Region { base, len } = region;
        let regions = in_pieces(devices, len, piece, |device, offset, len| {
            MemoryRegion::of_region(&device.domain, Region { base: base + offset, len }, Access::Local)
        });
        let table = Arc::clone(&self.held);
        let registered = Arc::new(Registered { base, len, piece, regions: regions.map_err(|e| refused(&e))?, table });
        lock().insert(key, Arc::downgrade(&registered));
        Ok(registered)
    }
}

fn refused(cause: &std::io::Error) -> Failure {
    Failure::new(TransferErrorKind::Failed, cause.to_string())
}

/// The length of a memory region: what was set, or less where a device takes no more. A multiple of the page size.
pub(super) fn piece_for(devices: &[Arc<Device>], wanted: u64) -> u64 {
    let most = devices.iter().map(|device| device.limits.max_mr_size).fold(wanted, u64::min);
    (most / PAGE * PAGE).max(PAGE)
}

/// Registers `len` bytes with every device, piece by piece, as many at a time as there are processors: pinning is what takes long.
pub(super) fn in_pieces<D: Sync, R: Send>(
    devices: &[D],
    len: u64,
    piece: u64,
    register: impl Fn(&D, u64, u64) -> std::io::Result<R> + Sync,
) -> std::io::Result<Vec<Vec<R>>> {
    let pieces: Vec<(u64, u64)> = (0..len.div_ceil(piece)).map(|i| (i * piece, piece.min(len - i * piece))).collect();
    let jobs: Vec<(usize, u64, u64)> = (0..devices.len()).flat_map(|d| pieces.iter().map(move |&(at, len)| (d, at, len))).collect();
    let each = |jobs: &[(usize, u64, u64)]| -> std::io::Result<Vec<R>> {
        jobs.iter().map(|&(d, at, len)| register(&devices[d], at, len)).collect()
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(jobs.len());
    let made: Vec<R> = if threads <= 1 {
        each(&jobs)?
    } else {
        let share = jobs.len().div_ceil(threads);
        let parts: std::io::Result<Vec<Vec<_>>> = thread::scope(|scope| {
            let running: Vec<_> = jobs.chunks(share).map(|some| scope.spawn(|| each(some))).collect();
            running
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| Err(std::io::Error::other("a registering thread panicked"))))
                .collect()
        });
        parts?.into_iter().flatten().collect()
    };
    let mut made = made.into_iter();
    Ok(devices.iter().map(|_| made.by_ref().take(pieces.len()).collect()).collect())
}

/// The registered buffers as one lane knows them; only the thread that drives the lane looks here.
#[derive(Default)]
pub(super) struct Buffers {
    by_base: Vec<Arc<Registered>>,
}

impl Buffers {
    pub(super) fn insert(&mut self, registered: Arc<Registered>) {
        let at = self.after(registered.base);
        self.by_base.insert(at, registered);
    }

    pub(super) fn remove(&mut self, region: Region) {
        self.by_base.retain(|registered| registered.base != region.base);
    }

    /// The end of the memory region that holds the byte at `at`, if it is registered.
    pub(super) fn end_of(&self, at: u64) -> Option<u64> {
        self.find(at).map(|registered| registered.end_of(at))
    }

    /// Hands registered memory to `take` as a device knows it: piece by piece, each with its key.
    pub(super) fn place(&self, device: usize, local: LocalSlice, mut take: impl FnMut(Local)) {
        let LocalSlice { mut base, len } = local;
        let end = base + len;
        while base < end {
            let registered = self.find(base);
            let here = registered.map_or(end, |registered| registered.end_of(base).min(end));
            let key = registered.and_then(|registered| registered.key(device, base)).unwrap_or(0);
            take(Local { base, len: (here - base) as u32, key });
            base = here;
        }
    }

    /// Registered memory as a device knows it, if it lies in one memory region.
    #[inline(always)]
    pub(super) fn whole(&self, device: usize, local: LocalSlice) -> Option<Local> {
        let LocalSlice { base, len } = local;
        let registered = self.find(base)?;
        let at = base - registered.base;
        let piece = at / registered.piece;
        let key = registered.regions.get(device)?.get(piece as usize)?.lkey();
        (at + len <= ((piece + 1) * registered.piece).min(registered.len)).then_some(Local { base, len: len as u32, key })
    }

    /// How many buffers begin at `at` or before.
    fn after(&self, at: u64) -> usize {
        self.by_base.partition_point(|registered| registered.base <= at)
    }

    fn find(&self, at: u64) -> Option<&Registered> {
        let registered = self.by_base.get(self.after(at).checked_sub(1)?)?;
        (at - registered.base < registered.len).then_some(registered)
    }
}

/// Bytes of a small and of a large stretch of staging, and how many of each a lane has.
const SMALL: u64 = 8 << 10;
const SMALLS: u64 = 256;
pub(super) const LARGE: u64 = 256 << 10;
const LARGES: u64 = 32;
/// Behind them lies a page whose first byte is nobody's, and one for probes.
const SPARE: u64 = SMALL * SMALLS + LARGE * LARGES;
const BLANK: u64 = SPARE + PAGE;

/// Registered memory of a lane, through which bytes of unregistered buffers go. A cache of registrations would save the copy, but could not
/// know when a caller's memory is freed and its address used again: `docs/decisions/0010-registration.md`.
pub(super) struct Staging {
    memory: Arc<Memory>,
    /// One for each device.
    regions: Vec<MemoryRegion>,
    small: Vec<u64>,
    large: Vec<u64>,
}

/// A stretch of staging that is in use; given back by [`Staging::give`].
#[derive(Debug)]
pub(super) struct Stretch {
    offset: u64,
    large: bool,
}

impl Staging {
    pub(super) fn new(devices: &[Arc<Device>]) -> Result<Self, Failure> {
        let size = BLANK + PAGE;
        // Without it nothing gets through by RDMA, but maybe by another transport.
        let none = |cause: &dyn std::fmt::Display| Failure::new(TransferErrorKind::PeerUnreachable, cause.to_string());
        let memory = Memory::anonymous(size).map_err(|e| none(&e))?;
        let region = |device: &Arc<Device>| MemoryRegion::of_memory(&device.domain, &memory, 0, size, Access::Local);
        let regions = devices.iter().map(region).collect::<Result<_, _>>().map_err(|e| none(&e))?;
        let small = (0..SMALLS).map(|i| i * SMALL).collect();
        let large = (0..LARGES).map(|i| SMALL * SMALLS + i * LARGE).collect();
        Ok(Self { memory, regions, small, large })
    }

    /// Room for `len` bytes, at most [`LARGE`]; `None` while all is in use.
    pub(super) fn take(&mut self, len: u64) -> Option<Stretch> {
        let large = len > SMALL;
        let free = if large { &mut self.large } else { &mut self.small };
        free.pop().map(|offset| Stretch { offset, large })
    }

    pub(super) fn give(&mut self, stretch: Stretch) {
        let free = if stretch.large { &mut self.large } else { &mut self.small };
        free.push(stretch.offset);
    }

    /// The address of a stretch, and its key for a device.
    pub(super) fn place(&self, stretch: &Stretch, device: usize) -> (u64, u32) {
        (self.memory.base() + stretch.offset, self.regions.get(device).map_or(0, MemoryRegion::lkey))
    }

    /// The first bytes of a stretch.
    pub(super) fn held(&self, stretch: &Stretch, len: u64) -> Option<Held<'_>> {
        Held::of_memory(&self.memory, stretch.offset, len)
    }

    /// A byte that is nobody's: what a device writes there is not looked at.
    pub(super) fn spare(&self, device: usize) -> Local {
        self.at(SPARE, 1, device)
    }

    /// A byte to a page that holds nothing of anybody.
    pub(super) fn blank(&self, device: usize, len: u32) -> Local {
        self.at(BLANK, len.clamp(1, PAGE as u32), device)
    }

    fn at(&self, offset: u64, len: u32, device: usize) -> Local {
        Local { base: self.memory.base() + offset, len, key: self.regions.get(device).map_or(0, MemoryRegion::lkey) }
    }

    /// Copies local bytes of a write in, of a read out.
    pub(super) fn copy<'a>(&self, stretch: &Stretch, op: Op, local: impl Iterator<Item = Held<'a>>) {
        let mut offset = stretch.offset;
        for part in local {
            self.memory.stage(offset, op, part);
            offset += part.slice().len;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::time::{Duration, Instant};

    #[test]
    fn pieces_are_registered_by_several_threads_at_one_time_and_come_in_order() {
        const PIECE: u64 = 1 << 20;
        const LEN: u64 = 4 * PIECE - 4096;
        let processors = thread::available_parallelism().map_or(1, usize::from).min(8);
        // Two devices, four pieces each, and each thread takes as many.
        let threads = 8_usize.div_ceil(8_usize.div_ceil(processors));
        let (here, begun) = (Mutex::new(HashSet::new()), Instant::now());
        let register = |device: &&'static str, at, len| {
            here.lock().unwrap().insert(thread::current().id());
            while here.lock().unwrap().len() < threads {
                assert!(begun.elapsed() < Duration::from_secs(20), "they come one after the other");
                thread::yield_now();
            }
            Ok((*device, at, len))
        };
        let of = |device| vec![(device, 0, PIECE), (device, PIECE, PIECE), (device, 2 * PIECE, PIECE), (device, 3 * PIECE, PIECE - 4096)];
        assert_eq!(in_pieces(&["a", "b"], LEN, PIECE, register).unwrap(), [of("a"), of("b")]);
        assert_eq!(here.lock().unwrap().len(), threads);
        let refuse = |_: &&str, at, _| if at == 2 * PIECE { Err(std::io::Error::other("no")) } else { Ok(()) };
        assert_eq!(in_pieces(&["a", "b"], LEN, PIECE, refuse).unwrap_err().to_string(), "no");
    }

    #[test]
    fn a_buffer_is_registered_once_and_found_only_as_long_as_it_is_held() {
        let registry = Registry::default();
        let region = Region { base: 1 << 20, len: 1 << 16 };
        let hold = || registry.hold(&[], region, PAGE).unwrap();
        let first = hold();
        assert!(Arc::ptr_eq(&first, &hold()));
        let count = || registry.held.lock().unwrap().len();
        assert_eq!(count(), 1);
        // One that lives on under an address that has another one by now takes nothing away from that.
        registry.held.lock().unwrap().clear();
        let second = hold();
        assert!(!Arc::ptr_eq(&first, &second));
        drop(first);
        assert!(Arc::ptr_eq(&second, &hold()));
        drop(second);
        assert_eq!(count(), 0);
    }
}
