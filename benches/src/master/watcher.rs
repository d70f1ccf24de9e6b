//! Those who watch what happens while questions are asked, and how fast it is read back.

use crate::rivals::Trouble;
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
    /// How long after the end the slowest was told the last, in milliseconds.
    pub lag_ms: f64,
    /// Events that were read back afterwards, as far as they were kept.
    pub events: u64,
    /// So many of them a second.
    pub events_per_s: f64,
}

/// A thread that watches.
pub(super) struct Watcher {
    /// Set by whoever joins it; it says nothing of other data.
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(u64, Instant), Trouble>>,
}

impl Watcher {
    /// It watches by this store, which nobody else uses.
    pub(super) fn begin(store: Store) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut watch = store.watch(Since::Now, EventFilter::default(), true);
            let (mut told, mut last) = (0, Instant::now());
            loop {
                match watch.next(QUIET)? {
                    Some(_) => (told, last) = (told + 1, Instant::now()),
                    None if over.load(Ordering::Relaxed) => return Ok((told, last)),
                    None => {}
                }
            }
        });
        Self { stop, thread }
    }
}

/// Waits until those who watch know all, and reads all that is kept once more.
pub(super) fn look_back(store: &Store, watchers: Vec<Watcher>) -> Result<Watched, Trouble> {
    let (ended, count) = (Instant::now(), watchers.len());
    let (mut told, mut lag_ms) = (0, 0.0f64);
    for Watcher { stop, thread } in watchers {
        stop.store(true, Ordering::Relaxed);
        let (more, last) = thread.join().map_err(|_| "a watcher panicked")??;
        told += more;
        lag_ms = lag_ms.max(last.saturating_duration_since(ended).as_secs_f64() * 1e3);
    }
    let mut watch = store.watch(Since::Oldest, EventFilter::default(), true);
    let (begun, mut events) = (Instant::now(), 0);
    let mut last = begun;
    while watch.next(QUIET)?.is_some() {
        (events, last) = (events + 1, Instant::now());
    }
    let took = (last - begun).as_secs_f64();
    Ok(Watched { watchers: count, told, lag_ms, events, events_per_s: if took > 0.0 { events as f64 / took } else { 0.0 } })
}
