//! Put, get, remove, exist: questions and answers. Answers to a batch are in the order of its keys.

use super::call;
use crate::{ObjectKey, ObjectPlace, Outcome, PutConfig, ReplicaPlace, Tso, WriterId};
use serde::{Deserialize, Serialize};

/// Asks for room for values. Nothing is visible before [`PutEnd`]. Asked again by the same writer, as when the first answer was lost, it is
/// given the same room, and has it for as long as if it were new.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutStart {
    /// Keys and sizes in bytes.
    #[serde(deserialize_with = "super::items")]
    pub puts: Vec<(ObjectKey, u64)>,
    /// How to store all of them.
    pub config: PutConfig,
    /// Who asks.
    pub writer: WriterId,
}
// 20 was the same without a writer.
call!(PutStart = 29 "put_start" -> Vec<Outcome<PutGrant>>);

/// The right to write one value: valid until the put deadline of [`super::session::Welcome`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutGrant {
    /// Names this put, and becomes the version of the object.
    pub version: Tso,
    /// Where the copies go. Every one must be written in full.
    pub replicas: Vec<ReplicaPlace>,
}

/// Publishes written values. Repeating it is harmless.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutEnd {
    /// Key, version granted, and [`crate::checksum`] of the value.
    #[serde(deserialize_with = "super::items")]
    pub puts: Vec<(ObjectKey, Tso, u64)>,
}
call!(PutEnd = 21 "put_end" -> Vec<Outcome<()>>);

/// Gives up puts and their room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutRevoke {
    /// Key and version granted.
    #[serde(deserialize_with = "super::items")]
    pub puts: Vec<(ObjectKey, Tso)>,
}
call!(PutRevoke = 22 "put_revoke" -> Vec<Outcome<()>>);

/// Where objects are; grants a lease on each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locate {
    /// Which.
    #[serde(deserialize_with = "super::items")]
    pub keys: Vec<ObjectKey>,
}
call!(Locate = 23 "locate" -> Vec<Outcome<ObjectPlace>>);

/// Whether objects exist and can be read; grants a lease on each that does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exists {
    /// Which.
    #[serde(deserialize_with = "super::items")]
    pub keys: Vec<ObjectKey>,
}
call!(Exists = 24 "exists" -> Vec<bool>);

/// How many keys exist, counted from the first until one is missing; grants leases on those.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatchPrefix {
    /// The chain of keys, head first.
    #[serde(deserialize_with = "super::items")]
    pub keys: Vec<ObjectKey>,
}
call!(MatchPrefix = 25 "match_prefix" -> u64);

/// Removes objects. A leased one is refused unless `force`; its bytes stay until the lease ends either way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remove {
    /// Which.
    #[serde(deserialize_with = "super::items")]
    pub keys: Vec<ObjectKey>,
    /// Even when leased.
    pub force: bool,
}
call!(Remove = 26 "remove" -> Vec<Outcome<()>>);

/// Removes every object of the tenant whose key matches; leased ones only with `force`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveMatching {
    /// A regular expression (linear time; the `regex` crate's syntax) searched for in the key. Empty matches all.
    pub pattern: String,
    /// Even when leased.
    pub force: bool,
}
call!(RemoveMatching = 27 "remove_matching" -> u64, LONG);

/// Lists keys, a page at a time, in no particular order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListKeys {
    /// A regular expression, or empty for all.
    pub pattern: String,
    /// Stop after so many; 0 means the server's limit.
    pub limit: u64,
}
call!(ListKeys = 28 "list_keys" -> KeyList, LONG);

/// Keys, and whether there are more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyList {
    /// Keys with the sizes of their values.
    pub keys: Vec<(ObjectKey, u64)>,
    /// Whether the limit cut the list.
    pub more: bool,
}
