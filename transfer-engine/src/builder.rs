//! Which addresses, how many lanes: checked before anything starts.

use crate::engine::Engine;
use crate::fault::EngineError;
use crate::rdma::RdmaSettings;
use crate::transport::Family;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Settings of an [`Engine`].
#[derive(Clone)]
pub struct EngineBuilder {
    pub(crate) listen_tcp: Vec<SocketAddr>,
    pub(crate) listen_shm: Option<PathBuf>,
    pub(crate) listen_rdma: Option<SocketAddr>,
    pub(crate) rdma: RdmaSettings,
    pub(crate) only: Vec<String>,
    pub(crate) lanes: usize,
    pub(crate) deadline: Duration,
    pub(crate) families: Vec<Arc<dyn Family>>,
}

impl Default for EngineBuilder {
    fn default() -> Self {
        let lanes = std::thread::available_parallelism().map_or(1, usize::from).clamp(1, 4);
        Self {
            listen_tcp: Vec::new(),
            listen_shm: None,
            listen_rdma: None,
            rdma: RdmaSettings::default(),
            only: Vec::new(),
            lanes,
            deadline: Duration::from_secs(10),
            families: Vec::new(),
        }
    }
}

impl EngineBuilder {
    /// Serves exported segments to TCP peers at this address; port 0 takes a free one. May be called several times.
    #[must_use]
    pub fn listen_tcp(mut self, at: SocketAddr) -> Self {
        self.listen_tcp.push(at);
        self
    }

    /// Serves exported segments to processes of this host through a unix socket at this path, mode 0600.
    /// The directory must exist and should be private; a socket that nobody listens on any more is replaced.
    #[must_use]
    pub fn listen_shm(mut self, at: PathBuf) -> Self {
        self.listen_shm = Some(at);
        self
    }

    /// Serves segments to RDMA peers ([`Engine::export_rdma`]); they meet us at this TCP address, port 0 takes a free one.
    #[must_use]
    pub fn listen_rdma(mut self, at: SocketAddr) -> Self {
        self.listen_rdma = Some(at);
        self
    }

    /// Which devices are used for RDMA and how.
    #[must_use]
    pub fn rdma(mut self, settings: RdmaSettings) -> Self {
        self.rdma = settings;
        self
    }

    /// Moves bytes by these built-in transports only, named `shm`, `rdma` and `tcp`; none named means all.
    #[must_use]
    pub fn only(mut self, transports: &[&str]) -> Self {
        self.only = transports.iter().map(|&name| name.to_owned()).collect();
        self
    }

    /// How many lanes carry transfers, 1 to 64: as many threads can move bytes at once. Default: one per core, at most 4.
    #[must_use]
    pub fn lanes(mut self, lanes: usize) -> Self {
        self.lanes = lanes;
        self
    }

    /// The longest deadline any transfer gets, whatever its caller asks for. Default: 10 s.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Adds a way of moving bytes, preferred to the built-in ones where it understands a segment's endpoint.
    #[must_use]
    pub fn transport(mut self, family: Arc<dyn Family>) -> Self {
        self.families.push(family);
        self
    }

    /// Starts the engine.
    ///
    /// # Errors
    /// When a setting is out of range or an address cannot be taken.
    pub fn build(self) -> Result<Engine, EngineError> {
        Engine::start(self)
    }
}
