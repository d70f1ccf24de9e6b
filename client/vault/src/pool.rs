//! Buffers that are used again: fresh memory costs a page fault for every 4 KiB, which is as much as filling it.

use bytes::Bytes;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// Bytes of a buffer: what was just filled is still in the cache of the processor when it is summed up and written.
pub(crate) const BUFFER_BYTES: usize = 256 << 10;
/// What is smaller has memory of its own: it may be kept, and few pages are met for the first time.
const SMALL_BYTES: usize = 64 << 10;
/// No more lie here unused.
const IDLE_MAX: usize = 256;

static IDLE: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());

/// A buffer, or the beginning of one. Goes back when it is dropped, and so do the [`Bytes`] that were made of it.
pub(crate) struct Buffer {
    all: Box<[u8]>,
    len: usize,
}

impl Buffer {
    /// One of at most [`BUFFER_BYTES`], with whatever was in it before.
    pub(crate) fn take(len: usize) -> Self {
        if len < SMALL_BYTES {
            return Self { all: vec![0; len].into(), len };
        }
        let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Self { all: idle.unwrap_or_else(|| vec![0; BUFFER_BYTES].into()), len: len.min(BUFFER_BYTES) }
    }

    pub(crate) fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.all[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.all[..self.len]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.all.len() == BUFFER_BYTES {
            let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < IDLE_MAX {
                idle.push(std::mem::take(&mut self.all));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_nobody_elses() {
        let len = |n| [10, SMALL_BYTES, BUFFER_BYTES][n % 3];
        let filled: Vec<Bytes> = (0..3 * IDLE_MAX)
            .map(|n| {
                let mut buffer = Buffer::take(len(n));
                buffer.fill(n as u8);
                buffer.into_bytes()
            })
            .collect();
        for (n, bytes) in filled.iter().enumerate() {
            assert_eq!(bytes.len(), len(n));
            assert!(bytes.iter().all(|byte| *byte == n as u8), "{n}");
        }
        drop(filled);
        assert!(IDLE.lock().unwrap().len() <= IDLE_MAX);
    }
}
