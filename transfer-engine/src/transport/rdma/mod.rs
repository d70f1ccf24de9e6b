//! Bytes over RDMA verbs: one-sided reads and writes on reliable connections, over every device that gets through.
//!
//! ```text
//! work -> cut (slices) -> flow (which rail and queue pair, one doorbell for many) -> device -> completion queue -> settle -> done
//! ```
//! - [`rail`]: queue pairs of one of our devices with one of a peer's, and the TCP connection they live with ([`wire`]). [`open`] connects
//!   one, [`sending`] knows what its queue pairs have under way.
//! - [`manager`]: queue pairs connected by the kernel (`rdma_cm`) where that is wanted, and on iWARP, where nothing else will do.
//! - [`link`]: a peer: its rails, those that are being connected, and the keys of its segments.
//! - [`flow`]: posts slices. [`settle`]: takes completions, and moves what a broken rail leaves to another. [`revive`]: connects rails, and
//!   hears what the peer says.
//! - [`dash`]: one operation alone, posted at once and waited for here.
//! - [`notify`]: notices, each a write of no bytes that takes a receive of the peer, and the credits that say when there is one.
//! - [`slots`]: where the work lies that came in. What waits and what devices have names it by a number that finds it without a table, and
//!   finds nothing once it is gone.
//! - [`watch`]: sockets, devices that go away, rails that stall or are due, and peers that find no room. A rail that broke is tried again while its peer has work,
//!   five times a second, if the port of our device is active; idle peers are not probed, so theirs come back with the next work.
//! - [`registry`]: the memory devices may touch. [`mod@serve`]: the side that lends. [`queue`]: the life of a queue pair.
//!
//! # Why nothing is touched after it came back
//!
//! Work goes back to the lane when each of its slices completed, or after the queue pairs that may still touch its buffers were destroyed:
//! `ibv_destroy_qp` returns when the device is done with them. A slice that goes through staging touches no caller's buffer.
//!
//! # What a success proves
//!
//! Done means that the bytes are where they belong. A device reports a success for less, each kind for another reason:
//!
//! | device | success of a write | success of a read |
//! |---|---|---|
//! | InfiniBand, RoCE | the peer's device has the bytes, and is bound to put them into memory | they are here |
//! | soft-RoCE | they are in the peer's memory: it copies before it acknowledges | they are here, or the queue pair breaks |
//! | iWARP | they were given to TCP | they are here, but may be reported after writes that were posted later |
//!
//! So a chain with a request of which too little is said ends with a read of one byte, a proof, the only one that reports its success
//! ([`sending::Unproven`], [`sending::Sending::prove`]). A peer answers a read when what came before it is in its memory: the device asks for
//! the byte over the bus that its writes go by, and on PCIe no read overtakes a write (relaxed ordering is not asked for). It goes out with
//! the same doorbell, so it adds no round trip. Without it nothing would order a write and the news of it over TCP, as of each put to the
//! master. A notice needs no proof: it is a completion that the peer's device writes after the bytes. What a peer's device promises of
//! writes is in its offer.
//!
//! soft-RoCE (`rxe_completer` of Linux 6.1) reports success without bytes for the read it is at when an answer comes that it
//! did not expect, such as the middle of a message first, and then puts the queue pair into error. So that is the last success of a queue
//! pair: all before it are true, and at worst the proof is the lie. It does so in this order, so to look at the state of the queue pair
//! after a success would come too early. There a read of eight bytes and more needs no proof: before it is posted, eight bytes that nobody can
//! expect are left where its last ones will arrive ([`sys::Mark`]). Answers come in order, so if these are gone all is there; and if they still
//! stand the rail is broken. A proof costs a packet each way: a third of a read of 4 KiB.
//!
//! Whatever was not proven when a rail breaks is sent again.
//!
//! # iWARP
//!
//! A peer says of a key that is worthless only that the connection is over, so all keys are asked for anew then. Where reads arrive, peers may
//! write: to iWARP the answer to a read is a write. There are no writes with a number (`WRITE_WITH_IMM`); `Device::iwarp` tells whom that
//! concerns.

mod cut;
mod dash;
mod device;
mod flow;
mod gid;
mod link;
mod manager;
mod notify;
mod open;
mod ports;
mod queue;
mod rail;
mod registry;
mod revive;
mod sending;
mod serve;
mod settle;
mod slots;
mod status;
mod sys;
mod topology;
mod transport;
mod watch;
mod wire;
#[cfg(test)]
mod world;

pub(crate) use device::Devices;
pub(crate) use serve::serve;
pub(crate) use status::status;
pub(crate) use sys::live;

use crate::lane::Wake;
use crate::rdma::RdmaCounts;
use crate::transport::{Address, Failure, Family, Prepared, Region, Transport};
use perilune_protocol::Endpoint;
use registry::Registry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use transport::RdmaTransport;

/// The family. Its lanes share the devices and the registrations, and each has completion queues and queue pairs of its own.
pub(crate) struct Rdma {
    devices: Arc<Devices>,
    registry: Arc<Registry>,
}

impl Rdma {
    pub(crate) fn new(devices: Arc<Devices>) -> Self {
        Self { devices, registry: Arc::default() }
    }
}

impl Family for Rdma {
    fn name(&self) -> &'static str {
        "rdma"
    }

    fn address(&self, endpoint: &Endpoint) -> Option<Address> {
        match endpoint {
            Endpoint::Rdma(at) if self.devices.there_may_be_some() => Some(Address::from_text(at)),
            _ => None,
        }
    }

    fn open(&self, wake: &Arc<Wake>) -> std::io::Result<Box<dyn Transport>> {
        Ok(Box::new(RdmaTransport::new(Arc::clone(&self.devices), Arc::clone(&self.registry), Arc::clone(wake))?))
    }

    fn prepare(&self, region: Region) -> Result<Option<Prepared>, Failure> {
        // Without a device nothing goes this way.
        let Ok(devices) = self.devices.get() else { return Ok(None) };
        Ok(Some(self.registry.hold(devices, region, self.devices.settings().region)?))
    }
}

/// What the asking sides of this process did; beside what [`sys::counts`] says of devices. Each stands alone, so relaxed.
pub(crate) struct Tallies {
    pub(crate) sleeps: AtomicU64,
    pub(crate) staged_bytes: AtomicU64,
    pub(crate) rails_tried: AtomicU64,
    pub(crate) rails_connected: AtomicU64,
    pub(crate) rails_lost: AtomicU64,
}

pub(crate) static TALLIES: Tallies = Tallies {
    sleeps: AtomicU64::new(0),
    staged_bytes: AtomicU64::new(0),
    rails_tried: AtomicU64::new(0),
    rails_connected: AtomicU64::new(0),
    rails_lost: AtomicU64::new(0),
};

/// What devices and lanes did so far.
pub(crate) fn counts() -> RdmaCounts {
    let sys::Counts { doorbells, work_requests, completions, arms, events, .. } = sys::counts();
    let of = |counter: &AtomicU64| counter.load(Relaxed);
    RdmaCounts {
        doorbells,
        work_requests,
        completions,
        arms,
        events,
        sleeps: of(&TALLIES.sleeps),
        staged_bytes: of(&TALLIES.staged_bytes),
        rails_tried: of(&TALLIES.rails_tried),
        rails_connected: of(&TALLIES.rails_connected),
        rails_lost: of(&TALLIES.rails_lost),
    }
}
