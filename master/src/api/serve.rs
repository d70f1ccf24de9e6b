//! Hands connections to the router, so that no connection harms another: each has its own task, a time to say what it wants,
//! a time to take its answer, and a place among a limited number.

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::sys::socket::{setsockopt, sockopt::TcpUserTimeout};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// What a connection may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections; more wait in the listener's backlog until one closes.
    pub connections: usize,
    /// Time for the head of a request to arrive, and for an idle connection to say something.
    pub head: Duration,
    /// Time for the peer to take bytes that were sent. A slow peer is fine, one that takes nothing is cut off: as Linux counts (`TCP_USER_TIMEOUT`), one
    /// whose window stays closed, whether it is busy or dead. `SO_KEEPALIVE` would not find either: it asks only where nothing is under way. A window of
    /// a slow reader opens by whole segments, 64 KiB on one host, so the time is long enough for readers of streams that pause.
    pub stall: Duration,
    /// Time for answers under way to be finished after a stop.
    pub farewell: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 512, head: Duration::from_secs(30), stall: Duration::from_secs(120), farewell: Duration::from_secs(1) }
    }
}

/// Serves until `stopped` says true or its sender is gone, then finishes the answers that are under way.
pub async fn run(listener: TcpListener, router: Router, stopped: watch::Receiver<bool>) {
    run_within(Limits::default(), listener, router, stopped).await;
}

/// The same, within other limits.
pub async fn run_within(limits: Limits, listener: TcpListener, router: Router, stopped: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    let mut stop = pin!(said(stopped.clone()));
    loop {
        let accepted = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = &mut stop => break,
            // Forgets connections that ended; when there is none this branch is off.
            Some(_) = connections.join_next() => continue,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (router, stopped) = (router.clone(), stopped.clone());
                connections.spawn(async move {
                    let _place = place;
                    converse(limits, stream, router, stopped).await;
                });
            }
            Err(error) => {
                // Out of descriptors, or a peer that left before it was taken. Neither is cured by trying at once.
                tracing::warn!("an HTTP connection could not be accepted: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    let _ = tokio::time::timeout(limits.farewell, async { while connections.join_next().await.is_some() {} }).await;
    connections.shutdown().await;
}

/// Resolves when a stop was said, or nobody is left to say it.
async fn said(mut stopped: watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

async fn converse(limits: Limits, stream: TcpStream, router: Router, stopped: watch::Receiver<bool>) {
    let stall = u32::try_from(limits.stall.as_millis()).unwrap_or(u32::MAX);
    let _ = stream.set_nodelay(true);
    let _ = setsockopt(&stream, TcpUserTimeout, &stall);
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(limits.head);
    let mut connection = pin!(server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = said(stopped) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("an HTTP connection ended early: {error}");
    }
}
