//! What is asked of pools and vaults, and why it is refused.

use super::decide::TEXT_BYTES_MAX;
use super::pool::{NodeKind, NodeRecord, PoolKind, PoolRecord, PoolStatus};
use super::vault::Secret;
use perilune_protocol::sealed::Sealed;
use perilune_protocol::vault::VaultTarget;
use perilune_protocol::{Outcome, TenantId, VaultId};
use std::fmt;

/// Vaults that a tenant has: objects may lie in each of them.
pub(super) const VAULTS_MAX: usize = 10;

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
    /// A node that presents the same is registered: of another tenant, or at the same place.
    #[error("{unique_id} is registered already")]
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
    TooYoung(Box<PoolRecord>, Box<NodeRecord>),
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

/// An access key with its secret key, as somebody says them. Never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Pair {
    /// Whose they are; may be empty.
    pub user_id: String,
    /// The access key's name.
    pub ak: String,
    /// The secret key.
    pub sk: String,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pair({:?}, masked)", self.user_id)
    }
}

/// Has the key of the masters' secrets.
pub trait Keeper: Send + Sync {
    /// A key for a tenant, sealed.
    ///
    /// # Errors
    /// When there is no key to seal with.
    fn tenant_key(&self, tenant: TenantId) -> Outcome<Sealed>;
    /// Seals a pair for a vault, or for the tenant where its number is 0.
    ///
    /// # Errors
    /// When there is no key to seal with.
    fn seal(&self, tenant: TenantId, vault: VaultId, pair: &Pair) -> Outcome<Secret>;
    /// Opens what was sealed.
    ///
    /// # Errors
    /// When its key is not here, or it was altered.
    fn open(&self, tenant: TenantId, vault: VaultId, secret: &Secret) -> Outcome<Pair>;
}

/// A vault that is to be.
#[derive(Clone, Debug)]
pub struct NewVault {
    /// Its name; empty where the tenant's have none.
    pub name: String,
    /// Where it is.
    pub target: VaultTarget,
    /// What requests are signed with.
    pub pair: Option<Pair>,
}

/// What lies in a vault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lies {
    /// Objects with a copy there, in memory as well or not, or soon with one.
    pub objects: u64,
    /// Checkpoints, and uploads that some name.
    pub checkpoints: u64,
}

impl fmt::Display for Lies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { objects, checkpoints } = self;
        if *objects > 0 {
            return write!(
                f,
                "{objects} objects lie in the vault: `perilune offload --from` brings them to the newest one, and `perilune rm` removes what cannot be \
                 read any more"
            );
        }
        write!(
            f,
            "checkpoints lie in the vault, or name {checkpoints} uploads there: make newer ones (`perilune vaults checkpoint`) until none of them is kept"
        )
    }
}

/// Why the cold tier of a tenant is as it was. Faces say it in their own words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultRefused {
    /// There is none of this name or number.
    #[error("there is no vault {0}")]
    Unknown(String),
    /// There is one of this name.
    #[error("there is a vault {0} already")]
    NameTaken(String),
    /// It is called so already, or is to be called nothing.
    #[error("a vault needs a name of 1 to 128 letters, digits, - and _, beginning with a letter")]
    Name,
    /// The tenant has as many as it may.
    #[error("a tenant has up to {VAULTS_MAX} vaults")]
    Full,
    /// There is one with the same of everything.
    #[error("there is the very same vault already")]
    Same,
    /// The pair is the one that is there.
    #[error("the keys are the ones that are there")]
    SamePair,
    /// The tenant's vaults have names, and this one would have none.
    #[error("the vaults of this tenant have names: give this one a name")]
    Named,
    /// The tenant's vaults have no names, and this one would have one.
    #[error("the vaults of this tenant have no names")]
    Nameless,
    /// It is a bucket and was meant as a file system, or the other way round.
    #[error("the vault {0} is of the other kind")]
    OtherKind(String),
    /// Something lies there.
    #[error("{0}")]
    InUse(Lies),
    /// The tenant has no credentials for buckets of others.
    #[error("the tenant has no ram user")]
    NoRamUser,
    /// They are of another user.
    #[error("the ram user of the tenant is another one")]
    OtherRamUser,
    /// A vault has no user, so it is not clear whose pair is meant for it.
    #[error("a vault has no user: give one pair for all")]
    WhosePair,
    /// No vault has one of these users.
    #[error("no vault has this user")]
    NoUser,
    /// It is so already.
    #[error("encryption is so already")]
    SameSse(bool),
}
