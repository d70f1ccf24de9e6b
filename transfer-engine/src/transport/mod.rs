//! The one small trait every way of moving bytes implements.
//!
//! Ownership of a [`Work`] is the right to touch its local buffers. It goes in by [`Transport::submit`] and comes back exactly once:
//! in a [`Completion`], or from [`Transport::cancel`]. After it came back the transport never touches those buffers again. Those of a [`Single`]
//! are its caller's until [`Transport::dash`] returns; when that says [`Dash::UnderWay`], they are those of the work that it asked for.

mod door;
pub mod fake;
#[cfg(feature = "rdma")]
pub(crate) mod rdma;
mod registry;
pub(crate) mod shm;
pub(crate) mod tcp;
mod teller;

pub use crate::fault::Failure;
pub use crate::lane::Wake;
pub use crate::lane::work::Work;
pub use crate::memory::{Region, copy};
pub use crate::request::Single;
pub(crate) use registry::families;

use crate::fault::EngineError;
use crate::segment::Export;
use perilune_protocol::{Endpoint, SegmentId};
use std::any::Any;
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where a transport finds a peer. Only the family that made it knows what the bytes mean.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(pub Arc<[u8]>);

impl Address {
    /// An address that is text.
    pub fn from_text(text: &str) -> Self {
        Self(text.as_bytes().into())
    }

    /// For messages.
    pub fn display(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }
}

/// A peer one transport knows, by the number it gave it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Peer(pub u32);

/// What a transport can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// How many pieces of work it holds at most at one time.
    pub depth: usize,
    /// Whether local buffers should be registered before they are used.
    pub registers: bool,
}

/// Work a transport gives back: done, or failed.
#[derive(Debug)]
pub struct Completion {
    /// What was asked.
    pub work: Box<Work>,
    /// `Ok` once the bytes are visible: in the local buffers of a read, in the segment of a write.
    pub outcome: Result<(), Failure>,
}

/// What became of a [`Transport::dash`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dash {
    /// The bytes are visible, as after a [`Completion`].
    Done,
    /// The transport has the work.
    UnderWay,
    /// It did not move, or not all of it, and nothing of it does any more.
    Refused,
}

/// One lane's way of moving bytes. Only the thread that drives the lane calls it, so it needs no locks.
pub trait Transport: Send {
    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Makes local memory ready for transfers. Called once for each region and lane.
    ///
    /// # Errors
    /// When the device refuses; the region is then unknown to it.
    fn register(&mut self, region: Region) -> Result<(), Failure>;

    /// Forgets a region that was registered.
    fn unregister(&mut self, region: Region);

    /// The peer at `address`. Cheap when known, and never waits: the connection is made when work for it is submitted.
    ///
    /// # Errors
    /// When no connection can be tried.
    fn connect(&mut self, address: &Address) -> Result<Peer, Failure>;

    /// Takes work from the front of `queue` and returns how much it took. What is done at once goes to `done` right away; a transport that
    /// moves bytes here stops after some and leaves the rest for the next call, so that the lane can look after others in between.
    /// One that leaves work for any other reason than that is full must have added to `done`: else the lane may sleep. `now` was read just
    /// before: nothing whose deadline it has reached is here.
    fn submit(&mut self, queue: &mut VecDeque<Box<Work>>, now: Instant, done: &mut Vec<Completion>) -> usize;

    /// The short way of one operation, tried while this transport has nothing else under way. Begins it if that can be done at once, and waits
    /// for its end no longer than it pays to stay awake. Only when it goes on after that the transport asks for its `work`, saying since when it
    /// waits, and keeps it as if it had been submitted. From what fails here nothing is left under way: it is refused, and tried again the long way.
    fn dash(&mut self, _address: &Address, _single: &Single<'_>, _work: &mut dyn FnMut(Instant) -> Box<Work>) -> Dash {
        Dash::Refused
    }

    /// Moves bytes and adds what is done. With nothing to report it sleeps until there is, [`Wake`] fires, or `wait` is over; it may return early.
    fn poll(&mut self, done: &mut Vec<Completion>, wait: Duration);

    /// Gives work that `chosen` chooses back unfinished, each piece with a phrase on how far it came. Asks it of every piece that is here.
    fn cancel(&mut self, chosen: &mut dyn FnMut(&Work) -> bool, back: &mut Vec<(Box<Work>, String)>);

    /// A descriptor that becomes readable when [`Transport::poll`] has something to do. Without one it is polled every millisecond
    /// while work is under way on another transport of the lane too.
    /// Asked right before the lane sleeps on it: from here on everything that comes must make it readable, or fire the wake.
    fn readiness(&mut self) -> Option<BorrowedFd<'_>>;

    /// How long from `now` on it may go without [`Transport::poll`] though nothing becomes readable. Asked before [`Transport::readiness`].
    fn may_rest(&self, _now: Instant) -> Duration {
        Duration::MAX
    }
}

/// What a family holds of a registered buffer.
pub type Prepared = Arc<dyn Any + Send + Sync>;

/// All of one way of moving bytes: understands its endpoints and makes one transport for each lane.
pub trait Family: Send + Sync {
    /// `tcp`, `shm`, ...
    fn name(&self) -> &'static str;

    /// The address behind an endpoint, if it is one of this family's and can be reached from here.
    fn address(&self, endpoint: &Endpoint) -> Option<Address>;

    /// A transport for one lane. Its [`Transport::poll`] returns when `wake` fires, and clears it.
    ///
    /// # Errors
    /// What the system said.
    fn open(&self, wake: &Arc<Wake>) -> std::io::Result<Box<dyn Transport>>;

    /// Does what all lanes share of registering `region`, before they are told of it, on the thread of the caller. It is kept until every
    /// lane has forgotten the region.
    ///
    /// # Errors
    /// When the device refuses.
    fn prepare(&self, _region: Region) -> Result<Option<Prepared>, Failure> {
        Ok(None)
    }
}

/// The serving side of a way of moving bytes; stops when dropped.
pub(crate) trait Server: Send + Sync {
    /// Where peers find it.
    fn endpoint(&self) -> Endpoint;

    /// Makes an exported segment's memory reachable this way too, where that takes more than the export.
    ///
    /// # Errors
    /// When the memory cannot be registered.
    fn lend(&self, _id: SegmentId, _export: &Arc<Export>) -> Result<(), EngineError> {
        Ok(())
    }

    /// Called after the segment's gate was closed; returns when no peer can reach its bytes any more.
    fn withdraw(&self, id: SegmentId);
}
