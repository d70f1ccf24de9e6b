//! Every way of moving bytes this build has, the best first.

#[cfg(feature = "rdma")]
use crate::transport::rdma;
use crate::transport::{Family, shm, tcp};
use std::sync::Arc;

/// One line per family. A segment is reached by the first one that understands one of its endpoints and gets through.
pub(crate) fn families(#[cfg(feature = "rdma")] devices: &Arc<rdma::Devices>) -> Vec<Arc<dyn Family>> {
    vec![
        Arc::new(shm::Shm::default()), //
        #[cfg(feature = "rdma")]
        Arc::new(rdma::Rdma::new(Arc::clone(devices))),
        Arc::new(tcp::Tcp),
    ]
}
