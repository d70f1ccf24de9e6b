//! Builds every room in order and closes them in reverse. The only file that knows all of them.

use crate::alive;
use crate::api::serve::Limits;
use crate::api::{self, App};
use crate::config::MasterConfig;
use crate::engine::{Brain, Clock, Engine, Group, Inner, Throne};
use crate::join;
use crate::log::{self, Log, LogConfig, LogError, Member, Members};
use crate::retrieve::{Restore, RetrieveError, retrieve};
use crate::secrets::SecretKeys;
use crate::{rpc, work};
use perilune_probe::{Front, Life, Probe, Stage};
use perilune_protocol::Outcome;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

/// Why a master did not start. Nothing is left running.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting cannot be.
    #[error("{0}")]
    Config(String),
    /// The group did not take this master in.
    #[error("cannot join: {0}")]
    Join(String),
    /// The data directory cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// There is nothing to begin again from in a vault.
    #[error(transparent)]
    Vault(#[from] RetrieveError),
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
    throne: Arc<Throne>,
    runtime: Option<Runtime>,
    /// Begins and ends reigns.
    keeper: Option<thread::JoinHandle<()>>,
    stop: watch::Sender<bool>,
    life: Life,
    web: Web,
    rpc: SocketAddr,
    http: Vec<SocketAddr>,
}

impl Master {
    /// Opens the data directory and serves: at once when it is alone, as a member of a group whenever it leads.
    pub fn start(config: MasterConfig) -> Result<Self, StartError> {
        Self::start_with(config, Probe::new().part())
    }

    /// The same, as a part of a process that has others: `life` is its own.
    pub fn start_with(config: MasterConfig, life: Life) -> Result<Self, StartError> {
        config.check().map_err(StartError::Config)?;
        let secrets = SecretKeys::find(&config.secret_key_files, &config.data_dir, config.vault_root.clone());
        let secrets = secrets.map_err(StartError::Config)?;
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
        let http: Vec<SocketAddr> = http_listeners.iter().zip(&config.http).map(|(l, a)| local(l, *a)).collect();
        // Whoever asks how far this master is is told from now on.
        let web = Web::open(&runtime, config.http_limits, http_listeners, life.probe().alone(Arc::new(config.access())));

        let peers = match config.peer_listen {
            Some(address) => Some(Arc::new(listen_std(address)?)),
            None => None,
        };
        let clock = Clock::begin();
        let listens = peers.as_ref().and_then(|l: &Arc<std::net::TcpListener>| l.local_addr().ok());
        let card = config.card(rpc, http.first().copied(), listens);
        if let (Some(at), true) = (http.first(), card.http.is_empty()) {
            tracing::warn!(
                "HTTP is served at {at}, which the other masters cannot call: while this one leads they refuse what only the leader carries \
                 out. Listen with --http at an address that they can call, or name one in --peers: \
                 N=HOST:PORT/RPC-HOST:PORT/HTTP-HOST:PORT"
            );
        }
        let (members, cluster) = runtime.block_on(beginning(&config, &card))?;
        let log_config = LogConfig {
            dir: config.data_dir.clone(),
            member: config.member,
            members,
            joined: !config.join.is_empty(),
            cluster,
            listen: peers,
            token: config.token.clone(),
            heartbeat: config.raft_heartbeat,
            election: config.raft_election,
            durability: config.durability,
            snapshot_entries: config.snapshot_entries,
            reserve: config.log_reserve,
            keeps: config.event_log,
            ..LogConfig::default()
        };
        let brain = || Brain::new(config.rules(), clock.clone());
        match &config.restore {
            Some(Restore::File(file)) => {
                let log::Revived { cluster, from, index } = log::revive(&log_config, file, brain(), log::unchanged)?;
                tracing::warn!(%cluster, "a new group begins with what the cluster {from} knew at entry {index}");
            }
            Some(Restore::Vault(from)) => drop(retrieve(from, &config, &log_config, &secrets, clock.wall_ms(), brain)?),
            None => {}
        }
        let brain = brain();
        let seat = brain.seat();
        let log = Log::open(log_config, brain)?;
        if let Some(what) = seat.unreadable() {
            log.close();
            return Err(StartError::Newer { dir: config.data_dir, what: what.into() });
        }
        life.reach(Stage::Ready);
        let collecting = config.token.clone();
        let inner = Arc::new(Inner::new(seat, log, clock, config, card, secrets));
        let throne = Arc::new(Throne::new(inner, runtime.handle().clone(), work::hire));
        let (stop, stopped) = watch::channel(false);
        let mut master = Self { throne, runtime: None, keeper: None, stop, life, web, rpc, http };
        // A group of one serves when this returns.
        master.throne.follow().map_err(StartError::Thread)?;
        alive::add_checks(&master.life, &master.throne);
        runtime.spawn(rpc::server::run(master.throne.clone(), rpc_listener, stopped.clone()));
        master.web.front.show(perilune_probe::served(master.router()));
        let group = Group::new(master.throne.clone());
        if group.leads() {
            master.life.reach(Stage::Running);
        } else {
            runtime.spawn(alive::run_when_current(group, master.life.clone()));
        }
        let (collector, stops) = (Group::new(master.throne.clone()), master.stop.subscribe());
        runtime.spawn(work::cold::tell_keys(collector.clone(), collecting.clone(), stops.clone()));
        runtime.spawn(work::cold::collect(collector, collecting, stops));
        let throne = master.throne.clone();
        let keeper = thread::Builder::new().name("throne".into()).spawn(move || throne.run(stopped));
        master.keeper = Some(keeper.map_err(StartError::Thread)?);
        master.runtime = Some(runtime);
        Ok(master)
    }

