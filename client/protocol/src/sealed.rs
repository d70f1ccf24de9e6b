//! A secret as it is kept in the log and in snapshots: unreadable without the masters' key.

use serde::{Deserialize, Serialize};
use std::fmt;

/// AES-256-GCM of a secret, bound to the place it belongs to. Made and opened by `perilune-vault`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// Which key opens it.
    pub key: u32,
    /// Drawn for it alone.
    pub nonce: [u8; 12],
    /// The sealed bytes, with the tag behind them.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed(key {:08x})", self.key)
    }
}
