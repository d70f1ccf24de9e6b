//! The key of the index: a tenant's key bytes. Each object has them once, and the index finds it by them.

use papaya::Equivalent;
use perilune_protocol::{ObjectKey, TenantId};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// An owned key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    tenant: TenantId,
    bytes: Box<[u8]>,
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
    /// A tenant's key.
    pub fn new(tenant: TenantId, key: ObjectKey) -> Self {
        Self { tenant, bytes: key.into_bytes() }
    }

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

// Must agree with the derived Hash of `KeyRef`: a set hashes one to find the other.
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_ref().hash(state);
    }
}

/// What has a key.
pub(crate) trait Keyed {
    /// Always the same.
    fn key(&self) -> &Key;
}

/// An item of a map that is found by its own key.
pub(crate) struct ByKey<T>(pub(crate) Arc<T>);

/// What is found by its own key, and what is kept beside it. Lock-free.
pub(crate) type KeyMap<T, V> = papaya::HashMap<ByKey<T>, V, Hashing>;

/// Not the standard library's, which was more than half of the instructions of a lookup. Nobody chooses keys so that they meet in one place: it
/// is seeded at random as well; but the walks of a simulated run go as those of the run before.
#[cfg(not(feature = "simulation"))]
pub(crate) type Hashing = ahash::RandomState;
#[cfg(feature = "simulation")]
pub(crate) type Hashing = std::hash::BuildHasherDefault<std::hash::DefaultHasher>;

impl<T: Keyed> Hash for ByKey<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key().hash(state);
    }
}

impl<T: Keyed> PartialEq for ByKey<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0.key() == other.0.key()
    }
}

impl<T: Keyed> Eq for ByKey<T> {}

impl<T: Keyed> Equivalent<ByKey<T>> for KeyRef<'_> {
    fn equivalent(&self, item: &ByKey<T>) -> bool {
        *self == item.0.key().as_ref()
    }
}
