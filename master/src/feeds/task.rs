//! A feed that is being delivered, and how it is stopped: between two things that its sink is asked, unless one of them takes too long.

use super::run::{Delivery, Ended, deliver};
use crate::engine::Engine;
use perilune_state::directory::FeedRecord;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;

/// Begins a task.
pub(crate) type Begin<'a> = &'a dyn Fn(Delivery) -> JoinHandle<Ended>;

/// What whoever delivers passes before each thing that it asks its sink: held for so long, and closed by whoever stops it.
#[derive(Clone)]
pub(super) struct Gate(Arc<Semaphore>);

impl Gate {
    fn open() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }

    /// Never returns once it is closed: whoever comes then is stopped.
    pub(super) async fn pass(&self) -> SemaphorePermit<'_> {
        match self.0.acquire().await {
            Ok(held) => held,
            Err(_) => pending().await,
        }
    }

    /// Nobody passes any more. Whether nobody is inside either.
    fn close(&self) -> bool {
        self.0.close();
        self.0.available_permits() > 0
    }
}

pub(super) struct Task {
    /// What was begun.
    pub(super) feed: FeedRecord,
    handle: JoinHandle<Ended>,
    gate: Gate,
    /// Since when it is to stop.
    told: Option<Instant>,
}

impl Task {
    pub(super) fn begin(engine: &Engine, feed: &FeedRecord, namespace: String, begin: Begin<'_>) -> Self {
        let gate = Gate::open();
        let handle = begin(Box::pin(deliver(engine.clone(), feed.clone(), namespace, gate.clone())));
        Self { feed: feed.clone(), handle, gate, told: None }
    }

    /// Whether it was told to stop. It does nothing more, then.
    pub(super) fn is_stopping(&self) -> bool {
        self.told.is_some()
    }

    pub(super) fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// How it ended by itself.
    pub(super) async fn end(&mut self) -> Result<Ended, JoinError> {
        (&mut self.handle).await
    }

    /// Has it ask its sink nothing more. Whether it has ended: what the sink is asked just then is waited for, for so long since this was called first.
    pub(super) async fn stop(&mut self, patience: Duration) -> bool {
        let told = *self.told.get_or_insert_with(Instant::now);
        if !self.gate.close() && !self.handle.is_finished() && told.elapsed() < patience {
            return false;
        }
        self.abort();
        // Its only other end is its own.
        let _ = (&mut self.handle).await;
        true
    }

    /// Ends it wherever it is.
    pub(super) fn abort(&self) {
        self.handle.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_gate_that_is_closed_lets_nobody_in_and_says_when_all_are_out() {
        let gate = Gate::open();
        drop(gate.pass().await);
        let inside = gate.pass().await;
        assert!(!gate.close());
        assert!(tokio::time::timeout(Duration::from_millis(10), gate.pass()).await.is_err());
        drop(inside);
        assert!(gate.close());
        assert!(tokio::time::timeout(Duration::from_millis(10), gate.pass()).await.is_err());
    }
}
