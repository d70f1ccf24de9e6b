//! etcd from Debian, asked by gRPC over HTTP/2 as its own clients do: `Put` for one record, `Txn` for several.

use super::{Keeper, proto};
use crate::pinned::Process;
use crate::report::Latency;
use crate::rivals::{Trouble, free_port, is_installed};
use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

const START: Duration = Duration::from_secs(30);
/// What our own log keeps of an object of one extent, beside its key.
const RECORD_BYTES: usize = 64;

pub(super) struct Etcd {
    members: Vec<Process>,
    runtime: Runtime,
    askers: Vec<SendRequest<Bytes>>,
    rounds: u64,
}

impl Etcd {
    /// `None` when it is not installed.
    pub(super) fn start(dir: &Path, members: usize, askers: usize) -> Result<Option<Self>, Trouble> {
        if !is_installed("etcd") {
            return Ok(None);
        }
        std::fs::create_dir_all(dir)?;
        let ports = (0..members).map(|_| Ok((free_port()?, free_port()?))).collect::<std::io::Result<Vec<_>>>()?;
        let at = |port: u16| format!("http://127.0.0.1:{port}");
        let cluster: Vec<String> = ports.iter().enumerate().map(|(n, (_, peer))| format!("n{n}={}", at(*peer))).collect();
        let mut processes = Vec::new();
        for (n, (client, peer)) in ports.iter().enumerate() {
            let mut command = Command::new("etcd");
            command.args(["--name", &format!("n{n}"), "--initial-cluster", &cluster.join(","), "--log-level", "error"]);
            command.args(["--listen-client-urls", &at(*client), "--advertise-client-urls", &at(*client)]);
            command.args(["--listen-peer-urls", &at(*peer), "--initial-advertise-peer-urls", &at(*peer)]);
            command.arg("--data-dir").arg(dir.join(format!("n{n}"))).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            processes.push(Process::start(&mut command, &[])?);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let leader = runtime.block_on(leader(&ports.iter().map(|(client, _)| *client).collect::<Vec<_>>()))?;
        let askers = (0..askers).map(|_| runtime.block_on(connect(leader))).collect::<Result<_, _>>()?;
        Ok(Some(Self { members: processes, runtime, askers, rounds: 0 }))
    }
}

impl Keeper for Etcd {
    fn commit(&mut self, askers: usize, batch: usize, time: Duration) -> Result<(u64, Latency), Trouble> {
        self.rounds += 1;
        let (round, end) = (self.rounds, Instant::now() + time);
        let askers = self.askers[..askers].to_vec();
        self.runtime.block_on(async {
            let asking: Vec<_> =
                askers.into_iter().enumerate().map(|(n, link)| tokio::spawn(ask(link, format!("{round:06}/{n:03}"), batch, end))).collect();
            let (mut commits, mut latency) = (0, Latency::default());
            for one in asking {
                let (done, took) = one.await??;
                commits += done;
                latency.add(&took);
            }
            Ok((commits, latency))
        })
    }

    fn servers(&self) -> Vec<u32> {
        self.members.iter().map(Process::pid).collect()
    }
}

async fn ask(mut link: SendRequest<Bytes>, prefix: String, batch: usize, end: Instant) -> Result<(u64, Latency), Trouble> {
    let (mut commits, mut latency) = (0, Latency::default());
    let record = [7; RECORD_BYTES];
    while Instant::now() < end {
        let puts: Vec<Vec<u8>> = (0..batch as u64).map(|n| proto::put(super::key(&prefix, commits + n).as_bytes(), &record)).collect();
        let asked = Instant::now();
        match puts.as_slice() {
            [put] => call(&mut link, "/etcdserverpb.KV/Put", put).await?,
            puts => call(&mut link, "/etcdserverpb.KV/Txn", &proto::txn(puts)).await?,
        };
        latency.record(asked.elapsed());
        commits += batch as u64;
    }
    Ok((commits, latency))
}

/// The client port of the member that leads.
async fn leader(ports: &[u16]) -> Result<u16, Trouble> {
    let begun = Instant::now();
    while begun.elapsed() < START {
        for &port in ports {
            let Ok(mut link) = connect(port).await else { continue };
            let Ok(status) = call(&mut link, "/etcdserverpb.Maintenance/Status", &[]).await else { continue };
            if let Some((member, leader)) = proto::status(&status)
                && member == leader
            {
                return Ok(port);
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(format!("etcd has no leader after {START:?}").into())
}

async fn connect(port: u16) -> Result<SendRequest<Bytes>, Trouble> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let (link, connection) = h2::client::handshake(stream).await?;
    tokio::spawn(connection);
    Ok(link.ready().await?)
}

/// One call, as gRPC frames it: a byte that says "not compressed", the length, the message.
async fn call(link: &mut SendRequest<Bytes>, path: &str, message: &[u8]) -> Result<Bytes, Trouble> {
    let request = http::Request::post(format!("http://127.0.0.1{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let mut body = BytesMut::with_capacity(5 + message.len());
    body.extend_from_slice(&[0]);
    body.extend_from_slice(&u32::try_from(message.len())?.to_be_bytes());
    body.extend_from_slice(message);
    *link = link.clone().ready().await?;
    let (answer, mut sending) = link.send_request(request, false)?;
    sending.send_data(body.freeze(), true)?;
    let mut answer = answer.await?.into_body();
    let mut got = BytesMut::new();
    while let Some(data) = answer.data().await {
        let data = data?;
        answer.flow_control().release_capacity(data.len())?;
        got.extend_from_slice(&data);
    }
    let trailers = answer.trailers().await?.unwrap_or_default();
    let word = |name| trailers.get(name).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    match word("grpc-status").as_deref() {
        Some("0") if got.len() >= 5 => Ok(got.freeze().slice(5..)),
        status => Err(format!("etcd answered {path} with status {status:?}: {}", word("grpc-message").unwrap_or_default()).into()),
    }
}
