//! How a store node gets at the vaults of its tenant.

use super::call;
use crate::sealed::Sealed;
use crate::vault::VaultTarget;
use crate::{NodeId, TenantId, VaultId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What opens a vault. Told to a node that lends memory to the tenant whose vault it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultKeys {
    /// The node that asks.
    pub node: NodeId,
    /// Which.
    pub vault: VaultId,
}
call!(VaultKeys = 82 "vault_keys" -> VaultAccess);

/// What a node needs to open a vault, as of now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultAccess {
    /// Which.
    pub vault: VaultId,
    /// Whose.
    pub tenant: TenantId,
    /// How often what stands here has changed.
    pub revision: u64,
    /// Where it is.
    pub target: VaultTarget,
    /// Whether what is written is encrypted.
    pub sse: bool,
    /// What requests are signed with, and the tenant's key.
    pub secrets: Passed,
}

/// Secrets on their way; packed by `perilune-vault`, which opens them again.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Passed {
    /// To one who was asked for no token: as they are.
    Plain(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Sealed under the token of the one who asks.
    Sealed(Sealed),
}

impl fmt::Debug for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passed(masked)")
    }
}
