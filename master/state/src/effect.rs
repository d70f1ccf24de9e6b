//! What the log carries: results, not requests. Whoever proposed an effect has already decided; applying cannot fail,
//! it can only find that the world moved on and do nothing.

use crate::alloc::FrameRun;
use crate::checkpoints::Checkpoint;
use crate::directory::Change;
pub use perilune_protocol::event::RemoveReason;
use perilune_protocol::{ColdName, NodeId, ObjectKey, Pin, ReplicaPlace, SegmentDesc, SegmentId, TenantId, Tso, VaultId, WriterId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The first byte of every stored effect. A reader of a newer release still knows all older ones.
///
/// 2: settings. 3: an object remembers how many copies were wanted, and its copies change. 4: windows of frames.
/// 5: tenants. 6: pools. 7: vaults and tables. 8: changefeeds, checkpoints, and nodes that come and go. 9: whose the segment is that goes.
/// 10: a copy in a vault takes the place of another, and users change their pool. 11: a put is aborted.
pub(crate) const VERSION: u8 = 11;

/// One change of what must outlive the leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// An object is visible from now on, and replaces an older version of the same key.
    Commit(ObjectRecord),
    /// An object is gone; other versions of the key are not touched.
    Remove {
        /// Whose.
        tenant: TenantId,
        /// Which.
        key: ObjectKey,
        /// Which version of it.
        version: Tso,
        /// Why, for changefeeds and counters.
        reason: RemoveReason,
    },
    /// A node lends a segment, or tells how a known one is now reached.
    Mount(SegmentDesc),
    /// A segment serves reads only, and goes when its grace period ends.
    Drain {
        /// Which.
        segment: SegmentId,
        /// Milliseconds.
        grace_ms: u64,
    },
    /// A segment is gone, and with it every replica on it.
    Unmount {
        /// Which.
        segment: SegmentId,
    },
    /// The leader may allocate below `limit` in this segment. Until version 3; since then [`Effect::Frames`] says so.
    Window {
        /// Which.
        segment: SegmentId,
        /// Bytes from the start of the segment.
        limit: u64,
    },
    /// The leader may issue stamps up to this one.
    TsoLimit(Tso),
    /// A setting of the group.
    Setting {
        /// Which.
        key: String,
        /// What it is from now on; `None`: as if it had never been set.
        value: Option<String>,
    },
    /// Copies of an object came and went; nothing when this version of it is gone, or the segment of the new copy.
    ///
    /// Each says what there is on one segment from now on, whatever was there before, so any number of them applied once more, in order,
    /// to an object that has seen some of them ends where it was.
    Replicas {
        /// Whose.
        tenant: TenantId,
        /// Which.
        key: ObjectKey,
        /// Which version of it.
        version: Tso,
        /// A copy that was written and verified.
        add: Option<ReplicaPlace>,
        /// Where there is none any more.
        drop: Option<SegmentId>,
    },
    /// The window of a segment changes: in what frames the leader may allocate (DESIGN D4).
    Frames {
        /// Which segment.
        segment: SegmentId,
        /// It may from now on.
        open: Vec<FrameRun>,
        /// It may no longer, and nobody writes there any more.
        close: Vec<FrameRun>,
        /// A leader that is gone may have given room in these, and nobody does any more.
        inherit: Vec<FrameRun>,
    },
    /// The leader has seen so much time pass, on a monotonic clock and within its reign: the log's clock moves on. It is never ahead of what
    /// has really passed.
    Passed {
        /// Milliseconds.
        ms: u64,
    },
    /// The directory changes; nothing when it has already.
    Directory {
        /// Which change this is, counted from 1.
        revision: u64,
        /// What changes.
        change: Box<Change>,
    },
    /// As [`Effect::Mount`], which lends to `default`; a segment that is known stays whose it is.
    Lend {
        /// To whom.
        tenant: TenantId,
        /// What.
        desc: SegmentDesc,
    },
    /// The same by a node that presents something.
    LendAs {
        /// To whom.
        tenant: TenantId,
        /// What it presents.
        unique_id: String,
        /// What.
        desc: SegmentDesc,
    },
    /// A copy of an object came to a vault, or is lost there; nothing when this version of it is gone.
    Cold {
        /// Whose.
        tenant: TenantId,
        /// Which.
        key: ObjectKey,
        /// Which version of it.
        version: Tso,
        /// Which copy.
        copy: ColdCopy,
        /// The vault has acknowledged all of it, and its bytes had the checksum; else what is there of it is not what was put.
        there: bool,
    },
    /// An object has no copies in memory any more. Refused where it has none in a vault.
    Demote {
        /// Whose.
        tenant: TenantId,
        /// Which.
        key: ObjectKey,
        /// Which version of it.
        version: Tso,
    },
    /// A checkpoint is begun, kept or gone; nothing when it has come so far already.
    Checkpoint(Checkpoint),
    /// A store node is heard, or was silent for too long; nothing when that was said before. Only those who watch go by it: who leads judges for
    /// itself.
    Node {
        /// Which.
        node: NodeId,
        /// Whose.
        tenant: TenantId,
        /// Its name while it is heard.
        up: Option<String>,
    },
    /// All that a tenant had when somebody asked for it was removed.
    Cleared {
        /// Whose.
        tenant: TenantId,
    },
    /// As [`Effect::Drain`] and [`Effect::Unmount`], which are about what is lent to `default` (until version 8: about whatever there is).
    Leaves {
        /// To whom it is lent.
        tenant: TenantId,
        /// Which.
        segment: SegmentId,
        /// It serves reads for so many milliseconds more; `None`: it is gone.
        grace_ms: Option<u64>,
    },
    /// As [`Effect::Cold`] of a copy that came, in the place of the one in another vault; refused where that is not the object's any more.
    Moved {
        /// Whose.
        tenant: TenantId,
        /// Which.
        key: ObjectKey,
        /// Which version of it.
        version: Tso,
        /// The upload that was its copy.
        from: ColdName,
        /// What is from now on.
        copy: ColdCopy,
    },
    /// Somebody else than its writer ended a put: the writer is told so by whoever leads, and does not begin it anew.
    Aborted {
        /// Whose.
        tenant: TenantId,
        /// Which key it was to have.
        key: ObjectKey,
        /// Which version of it.
        version: Tso,
        /// Who put.
        writer: WriterId,
    },
}

