//! The door of the data path: accepts, reads frames, answers. Answers leave in the order they are ready.

mod connection;
pub(crate) mod handlers;
pub(crate) mod server;
