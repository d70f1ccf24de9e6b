//! A master as a process of its own, and a store node that exists only in the master's eyes.

use super::Options;
use crate::group::lend_nothing;
use crate::pinned::Process;
use crate::rivals::Trouble;
use perilune_client::{Store, StoreConfig};
use std::process::{Command, Stdio};
use std::time::Duration;

const START: Duration = Duration::from_secs(20);

/// A master, a node, a client.
pub(super) struct Cluster {
    /// Asks the questions.
    pub(super) store: Store,
    master: Process,
    /// The node's own connection: the node is suspect when it closes, so it outlives the master.
    _node: Store,
}

impl Cluster {
    pub(super) fn start(options: &Options, core: Option<usize>) -> Result<Self, Trouble> {
        let ready = options.dir.join("master.ready");
        let mut command = Command::new(&options.program);
        command.args(["master", "--rpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--ready-file"]).arg(&ready);
        // The node never beats: nothing but the questions shall use the master's time.
        command.args(["--suspect-after", "24h", "--lost-after", "48h", "--data-dir"]).arg(&options.dir);
        let mut master = Process::start(command.stdin(Stdio::null()).stdout(Stdio::null()), core.as_slice())?;
        master.wait_until("perilune master", START, || ready.exists())?;
        let addresses: serde_json::Value = serde_json::from_slice(&std::fs::read(&ready)?)?;
        let rpc = addresses["rpc"].as_str().ok_or("perilune master wrote no RPC address into its ready file")?;
        let connect =
            |agent: &str| Store::connect(StoreConfig { masters: vec![rpc.to_owned()], agent: agent.to_owned(), ..StoreConfig::default() });
        let (store, node) = (connect("perilune-bench")?, connect("perilune-bench node")?);
        lend_nothing(&node)?;
        Ok(Self { store, _node: node, master })
    }

    pub(super) fn master(&self) -> u32 {
        self.master.pid()
    }

    /// Resident bytes of the master.
    pub(super) fn master_resident(&self) -> Result<u64, Trouble> {
        let file = format!("/proc/{}/status", self.master.pid());
        let text = std::fs::read_to_string(&file)?;
        let kib = text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        Ok(kib.ok_or_else(|| format!("{file} does not tell VmRSS"))? * 1024)
    }
}
