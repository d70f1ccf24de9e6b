//! What the commands that stay running share: say when ready, wait for a signal, serve HTTP.

use crate::failure::Failure;
use perilune_protocol::access::Access;
use serde::Serialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The directory of one role under `--data-dir`, so that `dev`, `master` and `store` find each other's data.
pub(crate) fn role_dir(data_dir: &Path, role: &str) -> PathBuf {
    data_dir.join(role)
}

/// Writes `value` as JSON to `file`, whole or not at all, so that whoever waits for the file never reads half of it.
pub(crate) fn say_ready(file: Option<&Path>, value: &impl Serialize) -> Result<(), Failure> {
    let Some(file) = file else { return Ok(()) };
    let doing = || format!("writing --ready-file {}", file.display());
    let text = serde_json::to_vec(value).map_err(|e| Failure::of(doing(), e))?;
    let mut partial = file.as_os_str().to_owned();
    partial.push(".partial");
    std::fs::write(&partial, text).and_then(|()| std::fs::rename(&partial, file)).map_err(|e| Failure::of(doing(), e))
}

/// A runtime for signals and listeners of our own.
pub(crate) fn runtime() -> Result<Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(|e| Failure::of("starting the runtime", e))
}

/// Takes an address before anything else is started, so that a taken port changes nothing.
pub(crate) fn bind(runtime: &Runtime, flag: &str, at: SocketAddr, access: &Access) -> Result<(TcpListener, SocketAddr), Failure> {
    access.may_listen(at).map_err(|why| Failure::Usage(format!("{flag} {why}")))?;
    let bound = runtime.block_on(TcpListener::bind(at)).and_then(|l| l.local_addr().map(|at| (l, at)));
    bound.map_err(|e| Failure::Failed(format!("cannot listen on {at}: {e}; choose another address with {flag}")))
}

/// The signals that end a server. Made before it says that it is ready.
pub(crate) struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    pub(crate) fn listen(runtime: &Runtime) -> Result<Self, Failure> {
        let _inside = runtime.enter();
        let of = |kind| signal(kind).map_err(|e| Failure::of("waiting for signals", e));
        Ok(Self { interrupt: of(SignalKind::interrupt())?, terminate: of(SignalKind::terminate())? })
    }

    /// Waits for SIGINT or SIGTERM. A second one ends the process at once.
    pub(crate) fn wait(mut self, runtime: &Runtime) {
        runtime.block_on(self.next());
        runtime.spawn(async move {
            self.next().await;
            std::process::exit(1);
        });
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
