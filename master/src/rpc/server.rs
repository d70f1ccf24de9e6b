//! Accepts connections, and ends them when the master stops.

use super::connection;
use crate::engine::Throne;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Serves until `stop` changes.
pub(crate) async fn run(throne: Arc<Throne>, listener: TcpListener, mut stop: watch::Receiver<bool>) {
    let access = Arc::new(throne.access());
    let sessions = AtomicU64::new(1);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let session = sessions.fetch_add(1, Ordering::Relaxed);
                    connections.spawn(connection::serve(throne.clone(), stream, peer, session, access.clone()));
                }
                // Out of descriptors, most likely: existing connections go on, new ones wait.
                Err(e) => {
                    tracing::warn!("a connection could not be accepted: {e}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            _ = connections.join_next(), if !connections.is_empty() => {}
            _ = stop.changed() => return,
        }
    }
}
