//! Those who watch what happens while questions are asked, and how fast it is read back.

use crate::rivals::Trouble;
use nix::time::ClockId;
use perilune_client::{Since, Store};
use perilune_protocol::event::EventFilter;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Whoever is told nothing for so long knows all.
const QUIET: Duration = Duration::from_millis(200);

/// What was told of what happened.
#[derive(Clone, Debug, Serialize)]
pub struct Watched {
    /// How many watched.
    pub watchers: usize,
    /// Events that they were told, together.
    pub told: u64,
    /// Processor time of a watching thread for each event, in microseconds: what it costs the client beside its questions.
    pub cpu_us: f64,
    /// How long after the end the slowest was told the last, in milliseconds.
    pub lag_ms: f64,
    /// Events that were read back afterwards, as far as they were kept.
    pub events: u64,
    /// So many of them a second.
    pub events_per_s: f64,
}

/// What a thread was told: how many events, when the last one, and what processor time that took.
struct Seen {
    told: u64,
    last: Instant,
    cpu: Duration,
}

/// A thread that watches.
pub(super) struct Watcher {
    /// Set by whoever joins it; it says nothing of other data.
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Seen, Trouble>>,
}

impl Watcher {
    /// It watches by this store, which nobody else uses.
    pub(super) fn begin(store: Store) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut watch = store.watch(Since::Now, EventFilter::default(), true);
            let (mut told, mut before, mut last) = (0, 0, Instant::now());
            loop {
                if watch.next(QUIET)?.is_some() {
                    told += 1;
                    continue;
                }
                if told > before {
                    (before, last) = (told, Instant::now() - QUIET);
                }
                if over.load(Ordering::Relaxed) {
                    return Ok(Seen { told, last, cpu: ClockId::CLOCK_THREAD_CPUTIME_ID.now()?.into() });
                }
            }
        });
        Self { stop, thread }
    }
}

/// Waits until those who watch know all, and reads all that is kept once more.
pub(super) fn look_back(store: &Store, watchers: Vec<Watcher>) -> Result<Watched, Trouble> {
    let (ended, count) = (Instant::now(), watchers.len());
    let (mut told, mut lag_ms, mut cpu) = (0, 0.0f64, Duration::ZERO);
    for Watcher { stop, thread } in watchers {
        stop.store(true, Ordering::Relaxed);
        let seen = thread.join().map_err(|_| "a watcher panicked")??;
        (told, cpu) = (told + seen.told, cpu + seen.cpu);
        lag_ms = lag_ms.max(seen.last.saturating_duration_since(ended).as_secs_f64() * 1e3);
    }
    let cpu_us = if told > 0 { cpu.as_secs_f64() * 1e6 / told as f64 } else { 0.0 };
    let mut watch = store.watch(Since::Oldest, EventFilter::default(), true);
    let (begun, mut events) = (Instant::now(), 0);
    let mut last = begun;
    while watch.next(QUIET)?.is_some() {
        (events, last) = (events + 1, Instant::now());
    }
    let took = (last - begun).as_secs_f64();
    Ok(Watched { watchers: count, told, cpu_us, lag_ms, events, events_per_s: if took > 0.0 { events as f64 / took } else { 0.0 } })
}
