//! The store library and the store node against a real master, with real bytes.

mod bytes;
#[path = "../cluster/mod.rs"]
mod cluster;
mod copies;
mod node;
mod refusals;
mod survival;
