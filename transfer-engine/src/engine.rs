//! The engine: lend memory, reach the memory of others, move bytes, wait for them.

use crate::builder::EngineBuilder;
use crate::completion::Ticket;
use crate::fault::EngineError;
use crate::memory::Memory;
use crate::observe::Counters;
use crate::request::{Job, Outcome, Request};
use crate::segment::Segment;
use perilune_protocol::{Capability, Endpoint, SegmentDesc, SegmentId};
use std::sync::Arc;
use std::time::Duration;

/// Moves bytes between this process and segments, and serves the segments it exports. Cheap to clone; stops when the last clone drops.
#[derive(Clone)]
pub struct Engine {
}

impl Engine {
    /// Settings to start from.
    pub fn builder() -> EngineBuilder {
        EngineBuilder::default()
    }

    pub(crate) fn start(_settings: EngineBuilder) -> Result<Self, EngineError> {
        todo!()
    }

    /// Where peers reach the segments exported here: what a [`SegmentDesc`] carries. Ports are the real ones.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        todo!()
    }

    /// Lends `memory` as segment `id` to whoever presents `capability`.
    ///
    /// # Errors
    /// When the id is already lent.
    pub fn export(&self, _id: SegmentId, _memory: Arc<Memory>, _capability: Capability) -> Result<(), EngineError> {
        todo!()
    }

    /// Ends the loan: after this returns no byte moves into or out of the segment. False when it was not lent.
    pub fn withdraw(&self, _id: SegmentId) -> bool {
        todo!()
    }

    /// A handle of a remote segment. Connects on first use: by shared memory when the peer is on this host and reachable so, else by TCP.
    pub fn connect(&self, _desc: &SegmentDesc) -> Segment {
        todo!()
    }

    /// Runs jobs on the calling thread's time until each is done or `deadline` has passed; one outcome per job, in their order.
    pub fn run(&self, _jobs: &mut [Job<'_>], _deadline: Duration) -> Vec<Outcome> {
        todo!()
    }

    /// Starts requests and returns at once; the ticket says when they are done.
    ///
    /// # Safety
    /// Each local slice stays valid until the ticket is done or dropped, and nobody else uses a slice that is read into.
    pub unsafe fn submit(&self, _requests: Vec<Request>, _deadline: Duration) -> Ticket {
        todo!()
    }

    /// Registers a local buffer with every transport. Not needed for TCP and shared memory; makes RDMA fast. O(log n).
    ///
    /// # Safety
    /// The buffer stays valid until it is unregistered.
    ///
    /// # Errors
    /// When the buffer is empty or overlaps a registered one.
    pub unsafe fn register(&self, _ptr: *mut u8, _len: usize) -> Result<(), EngineError> {
        todo!()
    }

    /// Takes the registration of the buffer that starts at `ptr` back.
    ///
    /// # Errors
    /// When no registered buffer starts there.
    pub fn unregister(&self, _ptr: *mut u8) -> Result<(), EngineError> {
        todo!()
    }

    /// Transfers so far, per transport, operation and outcome.
    pub fn counters(&self) -> Counters {
        todo!()
    }
}
