//! What the client knows of the master: how to ask it, and when to ask again.

#[cfg(test)]
pub(crate) mod fake;
mod link;
mod retry;
mod wire;

pub(crate) use link::Link;
pub(crate) use retry::{Master, Repeated};
