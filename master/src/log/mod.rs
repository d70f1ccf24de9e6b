//! The replicated log: effects go in, come out in one order, and outlive the process.

mod config;
mod error;
mod machine;
mod proposal;
mod status;

pub use config::{Durability, EFFECT_BYTES_MAX, LogConfig};
pub use error::LogError;
pub use machine::{Machine, SnapshotWriter};
pub use proposal::Proposal;
pub use status::{LATENCY_BOUNDS_US, Latency, LogStatus, Role};

use std::sync::Arc;
use uuid::Uuid;

/// A handle of an open log; cheap to clone. The log closes when [`Log::close`] is called or its last handle drops.
pub struct Log<M: Machine> {
    shared: Arc<std::marker::PhantomData<fn(M)>>,
}

impl<M: Machine> Clone for Log<M> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<M: Machine> Log<M> {
    /// Opens or makes the log in `config.dir`, restores and replays `machine`, and returns when this member leads.
    pub fn open(config: LogConfig, machine: M) -> Result<Self, LogError> {
        let _ = (config, machine);
        todo!()
    }

    /// Puts an effect on its way. Effects proposed by one thread are applied in the order of its calls.
    /// Waits only while [`LogConfig::queue_effects`] others wait already.
    pub fn propose(&self, effect: Vec<u8>) -> Proposal<M::Output> {
        let _ = effect;
        todo!()
    }

    /// Positions, counts and latencies.
    pub fn status(&self) -> LogStatus {
        todo!()
    }

    /// The id that the group was given when its first member first opened its directory.
    pub fn cluster_id(&self) -> Uuid {
        todo!()
    }

    /// Takes no further proposals, stores those that were taken, syncs, and joins the log's threads. Closing twice does nothing.
    pub fn close(&self) {
        todo!()
    }
}
