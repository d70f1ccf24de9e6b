//! The unsafe parts of shared memory: the page both sides share, and received descriptors.

use crate::memory::Mapping;
use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};

/// Bytes of a control page.
pub(super) const CONTROL_BYTES: u64 = 4096;

/// A page that owner and user of a segment both map, one for each connection and segment.
///
/// Word 0 is written by the owner: 1 once the segment is withdrawn. Word 1 counts the copies the user has under way.
/// Both sides write their word and then read the other's, `SeqCst`: so a copy either sees the withdrawal or is seen and waited for.
#[derive(Debug)]
pub(super) struct Control(Mapping);

impl Control {
    pub(super) fn map(file: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self(Mapping::new(file, 0, CONTROL_BYTES)?))
    }

    fn word(&self, index: u64) -> &AtomicU32 {
        let at = std::ptr::with_exposed_provenance_mut::<u32>((self.0.base() + index * 4) as usize);
        // SAFETY: inside the mapped page, aligned, and both processes only ever use it as an atomic; it lives as long as `self`.
        unsafe { AtomicU32::from_ptr(at) }
    }

    /// The user's side: the right to copy until [`Control::leave`]; false once withdrawn.
    pub(super) fn enter(&self) -> bool {
        self.word(1).fetch_add(1, Ordering::SeqCst);
        let open = self.open();
        if !open {
            self.leave();
        }
        open
    }

    /// Whether the segment is still lent; the owner of one that is not may be waiting for [`Control::leave`].
    pub(super) fn open(&self) -> bool {
        self.word(0).load(Ordering::SeqCst) == 0
    }

    pub(super) fn leave(&self) {
        self.word(1).fetch_sub(1, Ordering::SeqCst);
    }

    /// The owner's side: no copy begins after this.
    pub(super) fn withdraw(&self) {
        self.word(0).store(1, Ordering::SeqCst);
    }

    /// Whether a copy is under way.
    pub(super) fn busy(&self) -> bool {
        self.word(1).load(Ordering::SeqCst) != 0
    }
}

/// Receives bytes and the descriptors that came with them.
pub(super) fn receive_with_files(socket: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = cmsg_space!([RawFd; 2]);
    let mut parts = [IoSliceMut::new(into)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut files = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            // SAFETY: the kernel has just made these descriptors for us; nobody else knows them.
            files.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok((message.bytes, files))
}
