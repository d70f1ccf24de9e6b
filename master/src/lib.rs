//! The body of the master: log, RPC, HTTP faces, background work.
#![forbid(unsafe_code)]

pub mod log;
