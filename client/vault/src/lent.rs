//! What a caller lends to its attempts, though a call into a directory may last longer than anybody waits for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Is the last attempt's alone, and nobody's any more once this is dropped.
pub(crate) struct Lent<T>(Arc<Inner<T>>);

struct Inner<T> {
    lent: Mutex<T>,
    /// The attempt that has it, read under the mutex. Relaxed: one that reads an older number is at it, and whoever takes it back waits for the mutex.
    turn: AtomicU64,
}

/// What one attempt has of it.
pub(crate) struct Loan<T> {
    inner: Arc<Inner<T>>,
    turn: u64,
}

impl<T> Lent<T> {
    pub(crate) fn new(lent: T) -> Self {
        Self(Arc::new(Inner { lent: Mutex::new(lent), turn: AtomicU64::new(0) }))
    }

    /// The next attempt has it, and none before it.
    pub(crate) fn next(&self) -> Loan<T> {
        Loan { inner: Arc::clone(&self.0), turn: self.take_back() }
    }

    /// Gives the number of the next attempt, once none is at it.
    fn take_back(&self) -> u64 {
        let turn = self.0.turn.fetch_add(1, Ordering::Relaxed) + 1;
        drop(self.0.lock());
        turn
    }
}

impl<T> Drop for Lent<T> {
    fn drop(&mut self) {
        self.take_back();
    }
}

impl<T> Loan<T> {
    /// How many attempts had it before.
    pub(crate) fn turn(&self) -> u64 {
        self.turn - 1
    }

    /// Does something with it, for which whoever takes it back waits.
    ///
    /// # Errors
    /// As `act`, or when the attempt was given up.
    pub(crate) fn with<R>(&self, act: impl FnOnce(&mut T) -> Result<R, String>) -> Result<R, String> {
        let mut lent = self.inner.lock();
        if self.inner.turn.load(Ordering::Relaxed) == self.turn { act(&mut lent) } else { Err("nobody waits for it any more".into()) }
    }
}

impl<T> Inner<T> {
    fn lock(&self) -> MutexGuard<'_, T> {
        self.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lent_is_the_last_attempts_until_it_is_taken_back() {
        let lent = Lent::new(0);
        let add = |turn: &Loan<i32>| turn.with(|n| Ok(std::mem::replace(n, *n + 1)));
        let first = lent.next();
        assert_eq!(add(&first), Ok(0));
        let second = lent.next();
        assert!(add(&first).is_err());
        assert_eq!(add(&second), Ok(1));
        drop(lent);
        assert!(add(&second).is_err());
    }
}
