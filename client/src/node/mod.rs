//! A store node: lends memory to the cluster and serves the store over REST.

mod beat;
mod cold;
mod config;
mod desk;
mod hands;
mod lender;
mod lending;
mod listen;
mod memory;
mod mount;
mod mover;
mod passage;
mod record;
mod vaults;
mod watch;
mod work;

pub use config::NodeConfig;
pub(crate) use mount::Origin;

use crate::master::{Caller, Master};
use crate::{Store, StoreConfig, Transports, observe, rest};
use beat::Announcer;
use cold::ColdHand;
use hands::Hands;
use lender::Lender;
use lending::{Lending, PAGE, Wish};
use listen::Listening;
use mover::Mover;
use nix::fcntl::{Flock, FlockArg};
use passage::Passage;
use perilune_probe::{Front, Life, Probe, Stage};
use perilune_protocol::rpc::session::Greet;
use perilune_protocol::rpc::work::BeginRun;
use perilune_protocol::{FaultCode, NodeId, Outcome, Protocol, RunId, SegmentDesc, SegmentId};
use record::Record;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tracing::{info, warn};
use vaults::Vaults;
use work::WorkHand;

/// A running store node. Stops when dropped; its segments stay in `/dev/shm`, so that the next start finds them with their objects.
pub struct StoreNode {
    node: Arc<Node>,
    /// Dropped to stop the heartbeat.
    stop: Option<Sender<()>>,
    beat: Option<JoinHandle<()>>,
    /// Those that work for the master.
    hands: Vec<Hands>,
    life: Life,
    rest: Option<rest::Server>,
    /// One node per data directory. Dropped last.
    _lock: Flock<File>,
}

/// What the parts of a running node share.
pub(crate) struct Node {
    pub(crate) config: NodeConfig,
    pub(crate) store: Store,
    /// The connection that belongs to this node: when it closes, the node is suspect.
    pub(crate) master: Master,
    pub(crate) lending: Arc<Lending>,
    announcer: Arc<Announcer>,
    /// Whether the master answered the last beat. Written by the heartbeat, read by anybody; guards nothing, so relaxed.
    heard: AtomicBool,
}

impl Node {
    /// Whether the master answered the last beat.
    pub(crate) fn is_heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed)
    }

    /// Whether the master has taken some of its memory, if it has any to lend: one that is not registered waits until it is.
    fn is_taken(&self) -> bool {
        let kept = self.lending.all_kept();
        kept.is_empty() || kept.iter().any(|kept| !kept.unannounced)
    }

    /// Adds what can be wrong with a node that runs.
    fn add_checks(node: &Arc<Self>, life: &Life) {
        let looked_at = Arc::downgrade(node);
        life.check("master", move || match looked_at.upgrade() {
            Some(node) if node.is_heard() => Ok(()),
            _ => Err("no master hears this node".into()),
        });
        let looked_at = Arc::downgrade(node);
        life.check("memory", move || {
            let kept = looked_at.upgrade().map(|node| node.lending.all_kept()).unwrap_or_default();
            match kept.iter().filter(|kept| kept.unannounced && !kept.leaving).count() {
                0 => Ok(()),
                n => Err(format!("{n} of {} segments are not mounted: the master has not taken them", kept.len())),
            }
        });
    }

    /// What this node and its store counted, in Prometheus' text format.
    pub(crate) fn metrics(&self) -> String {
        let segments = self.lending.descs();
        let lent = segments.iter().map(|desc| desc.size).sum();
        self.store.metrics()
            + &observe::gauges(&[
                ("perilune_node_segments", "Segments this node lends.", segments.len() as u64),
                ("perilune_node_lent_bytes", "Bytes this node lends.", lent),
                ("perilune_node_heard", "Whether the master answered the last heartbeat.", self.is_heard().into()),
            ])
    }
}

impl StoreNode {
    /// Starts a node: finds the segments of the last run, announces itself, serves.
    ///
    /// A master that is away does not stop it from starting; the node announces itself when the master is back.
    ///
    /// # Errors
    /// When a setting is wrong, an address is taken, the data directory cannot be used (or another node uses it),
    /// or a master refuses for good, as for a wrong version.
    pub fn start(config: NodeConfig) -> Outcome<StoreNode> {
        Self::start_with(config, Probe::new().part())
    }

