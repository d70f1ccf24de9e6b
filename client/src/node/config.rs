//! The settings of a store node.

use perilune_protocol::Protocol;
use perilune_protocol::access::Token;
use perilune_transfer_engine::RdmaSettings;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// How a [`crate::StoreNode`] lends memory and where it listens.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Masters, `host:port` each; tried in turn until one answers.
    pub masters: Vec<String>,
    /// The tenant whose objects may lie here; empty means that of `unique_id`, else `default`.
    pub tenant: String,
    /// What the node is registered by in a pool, `1:TENANT:NAME`; empty: it is in none.
    pub unique_id: String,
    /// Where the node's identity and the list of its segments are kept. One node at a time.
    pub data_dir: PathBuf,
    /// Bytes to lend from the start, when no segment of an earlier run was found; 0 lends none.
    pub segment_size: u64,
    /// The protocol of segments that are mounted without naming one. With RDMA, a machine without devices is an error.
    pub protocol: Protocol,
    /// Moves bytes of the REST face by these only; empty for all. Peers are served by every one.
    pub transports: Vec<Protocol>,
    /// Which RDMA devices are used and how.
    pub rdma: RdmaSettings,
    /// Where the transfer engine listens. Port 0 takes the port of the last run, else the first free one from 15000.
    pub listen: SocketAddr,
    /// The TCP port, at the address of `listen`, where RDMA peers connect before their devices do. 0 takes the first free one of 15000 to
    /// 15999 behind that of `listen`.
    pub rdma_port: u16,
    /// Where the REST listener listens; `None` for no listener.
    pub rest: Option<SocketAddr>,
    /// The largest segment, in bytes, a multiple of 4096 and at least 8192; a larger mount is split.
    pub max_registration: u64,
    /// How long one question to the master may take in all.
    pub deadline: Duration,
    /// Says who this node is to masters that ask for it, and is asked of callers of the REST listener; see [`crate::token::find`].
    pub token: Option<Token>,
    /// Vaults may be directories below this one; without it, none.
    pub vault_root: Option<PathBuf>,
    /// Allows listening beyond loopback without a token, so that nobody is asked who they are.
    pub insecure: bool,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            masters: vec!["127.0.0.1:50051".into()],
            tenant: String::new(),
            unique_id: String::new(),
            data_dir: "perilune-data".into(),
            segment_size: 0,
            protocol: Protocol::Tcp,
            transports: Vec::new(),
            rdma: RdmaSettings::default(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            rdma_port: 0,
            rest: Some(SocketAddr::from(([127, 0, 0, 1], 8080))),
            max_registration: 1 << 40,
            deadline: Duration::from_secs(10),
            token: None,
            vault_root: None,
            insecure: false,
        }
    }
}
