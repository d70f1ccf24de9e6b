//! The settings of a client.

use perilune_protocol::Protocol;
use perilune_protocol::access::Token;
use perilune_transfer_engine::{Engine, RdmaSettings};
use std::time::Duration;

/// How a [`crate::Store`] finds its masters and how long it waits.
#[derive(Clone)]
pub struct StoreConfig {
    /// Masters, `host:port` each; tried in turn until one answers.
    pub masters: Vec<String>,
    /// The tenant whose keys are meant; empty means that of `unique_id`, else `default`.
    pub tenant: String,
    /// On whose behalf: puts go to the pool that is this user's, where there is room. May be empty.
    pub user: String,
    /// What this client is registered by, `1:TENANT:NAME`: puts go to the pool that it is of. May be empty.
    pub unique_id: String,
    /// Says who calls to masters that ask for it; see [`crate::token::find`].
    pub token: Option<Token>,
    /// How long one operation may take in all, repetitions included.
    pub deadline: Duration,
    /// What is calling, for the master's logs.
    pub agent: String,
    /// How many places of objects are remembered while their leases run; 0 remembers none.
    pub places: usize,
    /// Moves bytes by these only; empty for all.
    pub transports: Vec<Protocol>,
    /// Which RDMA devices are used and how.
    pub rdma: RdmaSettings,
    /// The engine to move bytes with, whatever `transports` and `rdma` say; `None` makes one that only reaches out.
    pub engine: Option<Engine>,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            masters: vec!["127.0.0.1:50051".into()],
            tenant: String::new(),
            user: String::new(),
            unique_id: String::new(),
            token: None,
            deadline: Duration::from_secs(10),
            agent: concat!("perilune-client ", env!("CARGO_PKG_VERSION")).into(),
            places: 65_536,
            transports: Vec::new(),
            rdma: RdmaSettings::default(),
            engine: None,
        }
    }
}
