//! The plain types of verbs: what devices can do, what is asked of them, and what they answer.

use rdma_mummy_sys as ib;
use std::fmt;
use std::io;

/// What a device can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes of the largest memory region.
    pub(crate) max_mr_size: u64,
    /// Queue pairs, of all processes together.
    pub(crate) max_qp: u32,
    /// Work requests of one queue.
    pub(crate) max_qp_wr: u32,
    /// Stretches of memory of one work request; the smaller of the limits for reads and for anything else.
    pub(crate) max_sge: u32,
    /// Completion queues, of all processes together.
    pub(crate) max_cq: u32,
    /// Entries of one completion queue.
    pub(crate) max_cqe: u32,
    /// Receives of one shared receive queue; 0 where there is none.
    pub(crate) max_srq_wr: u32,
    /// Reads of a peer that a queue pair answers at one time.
    pub(crate) max_rd_atomic: u8,
    /// Reads a queue pair has under way at one time.
    pub(crate) max_init_rd_atomic: u8,
    /// Memory can be registered without pinning it, for reads and writes of reliable connections.
    pub(crate) odp: bool,
    /// Parts of a region can be lent and revoked by memory windows.
    pub(crate) memory_windows: bool,
}

/// A port at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    /// Packets get through.
    pub(crate) active: bool,
    /// The name of its state.
    pub(crate) state: &'static str,
    /// Bytes of the largest packet.
    pub(crate) mtu: u32,
    /// Its local identifier; 0 on Ethernet.
    pub(crate) lid: u16,
    /// RoCE, or iWARP.
    pub(crate) ethernet: bool,
}

/// What the device may do with a memory region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Read it, and write into it what we asked for.
    Local,
    /// Also let peers that know the key read and write it.
    Remote,
}

/// The sizes of a queue pair: what is asked for, and what was given, which may be more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// Work requests in the send queue.
    pub(crate) sends: u32,
    /// Receives; must be 0 with a shared receive queue.
    pub(crate) receives: u32,
    /// Stretches of local memory of one work request.
    pub(crate) sges: u32,
    /// Bytes that a write may carry inside its work request.
    pub(crate) inline: u32,
}

/// How the network treats the packets that a queue pair sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Class {
    /// Of the global header; on RoCE v2 the byte of DSCP and ECN.
    pub(crate) traffic: u8,
    /// The service level, 0 to 15.
    pub(crate) level: u8,
}

/// The other end of a connection and the way to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    /// Our port.
    pub(crate) port: u8,
    /// The index of our GID.
    pub(crate) gid_index: u8,
    /// Whether packets carry GIDs: always on Ethernet.
    pub(crate) global: bool,
    /// The GID of the peer's port.
    pub(crate) gid: [u8; 16],
    /// The local identifier of the peer's port.
    pub(crate) lid: u16,
    /// The peer's queue pair.
    pub(crate) number: u32,
    /// The first packet sequence number the peer sends.
    pub(crate) psn: u32,
    /// Bytes of the largest packet.
    pub(crate) mtu: u32,
    /// Reads of the peer that we answer at one time.
    pub(crate) reads: u8,
    /// Of our packets.
    pub(crate) class: Class,
}

/// A stretch of registered local memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Local {
    /// The address of its first byte.
    pub(crate) base: u64,
    /// Bytes.
    pub(crate) len: u32,
    /// The local key of the region it lies in.
    pub(crate) key: u32,
}

/// What a work request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// From the peer's memory into ours.
    Read,
    /// From our memory into the peer's.
    Write,
    /// As `Write`, and then takes a receive of the peer, whose completion carries the number.
    WriteImmediate(u32),
}

/// One work request without its local side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WorkRequest {
    /// Comes back in the completion.
    pub(crate) id: u64,
    /// What it does.
    pub(crate) op: Verb,
    /// The address of the first byte in the peer.
    pub(crate) remote: u64,
    /// The remote key of the region it lies in.
    pub(crate) key: u32,
    /// Whether its success is reported. A failure always is; a success means that all before it on the queue pair succeeded.
    pub(crate) signaled: bool,
}

