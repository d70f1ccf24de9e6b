//! Wakes the thread that sleeps in a transport's poll.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// A descriptor that becomes readable when somebody wants the attention of the thread that drives the lane.
pub struct Wake {
    event: EventFd,
}

impl Wake {
    pub(crate) fn new() -> std::io::Result<Self> {
        let event = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { event })
    }

    /// Makes it readable.
    pub fn fire(&self) {
        // Fails only when the counter is full, and then it is readable.
        let _ = self.event.write(1);
    }

    /// Makes it unreadable again; for transports that saw it fire.
    pub fn clear(&self) {
        let _ = self.event.read();
    }

    /// Sleeps until it fires, one of `others` is readable, or `wait` is over, and clears it.
    pub fn sleep(&self, others: &[BorrowedFd<'_>], wait: Duration) {
        let mut fds = vec![PollFd::new(self.event.as_fd(), PollFlags::POLLIN)];
        fds.extend(others.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)));
        let woken = ppoll(&mut fds, Some(TimeSpec::from_duration(wait.min(Duration::from_secs(3600)))), None);
        if woken != Err(Errno::EINTR) && fds[0].any() == Some(true) {
            self.clear();
        }
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// A wait for system calls that count milliseconds; never shorter than asked, so that nobody spins towards a deadline.
pub(crate) fn milliseconds(wait: Duration) -> u16 {
    let whole = wait.as_nanos().div_ceil(1_000_000);
    u16::try_from(whole).unwrap_or(60_000).min(60_000)
}
