//! `perilune dev`: one process, a master and a store node, nothing else needed.

use super::client::TokenArgs;
use super::master::{MasterArgs, VaultArgs};
use super::store::NodeArgs;
use crate::failure::Failure;
use crate::output;
use crate::serve::{self, Stop};
use crate::settings::Global;
use perilune_client::{NodeConfig, StoreNode};
use perilune_master::{Master, MasterConfig};
use perilune_probe::{Front, Probe, Stage};
use perilune_protocol::ByteSize;
use perilune_protocol::access::{Access, Token};
use serde_json::json;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;

/// Run a whole store in one process: a master and a store node
///
/// Both HTTP addresses answer the same: the master's endpoints and the store node's.
#[derive(clap::Args)]
pub(crate) struct Dev {
    /// Where everything that must survive is kept
    #[arg(long, value_name = "DIR", default_value = "./perilune-data")]
    data_dir: PathBuf,
    /// Where HTTP listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9003")]
    http: SocketAddr,
    /// Where HTTP listens too, for tools that expect the store's REST at its own address
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    rest: SocketAddr,
    #[command(flatten)]
    master: MasterArgs,
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    vaults: VaultArgs,
    #[command(flatten)]
    token: TokenArgs,
    /// Allow listening beyond loopback without a token, so that nobody is asked who they are
    #[arg(long)]
    insecure: bool,
    /// Write the addresses here, as JSON, once everything serves
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

impl Dev {
    pub(crate) fn run(self, global: &Global) -> Result<(), Failure> {
        let runtime = serve::runtime()?;
        let stop = Stop::listen(&runtime)?;
        let token = self.token.find()?;
        let access = Access::new(token.clone(), self.insecure);
        let (http, http_at) = serve::bind(&runtime, "--http", self.http, &access)?;
        let (rest, rest_at) = serve::bind(&runtime, "--rest", self.rest, &access)?;
        let probe = Probe::new();
        let (master_life, node_life, life) = (probe.part(), probe.part(), probe.part());
        // Whoever asks how far this is is told from now on.
        let front = Front::new(probe.alone(Arc::new(access)));
        let (close, closed) = watch::channel(false);
        let served = [http, rest].map(|listener| runtime.spawn(perilune_master::api::serve::run(listener, front.router(), closed.clone())));
        let config = self.master.config(&self.data_dir, Vec::new(), token.clone(), self.insecure)?;
        // On this machine alone, where nobody is asked who they are, the page's own token is as good as any.
        let of_the_page = (http_at.ip().is_loopback() && token.is_none()).then(Token::of_the_page);
        let meta_token = config.meta_token.clone().or(of_the_page);
        let vault_root = self.vaults.vault_root;
        let config = MasterConfig { http_at: Some(http_at.to_string()), meta_token, vault_root: vault_root.clone(), ..config };
        let master = Master::start_with(config, master_life).map_err(|e| Failure::Failed(e.to_string()))?;
        let rpc_at = master.rpc_addr();
        let config = self.node.config(&self.data_dir, vec![rpc_at.to_string()], None, token, self.insecure);
        let config = NodeConfig { vault_root, ..config };
        let node = match StoreNode::start_with(config, node_life) {
            Ok(node) => node,
            Err(fault) => {
                master.stop();
                return Err(fault.into());
            }
        };

        front.show(perilune_probe::served(master.router().merge(node.router())));
        life.reach(Stage::Running);
        let addresses = json!({ "rpc": rpc_at, "http": http_at, "rest": rest_at });
        serve::say_ready(self.ready_file.as_deref(), &addresses)?;
        if global.json {
            output::json(&addresses)?;
        } else {
            let lent = ByteSize(node.segments().iter().map(|s| s.size).sum());
            output::line(format_args!(
                "perilune dev is ready: {lent} of memory, data in {}\n\n  RPC   {rpc_at}\n  HTTP  http://{http_at}   (metrics, health, queries)\n  REST  http://{rest_at}   (put, get, mount; both answer everything)\n\n\
                 Try, in another terminal:\n  echo hello | perilune put greeting - --master {rpc_at}\n  curl http://{rest_at}/api/get/greeting\n  perilune replay --master {rpc_at}\n  perilune stat --master {rpc_at}\n\nCtrl-C stops it; the data stays.",
                self.data_dir.display()
            ))?;
        }
        stop.wait(&runtime);
        life.stop();
        close.send_replace(true);
        for server in served {
            // Its only failure is a panic, which has been printed.
            let _ = runtime.block_on(server);
        }
        let stopped = self.node.stop(node);
        master.stop();
        stopped
    }
}
