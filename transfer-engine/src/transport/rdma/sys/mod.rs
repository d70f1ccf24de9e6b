//! All unsafe calls of verbs and of the connection manager, one function for each.
//!
//! An object owns by `Arc` what it was made from, so nothing is destroyed before what depends on it. Raw pointers stay in here.
//! The device touches memory only through the keys of memory regions, whose makers promised that it stays valid; what is copied here is
//! [`Held`](crate::request::Held). So posting is safe code.
//!
//! - [`device`]: devices and protection domains. [`memory`]: memory regions. [`completion`]: completion queues and their channels.
//! - [`queue_pair`]: queue pairs, and receives that several share. [`chain`]: the work requests that are posted to them.
//! - [`manager`]: librdmacm. [`mark`]: what a read that brought nothing leaves. [`types`]: numbers without pointers. [`mod@live`]: what exists, and what was asked.

mod chain;
mod completion;
mod device;
mod live;
mod manager;
mod mark;
mod memory;
mod queue_pair;
mod types;

pub(crate) use chain::Chain;
pub(crate) use completion::{Channel, CompletionQueue};
pub(crate) use device::{Context, Domain};
#[cfg(test)]
pub(crate) use live::Live;
pub(crate) use live::{Counts, counts, live};
pub(super) use manager::{Asked, Event, Events, Id, Terms};
pub(crate) use mark::Mark;
pub(crate) use memory::MemoryRegion;
pub(crate) use queue_pair::{QueuePair, SharedReceiveQueue};
pub(crate) use types::{Access, Capacity, Class, Completed, Limits, Local, Path, Port, Refused, Status, Verb, WorkRequest};

use live::Kind;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use std::io;
use std::ptr::NonNull;

/// A verbs object that exists as long as the owner of this pointer.
pub(super) struct Raw<T>(NonNull<T>);

// SAFETY: verbs objects belong to no thread.
unsafe impl<T> Send for Raw<T> {}
// SAFETY: libibverbs is thread-safe: any of its functions may be called on the same object by several threads at one time.
unsafe impl<T> Sync for Raw<T> {}

impl<T> Raw<T> {
    /// Counts what was just made; `null` tells that it was not.
    pub(super) fn made(kind: Kind, pointer: *mut T) -> io::Result<Self> {
        let pointer = NonNull::new(pointer).ok_or_else(io::Error::last_os_error)?;
        kind.made();
        Ok(Self(pointer))
    }

    pub(super) fn get(&self) -> *mut T {
        self.0.as_ptr()
    }
}

/// Verbs answer 0, or the number of the error, or -1 and leave it in `errno`.
pub(super) fn check(code: i32) -> io::Result<()> {
    match code {
        0 => Ok(()),
        1.. => Err(io::Error::from_raw_os_error(code)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether the event says that the device behind a descriptor is gone: reset by its driver, or unplugged. The kernel says so for ever, so the
/// descriptor must be watched no more (`ib_uverbs_event_poll`; nothing else sets this flag there).
pub(crate) fn device_is_gone(event: EpollEvent) -> bool {
    event.events().contains(EpollFlags::EPOLLERR)
}

/// The error with more words, still of its kind.
pub(super) fn explain(cause: &io::Error, mut words: String) -> io::Error {
    if cause.kind() == io::ErrorKind::WouldBlock {
        words += "; the cgroup of this process may allow it no more verbs objects (rdma.max)";
    }
    io::Error::new(cause.kind(), words)
}
