//! Space that nobody may write into yet: its object is gone, but a reader's lease or a writer's deadline still runs.

use super::Replica;
use crate::MonotonicMs;
use crate::segments::Phase;
use crossbeam::queue::SegQueue;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// The room. Anyone puts space in without a lock; one worker takes it out when its time has come.
#[derive(Default)]
pub struct Limbo {
    inbox: SegQueue<(MonotonicMs, Replica)>,
    /// Sorted by time. Only the worker that sweeps takes this mutex.
    waiting: Mutex<BTreeMap<(MonotonicMs, Reverse<u64>), Replica>>,
    sequence: AtomicU64,
    bytes: AtomicU64,
}

impl Limbo {
    /// Frees the replica's space at `until`, or at once when that has passed.
    pub fn hold(&self, replica: Replica, until: MonotonicMs, now: MonotonicMs) {
        if until <= now {
            free(&replica);
            return;
        }
        self.bytes.fetch_add(bytes(&replica), Ordering::Relaxed);
        self.inbox.push((until, replica));
    }

    /// Frees what is due. Returns bytes freed.
    pub fn sweep(&self, now: MonotonicMs) -> u64 {
        let mut waiting = self.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        while let Some((until, replica)) = self.inbox.pop() {
            waiting.insert((until, Reverse(self.sequence.fetch_add(1, Ordering::Relaxed))), replica);
        }
        let mut freed = 0;
        while let Some(first) = waiting.first_entry() {
            if first.key().0 > now {
                break;
            }
            let replica = first.remove();
            freed += bytes(&replica);
            free(&replica);
        }
        self.bytes.fetch_sub(freed, Ordering::Relaxed);
        freed
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

fn bytes(replica: &Replica) -> u64 {
    replica.extents.iter().map(|e| e.len).sum()
}

fn free(replica: &Replica) {
    if replica.segment.phase() != Phase::Gone {
        replica.segment.space().release(&replica.extents);
    }
}
