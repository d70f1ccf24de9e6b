//! Space that nobody may write into yet: its object is gone, but a reader's lease or a writer's deadline still runs.

use super::{Few, Replica};
use crate::MonotonicMs;
use crate::segments::Phase;
use crossbeam::queue::SegQueue;
use perilune_protocol::Tso;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The room. Anyone puts space in without a lock; one worker takes it out when its time has come.
#[derive(Default)]
pub struct Limbo {
    inbox: SegQueue<Held>,
    /// Sorted by time. The worker that sweeps takes this mutex, and who learns that a writer has ended.
    waiting: Mutex<Waiting>,
    sequence: AtomicU64,
    bytes: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    promised: Queue,
    abandoned: Queue,
}

type Queue = BTreeMap<(MonotonicMs, u64), Held>;

/// Why space waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A reader may still read what was there.
    Readers,
    /// A writer gave up, or is one of the last reign, but what it had on the way may still land.
    Revoked,
    /// A writer was not heard again and may still write.
    Abandoned,
}

struct Held {
    until: MonotonicMs,
    why: Why,
    replicas: Few<Replica>,
    writer: Option<Writer>,
}

/// Who may still write.
#[derive(Clone, Copy, Debug)]
pub struct Writer {
    /// The version it would have written.
    pub version: Tso,
    /// The connection it asked on.
    pub session: u64,
    /// From when on it writes no more, unless it was stopped.
    pub ends: MonotonicMs,
}

/// What a sweep freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    /// Bytes in all.
    pub bytes: u64,
    /// Puts that had been abandoned.
    pub puts: u64,
    /// Bytes of those.
    pub put_bytes: u64,
}

impl Limbo {
    /// Frees the space of `replicas` at `until`, or at once when that has passed.
    pub fn hold(&self, replicas: &[Replica], why: Why, until: MonotonicMs, now: MonotonicMs) {
        self.hold_from(replicas, why, None, until, now);
    }

    /// The same of what this writer may still write.
    pub fn hold_from(&self, replicas: &[Replica], why: Why, writer: Option<Writer>, until: MonotonicMs, now: MonotonicMs) {
        if until <= now {
            free(replicas, why);
            return;
        }
        self.bytes.fetch_add(bytes(replicas), Ordering::Relaxed);
        for replica in replicas {
            replica.segment.leaving(bytes(std::slice::from_ref(replica)) as i64);
        }
        self.inbox.push(Held { until, why, replicas: replicas.into(), writer });
    }

    /// These writers are known not to have been stopped: what they abandoned waits for their deadline only. How many puts that are.
    pub fn have_ended(&self, is_it: impl Fn(&Writer) -> bool) -> usize {
        let mut waiting = self.waiting();
        let Waiting { promised, abandoned } = &mut *waiting;
        let ends = |held: &Held| held.writer.filter(&is_it).map(|writer| writer.ends.min(held.until));
        let found: Vec<_> = abandoned.iter().filter_map(|(key, held)| Some((*key, ends(held)?))).collect();
        for (key, until) in &found {
            promised.extend(abandoned.remove(key).map(|held| ((*until, key.1), held)));
        }
        found.len()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Waiting { promised, abandoned } = &mut *waiting;
        while let Some(held) = self.inbox.pop() {
            let queue = if held.why == Why::Abandoned { &mut *abandoned } else { &mut *promised };
            queue.insert((held.until, self.sequence.fetch_add(1, Ordering::Relaxed)), held);
        }
        waiting
    }

    /// Frees what is due; what writers abandoned only with `leftovers`.
    pub fn sweep(&self, now: MonotonicMs, leftovers: bool) -> Freed {
        let mut waiting = self.waiting();
        let Waiting { promised, abandoned } = &mut *waiting;
        let mut freed = Freed::default();
        freed.take_due(promised, now);
        if leftovers {
            freed.take_due(abandoned, now);
        }
        self.bytes.fetch_sub(freed.bytes, Ordering::Relaxed);
        freed
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Freed {
    fn take_due(&mut self, queue: &mut Queue, now: MonotonicMs) {
        while let Some(first) = queue.first_entry() {
            if first.key().0 > now {
                break;
            }
            let held = first.remove();
            self.bytes += bytes(&held.replicas);
            if held.why == Why::Abandoned {
                self.puts += 1;
                self.put_bytes += bytes(&held.replicas);
            }
            for replica in &held.replicas {
                replica.segment.leaving(-(bytes(std::slice::from_ref(replica)) as i64));
            }
            free(&held.replicas, held.why);
        }
    }
}

fn bytes(replicas: &[Replica]) -> u64 {
    replicas.iter().flat_map(|r| &r.extents).map(|e| e.len).sum()
}

fn free(replicas: &[Replica], why: Why) {
    for Replica { segment, extents } in replicas.iter().filter(|r| r.segment.phase() != Phase::Gone) {
        if why != Why::Readers {
            segment.space().settle(extents);
        }
        segment.space().release(extents);
    }
}
