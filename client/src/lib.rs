//! The store library and the store node.
//!
//! ```text
//! Store (store.rs)  put.rs ─┐                       ┌─ master/   one question, one answer, repeated while that is safe
//!                   get.rs ─┼─ places.rs segments.rs ┤
//!                           │  what was learned      └─ the transfer engine moves the bytes
//! StoreNode (node/) ────────┘  lends memory: record.rs keeps what survives a kill, beat.rs tells the master, rest/ is its HTTP
//! ```
//! Everything blocks the calling thread and nothing needs an async runtime, except [`StoreNode`]'s HTTP.

mod batch;
mod config;
mod get;
mod master;
mod node;
mod observe;
mod places;
mod put;
mod rest;
mod segments;
mod store;
pub mod token;
mod transports;
mod watch;

pub use config::StoreConfig;
pub use get::Part;
pub use node::{NodeConfig, StoreNode};
pub use perilune_protocol as protocol;
pub use perilune_transfer_engine as transfer_engine;
pub use store::{Put, Store};
pub use transports::Transports;
pub use watch::{Since, Watch};
