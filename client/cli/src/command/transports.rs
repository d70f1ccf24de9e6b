//! What every command that moves bytes takes: by which transports, and how RDMA is used.

use super::client::ClientArgs;
use crate::failure::Failure;
use perilune_client::transfer_engine::{RdmaConnection, RdmaSettings};
use perilune_client::{Store, StoreConfig};
use perilune_protocol::Protocol;

/// How bytes are moved.
#[derive(clap::Args)]
pub(crate) struct TransportArgs {
    /// Move bytes by these only, separated by commas: shm, rdma, tcp; by all, the best first, unless given
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) transports: Vec<Protocol>,
    /// The RDMA devices to use, separated by commas; all unless given. One whose link is down is used once it is up
    #[arg(long, value_name = "DEVICE", value_delimiter = ',')]
    rdma_devices: Vec<String>,
    /// The index of the GID to use on each RDMA device; chosen (RoCE v2 and IPv4 first) unless given
    #[arg(long, value_name = "INDEX")]
    rdma_gid_index: Option<u8>,
    /// Queue pairs to a peer on each RDMA device, 1 to 16
    #[arg(long, value_name = "COUNT", default_value_t = RdmaSettings::default().queue_pairs, value_parser = clap::value_parser!(u8).range(1..=16))]
    rdma_queue_pairs: u8,
    /// How RDMA queue pairs are connected: exchange, or cm for the connection manager of the kernel (rdma_cm), which both sides must use;
    /// iWARP devices always use it
    #[arg(long, value_name = "WAY", default_value_t)]
    rdma_connection: RdmaConnection,
}

impl TransportArgs {
    pub(crate) fn rdma(&self) -> RdmaSettings {
        RdmaSettings {
            devices: self.rdma_devices.clone(),
            gid_index: self.rdma_gid_index,
            queue_pairs: self.rdma_queue_pairs,
            connection: self.rdma_connection,
            ..RdmaSettings::default()
        }
    }

    /// A store that moves bytes this way.
    pub(crate) fn connect(&self, client: &ClientArgs) -> Result<Store, Failure> {
        Ok(Store::connect(StoreConfig { transports: self.transports.clone(), rdma: self.rdma(), ..client.config()? })?)
    }
}
