//! Masters of one group, and store nodes, as processes of their own that can be killed, stopped and started again.

use crate::pinned::Process;
use crate::rivals::Trouble;
use nix::sys::signal::Signal;
use perilune_client::Store;
use perilune_protocol::rpc::segment::Mount;
use perilune_protocol::rpc::session::Register;
use perilune_protocol::{Capability, Endpoint, NodeId, Outcome, Protocol, SegmentDesc, SegmentId};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// All masters of all benches belong to this cluster; their data directories do not outlive a bench.
const CLUSTER: &str = "5d3a1b0e-7a42-4c1c-9f1d-2f4b8f0c6e11";
/// Only what hangs takes so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Masters, and how each of them is started.
pub(crate) struct Group {
    program: PathBuf,
    dir: PathBuf,
    flags: Vec<String>,
    masters: Vec<Master>,
}

struct Master {
    rpc: SocketAddr,
    peer: SocketAddr,
    http: SocketAddr,
    process: Option<Process>,
}

impl Group {
    /// Starts `count` masters with their data in `dir`; each gets `flags` too. One alone is no group.
    pub(crate) fn start(program: &Path, dir: &Path, count: usize, flags: &[&str]) -> Result<Self, Trouble> {
        // An address of its own for each group: a port that is told before anyone listens on it could otherwise be taken by any call.
        static GROUPS: AtomicU8 = AtomicU8::new(1);
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let ip = Ipv4Addr::new(127, high.max(1), low, GROUPS.fetch_add(1, Ordering::Relaxed));
        let at = |port: usize, nth: usize| SocketAddr::from((ip, (port + nth) as u16));
        let masters =
            (0..count).map(|nth| Master { rpc: at(10_000, nth), peer: at(20_000, nth), http: at(30_000, nth), process: None }).collect();
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        let mut group = Self { program: program.into(), dir: dir.into(), flags, masters };
        for nth in 0..count {
            group.launch(nth)?;
        }
        for nth in 0..count {
            group.wait_up(nth)?;
        }
        Ok(group)
    }

