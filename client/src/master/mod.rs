//! What the client knows of the master: how to ask it, and when to ask again.

#[cfg(test)]
pub(crate) mod fake;
mod group;
mod link;
mod retry;
mod silence;
mod wire;

use perilune_protocol::access::Token;
use perilune_protocol::rpc::session::Greet;

pub(crate) use link::Link;
pub(crate) use retry::{Master, Repeated};
pub(crate) use silence::Look;

/// What is said first on every connection.
#[derive(Clone)]
pub(crate) struct Caller {
    /// Who calls, where a master asks for it.
    pub(crate) token: Option<Token>,
    /// What calls, about whose keys, and as whom.
    pub(crate) greet: Greet,
}