/// A chain that was not posted as a whole. The chain is empty afterwards.
#[derive(Debug)]
pub(crate) struct Refused {
    /// How many of its first work requests the device has: those touch their memory until they complete or the queue pair is gone.
    #[cfg_attr(not(test), expect(dead_code, reason = "who is refused drains the queue pair, so need not know"))]
    pub(crate) posted: usize,
    /// Why. `ENOMEM`: the send queue is full.
    pub(crate) cause: io::Error,
}

/// A work request that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Completed {
    /// Its number. For a success it stands for all before it on the queue pair.
    pub(crate) id: u64,
    /// How it ended.
    pub(crate) status: Status,
    /// Of a receive: the number the peer sent.
    pub(crate) immediate: Option<u32>,
    /// The number of the queue pair it was posted to.
    pub(crate) queue_pair: u32,
}

/// How a work request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// Done.
    Success,
    /// Not begun, or given up: the queue pair went to error before.
    Flushed,
    /// The key is not one of the peer's, or does not allow this.
    RemoteAccess,
    /// The peer takes no such request.
    RemoteInvalid,
    /// The peer could not do it.
    RemoteOperation,
    /// The peer did not answer.
    RetryExceeded,
    /// The peer has no receive posted.
    ReceiverNotReady,
    /// The local key is wrong, or its region does not hold the memory.
    LocalProtection,
    /// The message is too long.
    LocalLength,
    /// The queue pair cannot do it.
    LocalQueuePair,
    /// Any other, by its number.
    Other(u32),
}

impl Default for Status {
    fn default() -> Self {
        Self::Other(u32::MAX)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Success => "success",
            Self::Flushed => "flushed: the queue pair failed before",
            Self::RemoteAccess => "remote access error: the peer's memory may not be touched with this key",
            Self::RemoteInvalid => "remote invalid request error",
            Self::RemoteOperation => "remote operation error",
            Self::RetryExceeded => "retries exceeded: the peer does not answer",
            Self::ReceiverNotReady => "receiver not ready: the peer has no receive left",
            Self::LocalProtection => "local protection error: the local memory is not registered",
            Self::LocalLength => "local length error: the message is too long",
            Self::LocalQueuePair => "local queue pair operation error",
            Self::Other(number) => return write!(f, "work completion status {number}"),
        })
    }
}

pub(super) fn status(number: ib::ibv_wc_status::Type) -> Status {
    match number {
        ib::ibv_wc_status::IBV_WC_SUCCESS => Status::Success,
        ib::ibv_wc_status::IBV_WC_WR_FLUSH_ERR => Status::Flushed,
        ib::ibv_wc_status::IBV_WC_REM_ACCESS_ERR => Status::RemoteAccess,
        ib::ibv_wc_status::IBV_WC_REM_INV_REQ_ERR => Status::RemoteInvalid,
        ib::ibv_wc_status::IBV_WC_REM_OP_ERR => Status::RemoteOperation,
        ib::ibv_wc_status::IBV_WC_RETRY_EXC_ERR => Status::RetryExceeded,
        ib::ibv_wc_status::IBV_WC_RNR_RETRY_EXC_ERR => Status::ReceiverNotReady,
        ib::ibv_wc_status::IBV_WC_LOC_PROT_ERR => Status::LocalProtection,
        ib::ibv_wc_status::IBV_WC_LOC_LEN_ERR => Status::LocalLength,
        ib::ibv_wc_status::IBV_WC_LOC_QP_OP_ERR => Status::LocalQueuePair,
        other => Status::Other(other),
    }
}

