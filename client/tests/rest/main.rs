//! The store over REST: every request of the service's document, the transcripts of the original, and what bad input gets.

#[path = "../cluster/mod.rs"]
mod cluster;
mod http;
mod memory;
mod objects;
