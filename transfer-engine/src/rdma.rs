//! How RDMA is used, and what of it this process has.

use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// How an engine uses RDMA. The defaults take every device; one whose port is not active is used once it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RdmaSettings {
    /// Names of the devices to use, as in `/sys/class/infiniband`; empty for all.
    pub devices: Vec<String>,
    /// The port of each device, from 1. `perilune` has no flag for it: cards have long been one device for each port.
    pub port: u8,
    /// The index of the GID to use on each device; `None` chooses: RoCE v2 before v1, IPv4-mapped before IPv6.
    pub gid_index: Option<u8>,
    /// The traffic class of the packets that this side sends: on RoCE v2 the byte of DSCP and ECN in their IP header, by which networks know what
    /// they must not lose. iWARP has none, as the kernel sends its packets.
    pub traffic_class: u8,
    /// The service level of the packets that this side sends, 0 to 15: on InfiniBand their priority, on RoCE one that devices may map to that of
    /// Ethernet.
    pub service_level: u8,
    /// Queue pairs to a peer on each device, for each lane. 1 to 16.
    pub queue_pairs: u8,
    /// Entries of each lane's completion queue on each device, where the device gives as many: half as many work requests are under way at
    /// one time. 16 to 4194304.
    pub completions: u32,
    /// The most bytes one work request moves. 4 KiB to 8 MiB, as soft-RoCE allows no more.
    pub slice: u64,
    /// The most bytes of one memory region; larger memory is registered in pieces, by as many threads as there are processors. The limit of the
    /// device counts too. At least 1 MiB; `docs/decisions/0010-registration.md` says why 256 MiB.
    pub region: u64,
    /// Overrides the NUMA node that sysfs tells of a device.
    pub numa_nodes: BTreeMap<String, u32>,
    /// How queue pairs are connected. With `Cm` a server takes both ways, and a client asks that way only.
    pub connection: RdmaConnection,
}

impl Default for RdmaSettings {
    fn default() -> Self {
        Self {
            devices: Vec::new(),
            port: 1,
            gid_index: None,
            traffic_class: 0,
            service_level: 0,
            queue_pairs: 2,
            completions: 4096,
            slice: 1 << 20,
            region: 256 << 20,
            numa_nodes: BTreeMap::new(),
            connection: RdmaConnection::Exchange,
        }
    }
}

/// How two sides connect their queue pairs. They agree on it over TCP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RdmaConnection {
    /// By telling each other what their devices must know.
    #[default]
    Exchange,
    /// By the connection manager of the kernel (`rdma_cm`), which needs librdmacm, and devices whose GID is an IP address: RoCE, not
    /// InfiniBand. iWARP devices connect this way whatever is set.
    Cm,
}

impl fmt::Display for RdmaConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exchange => "exchange",
            Self::Cm => "cm",
        })
    }
}

impl FromStr for RdmaConnection {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        [Self::Exchange, Self::Cm].into_iter().find(|way| way.to_string() == word).ok_or_else(|| {
            format!(
                "RDMA queue pairs are not connected by `{word}`: by `exchange` (our own) or by `cm` (the connection manager of the kernel)"
            )
        })
    }
}

/// What RDMA this process has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RdmaStatus {
    /// Why RDMA cannot be used, and what to do; `None` when it can.
    pub reason: Option<String>,
    /// Every device of this machine, also those that cannot be used.
    pub devices: Vec<RdmaDevice>,
}

/// One device, with its first port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RdmaDevice {
    /// As in `/sys/class/infiniband`.
    pub name: String,
    /// The number of the port that the rest is about.
    pub port: u8,
    /// Whether packets get through.
    pub active: bool,
    /// The state of the port in words; empty when it is not known.
    pub state: String,
    /// `Ethernet` or `InfiniBand`; empty when it is not known.
    pub link_layer: String,
    /// Bytes of the largest packet.
    pub mtu: u32,
    /// The local identifier; 0 on Ethernet.
    pub lid: u16,
    /// The address that is used unless the settings name another.
    pub gid: Option<RdmaGid>,
    /// The NUMA node it is attached to; software devices have none.
    pub numa_node: Option<u32>,
    /// What is wrong with it.
    pub problem: Option<String>,
}

/// An address of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RdmaGid {
    /// Its place in the table of the port.
    pub index: u8,
    /// As an IPv6 address.
    pub address: String,
    /// `RoCE v2`, `IB/RoCE v1` or `iWARP`.
    pub kind: String,
}

impl RdmaStatus {
    /// No RDMA, for that reason.
    pub(crate) fn none(reason: String) -> Self {
        Self { reason: Some(reason), devices: Vec::new() }
    }

    /// Whether some device can be used.
    pub fn usable(&self) -> bool {
        self.reason.is_none()
    }
}