    /// Where clients call, of all masters.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.masters.iter().map(|m| m.rpc.to_string()).collect()
    }

    /// The processes that run.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.masters.iter().filter_map(|m| m.process.as_ref()).map(Process::pid).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.masters.len()
    }

    fn ready(&self, nth: usize) -> PathBuf {
        self.dir.join(format!("master-{nth}.ready"))
    }

    /// Starts a master that does not run, on the data it had.
    pub(crate) fn launch(&mut self, nth: usize) -> Result<(), Trouble> {
        let ready = self.ready(nth);
        let _ = std::fs::remove_file(&ready);
        let own = &self.masters[nth];
        let mut command = Command::new(&self.program);
        command.args(["master", "--rpc", &own.rpc.to_string(), "--http", &own.http.to_string()]).args(&self.flags);
        if self.masters.len() > 1 {
            let peer = |(n, m): (usize, &Master)| format!("{}={}/{}", n + 1, m.peer, m.rpc);
            let peers: Vec<String> = self.masters.iter().enumerate().map(peer).collect();
            command.args(["--id", &(nth + 1).to_string(), "--peers", &peers.join(","), "--cluster", CLUSTER]);
            command.args(["--peer-listen", &own.peer.to_string()]);
        }
        command.arg("--data-dir").arg(self.dir.join(format!("master-{nth}"))).arg("--ready-file").arg(&ready);
        let said = std::fs::File::options().create(true).append(true).open(self.dir.join(format!("master-{nth}.log")))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        self.masters[nth].process = Some(Process::start(&mut command, &[])?);
        Ok(())
    }

    /// Waits until a master that was launched serves, or follows one that does and has caught up with it: the group is whole again.
    pub(crate) fn wait_up(&mut self, nth: usize) -> Result<(), Trouble> {
        let (ready, http) = (self.ready(nth), self.masters[nth].http);
        let process = self.masters[nth].process.as_mut().ok_or("the master was not launched")?;
        let is_up = || ready.exists() && ask(http, "/readyz").is_some_and(|body| body == "ok\n");
        Ok(process.wait_until(&format!("perilune master {}", nth + 1), PATIENCE, is_up)?)
    }

    /// Sends a master a signal; one that is killed is gone when this returns.
    pub(crate) fn signal(&mut self, nth: usize, signal: Signal) -> Result<(), Trouble> {
        let process = self.masters[nth].process.as_ref().ok_or("the master does not run")?;
        process.signal(signal)?;
        if signal == Signal::SIGKILL {
            self.masters[nth].process = None;
        }
        Ok(())
    }

    /// SIGTERM, and waits for the end: it hands the lead over.
    pub(crate) fn stop(&mut self, nth: usize) -> Result<(), Trouble> {
        let mut process = self.masters[nth].process.take().ok_or("the master does not run")?;
        process.signal(Signal::SIGTERM)?;
        let ended = Instant::now();
        while process.child().try_wait()?.is_none() {
            if ended.elapsed() > PATIENCE {
                return Err(format!("master {} still runs {PATIENCE:?} after SIGTERM", nth + 1).into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// What a master says of itself: `leader`, `follower`, ...; `None` when it does not answer soon.
    pub(crate) fn role(&self, nth: usize) -> Option<String> {
        ask(self.masters[nth].http, "/role")
    }

    /// Waits for a leader while all masters that run answer. One that just woke may still take itself for the leader: then there are two.
    pub(crate) fn leader(&self) -> Result<usize, Trouble> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let roles: Vec<_> = (0..self.len()).map(|nth| self.role(nth)).collect();
            let leaders: Vec<usize> = (0..self.len()).filter(|nth| roles[*nth].as_deref() == Some("leader")).collect();
            if let [leader] = leaders[..]
                && roles.iter().all(Option::is_some)
            {
                return Ok(leader);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(format!("no leader, or a master that does not answer, after {PATIENCE:?}; logs in {}", self.dir.display()).into())
    }
}

/// What is answered to a GET, whatever its status, if soon.
fn ask(http: SocketAddr, path: &str) -> Option<String> {
    request(http, "GET", path, "", Duration::from_millis(300))
}

/// What is answered, whatever its status, if it comes by then.
pub(crate) fn request(http: SocketAddr, method: &str, path: &str, body: &str, patience: Duration) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&http, patience).ok()?;
    stream.set_read_timeout(Some(patience)).ok()?;
    let head = format!("{method} {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

/// Store nodes of one group, numbered.
pub(crate) struct Nodes {
    program: PathBuf,
    dir: PathBuf,
    masters: String,
    segment: String,
    nodes: Vec<Option<Process>>,
}

impl Nodes {
    /// Starts `count` nodes that lend `segment` bytes each and keep them over a kill.
    pub(crate) fn start(program: &Path, dir: &Path, masters: &[String], count: usize, segment: u64) -> Result<Self, Trouble> {
        let nodes = (0..count).map(|_| None).collect();
        let mut all = Self { program: program.into(), dir: dir.into(), masters: masters.join(","), segment: segment.to_string(), nodes };
        (0..count).try_for_each(|nth| all.launch(nth))?;
        Ok(all)
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Starts a node that does not run, and waits until its memory is lent.
    pub(crate) fn launch(&mut self, nth: usize) -> Result<(), Trouble> {
        let ready = self.dir.join(format!("node-{nth}.ready"));
        let _ = std::fs::remove_file(&ready);
        let mut command = Command::new(&self.program);
        command.args(["store", "--master", &self.masters, "--http", "127.0.0.1:0", "--segment-size", &self.segment, "--free-on-stop"]);
        command.arg("--data-dir").arg(self.dir.join(format!("node-{nth}"))).arg("--ready-file").arg(&ready);
        let said = std::fs::File::options().create(true).append(true).open(self.dir.join(format!("node-{nth}.log")))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        let process = self.nodes[nth].insert(Process::start(&mut command, &[])?);
        Ok(process.wait_until(&format!("perilune store {nth}"), PATIENCE, || ready.exists())?)
    }

    /// Sends a node that runs a signal that it outlives.
    pub(crate) fn signal(&self, nth: usize, signal: Signal) -> Result<(), Trouble> {
        let process = self.nodes[nth].as_ref().ok_or("the store node does not run")?;
        Ok(process.signal(signal)?)
    }

    /// `kill -9`; its memory stays for the next launch.
    pub(crate) fn kill(&mut self, nth: usize) -> Result<(), Trouble> {
        if let Some(process) = self.nodes[nth].take() {
            process.signal(Signal::SIGKILL)?;
        }
        Ok(())
    }
}

/// Makes this connection a store node that lends memory nobody ever touches: it exists only in the masters' eyes, as long as it is open.
pub(crate) fn lend_nothing(node: &Store) -> Outcome<()> {
    let segment = SegmentDesc {
        id: SegmentId::random(),
        name: "bench".into(),
        node: NodeId::random(),
        base: 0,
        size: 64 << 30,
        protocol: Protocol::Tcp,
        location: String::new(),
        // Nothing listens on port 1, and nobody connects.
        endpoints: vec![Endpoint::Tcp("127.0.0.1:1".into())],
        capability: Capability::random(),
    };
    node.call(&Register { node: segment.node, name: "bench".into(), rest: String::new(), segments: Vec::new() })?;
    node.call(&Mount { segments: vec![segment] })
}