    /// The same, as a part of a process that has others: `life` is its own.
    ///
    /// # Errors
    /// As [`StoreNode::start`].
    pub fn start_with(config: NodeConfig, life: Life) -> Outcome<StoreNode> {
        listen::check(&config)?;
        if config.max_registration < 2 * PAGE || !config.max_registration.is_multiple_of(PAGE) {
            let given = config.max_registration;
            let told = format!("a largest segment of {given} bytes: it must be a multiple of {PAGE}, and at least twice that");
            return Err(FaultCode::InvalidParams.with(told));
        }
        let (dir, lock) = take_directory(&config.data_dir)?;
        let mut record = Record::load(&dir)?.unwrap_or_else(Record::fresh);
        let listener = config.rest.map(listen::bind).transpose()?;
        let rest_addr = listener.as_ref().and_then(|listener| listener.local_addr().ok());
        // Whoever asks how far this node is is told from now on.
        let front = Front::new(life.probe().alone(rest::access(&config)));
        let rest = listener.map(|listener| rest::serve(listener, front.router())).transpose()?;
        let Listening { engine, at: listened, no_rdma } = listen::engine(&config, &dir, record.listened)?;
        record.listened = Some(listened);
        record.save(&dir)?;
        let lending = Arc::new(Lending::recover(dir, Lender { engine: engine.clone(), no_rdma }, config.max_registration, record)?);
        if config.segment_size > 0 && lending.descs().is_empty() {
            lending.allocate(config.segment_size, &Wish { protocol: config.protocol, location: "" })?;
        }
        if config.protocol == Protocol::Rdma {
            info!("{}", Transports::here());
        }
        life.reach(Stage::Ready);
        let name = listened.to_string();
        let agent = format!("perilune-store {} at {name}", env!("CARGO_PKG_VERSION"));
        let url = rest_addr.map(|at| format!("http://{at}")).unwrap_or_default();
        let announcer = Arc::new(Announcer::new(Arc::clone(&lending), name, url));
        let announcing = Arc::clone(&announcer);
        let greeting = Box::new(move |link: &_, deadline| announcing.announce(link, deadline));
        let (tenant, unique_id) = (config.tenant.clone(), config.unique_id.clone());
        let greet = Greet { agent: agent.clone(), tenant, unique_id, ..Greet::default() };
        let caller = Caller { greet, token: config.token.clone() };
        let master = Master::new(config.masters.clone(), caller.clone(), Some(greeting))?;
        let begin = BeginRun { node: lending.node(), run: RunId::random() };
        let [orders, cold_orders] = [begin.clone(), begin].map(|begin| {
            let greeting = Box::new(move |link: &_, deadline| hands::begin_run(link, &begin, deadline));
            Master::new(config.masters.clone(), caller.clone(), Some(greeting))
        });
        let keys = Master::new(config.masters.clone(), caller.clone(), None);
        let store = Store::new(StoreConfig {
            masters: config.masters.clone(),
            tenant: config.tenant.clone(),
            unique_id: config.unique_id.clone(),
            token: config.token.clone(),
            deadline: config.deadline,
            agent,
            engine: Some(engine.clone()),
            ..StoreConfig::default()
        })?;
        let node = Arc::new(Node { config, store, master, lending, announcer, heard: AtomicBool::new(false) });
        match node.master.reach(Instant::now() + beat::ATTEMPT) {
            Ok(()) => node.heard.store(true, Ordering::Relaxed),
            Err(fault) if fault.code == FaultCode::Unreachable => warn!("no master is there yet, trying on: {fault}"),
            Err(fault) => return Err(fault),
        }
        Node::add_checks(&node, &life);
        front.show(rest::routes(&node, life.probe()));
        let (running, looked_at) = (life.clone(), Arc::downgrade(&node));
        let is_heard = move || {
            if looked_at.upgrade().is_some_and(|node| node.is_heard() && node.is_taken()) {
                running.reach(Stage::Running);
            }
        };
        is_heard();
        let (stop, stopped) = channel();
        let beating = Arc::clone(&node);
        let beat = thread::Builder::new()
            .name("heartbeat".into())
            .spawn(move || beat::run(&beating.master, &beating.lending, &beating.heard, &stopped, is_heard))
            .map_err(|e| FaultCode::Internal.with(format!("cannot start the heartbeat: {e}")))?;
        let lending = &node.lending;
        let mover = |stopping: &_| Mover::new(&engine, lending, stopping);
        let vaults = Arc::new(Vaults::new(keys?, lending, node.config.token.clone(), node.config.vault_root.clone()));
        let passage = Arc::new(Passage::new(lending));
        let hands = vec![
            Hands::begin(orders?, lending, |stopping| WorkHand::new(mover(stopping)))?,
            Hands::begin(cold_orders?, lending, |stopping| ColdHand::new(mover(stopping), &vaults, &passage))?,
        ];
        info!(node = %node.lending.node(), engine = %listened, rest = ?rest_addr, segments = node.lending.descs().len(), "the store node is up");
        Ok(Self { node, stop: Some(stop), beat: Some(beat), hands, life, rest, _lock: lock })
    }