impl fmt::Display for RdmaStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Some(reason) => write!(f, "RDMA: none: {reason}")?,
            None => f.write_str("RDMA:")?,
        }
        self.devices.iter().try_for_each(|device| write!(f, "\n  {device}"))
    }
}

impl fmt::Display for RdmaDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, port, state, link_layer, mtu, lid, gid, numa_node, problem, .. } = self;
        write!(f, "{name} port {port}")?;
        if !state.is_empty() {
            write!(f, ": {state}, {link_layer}, MTU {mtu}")?;
        }
        if *lid != 0 {
            write!(f, ", LID {lid}")?;
        }
        if let Some(RdmaGid { index, address, kind }) = gid {
            write!(f, ", GID {index} {address} ({kind})")?;
        }
        if let Some(node) = numa_node {
            write!(f, ", NUMA node {node}")?;
        }
        problem.iter().try_for_each(|problem| write!(f, ": {problem}"))
    }
}

/// What RDMA this process has, or why it has none. Opens every device for a moment; costs a look into a folder where there is none.
#[cfg(feature = "rdma")]
pub fn rdma_status() -> RdmaStatus {
    crate::transport::rdma::status()
}

/// What RDMA this process has, or why it has none.
#[cfg(not(feature = "rdma"))]
pub fn rdma_status() -> RdmaStatus {
    RdmaStatus::none("this program was built without it (feature `rdma`)".to_owned())
}

/// What the RDMA of this process did so far, all engines together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RdmaCounts {
    /// Times work requests were handed to a device.
    pub doorbells: u64,
    /// The work requests of these.
    pub work_requests: u64,
    /// Completions taken.
    pub completions: u64,
    /// Times a completion queue was told to raise an event.
    pub arms: u64,
    /// Events that came.
    pub events: u64,
    /// Times a lane slept on its completion queues and sockets.
    pub sleeps: u64,
    /// Bytes that went through staging, because their memory was not registered.
    pub staged_bytes: u64,
    /// Times a rail was begun to be connected.
    pub rails_tried: u64,
    /// Rails that carried their first bytes.
    pub rails_connected: u64,
    /// Rails that broke, or were given up to take work back.
    pub rails_lost: u64,
}

/// What the RDMA of this process did so far.
#[cfg(feature = "rdma")]
pub fn rdma_counts() -> RdmaCounts {
    crate::transport::rdma::counts()
}

/// What the RDMA of this process did so far: nothing, it was built without.
#[cfg(not(feature = "rdma"))]
pub fn rdma_counts() -> RdmaCounts {
    RdmaCounts::default()
}

/// The verbs objects of this process that exist now; 0 when no engine uses RDMA any more.
#[cfg(feature = "rdma")]
pub fn rdma_objects() -> u64 {
    crate::transport::rdma::live().total()
}

/// The verbs objects of this process that exist now: none, it was built without.
#[cfg(not(feature = "rdma"))]
pub fn rdma_objects() -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_reads_well() {
        assert_eq!(RdmaStatus::none("no device".to_owned()).to_string(), "RDMA: none: no device");
        let gid = RdmaGid { index: 1, address: "::ffff:10.78.0.1".to_owned(), kind: "RoCE v2".to_owned() };
        let up = RdmaDevice {
            name: "rxe_va".to_owned(),
            port: 1,
            active: true,
            state: "active".to_owned(),
            link_layer: "Ethernet".to_owned(),
            mtu: 4096,
            gid: Some(gid),
            numa_node: Some(1),
            ..Default::default()
        };
        let odd = RdmaDevice { name: "mlx5_0".to_owned(), port: 1, problem: Some("it cannot be opened".to_owned()), ..Default::default() };
        let status = RdmaStatus { reason: None, devices: vec![up, odd] };
        let want = "RDMA:\n  rxe_va port 1: active, Ethernet, MTU 4096, GID 1 ::ffff:10.78.0.1 (RoCE v2), NUMA node 1\n  mlx5_0 port 1: it cannot be opened";
        assert_eq!(status.to_string(), want);
        assert!(status.usable());
    }

    #[test]
    fn ways_to_connect_are_read_as_they_are_written() {
        for way in [RdmaConnection::Exchange, RdmaConnection::Cm] {
            assert_eq!(way.to_string().parse(), Ok(way));
        }
        let error = "rdma_cm".parse::<RdmaConnection>().unwrap_err();
        assert!(error.contains("`rdma_cm`") && error.contains("`exchange`") && error.contains("`cm`"), "{error}");
    }

    #[test]
    fn the_status_of_this_process_names_devices_or_a_reason() {
        let status = rdma_status();
        let here = std::fs::read_dir("/sys/class/infiniband").map_or(0, Iterator::count);
        match &status.reason {
            None => assert_eq!(status.devices.len(), here),
            Some(reason) => assert!(!reason.is_empty() && status.devices.iter().all(|device| !device.active), "{status}"),
        }
    }
}
