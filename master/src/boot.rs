//! Builds every room in order and closes them in reverse. The only file that knows all of them.

use crate::api::{self, App};
use crate::config::MasterConfig;
use crate::engine::{Brain, Clock, Engine};
use crate::log::{Log, LogConfig, LogError};
use crate::rpc;
use crate::work::{Bell, evict, housekeeping};
use perilune_state::State;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// Why a master did not start. Nothing is left running.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting cannot be.
    #[error("{0}")]
    Config(String),
    /// The data directory cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The data directory holds what this release cannot read.
    #[error("{} holds what this release cannot read ({what}): start the newer release that wrote it, or choose another --data-dir", dir.display())]
    Newer {
        /// The data directory.
        dir: PathBuf,
        /// What.
        what: String,
    },
    /// A listener could not be opened.
    #[error("cannot listen on {address} for {purpose}: {cause}; stop what uses it, or choose another with {flag}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What for.
        purpose: &'static str,
        /// The flag that changes it.
        flag: &'static str,
        /// What the system said.
        cause: io::Error,
    },
    /// The system refused a thread.
    #[error("a thread could not be started: {0}")]
    Thread(io::Error),
}

/// A running master. Dropping it stops it.
pub struct Master {
    engine: Engine,
    runtime: Option<Runtime>,
    workers: Vec<JoinHandle<()>>,
    housekeeping: Arc<Bell>,
    stop: watch::Sender<bool>,
    rpc: SocketAddr,
    http: Vec<SocketAddr>,
}

impl Master {
    /// Opens the data directory, takes the lead, and serves.
    pub fn start(config: MasterConfig) -> Result<Self, StartError> {
        Self::start_with(config, |router| router)
    }

    /// The same, with the HTTP routes extended by `extend` before they are served: `perilune dev` adds the store node's.
    pub fn start_with(config: MasterConfig, extend: impl FnOnce(axum::Router) -> axum::Router) -> Result<Self, StartError> {
        config.check().map_err(StartError::Config)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8)))
            .thread_name("master")
            .enable_all()
            .build()
            .map_err(StartError::Thread)?;
        // Ports first: a second master should fail on them before it waits for the data directory.
        let rpc_listener = listen(&runtime, config.rpc, "RPC", "--rpc")?;
        let mut http_listeners = Vec::new();
        for address in &config.http {
            http_listeners.push(listen(&runtime, *address, "HTTP", "--http")?);
        }
        let rpc = local(&rpc_listener, config.rpc);
        let http = http_listeners.iter().zip(&config.http).map(|(l, a)| local(l, *a)).collect();

        let clock = Clock::begin();
        let state = Arc::new(State::new(config.rules()));
        let log_config = LogConfig {
            dir: config.data_dir.clone(),
            durability: config.durability,
            snapshot_entries: config.snapshot_entries,
            ..LogConfig::default()
        };
        let brain = Brain::new(state.clone(), clock);
        let unreadable = brain.unreadable();
        let log = Log::open(log_config, brain)?;
        if let Some(what) = unreadable.get() {
            log.close();
            return Err(StartError::Newer { dir: config.data_dir, what: what.clone() });
        }
        for overlap in state.lead(clock.now()) {
            tracing::error!(key = %overlap.key, "a committed object overlaps another and was left out: {}", overlap.why);
        }
        tracing::info!(objects = state.index.len(), segments = state.segments.table().len(), applied = log.status().applied, "leading");
        let engine = Engine::new(state, log, clock, config, rpc);

        let (stop, stopped) = watch::channel(false);
        let housekeeping = Arc::new(Bell::default());
        let router = extend(api::router(App::new(Arc::new(engine.clone()))));
        runtime.spawn(rpc::server::run(engine.clone(), rpc_listener, stopped.clone()));
        for listener in http_listeners {
            runtime.spawn(api::serve::run(listener, router.clone(), stopped.clone()));
        }
        let mut master = Self { engine, runtime: None, workers: Vec::new(), housekeeping, stop, rpc, http };
        master.spawn_workers(runtime.handle().clone()).map_err(StartError::Thread)?;
        master.runtime = Some(runtime);
        Ok(master)
    }

    fn spawn_workers(&mut self, handle: tokio::runtime::Handle) -> io::Result<()> {
        let named = |name: &str| std::thread::Builder::new().name(name.into());
        let engine = self.engine.clone();
        self.workers.push(named("evict").spawn(move || evict::run(&engine))?);
        let (engine, bell) = (self.engine.clone(), self.housekeeping.clone());
        self.workers.push(named("housekeeping").spawn(move || housekeeping::run(&engine, &bell, &handle))?);
        Ok(())
    }

    /// Where clients call.
    pub fn rpc_addr(&self) -> SocketAddr {
        self.rpc
    }

    /// Where HTTP is served, in the order of the settings.
    pub fn http_addrs(&self) -> &[SocketAddr] {
        &self.http
    }

    /// The door to the state, for embedders and tests.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The HTTP faces, to be served elsewhere as well.
    pub fn router(&self) -> axum::Router {
        api::router(App::new(Arc::new(self.engine.clone())))
    }

    /// Ends listeners, workers and the log, in that order. What was acknowledged is stored.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        self.housekeeping.stop();
        self.engine.inner.evictor.bell.stop();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
        self.engine.inner.log.close();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(2));
        }
    }
}

fn listen(runtime: &Runtime, address: SocketAddr, purpose: &'static str, flag: &'static str) -> Result<TcpListener, StartError> {
    runtime.block_on(TcpListener::bind(address)).map_err(|cause| StartError::Listen { address, purpose, flag, cause })
}

fn local(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}
