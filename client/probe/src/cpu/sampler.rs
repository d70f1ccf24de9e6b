//! One sample: the stack of an interrupted thread, found without memory being allocated and without a lock being waited for.

use super::modules;
use crossbeam::queue::ArrayQueue;
use framehop::{CacheNative, MustNotAllocateDuringUnwind, UnwindRegsNative, Unwinder, UnwinderNative};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use std::io::{self, IoSliceMut};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Frames that are kept of a stack, from the innermost.
const DEPTH: usize = 128;
/// Samples that may wait to be collected.
const WAITING: usize = 1024;
/// Threads that may be looked at at the same moment.
const AT_ONCE: usize = 4;
const PAGE: usize = 4096;

/// A stack, from the innermost frame outwards.
pub(super) struct Sample {
    /// The thread's name, as the kernel has it: up to 15 bytes, then zeros.
    pub(super) thread: [u8; 16],
    frames: [u64; DEPTH],
    depth: usize,
}

impl Sample {
    /// Addresses in code: where the thread was, and the calls it came by.
    pub(super) fn frames(&self) -> &[u64] {
        &self.frames[..self.depth]
    }
}

/// Where a thread was interrupted.
pub(super) struct Interrupted {
    pub(super) pc: u64,
    pub(super) registers: UnwindRegsNative,
    pub(super) thread: [u8; 16],
}

/// Takes samples; everything it needs for that is made before.
pub(super) struct Sampler {
    unwinder: UnwinderNative<Vec<u8>, MustNotAllocateDuringUnwind>,
    walkers: [Mutex<Walker>; AT_ONCE],
    taken: ArrayQueue<Sample>,
    lost: AtomicU64,
}

/// What one look needs.
struct Walker {
    cache: CacheNative<MustNotAllocateDuringUnwind>,
    page: Page,
}

/// The last page of a stack that was read.
struct Page {
    /// 0: none.
    at: u64,
    bytes: [u8; PAGE],
}

impl Page {
    /// The word at an address. Read by the kernel, so that an address where nothing is costs the frame and not the process.
    fn word(&mut self, at: u64) -> Option<u64> {
        let (start, offset) = (at & !(PAGE as u64 - 1), at as usize % PAGE);
        if self.at != start {
            self.at = 0;
            let from = RemoteIoVec { base: start as usize, len: PAGE };
            let read = process_vm_readv(Pid::this(), &mut [IoSliceMut::new(&mut self.bytes)], &[from]);
            if start == 0 || read != Ok(PAGE) {
                return None;
            }
            self.at = start;
        }
        let word = self.bytes.get(offset..offset + 8)?;
        Some(u64::from_ne_bytes(word.try_into().ok()?))
    }
}

impl Sampler {
    /// Knows the code that is loaded now.
    pub(super) fn new() -> io::Result<Self> {
        let mut unwinder = UnwinderNative::new();
        modules::loaded()?.into_iter().for_each(|module| unwinder.add_module(module));
        let walker = || Mutex::new(Walker { cache: CacheNative::new_in(), page: Page { at: 0, bytes: [0; PAGE] } });
        Ok(Self { unwinder, walkers: std::array::from_fn(|_| walker()), taken: ArrayQueue::new(WAITING), lost: AtomicU64::new(0) })
    }

    /// Keeps the stack of the thread it is called on, from a signal handler: allocates nothing, waits for nobody but for whoever is just
    /// putting a sample into the queue or taking one out, who is never interrupted by this signal on the same thread.
    pub(super) fn take(&self, interrupted: Interrupted) {
        let Some(mut walker) = self.walkers.iter().find_map(|walker| walker.try_lock().ok()) else {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let Walker { cache, page } = &mut *walker;
        // The stack has changed since the last look.
        page.at = 0;
        let mut sample = Sample { thread: interrupted.thread, frames: [0; DEPTH], depth: 0 };
        let mut read = |at| page.word(at).ok_or(());
        let mut frames = self.unwinder.iter_frames(interrupted.pc, interrupted.registers, cache, &mut read);
        while sample.depth < DEPTH
            && let Ok(Some(frame)) = frames.next()
        {
            sample.frames[sample.depth] = frame.address_for_lookup();
            sample.depth += 1;
        }
        if self.taken.push(sample).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The oldest sample that nobody has collected. Only for a thread on which the signal is blocked.
    pub(super) fn collect(&self) -> Option<Sample> {
        self.taken.pop()
    }

    /// Samples for which there was no room.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}
