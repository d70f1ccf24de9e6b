//! What a value is known by, over all tenants.

use perilune_protocol::{ObjectKey, TenantId};
use std::fmt;

/// A key, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) tenant: TenantId,
    pub(super) key: ObjectKey,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of tenant {}", self.key, self.tenant.0)
    }
}
