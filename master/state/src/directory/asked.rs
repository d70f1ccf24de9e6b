//! What is asked of pools, and why it is refused.

use super::decide::TEXT_BYTES_MAX;
use super::pool::{NodeKind, PoolKind, PoolRecord, PoolStatus};

/// Why a pool is as it was. Faces say it in their own words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolRefused {
    /// There is none of this id and name.
    #[error("there is no such pool")]
    Unknown,
    /// The tenant has one of this id.
    #[error("there is a pool {0} already")]
    IdTaken(String),
    /// The tenant has one of this name.
    #[error("there is a pool called {0} already")]
    NameTaken(String),
    /// It is called so already.
    #[error("the pool is called so already")]
    SameName(Box<PoolRecord>),
    /// Names of pools are letters, digits and `_`, and begin with a letter.
    #[error("a pool is called by letters, digits and _, beginning with a letter, in up to {TEXT_BYTES_MAX} bytes")]
    Name,
    /// Frontends have one master, or, where they elect it, none.
    #[error("frontends have one master or elect it: there are {masters} masters and {followers} that elect")]
    Masters {
        /// Nodes that say they are it.
        masters: usize,
        /// Nodes that elect.
        followers: usize,
    },
    /// The nth node says too little of itself, or nonsense.
    #[error("node {0} is not described: it needs a unique id, an address and what it is")]
    BadNode(usize),
    /// The nth node has no port.
    #[error("node {0} has no port")]
    NoPort(usize),
    /// Another tenant's node presents the same.
    #[error("{unique_id} is registered for another tenant")]
    Occupied {
        /// What both present.
        unique_id: String,
        /// The other one's pool.
        pool: Box<PoolRecord>,
    },
    /// A node of the tenant is there already.
    #[error("a node at {0} is registered already")]
    EndpointTaken(String, PoolKind),
    /// No such node is registered in the pool.
    #[error("{0} is not registered there")]
    NoNode(String),
    /// No node is named.
    #[error("no node is named")]
    NoNodes,
    /// Frontends were registered a moment ago.
    #[error("frontends are kept for a while after they were registered: try later")]
    TooYoung(Box<PoolRecord>),
    /// No user is named.
    #[error("no user is named")]
    NoUsers,
    /// Only pools of store nodes have it.
    #[error("only a pool of store nodes can be so")]
    NotCompute,
    /// It is so already.
    #[error("the pool is so already")]
    SameStatus(PoolStatus),
    /// It cannot become so from what it is.
    #[error("a pool cannot become so from what it is")]
    Status(PoolStatus),
}

/// A pool that is meant.
#[derive(Clone, Copy, Debug)]
pub struct Meant<'a> {
    /// Whose.
    pub tenant: &'a str,
    /// Its id.
    pub cluster_id: &'a str,
    /// Its name; empty: whatever it is.
    pub name: &'a str,
}

/// A node as somebody describes it.
#[derive(Clone, Debug)]
pub struct Described {
    /// What it presents.
    pub unique_id: String,
    /// Where it is; this or `host`.
    pub ip: String,
    /// The name of the machine.
    pub host: String,
    /// Its port.
    pub port: Option<u16>,
    /// What it is, as far as somebody said.
    pub kind: Option<NodeKind>,
}
