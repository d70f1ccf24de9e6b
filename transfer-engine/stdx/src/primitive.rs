//! The atomics of `core` or of loom; the only file that knows which.

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// Waits a moment inside a loop that another thread's progress ends.
pub(crate) fn pause() {
    #[cfg(loom)]
    loom::thread::yield_now();
    #[cfg(not(loom))]
    core::hint::spin_loop();
}

#[cfg(test)]
pub(crate) mod testing {
    //! Threads for concurrent tests, and how often to run them.

    #[cfg(loom)]
    pub(crate) use loom::{sync::Arc, thread};
    #[cfg(not(loom))]
    pub(crate) use std::{sync::Arc, thread};

    /// Runs a concurrent model: under loom in every interleaving, otherwise many times on real threads.
    #[cfg(loom)]
    pub(crate) fn model(body: impl Fn() + Send + Sync + 'static) {
        loom::model(body);
    }

    /// Runs a concurrent model: under loom in every interleaving, otherwise many times on real threads.
    #[cfg(not(loom))]
    pub(crate) fn model(body: impl Fn() + Send + Sync + 'static) {
        let rounds = if cfg!(miri) { 20 } else { 500 };
        for _ in 0..rounds {
            body();
        }
    }

    /// SplitMix64: the same numbers for the same seed, everywhere.
    #[cfg(not(loom))]
    pub(crate) struct Random(pub(crate) u64);

    #[cfg(not(loom))]
    impl Random {
        pub(crate) fn below(&mut self, bound: usize) -> usize {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) % bound as u64) as usize
        }
    }
}
