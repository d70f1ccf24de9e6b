//! What left the index lately: a new leader leaves its space alone until nobody can have a lease on it any more.
//!
//! Nobody is granted a lease on what has left, so every lease on it ends within one from when any member learned that it is gone.

use super::Replica;
use crate::MonotonicMs;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The room. Written by apply; read when a reign begins, or at the end of a snapshot. So nobody waits for the lock in between.
pub struct Departed {
    lease_ms: u64,
    /// When each was noted, ascending but for what is copied.
    lately: Mutex<VecDeque<(MonotonicMs, Replica)>>,
}

impl Departed {
    pub(crate) fn new(lease_ms: u64) -> Self {
        Self { lease_ms, lately: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(MonotonicMs, Replica)>> {
        self.lately.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be had before anything leaves the index `now`, and kept until it is noted: who has found it there no longer, and looks here,
    /// finds it.
    pub(crate) fn leaving(&self, now: MonotonicMs) -> Leaving<'_> {
        let mut lately = self.lock();
        while lately.front().is_some_and(|(noted, _)| noted.saturating_add(self.lease_ms) < now) {
            lately.pop_front();
        }
        Leaving { lately, now }
    }

    /// These are gone, as was known at `noted`.
    pub(crate) fn note(&self, replicas: &[Replica], noted: MonotonicMs) {
        self.leaving(noted).note(replicas);
    }

    /// All that is noted, and since when.
    pub(crate) fn noted(&self) -> Vec<(MonotonicMs, Replica)> {
        self.lock().iter().cloned().collect()
    }
}

/// What leaves by one effect.
pub(crate) struct Leaving<'a> {
    lately: MutexGuard<'a, VecDeque<(MonotonicMs, Replica)>>,
    now: MonotonicMs,
}

impl Leaving<'_> {
    pub(crate) fn note(&mut self, replicas: &[Replica]) {
        let now = self.now;
        self.lately.extend(replicas.iter().map(|replica| (now, replica.clone())));
    }

    pub(crate) fn now(&self) -> MonotonicMs {
        self.now
    }
}
