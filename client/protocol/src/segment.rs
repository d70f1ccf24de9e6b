//! A stretch of memory one node lends to the others, and how to reach it.

use crate::{Capability, NodeId, SegmentId};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How the bytes of a segment are preferably moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP sockets.
    Tcp,
    /// Shared memory of one host; peers elsewhere use TCP.
    Shm,
    /// RDMA verbs; peers that cannot use TCP.
    Rdma,
}

impl Protocol {
    /// Every protocol memory can be lent with.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Shm, Self::Rdma];

    /// The name users write.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Shm => "shm",
            Self::Rdma => "rdma",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Protocol {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|p| p.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| format!("unknown protocol `{text}`: there are tcp, shm and rdma"))
    }
}

/// Where the bytes of a segment can be reached. A node offers several; a peer takes the best it can use.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Endpoint {
    /// `host:port` of the node's transfer engine.
    Tcp(String),
    /// A unix socket that hands out descriptors of shared segments to processes of the same host.
    Shm {
        /// The boot id of the host; peers of another boot need not try.
        host: String,
        /// The path of the socket.
        path: String,
    },
    /// `host:port` where a node exchanges what RDMA peers must know of each other.
    Rdma(String),
}

/// The life of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SegmentStatus {
    /// Takes allocations and serves reads.
    Mounted,
    /// Its node was silent for a short time: reads avoid it, nothing is placed on it.
    Suspect,
    /// Serves reads until its grace period ends; takes no allocations.
    Draining,
    /// Its node was silent for too long. Its replicas count as gone unless the node returns with the memory intact.
    Lost,
}

impl SegmentStatus {
    /// The word the HTTP faces use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mounted => "MOUNTED",
            Self::Suspect => "SUSPECT",
            Self::Draining => "DRAINING",
            Self::Lost => "LOST",
        }
    }
}

/// What a peer must know to read and write a segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentDesc {
    /// The segment.
    pub id: SegmentId,
    /// Its name, `host:port` of its node's transfer engine unless it was named.
    pub name: String,
    /// The node that lends it.
    pub node: NodeId,
    /// The address of its first byte in the node's process; for display and for Mooncake's descriptors.
    pub base: u64,
    /// Bytes.
    pub size: u64,
    /// The preferred protocol.
    pub protocol: Protocol,
    /// A device or locality hint of whoever mounted it; not interpreted.
    pub location: String,
    /// Where to reach it.
    pub endpoints: Vec<Endpoint>,
    /// The right to move its bytes.
    pub capability: Capability,
}

impl SegmentDesc {
    /// The `host:port` that the HTTP faces show.
    pub fn tcp_endpoint(&self) -> &str {
        self.endpoints.iter().find_map(|e| if let Endpoint::Tcp(at) = e { Some(at.as_str()) } else { None }).unwrap_or("")
    }
}
