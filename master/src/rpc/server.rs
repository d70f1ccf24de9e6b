//! Accepts connections, and ends them when the master stops.

use super::connection;
use crate::engine::Throne;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Connections that have yet to present the token that is asked for. So strangers cannot use up what there is for all; more are closed at once.
const STRANGERS_MAX: usize = 256;

/// Serves until `stop` changes.
pub(crate) async fn run(throne: Arc<Throne>, listener: TcpListener, mut stop: watch::Receiver<bool>) {
    let access = Arc::new(throne.access());
    let sessions = AtomicU64::new(1);
    let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let place = if access.is_open() { None } else { Some(strangers.clone().try_acquire_owned()) };
                    match place.transpose() {
                        Ok(place) => {
                            let session = sessions.fetch_add(1, Ordering::Relaxed);
                            connections.spawn(connection::serve(throne.clone(), stream, peer, session, access.clone(), place));
                        }
                        Err(_) => tracing::debug!(%peer, "closed: {STRANGERS_MAX} others have yet to present a token"),
                    }
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
