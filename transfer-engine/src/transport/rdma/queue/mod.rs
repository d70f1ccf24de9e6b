//! The life of a queue pair.
//!
//! ```text
//! state             entered by                      may be posted   left by                        local buffers belong to
//! Reset             it is made                      nothing         Queue::new, at once            their submitter
//! Init              Queue::new                      nothing         Queue::connect                 their submitter
//! ReadyToReceive    Queue::connect, half way        nothing         Queue::connect, fail           their submitter
//! ReadyToSend       Queue::connect                  chains          fail                           the device, from post to completion
//! Error             fail: we gave it up, or the     nothing         all came back flushed          the device, until flushed or dropped
//!                   device did and told by a
//!                   completion that is no success
//! Drained           all that was posted came back   nothing         drop                           their submitter
//! ```
//! The peer writes and reads from `ReadyToReceive` until `Error`. There is no way back: a queue pair that failed is dropped and another one made,
//! as packets of its earlier life may still be on their way to its number. Dropping is allowed in every state; after it the device touches
//! nothing that was posted, and what is not yet completed never will be.

mod chain;
mod sys;

pub(crate) use chain::Chain;
pub(crate) use sys::{QueuePair, SharedReceiveQueue};

use crate::fault::{Failure, TransferErrorKind};
use crate::transport::rdma::device::Device;
use crate::transport::rdma::gid::Gid;
use crate::transport::rdma::sys::{Capacity, CompletionQueue, Path, Refused};
use crate::transport::rdma::wire::End;
use std::io;
use std::sync::Arc;

/// Reads that one queue pair has under way at most; so many of ours the peer answers at one time.
const READS_MAX: u8 = 16;

/// Where in its life a queue pair is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Reset,
    Init,
    ReadyToReceive,
    ReadyToSend,
    Error,
    Drained,
}

impl State {
    /// Whether one step of a life leads from here to there.
    fn leads_to(self, next: Self) -> bool {
        use State::{Drained, Error, Init, ReadyToReceive, ReadyToSend, Reset};
        matches!(
            (self, next),
            (Reset, Init) | (Init, ReadyToReceive) | (ReadyToReceive, ReadyToSend) | (Reset | Init | ReadyToReceive | ReadyToSend, Error) | (Error, Drained)
        )
    }
}

/// A queue pair, where it is in its life, and how much the device has of what was posted.
pub(crate) struct Queue {
    pair: QueuePair,
    state: State,
    outstanding: u32,
    device: Arc<Device>,
    gid: Gid,
    end: End,
}

impl Queue {
    /// A queue pair in `Init`. A device that takes fewer inline bytes than asked for gives what it has: see [`Queue::capacity`].
    pub(crate) fn new(
        device: &Arc<Device>,
        send: &Arc<CompletionQueue>,
        receive: &Arc<CompletionQueue>,
        shared: Option<&Arc<SharedReceiveQueue>>,
        capacity: Capacity,
    ) -> Result<Self, Failure> {
        // Looked up anew each time: both change when the link goes down and up.
        let (gid, port) = (device.current_gid()?, device.current_port()?);
        let pair = make(device, send, receive, shared, capacity)?;
        let psn = rand_psn();
        let end = End { number: pair.number(), psn, gid: gid.bytes, lid: port.lid, mtu: port.mtu };
        let mut queue = Self { pair, state: State::Reset, outstanding: 0, device: Arc::clone(device), gid, end };
        queue.step(State::Init, |pair, device| pair.to_init(device.port))?;
        Ok(queue)
    }

    /// What the other side must know.
    pub(crate) fn end(&self) -> End {
        self.end
    }

    /// Its real sizes.
    pub(crate) fn capacity(&self) -> Capacity {
        self.pair.capacity()
    }

    /// Where it is in its life.
    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// How many work requests the device has.
    pub(crate) fn outstanding(&self) -> u32 {
        self.outstanding
    }