    /// Where clients call.
    pub fn rpc_addr(&self) -> SocketAddr {
        self.rpc
    }

    /// Where HTTP is served, in the order of the settings.
    pub fn http_addrs(&self) -> &[SocketAddr] {
        &self.http
    }

    /// The door to the state, for embedders and tests: of the reign that is.
    pub fn engine(&self) -> Engine {
        self.throne.engine()
    }

    /// As a worker of no reign sees the group.
    #[cfg(test)]
    pub(crate) fn group(&self) -> Group {
        Group::new(self.throne.clone())
    }

    /// Hands the lead to the master that lacks least. Resolves when it has taken it; meanwhile clients are sent on.
    ///
    /// # Errors
    /// When this master does not lead, or no other took the lead in time.
    pub fn hand_over(&self) -> Outcome<()> {
        self.throne.hand_over()
    }

    /// The HTTP faces, to be [`perilune_probe::served`] elsewhere as well.
    pub fn router(&self) -> OpenApiRouter {
        let app = App::new(self.throne.clone(), self.throne.access()).with_meta_token(self.throne.meta_token());
        api::router(app.of(Group::new(self.throne.clone())).seen_by(self.life.probe().clone()))
    }

    /// Ends RPC, workers, the log and HTTP, in that order; in a group the lead goes to another first. What was acknowledged is stored.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        self.life.stop();
        self.web.front.show(self.life.probe().alone(Arc::new(self.throne.access())));
        let _ = self.stop.send(true);
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
        // For a master that did not come so far.
        self.throne.end();
        self.throne.close();
        self.life.reach(Stage::Terminated);
        if let Some(runtime) = self.runtime.take() {
            self.web.close(&runtime);
            runtime.shutdown_timeout(Duration::from_secs(2));
        }
    }
}

/// The HTTP listeners: the first to open and the last to close.
struct Web {
    front: Front,
    close: watch::Sender<bool>,
    servers: Vec<tokio::task::JoinHandle<()>>,
}

impl Web {
    fn open(runtime: &Runtime, limits: Limits, listeners: Vec<TcpListener>, routes: axum::Router) -> Self {
        let front = Front::new(routes);
        let (close, closed) = watch::channel(false);
        let serve = |listener| runtime.spawn(api::serve::run_within(limits, listener, front.router(), closed.clone()));
        let servers = listeners.into_iter().map(serve).collect();
        Self { front, close, servers }
    }

    /// Returns when the answers under way are finished, or their time is up.
    fn close(&mut self, runtime: &Runtime) {
        let _ = self.close.send(true);
        for server in self.servers.drain(..) {
            // Its only failure is a panic, which has been printed.
            let _ = runtime.block_on(server);
        }
    }
}

/// The group a new data directory begins with, and its id if that is known.
async fn beginning(config: &MasterConfig, card: &Member) -> Result<(Members, Option<Uuid>), StartError> {
    let token = config.token.as_ref();
    if config.join.is_empty() {
        let members = if config.peers.is_empty() { vec![card.clone()] } else { config.peers.clone() };
        return Ok((Members::begin(members).map_err(StartError::Config)?, config.cluster));
    }
    if log::is_made(&config.data_dir) {
        // It was taken in before, unless it was stopped before it had the list. Were nobody to answer, what is here would do.
        let cluster = join::cluster(&config.join, token, config.member).await;
        return Ok((Members::default(), cluster.or(config.cluster)));
    }
    let member = Member { rises: !config.learner, ..card.clone() };
    if member.address.is_empty() {
        let why = "--peer-listen names every interface: to join a group, listen at an address that the others can call";
        return Err(StartError::Config(why.into()));
    }
    let group = join::ask(&config.join, token, config.cluster, &member).await.map_err(StartError::Join)?;
    Ok((group.members, Some(group.cluster)))
}

fn listen(runtime: &Runtime, address: SocketAddr, purpose: &'static str, flag: &'static str) -> Result<TcpListener, StartError> {
    runtime.block_on(TcpListener::bind(address)).map_err(|cause| StartError::Listen { address, purpose, flag, cause })
}

fn listen_std(address: SocketAddr) -> Result<std::net::TcpListener, StartError> {
    std::net::TcpListener::bind(address).map_err(|cause| StartError::Listen {
        address,
        purpose: "the other masters",
        flag: "--peer-listen",
        cause,
    })
}

fn local(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}
