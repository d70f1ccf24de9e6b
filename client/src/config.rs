//! The settings of a client.

use perilune_transfer_engine::Engine;
use std::time::Duration;

/// How a [`crate::Store`] finds its masters and how long it waits.
#[derive(Clone)]
pub struct StoreConfig {
    /// Masters, `host:port` each; tried in turn until one answers.
    pub masters: Vec<String>,
    /// The tenant whose keys are meant; empty means `default`.
    pub tenant: String,
    /// How long one operation may take in all, repetitions included.
    pub deadline: Duration,
    /// What is calling, for the master's logs.
    pub agent: String,
    /// How many places of objects are remembered while their leases run; 0 remembers none.
    pub places: usize,
    /// The engine to move bytes with; `None` makes one that only reaches out.
    pub engine: Option<Engine>,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            masters: vec!["127.0.0.1:50051".into()],
            tenant: String::new(),
            deadline: Duration::from_secs(10),
            agent: concat!("perilune-client ", env!("CARGO_PKG_VERSION")).into(),
            places: 65_536,
            engine: None,
        }
    }
}
