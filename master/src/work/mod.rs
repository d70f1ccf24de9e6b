//! Background work: each piece is short, and may be stopped between two.

pub(crate) mod evict;
pub(crate) mod housekeeping;
pub(crate) mod jobs;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a worker sleeps on: a bell that rings when there is something to do, or when it is to stop.
#[derive(Default)]
pub(crate) struct Bell {
    rung: Mutex<bool>,
    bell: Condvar,
    stopped: AtomicBool,
}

impl Bell {
    fn lock(&self) -> MutexGuard<'_, bool> {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is something to do.
    pub(crate) fn ring(&self) {
        *self.lock() = true;
        self.bell.notify_all();
    }

    /// The worker is to end.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.ring();
    }

    /// Sleeps until rung, at most `longest`. False when the worker is to end.
    pub(crate) fn wait(&self, longest: Duration) -> bool {
        let waited = self.bell.wait_timeout_while(self.lock(), longest, |rung| !*rung);
        *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
        !self.stopped.load(Ordering::Acquire)
    }
}
