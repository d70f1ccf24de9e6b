//! A store node: lends memory to the cluster and serves the store over REST.

mod config;

pub use config::NodeConfig;

use crate::Store;
use perilune_protocol::{FaultCode, Outcome, Protocol, SegmentDesc, SegmentId};
use std::net::SocketAddr;
use std::time::Duration;

/// A running store node.
pub struct StoreNode(Store);

#[expect(missing_docs, reason = "filled in next")]
#[expect(unused_variables, reason = "filled in next")]
impl StoreNode {
    pub fn start(config: NodeConfig) -> Outcome<StoreNode> {
        Err(FaultCode::NotSupported.with("not built yet"))
    }
    /// `None` takes the node's protocol.
    pub fn mount(&self, size: u64, protocol: Option<Protocol>, location: &str) -> Outcome<Vec<SegmentDesc>> {
        Err(FaultCode::NotSupported.with("not built yet"))
    }
    pub fn mount_shm(&self, name: &str, offset: u64, size: u64, protocol: Option<Protocol>, location: &str) -> Outcome<Vec<SegmentDesc>> {
        Err(FaultCode::NotSupported.with("not built yet"))
    }
    /// Answers per segment, in order. With a grace period the memory is freed when the master says so.
    pub fn unmount(&self, segments: &[SegmentId], grace: Duration) -> Vec<Outcome<()>> {
        Vec::new()
    }
    /// Segments lent at the moment.
    pub fn segments(&self) -> Vec<SegmentDesc> {
        Vec::new()
    }
    /// The store as this node uses it for its REST face.
    pub fn store(&self) -> &Store {
        &self.0
    }
    /// Only `/api/*`, without a fallback, so that it can be merged.
    pub fn router(&self) -> axum::Router {
        axum::Router::new()
    }
    pub fn rest_addr(&self) -> Option<SocketAddr> {
        None
    }
    /// Stops. Segments stay in `/dev/shm`, so that the next start finds them with their objects.
    pub fn stop(self) {}
    /// Unmounts and frees everything, then stops.
    pub fn retire(self) -> Outcome<()> {
        Ok(())
    }
}
