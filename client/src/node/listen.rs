//! Where a node listens: which addresses it may take, and which are free.

use super::NodeConfig;
use crate::transports;
use perilune_protocol::access::Access;
use perilune_protocol::{Endpoint, FaultCode, Outcome, Protocol};
use perilune_transfer_engine::{Engine, EngineError, RdmaSettings};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use tracing::warn;

/// Where the transfer engine looks for a free port.
const PORTS: std::ops::Range<u16> = 15_000..16_000;
/// What the system allows for the path of a unix socket.
const SOCKET_PATH_BYTES: usize = 107;

/// Whether other hosts may come in. The transfer engine asks its callers for the capability of a segment, which only a master tells.
pub(crate) fn check(config: &NodeConfig) -> Outcome<()> {
    let access = Access::new(config.token.clone(), config.insecure);
    let mut listens = [Some(config.listen), config.rest].into_iter().flatten();
    listens.try_for_each(|at| access.may_listen(at)).map_err(|why| FaultCode::Forbidden.with(why))
}

/// Takes the address of the REST listener.
pub(crate) fn bind(at: SocketAddr) -> Outcome<TcpListener> {
    let taken = |e: std::io::Error| FaultCode::WrongState.with(format!("cannot listen on {at} for REST: {e}; choose another address"));
    let listener = TcpListener::bind(at).map_err(taken)?;
    listener.set_nonblocking(true).map_err(taken)?;
    Ok(listener)
}

/// The engine of a node, and where it listens.
pub(crate) struct Listening {
    pub(crate) engine: Engine,
    /// For TCP peers.
    pub(crate) at: SocketAddr,
    /// Why RDMA peers are not served.
    pub(crate) no_rdma: Option<String>,
}

/// Starts the engine on the address given, or for port 0 on the port of the last run or the first free one. RDMA peers are served
/// wherever there are devices, so that a segment can be mounted for them; a node that was asked for RDMA does not start without.
pub(crate) fn engine(config: &NodeConfig, dir: &Path, listened: Option<SocketAddr>) -> Outcome<Listening> {
    let at = config.listen;
    let earlier = listened.filter(|earlier| earlier.ip() == at.ip()).map(|earlier| earlier.port());
    let ports: Vec<u16> = match at.port() {
        0 => earlier.into_iter().chain(PORTS).chain([0]).collect(),
        port => vec![port],
    };
    let socket = dir.join("engine.sock");
    let local = socket.as_os_str().len() <= SOCKET_PATH_BYTES;
    if !local {
        warn!("{} is too long for the path of a socket: peers on this host will use TCP", socket.display());
    }
    let builder = transports::builder(&config.transports, &config.rdma)?.deadline(config.deadline);
    for port in &ports {
        let at = SocketAddr::new(at.ip(), *port);
        // A taken port is cheaper to notice before the engine starts its threads.
        if ports.len() > 1 && TcpListener::bind(at).is_err() {
            continue;
        }
        let plain = || {
            let builder = builder.clone().listen_tcp(at);
            if local { builder.listen_shm(socket.clone()) } else { builder }
        };
        let (built, no_rdma) = match plain().listen_rdma(SocketAddr::new(at.ip(), 0)).build() {
            Err(EngineError::NoRdma(why)) if config.protocol != Protocol::Rdma => (plain().build(), Some(why)),
            built => (built, None),
        };
        match built {
            Ok(engine) => {
                let tcp = engine.endpoints().into_iter().find_map(|e| match e {
                    Endpoint::Tcp(at) => at.parse().ok(),
                    Endpoint::Shm { .. } | Endpoint::Rdma(_) => None,
                });
                if let Some(why) = no_rdma.as_ref().filter(|_| config.rdma != RdmaSettings::default()) {
                    warn!("the settings for RDMA are of no use: {why}");
                }
                return Ok(Listening { engine, at: tcp.unwrap_or(at), no_rdma });
            }
            Err(EngineError::Listen { cause, .. }) if cause.kind() == ErrorKind::AddrInUse && ports.len() > 1 => {}
            Err(error) => return Err(FaultCode::WrongState.with(format!("the transfer engine cannot start: {error}"))),
        }
    }
    Err(FaultCode::WrongState.with(format!("no free port on {} for the transfer engine", at.ip())))
}
