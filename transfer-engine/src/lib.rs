//! Moves bytes between the memories of processes; knows no key and no tenant.
//!
//! A transfer flows in one direction: a caller's request ([`Job`] or [`Request`]) becomes work on a lane ([`lane`]),
//! the lane hands it to a transport ([`transport`]), the transport's completions come back to the lane,
//! and the lane resolves the caller's ticket ([`completion`]). One operation alone takes the same way without being written down
//! ([`Engine::run_one`]; "The short way" in `lane/mod.rs`).
//! In the other direction stand the exports ([`segment`]): memory this process lends, which each transport's server reads and writes.

mod builder;
mod completion;
mod engine;
mod fault;
mod lane;
mod memory;
mod notice;
mod observe;
mod rdma;
mod registered;
mod request;
mod segment;
pub mod transport;

pub use builder::EngineBuilder;
pub use completion::Ticket;
pub use engine::Engine;
pub use fault::{EngineError, MemoryError, TransferError, TransferErrorKind};
pub use memory::{Memory, MemoryIdentity, host_id};
pub use notice::{Notice, Notices};
pub use observe::{Counted, Counters, OpCounts, TransportCounts};
pub use rdma::{RdmaConnection, RdmaCounts, RdmaDevice, RdmaGid, RdmaSettings, RdmaStatus, rdma_counts, rdma_objects, rdma_status};
pub use request::{Job, LocalSlice, Op, Outcome, Request};
pub use segment::Segment;
