//! Names of things: one newtype each, no bare integers or strings.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A fresh random id.
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }
    };
}

uuid_id!(
    /// A stretch of registered memory that one store node lends.
    SegmentId
);
uuid_id!(
    /// A store node; kept across its restarts.
    NodeId
);

uuid_id!(
    /// A process of a store node: another with each start.
    RunId
);

uuid_id!(
    /// One attempt to put values: asked again with the same id, a master gives the same room again.
    WriterId
);

uuid_id!(
    /// One upload of one version of an object into a vault; never used again.
    ColdName
);

/// A key space. The tenant `default` is number 0 and always exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TenantId(pub u32);

/// A place outside memory where a tenant's objects may lie. Numbers are never given twice, in the whole cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VaultId(pub u64);

impl fmt::Display for VaultId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The right to read and write one segment: 128 random bits that its store node checks before any byte moves.
/// Dropped with the segment. Never printed.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capability(pub u128);

impl Capability {
    /// A fresh random capability.
    pub fn random() -> Self {
        Self(Uuid::new_v4().as_u128() ^ Uuid::new_v4().as_u128().rotate_left(64))
    }
}

impl fmt::Debug for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Capability(***)")
    }
}

/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 4096;

/// A key: 1 to [`KEY_BYTES_MAX`] bytes, usually text. The bytes are not interpreted.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectKey(#[serde(with = "serde_bytes")] Box<[u8]>);

impl ObjectKey {
    /// Takes the bytes as they are; the master refuses a key that [`ObjectKey::check`] refuses.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes of the key.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Says what is wrong with this key, if anything.
    pub fn check(&self) -> Result<(), crate::Fault> {
        match self.0.len() {
            0 => Err(crate::FaultCode::InvalidParams.with("the key is empty")),
            1..=KEY_BYTES_MAX => Ok(()),
            n => Err(crate::FaultCode::InvalidParams.with(format!("the key has {n} bytes, the limit is {KEY_BYTES_MAX}"))),
        }
    }
}

impl From<&str> for ObjectKey {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().into())
    }
}

impl From<String> for ObjectKey {
    fn from(text: String) -> Self {
        Self(text.into_bytes().into())
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        String::from_utf8_lossy(&self.0).fmt(f)
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}