    /// Connects it to the other end. May wait a second for the address of the peer.
    pub(crate) fn connect(&mut self, other: &End) -> Result<(), Failure> {
        let limits = self.device.limits;
        let path = Path {
            port: self.device.port,
            gid_index: self.gid.index,
            global: self.device.ethernet || other.lid == 0,
            gid: other.gid,
            lid: other.lid,
            number: other.number,
            psn: other.psn,
            mtu: self.end.mtu.min(other.mtu),
            reads: limits.max_rd_atomic.min(READS_MAX),
        };
        let (psn, reads) = (self.end.psn, limits.max_init_rd_atomic.min(READS_MAX));
        self.step(State::ReadyToReceive, |pair, _| pair.to_ready_to_receive(&path))?;
        self.step(State::ReadyToSend, |pair, _| pair.to_ready_to_send(psn, reads))
    }

    /// Hands the chain to the device; only when ready to send.
    pub(crate) fn post(&mut self, chain: &mut Chain) -> Result<(), Refused> {
        if self.state != State::ReadyToSend {
            chain.clear();
            let words = format!("the queue pair is not ready to send but in {:?}", self.state);
            return Err(Refused { posted: 0, cause: io::Error::new(io::ErrorKind::NotConnected, words) });
        }
        let count = chain.len();
        let outcome = self.pair.post(chain);
        let posted = outcome.as_ref().map_or_else(|refused| refused.posted, |()| count);
        self.outstanding += u32::try_from(posted).unwrap_or(u32::MAX);
        outcome
    }

    /// `requests` of what was posted came back: those of a completion and of the unsignaled ones it stands for.
    pub(crate) fn completed(&mut self, requests: u32) {
        self.outstanding = self.outstanding.saturating_sub(requests);
        self.settle();
    }

    /// Gives it up: all that was posted comes back flushed.
    pub(crate) fn fail(&mut self) {
        if self.state.leads_to(State::Error) {
            if let Err(cause) = self.pair.to_error() {
                tracing::warn!("RDMA: {}: a queue pair could not be moved to error: {cause}", self.device.name);
            }
            self.state = State::Error;
            self.settle();
        }
    }

    /// The device has nothing of it any more: all local buffers are their submitters' again.
    pub(crate) fn drained(&self) -> bool {
        self.state == State::Drained
    }

    fn settle(&mut self) {
        if self.outstanding == 0 && self.state.leads_to(State::Drained) {
            self.state = State::Drained;
        }
    }

    fn step(&mut self, next: State, how: impl FnOnce(&QueuePair, &Device) -> io::Result<()>) -> Result<(), Failure> {
        let name = &self.device.name;
        if !self.state.leads_to(next) {
            return Err(unreachable(format!("{name}: a queue pair in {:?} cannot become {next:?}", self.state)));
        }
        how(&self.pair, &self.device).map_err(|e| unreachable(format!("{name}: a queue pair cannot become {next:?}: {e}")))?;
        self.state = next;
        Ok(())
    }
}

fn unreachable(cause: String) -> Failure {
    Failure::new(TransferErrorKind::PeerUnreachable, cause)
}

/// How many inline bytes a device takes can only be tried.
fn make(
    device: &Device,
    send: &Arc<CompletionQueue>,
    receive: &Arc<CompletionQueue>,
    shared: Option<&Arc<SharedReceiveQueue>>,
    mut capacity: Capacity,
) -> Result<QueuePair, Failure> {
    loop {
        match QueuePair::new(&device.domain, send, receive, shared, capacity) {
            Ok(pair) => return Ok(pair),
            Err(e) if e.kind() == io::ErrorKind::InvalidInput && capacity.inline > 0 => capacity.inline /= 2,
            Err(e) => return Err(unreachable(refused(device, capacity, &e))),
        }
    }
}

fn refused(device: &Device, capacity: Capacity, cause: &io::Error) -> String {
    let (name, limits) = (&device.name, &device.limits);
    if cause.kind() == io::ErrorKind::InvalidInput {
        let (most, sges) = (limits.max_qp_wr, limits.max_sge);
        format!("{name} gives no queue pair of these sizes, {capacity:?}: it takes at most {most} work requests, of at most {sges} stretches: {cause}")
    } else {
        format!("{name} gives no further queue pair: it has at most {} in all, and their memory counts too: {cause}", limits.max_qp)
    }
}

/// Any number will do that an earlier connection between these two is not likely to have had.
fn rand_psn() -> u32 {
    (uuid::Uuid::new_v4().as_u128() & 0xff_ffff) as u32
}

#[cfg(test)]
mod tests;
