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

/// Where the transfer engine looks for free ports.
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

/// The next free port behind that one, or else before it, of those the engine takes; 0, for any, when there is none.
fn free_port_beside(at: SocketAddr) -> u16 {
    let (before, behind): (Vec<u16>, Vec<u16>) = PORTS.filter(|port| *port != at.port()).partition(|port| *port < at.port());
    let is_free = |port: &u16| TcpListener::bind(SocketAddr::new(at.ip(), *port)).is_ok();
    behind.into_iter().chain(before).find(is_free).unwrap_or(0)
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
        let exchange = match config.rdma_port {
            0 => SocketAddr::new(at.ip(), free_port_beside(at)),
            port => SocketAddr::new(at.ip(), port),
        };
        let plain = || {
            let builder = builder.clone().listen_tcp(at);
            if local { builder.listen_shm(socket.clone()) } else { builder }
        };
        let (built, no_rdma) = match plain().listen_rdma(exchange).build() {
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
            Err(EngineError::Listen { at, cause }) if config.rdma_port != 0 && at == exchange.to_string() => {
                return Err(FaultCode::WrongState.with(format!("cannot listen on {at} for RDMA peers: {cause}; choose another port")));
            }
            Err(EngineError::Listen { cause, .. }) if cause.kind() == ErrorKind::AddrInUse && ports.len() > 1 => {}
            Err(error) => return Err(FaultCode::WrongState.with(format!("the transfer engine cannot start: {error}"))),
        }
    }
    Err(FaultCode::WrongState.with(format!("no free port on {} for the transfer engine", at.ip())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_beside_is_one_of_ours_that_is_free() {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        // Others may take and leave ports meanwhile.
        let found = (0..100).find_map(|_| {
            let first = free_port_beside(at(15_500));
            let taken = TcpListener::bind(at(first)).ok()?;
            Some((first, free_port_beside(at(15_500)), taken))
        });
        let (first, second, _taken) = found.expect("a free port can be taken");
        assert!(PORTS.contains(&first) && PORTS.contains(&second), "{first} {second}");
        assert!(first != second && ![first, second].contains(&15_500), "{first} {second}");
        assert!(PORTS.contains(&free_port_beside(at(15_999))), "before it, where none is behind");
    }
}
