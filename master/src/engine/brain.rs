//! The state as the log drives it.

use super::Clock;
use crate::log::{Machine, SnapshotWriter};
use perilune_protocol::FaultCode;
use perilune_state::{Applied, Effect, State, snapshot};
use std::io;
use std::sync::{Arc, OnceLock};

/// Owned by the log's thread; shares the state with the engine.
pub struct Brain {
    state: Arc<State>,
    clock: Clock,
    /// The first effect that could not be read. Written by the log's thread, read when the log has been opened.
    unreadable: Arc<OnceLock<String>>,
}

impl Brain {
    /// Drives `state`.
    pub fn new(state: Arc<State>, clock: Clock) -> Self {
        Self { state, clock, unreadable: Arc::default() }
    }

    /// Says, after a replay, what could not be read: a newer release wrote it, and to lead without it would forget it.
    pub fn unreadable(&self) -> Arc<OnceLock<String>> {
        self.unreadable.clone()
    }
}

impl Machine for Brain {
    type Output = Applied;

    fn apply(&mut self, index: u64, effect: &[u8]) -> Applied {
        match Effect::decode(effect) {
            Ok(effect) => self.state.apply(effect, self.clock.now()),
            Err(e) => {
                tracing::error!(index, "a committed effect cannot be read: {e}");
                let _ = self.unreadable.set(format!("log entry {index}: {e}"));
                Applied::Refused(FaultCode::Internal.with(format!("log entry {index}: {e}")))
            }
        }
    }

    fn snapshot(&self) -> SnapshotWriter {
        Box::new(snapshot::writer(self.state.clone()))
    }

    fn restore(&mut self, from: &mut dyn io::Read) -> io::Result<()> {
        snapshot::read(&self.state, from)
    }
}