/// A copy in a vault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColdCopy {
    /// The vault it lies in.
    pub vault: VaultId,
    /// The upload that it is.
    pub name: ColdName,
    /// Bytes that it takes there.
    pub stored: u64,
}

/// An object as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRecord {
    /// Whose.
    pub tenant: TenantId,
    /// Which.
    pub key: ObjectKey,
    /// Orders the versions of a key.
    pub version: Tso,
    /// Bytes of the value.
    pub size: u64,
    /// Of the value.
    pub checksum: u64,
    /// Resistance to eviction.
    pub pin: Pin,
    /// Where the copies are.
    pub replicas: Vec<ReplicaPlace>,
    /// How many copies whoever put it asked for.
    pub wanted: u8,
}

/// The same as it was stored until version 2: as many copies are wanted as there are.
#[derive(Serialize, Deserialize)]
pub(crate) struct ObjectRecordV2 {
    tenant: TenantId,
    key: ObjectKey,
    version: Tso,
    size: u64,
    checksum: u64,
    pin: Pin,
    replicas: Vec<ReplicaPlace>,
}

impl From<ObjectRecordV2> for ObjectRecord {
    fn from(old: ObjectRecordV2) -> Self {
        let ObjectRecordV2 { tenant, key, version, size, checksum, pin, replicas } = old;
        let wanted = u8::try_from(replicas.len()).unwrap_or(u8::MAX);
        Self { tenant, key, version, size, checksum, pin, replicas, wanted }
    }
}

/// Bytes that are not an effect.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EffectError {
    /// Written by a newer release.
    #[error("an effect of version {0}; this release knows up to {VERSION}")]
    Version(u8),
    /// Damaged, or not an effect at all.
    #[error("not an effect: {0}")]
    Body(String),
}

impl Effect {
    /// A segment is lent, or described anew. Where nobody has tenants or pools, releases that know none read the log.
    pub fn lend(tenant: TenantId, unique_id: &str, desc: SegmentDesc) -> Self {
        match unique_id {
            "" if tenant == TenantId::default() => Self::Mount(desc),
            "" => Self::Lend { tenant, desc },
            _ => Self::LendAs { tenant, unique_id: unique_id.into(), desc },
        }
    }

    /// A segment that is lent to a tenant serves reads only, for so many milliseconds; or, without them, it is gone. As [`Effect::lend`] of releases.
    pub fn leaves(tenant: TenantId, segment: SegmentId, grace_ms: Option<u64>) -> Self {
        match grace_ms {
            _ if tenant != TenantId::default() => Self::Leaves { tenant, segment, grace_ms },
            Some(grace_ms) => Self::Drain { segment, grace_ms },
            None => Self::Unmount { segment },
        }
    }

    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        // The release before reads what it could have written itself.
        let version = match self {
            Self::Aborted { .. } => 11,
            Self::Moved { .. } => 10,
            Self::Leaves { .. } => 9,
            Self::Node { .. } | Self::Cleared { .. } | Self::Checkpoint(_) => 8,
            Self::Cold { .. } | Self::Demote { .. } => 7,
            Self::LendAs { .. } => 6,
            Self::Directory { change, .. } => match **change {
                Change::Tenant(_) => 5,
                Change::Pool(_) | Change::PoolGone(_) => 6,
                Change::Vaults(_) | Change::TenantVaults(..) | Change::Table(_) => 7,
                Change::Feed(_) | Change::FeedGone(_) => 8,
                Change::PoolUsers(_) => 10,
            },
            Self::Lend { .. } | Self::Remove { reason: RemoveReason::Recycled, .. } => 5,
            Self::Frames { .. } | Self::Passed { .. } => 4,
            _ => 3,
        };
        // Serialising plain data into a vector has no way to fail.
        postcard::to_extend(self, vec![version]).unwrap_or_default()
    }

    /// Reads a stored effect. Total.
    pub fn decode(bytes: &[u8]) -> Result<Self, EffectError> {
        match bytes.split_first() {
            None => Err(EffectError::Body("no bytes".into())),
            // The first kind of effect is a commit; what else came with later versions was added behind what there was.
            Some((1..=2, [0, record @ ..])) => read::<ObjectRecordV2>(record).map(|record| Self::Commit(record.into())),
            Some((1..=VERSION, body)) => read(body),
            Some((&other, _)) => Err(EffectError::Version(other)),
        }
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, EffectError> {
    postcard::from_bytes(body).map_err(|e| EffectError::Body(e.to_string()))
}

#[cfg(test)]
mod tests;
