//! The unsafe calls of TCP: socket I/O straight from and into the memory of callers and segments.

use crate::memory::copy;
use crate::request::{LocalSlice, Op};
use crate::segment::{Export, Passage};
use crate::transport::Work;
use perilune_protocol::Extent;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};

/// As many parts as one call takes; the kernel's limit is 1024.
const PARTS: usize = 256;
/// As many bytes as one call takes, so that no connection keeps a thread for long.
const BYTES: u64 = 1 << 20;

/// The parts of one system call. Each part was pushed by a function below that names why it is valid for `'a`.
struct Parts<'a> {
    parts: Vec<libc::iovec>,
    bytes: u64,
    memory: PhantomData<&'a ()>,
}

impl Parts<'_> {
    fn new() -> Self {
        Self { parts: Vec::with_capacity(8), bytes: 0, memory: PhantomData }
    }

    fn full(&self) -> bool {
        self.parts.len() == PARTS || self.bytes >= BYTES
    }

    fn push(&mut self, base: u64, len: u64) {
        let len = len.min(BYTES.saturating_sub(self.bytes));
        if len > 0 && self.parts.len() < PARTS {
            let base = std::ptr::with_exposed_provenance_mut(base as usize);
            self.parts.push(libc::iovec { iov_base: base, iov_len: len as usize });
            self.bytes += len;
        }
    }

    /// Pushes the slices from their byte `from` on.
    fn push_from(&mut self, slices: impl Iterator<Item = LocalSlice>, mut from: u64) {
        for LocalSlice { base, len } in slices {
            if self.full() {
                return;
            }
            if from >= len {
                from -= len;
            } else {
                self.push(base + from, len - from);
                from = 0;
            }
        }
    }

    fn header(&mut self) -> libc::msghdr {
        // SAFETY: all zeros is a valid `msghdr`.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = self.parts.as_mut_ptr();
        header.msg_iovlen = self.parts.len();
        header
    }
}

/// The slices of a segment behind extents. Extents that leave the segment were refused before; if any came here it counts for nothing.
fn slices_of<'a>(export: &'a Export, extents: &'a [Extent]) -> impl Iterator<Item = LocalSlice> + 'a {
    let (base, size) = (export.memory.base(), export.memory.len());
    extents.iter().filter(move |extent| extent.fits(size)).map(move |extent| LocalSlice { base: base + extent.offset, len: extent.len })
}

/// What one call sends.
pub(super) struct Gather<'a>(Parts<'a>);

impl<'a> Gather<'a> {
    pub(super) fn new() -> Self {
        Self(Parts::new())
    }

    pub(super) fn full(&self) -> bool {
        self.0.full()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.parts.is_empty()
    }

    /// Bytes borrowed for the call.
    pub(super) fn bytes(&mut self, bytes: &'a [u8]) {
        self.0.push(bytes.as_ptr().expose_provenance() as u64, bytes.len() as u64);
    }

    /// The local memory of a write: its submitter keeps it valid as long as the work exists, and the work is borrowed for `'a`.
    pub(super) fn work(&mut self, work: &'a Work, from: u64) {
        if work.op == Op::Write {
            self.0.push_from(work.local.iter().copied(), from);
        }
    }

    /// The memory of an export: mapped as long as the export, lent as long as the passage, both borrowed for `'a`.
    pub(super) fn export(&mut self, export: &'a Export, _passage: &'a Passage<'_>, extents: &'a [Extent], from: u64) {
        self.0.push_from(slices_of(export, extents), from);
    }

    /// Sends what fits into the socket now.
    pub(super) fn send(&mut self, socket: BorrowedFd<'_>) -> io::Result<u64> {
        let header = self.0.header();
        // SAFETY: every part is valid memory for `'a`, which outlives this call; the kernel only reads it.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &header, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) };
        u64::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

/// Where one call receives to.
pub(super) struct Scatter<'a>(Parts<'a>);

impl<'a> Scatter<'a> {
    pub(super) fn new() -> Self {
        Self(Parts::new())
    }

    /// As many bytes as the call receives at most.
    pub(super) fn len(&self) -> u64 {
        self.0.bytes
    }

    /// Bytes borrowed for the call.
    pub(super) fn bytes(&mut self, bytes: &'a mut [u8]) {
        self.0.push(bytes.as_mut_ptr().expose_provenance() as u64, bytes.len() as u64);
    }

    /// The local memory of a read: its submitter keeps it valid and unused as long as the work exists, and the work is borrowed for `'a`.
    pub(super) fn work(&mut self, work: &'a Work, from: u64) {
        if work.op == Op::Read {
            self.0.push_from(work.local.iter().copied(), from);
        }
    }

    /// The memory of an export: mapped as long as the export, lent as long as the passage, both borrowed for `'a`.
    pub(super) fn export(&mut self, export: &'a Export, _passage: &'a Passage<'_>, extents: &'a [Extent], from: u64) {
        self.0.push_from(slices_of(export, extents), from);
    }

    /// Receives what is there; 0 is the end of the stream.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<u64> {
        let mut header = self.0.header();
        // SAFETY: every part is valid writable memory for `'a`, which outlives this call, and nobody else's to use.
        let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut header, libc::MSG_DONTWAIT) };
        u64::try_from(got).map_err(|_| io::Error::last_os_error())
    }
}

/// Copies bytes that were read ahead into the local memory of a read, from its byte `at` on.
pub(super) fn copy_to_work(bytes: &[u8], work: &Work, at: u64) {
    if work.op == Op::Read {
        copy_to(bytes, work.local.iter().copied(), at);
    }
}

/// Copies bytes that were read ahead into an export, from byte `at` of the extents on.
pub(super) fn copy_to_export(bytes: &[u8], export: &Export, _passage: &Passage<'_>, extents: &[Extent], at: u64) {
    copy_to(bytes, slices_of(export, extents), at);
}

fn copy_to(bytes: &[u8], slices: impl Iterator<Item = LocalSlice>, mut at: u64) {
    let mut rest = bytes;
    for LocalSlice { base, len } in slices {
        if at >= len {
            at -= len;
            continue;
        }
        let (now, later) = rest.split_at(rest.len().min(usize::try_from(len - at).unwrap_or(usize::MAX)));
        // SAFETY: the slice is writable memory for the reason its owner gives above, and `now` ends inside it.
        unsafe { copy(now.as_ptr().expose_provenance() as u64, base + at, now.len() as u64) };
        (rest, at) = (later, 0);
        if rest.is_empty() {
            return;
        }
    }
}
