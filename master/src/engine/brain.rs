//! The state as the log drives it, and how a reign gets one of its own.

use super::Clock;
use crate::log::{Machine, SnapshotWriter};
use crate::planted::{self, Defect};
use perilune_protocol::FaultCode;
use perilune_state::apply::{Overlap, Rules};
use perilune_state::{Applied, Effect, State, snapshot};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Owned by the log's thread; shares the state with the engine.
pub struct Brain {
    seat: Arc<Seat>,
    rules: Rules,
    clock: Clock,
}

/// Where the log's thread and the engine agree whose state it is.
pub(crate) struct Seat {
    known: Mutex<Known>,
    /// The term this member leads in; 0 is none. Written (release) by the log's thread before anything of another leader is applied and
    /// before a lease of another term is shown; read (acquire) by whoever vouches for an answer.
    term: AtomicU64,
    /// The first effect that could not be read. Written by the log's thread.
    unreadable: OnceLock<String>,
}

/// The log's thread holds its lock while it applies an effect. Others take it to exchange the state, twice in a reign.
struct Known {
    state: Arc<State>,
    /// A reign has begun with this very state, or tried to: no other can.
    used: bool,
}

impl Seat {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The term this member leads in; 0 is none.
    pub(crate) fn term(&self) -> u64 {
        self.term.load(Ordering::Acquire)
    }

    /// The log is closed: nothing is stored or told any more.
    pub(crate) fn close(&self) {
        self.term.store(0, Ordering::Release);
    }

    /// What is known now.
    pub(crate) fn state(&self) -> Arc<State> {
        Arc::clone(&self.lock().state)
    }

    /// What was committed and cannot be read: a newer release wrote it, and to lead without it would forget it.
    pub(crate) fn unreadable(&self) -> Option<&str> {
        self.unreadable.get().map(String::as_str)
    }

    /// A state for a reign in `term`, in which nothing has been proposed yet and so nothing is applied: as it is, or, where an earlier reign
    /// left its traces, a copy. With what no object could be given. `None` when the lead is lost again.
    pub(crate) fn take(&self, term: u64, now: u64) -> Option<(Arc<State>, Vec<Overlap>)> {
        let (known, used) = {
            let mut known = self.lock();
            (Arc::clone(&known.state), std::mem::replace(&mut known.used, true))
        };
        let state = if used { Arc::new(snapshot::copy(&known)) } else { known };
        let overlaps = state.prepare(now);
        let mut known = self.lock();
        // Only the log's thread gives a term, under this lock, and none comes twice: it has been this one all the time.
        if self.term() != term {
            return None;
        }
        state.begin(&overlaps);
        known.state = Arc::clone(&state);
        Some((state, overlaps))
    }
}

impl Brain {
    /// Knows nothing yet.
    pub(crate) fn new(rules: Rules, clock: Clock) -> Self {
        let known = Mutex::new(Known { state: Arc::new(State::new(rules)), used: false });
        Self { seat: Arc::new(Seat { known, term: AtomicU64::new(0), unreadable: OnceLock::new() }), rules, clock }
    }

    pub(crate) fn seat(&self) -> Arc<Seat> {
        Arc::clone(&self.seat)
    }
}

impl Machine for Brain {
    type Output = Applied;

    fn apply(&mut self, index: u64, effect: &[u8]) -> Applied {
        match Effect::decode(effect) {
            Ok(effect) => {
                let early = if planted::is(Defect::HastyReuse) { 60_000 } else { 0 };
                self.seat.lock().state.apply(effect, self.clock.now() + early)
            }
            Err(e) => {
                tracing::error!(index, "a committed effect cannot be read: {e}");
                let _ = self.seat.unreadable.set(format!("log entry {index}: {e}"));
                Applied::Refused(FaultCode::Internal.with(format!("log entry {index}: {e}")))
            }
        }
    }

    fn leads(&mut self, term: Option<u64>) {
        let known = self.seat.lock();
        self.seat.term.store(term.unwrap_or(0), Ordering::Release);
        known.state.follow();
    }

    fn snapshot(&self) -> SnapshotWriter {
        Box::new(snapshot::writer(self.seat.state()))
    }

    fn restore(&mut self, from: &mut dyn io::Read) -> io::Result<()> {
        let mut known = self.seat.lock();
        if known.used {
            // A reign that has ended may still look at its own.
            *known = Known { state: Arc::new(State::new(self.rules)), used: false };
        }
        snapshot::read(&known.state, from, self.clock.now())
    }
}
