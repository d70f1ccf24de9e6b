//! What goes to vaults and comes back: orders of a master for store nodes, and what callers ask of a master.

use super::call;
use crate::{ColdName, Extent, NodeId, ObjectKey, Outcome, ReplicaPlace, SegmentDesc, TenantId, Tso, VaultId};
use serde::{Deserialize, Serialize};

/// As [`super::work::TakeWork`], for work that waits for vaults: other work never waits for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeCold {
    /// The node that asks.
    pub node: NodeId,
    /// What was finished since it last asked.
    #[serde(deserialize_with = "super::items")]
    pub done: Vec<ColdDone>,
    /// How many orders it takes.
    pub room: u32,
    /// Milliseconds.
    pub wait_ms: u64,
}
// What is not waited for would be lost with the orders in it.
call!(TakeCold = 80 "take_cold" -> Vec<ColdOrder>, LONG);

/// A value to be moved between the memory of a node and a vault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColdOrder {
    /// Names the order, in this cluster for good.
    pub id: u64,
    /// Milliseconds from when it was asked for until which it may be worked on; after that not a byte may be written to memory.
    pub limit_ms: u64,
    /// Where to.
    pub way: ColdWay,
    /// Where it is in memory, or is to be, on a segment of the node that is asked. For [`ColdWay::Through`] nowhere: no extents,
    /// and no segment.
    pub place: ReplicaPlace,
    /// The vault.
    pub vault: VaultId,
    /// How often what opens the vault has changed: a node that knows an older one asks anew.
    pub revision: u64,
    /// The upload.
    pub name: ColdName,
    /// Whose the value is.
    pub tenant: TenantId,
    /// Its key.
    pub key: ObjectKey,
    /// Its version.
    pub version: Tso,
    /// Bytes of it.
    pub size: u64,
    /// [`crate::checksum`] of it.
    pub checksum: u64,
}

/// Which way a value goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ColdWay {
    /// From memory to the vault.
    Up,
    /// From the vault to memory.
    Down,
    /// Some bytes from the vault to where a reader takes them, without a copy that others could read.
    Through {
        /// Where they begin in the value.
        offset: u64,
        /// How many.
        len: u64,
        /// What the reader has taken ([`Passed::ticket`]): its room is free again. 0: nothing.
        taken: u64,
    },
}

/// An order that was worked on. Nothing is read or written for it any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColdDone {
    /// Which.
    pub id: u64,
    /// What came of it.
    pub outcome: ColdOutcome,
}

/// What came of an order. Sentences say what was wrong, where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ColdOutcome {
    /// All of it is there: acknowledged by the vault, or in memory with the checksum.
    Done {
        /// Bytes that it takes in the vault.
        stored: u64,
    },
    /// What is in memory is not the value (any more); nothing was made of it.
    Wrong(String),
    /// What is in the vault is not what was put there, or is not there.
    Lost(String),
    /// The vault was slow, or is not reached.
    Away(String),
    /// The vault refuses what opens it, or is not there.
    Refused(String),
    /// The node could not do it, for a reason of its own.
    Failed(String),
    /// The bytes of [`ColdWay::Through`] can be taken.
    Passed(Box<Passed>),
    /// As much is being read through the node as it has room for.
    Busy(String),
}

/// Bytes of a value that a reader may take for [`Passed::VALID_MS`]; then other bytes may be in their place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    /// Memory of the node that only such bytes lie in.
    pub segment: SegmentDesc,
    /// Where in it.
    pub extent: Extent,
    /// [`crate::checksum`] of these bytes alone. They are of pieces whose checksums were right, which together have the value's.
    pub checksum: u64,
    /// Names them, to that node.
    pub ticket: u64,
}

impl Passed {
    /// Milliseconds.
    pub const VALID_MS: u64 = 2000;
    /// No more bytes are passed at a time.
    pub const BYTES_MAX: u64 = 8 << 20;
}

/// Has objects fetched that are only in a vault, and waits until they are in memory. What is there by then can be located as ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recall {
    /// Which.
    #[serde(deserialize_with = "super::items")]
    pub keys: Vec<ObjectKey>,
    /// Milliseconds.
    pub wait_ms: u64,
}
call!(Recall = 81 "recall" -> Vec<Outcome<()>>, LONG);

/// Asks for bytes of an object out of its vault, to be taken at once: no copy of it comes to memory for them.
///
/// Faults: `NoReadableReplica` when the vault or its nodes do not give them, `NoSpace` when too many readers are at it (ask again), `WrongState`
/// when the object is not in a vault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadThrough {
    /// Which.
    pub key: ObjectKey,
    /// Where the bytes begin.
    pub offset: u64,
    /// How many, up to [`Passed::BYTES_MAX`]; fewer come where the value ends before.
    pub len: u64,
    /// The ticket of what was taken before; 0: of nothing.
    pub taken: u64,
    /// Milliseconds.
    pub wait_ms: u64,
}
call!(ReadThrough = 88 "read_through" -> Through, LONG);

/// Some bytes of a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Through {
    /// Bytes of the whole value.
    pub size: u64,
    /// [`crate::checksum`] of the whole value.
    pub checksum: u64,
    /// Those that were asked for.
    pub passed: Passed,
}

/// Has all that the caller's tenant has in memory, and that is not in its vault yet, brought there, and waits for it for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offload {
    /// Milliseconds.
    pub wait_ms: u64,
}
call!(Offload = 89 "offload" -> Offloaded, LONG);

/// Has all that lies in one of the vaults of the caller's tenant brought to the vault where new objects go, and waits for it for a while. What is not
/// in memory is fetched for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffloadFrom {
    /// The name of the vault.
    pub vault: String,
    /// Milliseconds.
    pub wait_ms: u64,
}
call!(OffloadFrom = 85 "offload_from" -> Offloaded, LONG);

/// Asks which copies objects have in vaults. No vault is asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Which objects.
    #[serde(deserialize_with = "super::items")]
    pub keys: Vec<ObjectKey>,
}
call!(Saved = 84 "saved" -> Vec<Option<SavedCopy>>);

/// The copy of an object in a vault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedCopy {
    /// Which vault.
    pub vault: VaultId,
    /// What it is called; empty where it has no name.
    pub vault_name: String,
    /// The upload.
    pub name: ColdName,
    /// Bytes that it takes there.
    pub stored: u64,
}

/// What of a tenant is where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offloaded {
    /// Objects that are in memory only; to [`OffloadFrom`], those that are in that vault.
    pub left: u64,
    /// Bytes of those.
    pub left_bytes: u64,
    /// Objects that are in a vault, in memory as well or not.
    pub saved: u64,
    /// Objects that are in a vault only.
    pub cold: u64,
    /// What went wrong last, of anybody's; empty where nothing did.
    pub last_error: String,
}

/// What the cold tier as a whole is asked, by a store node on behalf of somebody who looks at its page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Remote {
    /// Who collects garbage.
    Owner,
    /// Everything is to be brought there.
    Upload,
    /// What is in the vaults; all of them, or these.
    Info(Option<Vec<u64>>),
}
call!(Remote = 83 "remote" -> RemoteAnswer, LONG);

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RemoteAnswer {
    /// There is no cold tier.
    None,
    /// `host:port` of the master that collects; empty where none does at the moment.
    Owner(String),
    /// Whether it will be.
    Upload(bool),
    /// As on the masters' page, in JSON.
    Info(String),
}