/// The name of a port's state.
pub(super) fn state(number: ib::ibv_port_state::Type) -> &'static str {
    match number {
        ib::ibv_port_state::IBV_PORT_DOWN => "down",
        ib::ibv_port_state::IBV_PORT_INIT => "initializing",
        ib::ibv_port_state::IBV_PORT_ARMED => "armed",
        ib::ibv_port_state::IBV_PORT_ACTIVE => "active",
        ib::ibv_port_state::IBV_PORT_ACTIVE_DEFER => "active, deferring",
        _ => "unknown",
    }
}

/// Packets have 256 bytes times a power of two; 0 for a number that is none.
pub(super) fn bytes_of_mtu(number: ib::ibv_mtu::Type) -> u32 {
    if (ib::ibv_mtu::IBV_MTU_256..=ib::ibv_mtu::IBV_MTU_4096).contains(&number) { 128 << number } else { 0 }
}

/// `None` for bytes that are not the size of packets.
pub(super) fn mtu_of_bytes(bytes: u32) -> Option<ib::ibv_mtu::Type> {
    (ib::ibv_mtu::IBV_MTU_256..=ib::ibv_mtu::IBV_MTU_4096).find(|&number| bytes_of_mtu(number) == bytes)
}

/// An asynchronous event in words; `port` counts for those of ports.
pub(super) fn event(kind: u32, port: i32) -> String {
    const NAMES: [&str; 21] = [
        "a completion queue overflowed",
        "a queue pair failed",
        "a queue pair got a request that is none",
        "a queue pair refused a request",
        "a connection carries packets",
        "a send queue is drained",
        "a path migrated",
        "a path could not migrate",
        "the device failed",
        "port active",
        "port error",
        "port LID changed",
        "port partition keys changed",
        "port subnet manager changed",
        "a shared receive queue failed",
        "a shared receive queue runs low",
        "a queue pair took its last receive",
        "port client must register again",
        "port GIDs changed",
        "a work queue failed",
        "port speed changed",
    ];
    match NAMES.get(kind as usize) {
        Some(name) if name.starts_with("port ") => format!("{name} (port {port})"),
        Some(name) => (*name).to_owned(),
        None => format!("event {kind}"),
    }
}

/// Adds how to raise the limit of locked memory, where that may be what is in the way.
pub(super) fn with_memlock(words: String, cause: Option<i32>, limit: Option<u64>) -> String {
    match (cause, limit) {
        (Some(libc::ENOMEM | libc::EPERM), Some(limit)) if limit != libc::RLIM_INFINITY => format!(
            "{words}; this process may lock {limit} bytes of memory in all (RLIMIT_MEMLOCK): raise it with `ulimit -l unlimited`, with \
             LimitMEMLOCK=infinity in the systemd unit, or give it CAP_IPC_LOCK"
        ),
        _ => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_have_the_sizes_of_verbs() {
        let sizes = [256, 512, 1024, 2048, 4096];
        assert_eq!([1, 2, 3, 4, 5].map(bytes_of_mtu), sizes);
        assert_eq!(sizes.map(mtu_of_bytes), [1, 2, 3, 4, 5].map(Some));
        assert_eq!([0, 6, u32::MAX].map(bytes_of_mtu), [0; 3]);
        assert_eq!([0, 128, 1500, 8192].map(mtu_of_bytes), [None; 4]);
    }

    #[test]
    fn events_and_the_limit_of_locked_memory_are_told() {
        assert_eq!(event(10, 2), "port error (port 2)");
        assert_eq!(event(8, 2), "the device failed");
        assert_eq!(event(99, 2), "event 99");
        assert!(with_memlock("no".into(), Some(libc::ENOMEM), Some(65536)).contains("may lock 65536 bytes"));
        assert_eq!(with_memlock("no".into(), Some(libc::ENOMEM), Some(libc::RLIM_INFINITY)), "no");
        assert_eq!(with_memlock("no".into(), Some(libc::EFAULT), Some(65536)), "no");
    }
}
