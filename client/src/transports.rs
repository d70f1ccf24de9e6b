//! By what bytes are moved: what may be used, and what this build and machine have.

use perilune_protocol::{FaultCode, Outcome, Protocol};
use perilune_transfer_engine::{Engine, EngineBuilder, RdmaSettings, RdmaStatus, rdma_status};
use serde::{Serialize, Serializer};
use std::fmt;

/// What this process can move bytes with.
#[derive(Debug, Serialize)]
pub struct Transports {
    /// The release of this build.
    pub version: &'static str,
    /// Those that can be used, the best first.
    #[serde(serialize_with = "names")]
    pub transports: Vec<Protocol>,
    /// The RDMA devices, or why there are none.
    pub rdma: RdmaStatus,
}

impl Transports {
    /// Looks at the build and at the machine as they are now.
    pub fn here() -> Self {
        let rdma = rdma_status();
        let has = |protocol: &Protocol| *protocol != Protocol::Rdma || rdma.usable();
        let transports = [Protocol::Shm, Protocol::Rdma, Protocol::Tcp].into_iter().filter(has).collect();
        Self { version: env!("CARGO_PKG_VERSION"), transports, rdma }
    }
}

impl fmt::Display for Transports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.transports.iter().map(|protocol| protocol.as_str()).collect();
        write!(f, "perilune {}\ntransports: {}\n{}", self.version, names.join(", "), self.rdma)
    }
}

/// As users write them.
fn names<S: Serializer>(protocols: &[Protocol], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(protocols.iter().map(|protocol| protocol.as_str()))
}

/// The beginning of an engine that moves bytes by `only` these, or by all when none is named.
pub(crate) fn builder(only: &[Protocol], rdma: &RdmaSettings) -> Outcome<EngineBuilder> {
    if !only.is_empty()
        && only.iter().all(|protocol| *protocol == Protocol::Rdma)
        && let Some(why) = rdma_status().reason
    {
        return Err(FaultCode::InvalidParams.with(format!("bytes may be moved by RDMA only, and it cannot be used: {why}")));
    }
    let names: Vec<&str> = only.iter().map(|protocol| protocol.as_str()).collect();
    Ok(Engine::builder().only(&names).rdma(rdma.clone()))
}
