//! The key of the index: a tenant's key bytes, shared by the index, the object and the order of eviction.

use papaya::Equivalent;
use perilune_protocol::{ObjectKey, TenantId};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// An owned key. Cloning shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    tenant: TenantId,
    bytes: Arc<[u8]>,
}

/// A key to look up with; borrows the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyRef<'a> {
    /// Whose.
    pub tenant: TenantId,
    /// Which.
    pub bytes: &'a [u8],
}

impl Key {
    /// The same key, borrowed.
    pub fn as_ref(&self) -> KeyRef<'_> {
        KeyRef { tenant: self.tenant, bytes: &self.bytes }
    }

    /// The form that crosses process boundaries.
    pub fn to_object_key(&self) -> ObjectKey {
        ObjectKey::new(&*self.bytes)
    }
}

impl<'a> KeyRef<'a> {
    /// A tenant's key.
    pub fn new(tenant: TenantId, key: &'a ObjectKey) -> Self {
        Self { tenant, bytes: key.as_bytes() }
    }

    /// An owned copy.
    pub fn to_owned(self) -> Key {
        Key { tenant: self.tenant, bytes: self.bytes.into() }
    }
}

// Must agree with the derived Hash of `KeyRef`: the index hashes one to find the other.
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_ref().hash(state);
    }
}

impl Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        *self == key.as_ref()
    }
}
