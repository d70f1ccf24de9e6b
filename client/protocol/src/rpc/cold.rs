//! What goes to vaults and comes back: orders of a master for store nodes, and what callers ask of a master.

use super::call;
use crate::{ColdName, NodeId, ObjectKey, Outcome, ReplicaPlace, TenantId, Tso, VaultId};
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
    /// Where it is in memory, or is to be, on a segment of the node that is asked.
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

/// Has all that the caller's tenant has in memory, and that is not in its vault yet, brought there, and waits for it for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offload {
    /// Milliseconds.
    pub wait_ms: u64,
}
call!(Offload = 89 "offload" -> Offloaded, LONG);

/// What of a tenant is where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offloaded {
    /// Objects that are in memory only.
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
