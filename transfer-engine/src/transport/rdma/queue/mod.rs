//! The life of a queue pair.
//!
//! ```text
//! state             entered by                      may be posted   left by                        local buffers belong to
//! Reset             it is made                      nothing         Queue::new, at once; fail      their submitter
//! Init              Queue::new                      nothing         Queue::connect, fail           their submitter
//! ReadyToReceive    Queue::connect, half way        nothing         Queue::connect, fail           their submitter
//! ReadyToSend       Queue::connect                  chains          fail                           the device, from post to completion
//! Error             fail: we gave it up, or the     nothing         drain                          the device: what was posted comes back
//!                   device did and said so by a                                                    flushed, or not at all
//!                   completion that is no success
//! Drained           drain, from any state           nothing         drop                           their submitter
//! ```
//! `Queue::follow` takes the steps of `Queue::connect` where the connection manager (`rdma_cm`) meets the peer; on iWARP the device takes them
//! itself as the manager connects, and they are only written down here.
//!
//! The peer of one that serves writes and reads from `ReadyToReceive` until `Error`; that of one that asks never does ([`Role`]). There is no way back: a queue pair that failed is drained and another one made,
//! as packets of its earlier life may still be on their way to its number. To drain is to destroy it on the device: `ibv_destroy_qp` returns
//! when the device is done with all that was posted; what has not completed by then never will.

use crate::fault::{Failure, TransferErrorKind};
use crate::transport::rdma::device::Device;
use crate::transport::rdma::gid::Gid;
use crate::transport::rdma::sys::{Access, Capacity, Chain, CompletionQueue, Id, Path, QueuePair, Refused, SharedReceiveQueue};
use crate::transport::rdma::wire::End;
use std::io;
use std::sync::Arc;

/// Reads that one queue pair has under way at most; so many of ours the peer answers at one time.
pub(crate) const READS_MAX: u8 = 16;

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
            (Reset, Init)
                | (Init, ReadyToReceive)
                | (ReadyToReceive, ReadyToSend)
                | (Reset | Init | ReadyToReceive | ReadyToSend, Error)
                | (Error, Drained)
        )
    }
}

/// What a queue pair is for.
#[derive(Clone, Copy)]
pub(crate) enum Role<'a> {
    /// It reads, writes and sends notices. Its peer may do none of that.
    Asks,
    /// Its peer reads, writes and sends notices: each of those takes one of these receives, where the device has any to share.
    Serves(Option<&'a Arc<SharedReceiveQueue>>),
}

/// A queue pair, and where it is in its life.
pub(crate) struct Queue {
    /// `None` once it is drained.
    pair: Option<QueuePair>,
    state: State,
    capacity: Capacity,
    device: Arc<Device>,
    gid: Gid,
    end: End,
    /// What the connection manager knows the connection by, if it made it.
    id: Option<Id>,
}

impl Queue {
    /// A queue pair in `Init`. A device that takes fewer inline bytes than asked for gives what it has: see [`Queue::capacity`].
    pub(crate) fn new(
        device: &Arc<Device>,
        role: Role<'_>,
        send: &Arc<CompletionQueue>,
        receive: &Arc<CompletionQueue>,
        capacity: Capacity,
    ) -> Result<Self, Failure> {
        let (access, shared) = match role {
            Role::Asks => (Access::Local, None),
            Role::Serves(shared) => (Access::Remote, shared),
        };
        // Looked up anew each time: both change when the link goes down and up.
        let (gid, port) = (device.current_gid()?, device.current_port()?);
        let pair = make(device, send, receive, shared, capacity)?;
        let psn = random_psn();
        let limits = device.limits;
        let (reads, answers) = (limits.max_init_rd_atomic.min(READS_MAX), limits.max_rd_atomic.min(READS_MAX));
        let end = End { number: pair.number(), psn, gid: gid.bytes, lid: port.lid, mtu: port.mtu, reads, answers };
        let capacity = pair.capacity();
        let mut queue = Self { pair: Some(pair), state: State::Reset, capacity, device: Arc::clone(device), gid, end, id: None };
        queue.step(State::Init, |pair, device| pair.to_init(device.port, access))?;
        Ok(queue)
    }

