//! A master as a process of its own, and a store node that exists only in the master's eyes.

use crate::group::lend_nothing;
use crate::pinned::Process;
use crate::rivals::Trouble;
use nix::sys::signal::Signal;
use perilune_client::{Store, StoreConfig};
use perilune_protocol::rpc::object::{PutEnd, PutStart};
use perilune_protocol::{ObjectKey, Outcome, PutConfig, WriterId};
use serde_json::Value;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const START: Duration = Duration::from_secs(20);
/// Bytes of a value that is claimed to be stored.
const VALUE: u64 = 4096;
/// Keys of a call that puts many.
const AT_ONCE: usize = 128;

/// A master, a node, a client.
pub(crate) struct Cluster {
    /// Asks the questions.
    pub(crate) store: Store,
    /// Where the master speaks HTTP.
    pub(crate) http: SocketAddr,
    /// Where the master speaks RPC.
    rpc: String,
    master: Process,
    /// The node's own connection: the node is suspect when it closes, so it outlives the master.
    _node: Store,
}

/// A question that begins to put these.
pub(crate) fn put_start(keys: &[ObjectKey]) -> PutStart {
    PutStart { puts: keys.iter().map(|key| (key.clone(), VALUE)).collect(), config: PutConfig::default(), writer: WriterId::random() }
}

fn connect(master: &str, agent: &str) -> Outcome<Store> {
    Store::connect(StoreConfig { masters: vec![master.to_owned()], agent: agent.to_owned(), ..StoreConfig::default() })
}

impl Cluster {
    /// The master has its data in `dir`, and these flags too; on a core of its own, where one is named.
    pub(crate) fn start(program: &Path, dir: &Path, flags: &[&str], core: Option<usize>) -> Result<Self, Trouble> {
        let ready = dir.join("master.ready");
        // Of one that was started there before.
        let _ = std::fs::remove_file(&ready);
        let mut command = Command::new(program);
        command.args(["master", "--rpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--ready-file"]).arg(&ready);
        // The node never beats: nothing but the questions shall use the master's time.
        command.args(["--suspect-after", "24h", "--lost-after", "48h", "--data-dir"]).arg(dir).args(flags);
        let mut master = Process::start(command.stdin(Stdio::null()).stdout(Stdio::null()), core.as_slice())?;
        master.wait_until("perilune master", START, || ready.exists())?;
        let addresses: Value = serde_json::from_slice(&std::fs::read(&ready)?)?;
        let address = |name: &str| {
            let found = addresses.pointer(name).and_then(Value::as_str);
            found.ok_or_else(|| format!("perilune master wrote no address {name} into its ready file"))
        };
        let (rpc, http) = (address("/rpc")?, address("/http/0")?.parse()?);
        let (store, node) = (connect(rpc, "perilune-bench")?, connect(rpc, "perilune-bench node")?);
        lend_nothing(&node)?;
        Ok(Self { store, http, rpc: rpc.to_owned(), _node: node, master })
    }

    /// One more client, with a connection of its own.
    pub(crate) fn connect(&self, agent: &str) -> Outcome<Store> {
        connect(&self.rpc, agent)
    }

    /// The master is no more; what it has in its directory stays.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.master.signal(Signal::SIGKILL)?;
        self.master.child().wait().map(drop)
    }

    pub(crate) fn master(&self) -> u32 {
        self.master.pid()
    }

    /// Resident bytes of the master.
    pub(crate) fn master_resident(&self) -> Result<u64, Trouble> {
        let file = format!("/proc/{}/status", self.master.pid());
        let text = std::fs::read_to_string(&file)?;
        let kib = text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        Ok(kib.ok_or_else(|| format!("{file} does not tell VmRSS"))? * 1024)
    }

    /// Objects whose values are never written come into being, many with each call.
    pub(crate) fn put(&self, keys: &[ObjectKey]) -> Result<(), Trouble> {
        for keys in keys.chunks(AT_ONCE) {
            let grants = self.store.call(&put_start(keys))?.into_iter().collect::<Outcome<Vec<_>>>()?;
            let puts = keys.iter().zip(grants).map(|(key, grant)| (key.clone(), grant.version, 0)).collect();
            self.store.call(&PutEnd { puts })?.into_iter().collect::<Outcome<Vec<()>>>()?;
        }
        Ok(())
    }
}
