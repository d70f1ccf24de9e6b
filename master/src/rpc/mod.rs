//! The door of the data path: accepts, reads frames, answers. Answers leave in the order they are ready.

mod connection;
mod handlers;
pub(crate) mod server;
