//! What every command that moves bytes takes: by which transports, and how RDMA is used.

use super::client::ClientArgs;
use crate::failure::Failure;
use perilune_client::transfer_engine::{RdmaConnection, RdmaSettings};
use perilune_client::{Store, StoreConfig};
use perilune_protocol::{ByteSize, Protocol};
use std::str::FromStr;

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
    /// The traffic class of the RDMA packets sent from here (on RoCE v2 the byte of DSCP and ECN), for networks that tell by it what they must not lose
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    rdma_traffic_class: u8,
    /// The service level of the RDMA packets sent from here, 0 to 15
    #[arg(long, value_name = "NUMBER", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=15))]
    rdma_service_level: u8,
    /// Queue pairs to a peer on each RDMA device, 1 to 16
    #[arg(long, value_name = "COUNT", default_value_t = RdmaSettings::default().queue_pairs, value_parser = clap::value_parser!(u8).range(1..=16))]
    rdma_queue_pairs: u8,
    /// How RDMA queue pairs are connected: exchange, or cm for the connection manager of the kernel (rdma_cm), which both sides must use;
    /// iWARP devices always use it
    #[arg(long, value_name = "WAY", default_value_t)]
    rdma_connection: RdmaConnection,
    /// The most bytes of one RDMA work request, 4KiB to 8MiB
    #[arg(long, value_name = "SIZE", default_value = "1MiB")]
    rdma_slice: ByteSize,
    /// The most bytes of one RDMA memory region; larger memory is registered in pieces, by several threads
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    rdma_region: ByteSize,
    /// Entries of a completion queue, 16 to 4194304; each thread that moves bytes has one on each RDMA device
    #[arg(long, value_name = "COUNT", default_value_t = RdmaSettings::default().completions)]
    rdma_completions: u32,
    /// The NUMA nodes of RDMA devices, DEVICE=NODE separated by commas, where the system does not tell the right ones
    #[arg(long, value_name = "DEVICE=NODE", value_delimiter = ',')]
    rdma_numa_nodes: Vec<NumaNode>,
}

/// A device and the NUMA node it is attached to.
#[derive(Clone, Debug)]
struct NumaNode(String, u32);

impl FromStr for NumaNode {
    type Err = String;

    fn from_str(words: &str) -> Result<Self, String> {
        let (device, node) = words.split_once('=').ok_or("a device and its NUMA node are written DEVICE=NODE, such as mlx5_0=1")?;
        let node = node.parse().map_err(|_| format!("`{node}` is not the number of a NUMA node"))?;
        Ok(Self(device.to_owned(), node))
    }
}

impl TransportArgs {
    pub(crate) fn rdma(&self) -> RdmaSettings {
        RdmaSettings {
            devices: self.rdma_devices.clone(),
            gid_index: self.rdma_gid_index,
            traffic_class: self.rdma_traffic_class,
            service_level: self.rdma_service_level,
            queue_pairs: self.rdma_queue_pairs,
            connection: self.rdma_connection,
            slice: self.rdma_slice.0,
            region: self.rdma_region.0,
            completions: self.rdma_completions,
            numa_nodes: self.rdma_numa_nodes.iter().map(|NumaNode(device, node)| (device.clone(), *node)).collect(),
            ..RdmaSettings::default()
        }
    }

    /// A store that moves bytes this way.
    pub(crate) fn connect(&self, client: &ClientArgs) -> Result<Store, Failure> {
        Ok(Store::connect(StoreConfig { transports: self.transports.clone(), rdma: self.rdma(), ..client.config()? })?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        transports: TransportArgs,
    }

    fn settings(words: &[&str]) -> Result<RdmaSettings, String> {
        let line = Line::try_parse_from(["perilune"].iter().chain(words)).map_err(|e| e.to_string())?;
        Ok(line.transports.rdma())
    }

    #[test]
    fn every_setting_of_rdma_is_a_flag_and_unless_given_as_the_library_has_it() {
        assert_eq!(settings(&[]), Ok(RdmaSettings::default()));
        let words = [
            "--rdma-slice=64KiB",
            "--rdma-region=1GiB",
            "--rdma-completions=128",
            "--rdma-numa-nodes=mlx5_0=1,mlx5_1=0",
            "--rdma-queue-pairs=3",
            "--rdma-devices=mlx5_0",
            "--rdma-gid-index=5",
            "--rdma-traffic-class=104",
            "--rdma-service-level=3",
            "--rdma-connection=cm",
        ];
        let given = settings(&words).unwrap();
        let numa_nodes = [("mlx5_0".to_owned(), 1), ("mlx5_1".to_owned(), 0)].into();
        let want = RdmaSettings {
            devices: vec!["mlx5_0".to_owned()],
            port: 1,
            gid_index: Some(5),
            traffic_class: 104,
            service_level: 3,
            queue_pairs: 3,
            completions: 128,
            slice: 64 << 10,
            region: 1 << 30,
            numa_nodes,
            connection: RdmaConnection::Cm,
        };
        assert_eq!(given, want);
        for wrong in ["mlx5_0", "mlx5_0=near"] {
            let error = settings(&["--rdma-numa-nodes", wrong]).unwrap_err();
            assert!(error.contains("NUMA node"), "{error}");
        }
    }
}
