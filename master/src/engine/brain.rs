//! The state as the log drives it.

use super::Clock;
use crate::log::{Machine, SnapshotWriter};
use perilune_protocol::FaultCode;
use perilune_state::{Applied, Effect, State, snapshot};
use std::io;
use std::sync::Arc;

/// Owned by the log's thread; shares the state with the engine.
pub struct Brain {
    state: Arc<State>,
    clock: Clock,
}

impl Brain {
    /// Drives `state`.
    pub fn new(state: Arc<State>, clock: Clock) -> Self {
        Self { state, clock }
    }
}

impl Machine for Brain {
    type Output = Applied;

    fn apply(&mut self, index: u64, effect: &[u8]) -> Applied {
        match Effect::decode(effect) {
            Ok(effect) => self.state.apply(effect, self.clock.now()),
            Err(e) => {
                tracing::error!(index, "a committed effect cannot be read and is skipped: {e}");
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
