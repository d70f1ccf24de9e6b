//! The door of the data path: accepts, reads frames, answers. Answers leave in the order they are ready.

mod connection;
pub(crate) mod handlers;
mod may;
pub(crate) mod server;
