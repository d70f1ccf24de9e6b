//! The body of the master: log, RPC, HTTP faces, background work.
#![forbid(unsafe_code)]

pub mod api;
pub mod log;
pub mod observe;
