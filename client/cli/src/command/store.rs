//! `perilune store`: lends memory.

use super::client::TokenArgs;
use super::master::VaultArgs;
use super::transports::TransportArgs;
use crate::failure::Failure;
use crate::output;
use crate::serve::{self, Stop};
use crate::settings::Global;
use crate::values::Span;
use perilune_client::{NodeConfig, StoreNode};
use perilune_protocol::access::Token;
use perilune_protocol::{ByteSize, Protocol};
use serde_json::json;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Run a store node: it lends memory and serves the bytes in it
#[derive(clap::Args)]
pub(crate) struct Store {
    /// The masters, separated by commas
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', default_value = "127.0.0.1:50051")]
    master: Vec<String>,
    /// Where the node's identity and the list of its segments are kept, in the subdirectory `store`
    #[arg(long, value_name = "DIR", default_value = "./perilune-data")]
    data_dir: PathBuf,
    /// The tenant whose objects may lie here; without it that of --unique-id, else `default`
    #[arg(long, value_name = "NAME", default_value = "")]
    tenant: String,
    /// What the node is registered by in a pool, 1:TENANT:NAME (`perilune pools add-node`); without it, it is in none
    #[arg(long, value_name = "ID", default_value = "")]
    unique_id: String,
    /// Where the store's REST listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    http: SocketAddr,
    #[command(flatten)]
    rules: NodeArgs,
    #[command(flatten)]
    vaults: VaultArgs,
    /// How long one question to the master may take, retries included
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    deadline: Span,
    #[command(flatten)]
    token: TokenArgs,
    /// Allow listening beyond loopback without a token, so that nobody is asked who they are
    #[arg(long)]
    insecure: bool,
    /// Write the addresses here, as JSON, once the memory is lent
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

/// What a store node lends and how; `perilune dev` takes it too.
#[derive(clap::Args)]
pub(crate) struct NodeArgs {
    /// Memory to lend from the start, unless segments of an earlier run are found; 0 lends none
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    segment_size: ByteSize,
    /// How the bytes of a segment are preferably moved: tcp, shm or rdma, which a machine without RDMA devices refuses
    #[arg(long, value_name = "PROTOCOL", default_value = "tcp")]
    protocol: Protocol,
    /// Where the transfer engine listens; port 0 takes that of the last run, or the first free one from 15000
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    transfer: SocketAddr,
    /// The TCP port, at the address of --transfer, where RDMA peers connect; 0 takes the first free one of 15000 to 15999 behind --transfer's
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    rdma_port: u16,
    /// The largest segment; a larger mount is split
    #[arg(long, value_name = "SIZE", default_value = "1TiB")]
    max_registration: ByteSize,
    /// Free the memory, and forget what is in it, when stopped by a signal, instead of keeping it for the next start
    #[arg(long)]
    free_on_stop: bool,
    #[command(flatten)]
    transports: TransportArgs,
}

impl NodeArgs {
    /// Stops the node as `--free-on-stop` says.
    pub(crate) fn stop(&self, node: StoreNode) -> Result<(), Failure> {
        if self.free_on_stop {
            return Ok(node.retire()?);
        }
        node.stop();
        Ok(())
    }

    pub(crate) fn config(
        &self,
        data_dir: &Path,
        masters: Vec<String>,
        rest: Option<SocketAddr>,
        token: Option<Token>,
        insecure: bool,
    ) -> NodeConfig {
        NodeConfig {
            masters,
            data_dir: serve::role_dir(data_dir, "store"),
            segment_size: self.segment_size.0,
            protocol: self.protocol,
            transports: self.transports.transports.clone(),
            rdma: self.transports.rdma(),
            listen: self.transfer,
            rdma_port: self.rdma_port,
            rest,
            max_registration: self.max_registration.0,
            token,
            insecure,
            ..NodeConfig::default()
        }
    }
}

impl Store {
    pub(crate) fn run(self, global: &Global) -> Result<(), Failure> {
        let runtime = serve::runtime()?;
        let stop = Stop::listen(&runtime)?;
        let config = NodeConfig {
            deadline: self.deadline.0,
            tenant: self.tenant,
            unique_id: self.unique_id,
            vault_root: self.vaults.vault_root,
            ..self.rules.config(&self.data_dir, self.master, Some(self.http), self.token.find()?, self.insecure)
        };
        let node = StoreNode::start(config)?;
        let segments = node.segments();
        let addresses = json!({ "rest": node.rest_addr(), "transfer": segments.first().map(|s| s.tcp_endpoint().to_owned()), "segments": segments.len() });
        serve::say_ready(self.ready_file.as_deref(), &addresses)?;
        if global.json {
            output::json(&addresses)?;
        } else {
            let rest = node.rest_addr().map_or("nowhere".to_owned(), |at| at.to_string());
            let lent = ByteSize(segments.iter().map(|s| s.size).sum());
            let lends = match node.refused() {
                None => format!("lends {lent} in {} segments", segments.len()),
                Some(why) => format!("lends nothing of {lent} until it may: {why}"),
            };
            output::line(format_args!("perilune store: REST on {rest}, {lends}"))?;
        }
        stop.wait(&runtime);
        self.rules.stop(node)
    }
}