    /// Lends `size` bytes of fresh memory, rounded up to 4096, as one segment or several.
    /// `None` takes the node's protocol.
    ///
    /// # Errors
    /// [`FaultCode::InvalidParams`] for size 0, [`FaultCode::NoSpace`] when `/dev/shm` has no room, or the master's.
    pub fn mount(&self, size: u64, protocol: Option<Protocol>, location: &str) -> Outcome<Vec<SegmentDesc>> {
        self.node.mount(size, protocol, location)
    }

    /// Lends `size` bytes from `offset` of the object `/dev/shm/<name>`; its contents are kept. A leading `/` is accepted.
    ///
    /// # Errors
    /// [`FaultCode::SegmentNotFound`] when there is no such object, [`FaultCode::SegmentExists`] when some of the bytes are mounted,
    /// [`FaultCode::Forbidden`] when it may not be read, [`FaultCode::InvalidParams`] for everything else that is wrong with it.
    pub fn mount_shm(&self, name: &str, offset: u64, size: u64, protocol: Option<Protocol>, location: &str) -> Outcome<Vec<SegmentDesc>> {
        self.node.mount_shm(name, offset, size, protocol, location)
    }

    /// Takes segments back; answers per segment, in order. With a grace period they stay readable and are freed when the master says so.
    pub fn unmount(&self, segments: &[SegmentId], grace: Duration) -> Vec<Outcome<()>> {
        self.node.unmount(segments, grace, None)
    }

    /// Segments lent at the moment.
    pub fn segments(&self) -> Vec<SegmentDesc> {
        self.node.lending.descs()
    }

    /// The node's id, the same in every run.
    pub fn id(&self) -> NodeId {
        self.node.lending.node()
    }

    /// Whether the master answered the last heartbeat.
    pub fn is_heard(&self) -> bool {
        self.node.is_heard()
    }

    /// Why the master takes none of the memory of this node, where it does not.
    pub fn refused(&self) -> Option<String> {
        (self.is_heard() && !self.node.is_taken()).then(|| self.node.announcer.refused())
    }

    /// The store as this node uses it for its REST face.
    pub fn store(&self) -> &Store {
        &self.node.store
    }

    /// The routes below `/api/`, `/transports` and `/metrics/node`, without a fallback, so that they can be merged into what another listener
    /// has [`perilune_probe::served`].
    pub fn router(&self) -> utoipa_axum::router::OpenApiRouter {
        rest::router(Arc::clone(&self.node), self.life.probe())
    }

    /// Where REST listens, with the real port.
    pub fn rest_addr(&self) -> Option<SocketAddr> {
        self.rest.as_ref().map(rest::Server::addr)
    }

    /// Stops. Segments stay in `/dev/shm`, so that the next start finds them with their objects.
    pub fn stop(self) {}

    /// Unmounts and frees everything, then stops.
    ///
    /// # Errors
    /// The first segment that could not be unmounted; it stays for the next start.
    pub fn retire(self) -> Outcome<()> {
        self.life.stop();
        let ids: Vec<SegmentId> = self.segments().iter().map(|desc| desc.id).collect();
        self.unmount(&ids, Duration::ZERO).into_iter().collect()
    }
}

impl Drop for StoreNode {
    fn drop(&mut self) {
        self.life.stop();
        self.stop = None;
        self.hands.iter_mut().for_each(Hands::stop);
        if let Some(beat) = self.beat.take() {
            // A heartbeat that panicked has said so already.
            let _ = beat.join();
        }
        self.hands.clear();
        self.rest = None;
        self.node.lending.withdraw_all();
        self.life.reach(Stage::Terminated);
    }
}

fn take_directory(dir: &Path) -> Outcome<(std::path::PathBuf, Flock<File>)> {
    let storage =
        |what: &str, e: &dyn std::fmt::Display| FaultCode::Storage.with(format!("cannot {what} the data directory {}: {e}", dir.display()));
    fs::create_dir_all(dir).map_err(|e| storage("make", &e))?;
    let whole = fs::canonicalize(dir).map_err(|e| storage("find", &e))?;
    let file = File::options().create(true).append(true).open(whole.join("node.lock")).map_err(|e| storage("write to", &e))?;
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| match e {
        nix::errno::Errno::EWOULDBLOCK => {
            FaultCode::WrongState.with(format!("another store node uses the data directory {}", dir.display()))
        }
        other => storage("lock", &other),
    })?;
    Ok((whole, lock))
}
