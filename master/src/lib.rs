//! The body of the master: log, RPC, HTTP faces, background work. It never moves a user's bytes: it says where they are.
//!
//! ```text
//!  rpc/handlers ─┐                        ┌─► log ──► engine/brain ──► state::apply
//!  api/<face>   ─┼─► engine (clock, ids) ─┤
//!  work/*       ─┘                        └─► state: lookups, leases, room (soft, lock-free)
//! ```
//!
//! `boot` builds these in order and takes them down in reverse; it is the only room that knows all others.
#![forbid(unsafe_code)]

mod alive;
pub mod api;
pub mod boot;
pub mod config;
pub mod engine;
pub mod events;
mod feeds;
mod join;
pub mod log;
pub mod observe;
pub mod planted;
mod retrieve;
mod rpc;
mod secrets;
#[cfg(feature = "simulation")]
pub mod simulation;
mod work;

pub use boot::{Master, StartError};
pub use config::MasterConfig;
pub use engine::Engine;
pub use perilune_state::place::Placement;
pub use perilune_vault::Keys;
pub use retrieve::{FromVault, NotRetrieved, Restore, RetrieveError};