    /// What the other side must know.
    pub(crate) fn end(&self) -> End {
        self.end
    }

    /// Its real sizes.
    pub(crate) fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// Connects it to the other end. May wait a second for the address of the peer.
    pub(crate) fn connect(&mut self, other: &End) -> Result<(), Failure> {
        let (reads, answers) = self.end.reads_with(other);
        let path = Path {
            port: self.device.port,
            gid_index: self.gid.index,
            global: self.device.ethernet || other.lid == 0,
            gid: other.gid,
            lid: other.lid,
            number: other.number,
            psn: other.psn,
            mtu: self.end.mtu.min(other.mtu),
            reads: answers,
            class: self.device.class,
        };
        let psn = self.end.psn;
        self.step(State::ReadyToReceive, |pair, _| pair.to_ready_to_receive(&path))?;
        self.step(State::ReadyToSend, |pair, _| pair.to_ready_to_send(psn, reads))
    }

    /// Connects it to the other end that the connection manager heard from.
    pub(crate) fn follow(&mut self, id: &Id) -> Result<(), Failure> {
        let iwarp = self.device.iwarp;
        self.step(State::ReadyToReceive, |pair, device| if iwarp { Ok(()) } else { pair.to_ready_to_receive_by(id, device.class) })?;
        self.step(State::ReadyToSend, |pair, _| if iwarp { Ok(()) } else { pair.to_ready_to_send_by(id) })
    }

    /// The manager ends a connection whose identifier goes away, so that lives as long as the queue pair.
    pub(crate) fn keep(&mut self, id: Id) {
        self.id = Some(id);
    }

    /// Hands the chain to the device; only when ready to send.
    pub(crate) fn post(&mut self, chain: &mut Chain) -> Result<(), Refused> {
        match &self.pair {
            Some(pair) if self.state == State::ReadyToSend => pair.post(chain),
            _ => {
                chain.clear();
                let words = format!("the queue pair is not ready to send but in {:?}", self.state);
                Err(Refused { posted: 0, cause: io::Error::new(io::ErrorKind::NotConnected, words) })
            }
        }
    }

    /// Gives it up: nothing more is posted, and what was comes back flushed.
    pub(crate) fn fail(&mut self) {
        if let Err(cause) = self.step(State::Error, |pair, _| pair.to_error())
            && self.state.leads_to(State::Error)
        {
            // The device gave it up already, or is gone.
            tracing::debug!("RDMA: {}", cause.cause);
            self.state = State::Error;
        }
    }

    /// Takes everything away from the device: when this returns, it touches nothing that was posted.
    pub(crate) fn drain(&mut self) {
        self.fail();
        if let Some(id) = &self.id {
            id.disconnect();
        }
        self.pair = None;
        self.id = None;
        self.state = State::Drained;
    }

    fn step(&mut self, next: State, how: impl FnOnce(&QueuePair, &Device) -> io::Result<()>) -> Result<(), Failure> {
        let name = &self.device.name;
        if !self.state.leads_to(next) {
            return Err(unreachable(format!("{name}: a queue pair in {:?} cannot become {next:?}", self.state)));
        }
        let Some(pair) = &self.pair else { return Err(unreachable(format!("{name}: a queue pair that is drained"))) };
        how(pair, &self.device).map_err(|e| unreachable(format!("{name}: a queue pair cannot become {next:?}: {e}")))?;
        self.state = next;
        Ok(())
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.drain();
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
        format!(
            "{name} gives no queue pair of these sizes, {capacity:?}: it takes at most {most} work requests, of at most {sges} stretches: {cause}"
        )
    } else {
        format!("{name} gives no further queue pair: it has at most {} in all, and their memory counts too: {cause}", limits.max_qp)
    }
}

/// Any number will do that an earlier connection between these two is not likely to have had.
fn random_psn() -> u32 {
    (uuid::Uuid::new_v4().as_u128() & 0xff_ffff) as u32
}

#[cfg(test)]
mod tests;
