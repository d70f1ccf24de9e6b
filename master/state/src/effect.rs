//! What the log carries: results, not requests. Whoever proposed an effect has already decided; applying cannot fail,
//! it can only find that the world moved on and do nothing.

use crate::alloc::FrameRun;
use crate::checkpoints::Checkpoint;
use crate::directory::Change;
pub use perilune_protocol::event::RemoveReason;
use perilune_protocol::{ColdName, NodeId, ObjectKey, Pin, ReplicaPlace, SegmentDesc, SegmentId, TenantId, Tso, VaultId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The first byte of every stored effect. A reader of a newer release still knows all older ones.
///
/// 2: settings. 3: an object remembers how many copies were wanted, and its copies change. 4: windows of frames.
/// 5: tenants. 6: pools. 7: vaults and tables. 8: changefeeds, checkpoints, and nodes that come and go. 9: whose the segment is that goes.
/// 10: a copy in a vault takes the place of another, and users change their pool.
pub(crate) const VERSION: u8 = 10;

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
            Self::Moved { .. } => VERSION,
            Self::Leaves { .. } => 9,
            Self::Node { .. } | Self::Cleared { .. } | Self::Checkpoint(_) => 8,
            Self::Cold { .. } | Self::Demote { .. } => 7,
            Self::LendAs { .. } => 6,
            Self::Directory { change, .. } => match **change {
                Change::Tenant(_) => 5,
                Change::Pool(_) | Change::PoolGone(_) => 6,
                Change::Vaults(_) | Change::TenantVaults(..) | Change::Table(_) => 7,
                Change::Feed(_) | Change::FeedGone(_) => 8,
                Change::PoolUsers(_) => VERSION,
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
mod tests {
    use super::*;

    fn sample() -> Effect {
        Effect::Remove { tenant: TenantId(3), key: "model/layer0/block42".into(), version: Tso(77), reason: RemoveReason::Evicted }
    }

    #[test]
    fn stored_bytes_come_back_and_noise_is_refused() {
        let bytes = sample().encode();
        assert_eq!(Effect::decode(&bytes), Ok(sample()));
        for cut in 0..bytes.len() {
            assert!(Effect::decode(&bytes[..cut]).is_err());
        }
        assert_eq!(Effect::decode(&[VERSION + 1, 1, 2]), Err(EffectError::Version(VERSION + 1)));
    }

    #[test]
    fn bytes_of_the_first_release_are_still_read() {
        assert_eq!(Effect::decode(include_bytes!("../tests/old/effect_v1.bin")), Ok(sample()));
    }

    /// Until version 3 a window was a mark that only rose.
    #[test]
    fn a_window_of_version_3_is_still_read() {
        let window = Effect::Window { segment: SegmentId::random(), limit: 1 << 20 };
        let mut bytes = window.encode();
        bytes[0] = 3;
        assert_eq!(bytes[1], 5, "the sixth kind, for good");
        assert_eq!(Effect::decode(&bytes), Ok(window));
    }

    /// Places in the enumeration are for good.
    #[test]
    fn bytes_of_version_5_are_still_read() {
        let change = Change::Tenant(crate::directory::Known::default().tenant(TenantId(0)).unwrap().clone());
        let directory = Effect::Directory { revision: 1, change: Box::new(change) };
        assert_eq!(Effect::decode(include_bytes!("../tests/old/directory_v5.bin")), Ok(directory));
        let recycled = Effect::Remove { tenant: TenantId(3), key: "k".into(), version: Tso(7), reason: RemoveReason::Recycled };
        assert_eq!(recycled.encode(), [5, 1, 3, 1, b'k', 7, 4]);
        let Ok(Effect::Lend { tenant, desc }) = Effect::decode(include_bytes!("../tests/old/lend_v5.bin")) else { panic!("not that") };
        assert_eq!((tenant, desc.size, desc.name.as_str()), (TenantId(3), 1 << 20, "127.0.0.1:15000"));
    }

    /// The same for segments that go, and for users that move.
    #[test]
    fn bytes_of_version_9_are_still_read() {
        let segment = SegmentId::random();
        let leaves = |grace_ms| Effect::leaves(TenantId(3), segment, grace_ms).encode();
        let (goes, drains) = (leaves(None), leaves(Some(5)));
        assert_eq!((&goes[..3], goes.last(), goes.len()), (&[9, 19, 3][..], Some(&0), 21));
        assert_eq!((&drains[..3], &drains[drains.len() - 2..]), (&[9, 19, 3][..], &[1, 5][..]));
        assert_eq!(Effect::decode(&goes), Ok(Effect::Leaves { tenant: TenantId(3), segment, grace_ms: None }));
        assert_eq!(Effect::leaves(TenantId(0), segment, None), Effect::Unmount { segment }, "releases before read that");
    }

    #[test]
    fn bytes_of_version_10_are_still_read() {
        let [from, name] = [7, 8].map(|n| ColdName(format!("{n:032}").parse().unwrap()));
        let copy = ColdCopy { vault: VaultId(2), name, stored: 300 };
        let moved = Effect::Moved { tenant: TenantId(3), key: "k".into(), version: Tso(7), from, copy };
        let bytes = [&[10, 20, 3, 1, b'k', 7, 16][..], &[0; 15], &[7, 2, 16], &[0; 15], &[8, 172, 2]].concat();
        assert_eq!((moved.encode(), Effect::decode(&bytes)), (bytes, Ok(moved)));
    }

    /// The same for pools, and for what nodes lend that present something.
    #[test]
    fn bytes_of_version_6_are_still_read() {
        use crate::directory::{NodeKind, NodeRecord, NodeStatus, PoolId, PoolKind, PoolRecord, PoolStatus};
        let node = NodeRecord {
            unique_id: "1:acme:n1".into(),
            ip: "172.21.0.5".into(),
            host: "n1".into(),
            port: 9050,
            kind: NodeKind::Compute,
            status: NodeStatus::Running,
            ctime_ms: 7000,
            mtime_ms: 8000,
        };
        let pool = PoolRecord {
            id: PoolId(3),
            tenant: TenantId(2),
            cluster_id: "c1".into(),
            name: "prefill".into(),
            kind: PoolKind::Compute,
            status: PoolStatus::Suspended,
            users: vec!["jack".into()],
            nodes: vec![node],
            ctime_ms: 7000,
            mtime_ms: 9000,
        };
        let moved = Effect::Directory { revision: 4, change: Box::new(Change::PoolUsers(pool.clone())) };
        assert_eq!((&moved.encode()[..4], Effect::decode(&moved.encode())), (&[10, 11, 4, 8][..], Ok(moved.clone())));
        let pool = Effect::Directory { revision: 4, change: Box::new(Change::Pool(pool)) };
        assert_eq!(pool.encode(), include_bytes!("../tests/old/pool_v6.bin"));
        assert_eq!(Effect::decode(include_bytes!("../tests/old/pool_v6.bin")), Ok(pool));
        let gone = Effect::Directory { revision: 5, change: Box::new(Change::PoolGone(PoolId(3))) };
        assert_eq!(gone.encode(), [6, 11, 5, 2, 3]);
        let Ok(Effect::LendAs { tenant, unique_id, desc }) = Effect::decode(include_bytes!("../tests/old/lend_as_v6.bin")) else {
            panic!("not that")
        };
        assert_eq!((tenant, unique_id.as_str(), desc.size, desc.name.as_str()), (TenantId(3), "1:acme:n1", 1 << 20, "127.0.0.1:15000"));
    }

    /// The same for copies in vaults.
    #[test]
    fn bytes_of_version_7_are_still_read() {
        let (tenant, key, version) = (TenantId(3), ObjectKey::from("k"), Tso(7));
        let copy = ColdCopy { vault: VaultId(2), name: ColdName("67e55044-10b1-426f-9247-bb680e5fe0c8".parse().unwrap()), stored: 300 };
        let cold = Effect::Cold { tenant, key: key.clone(), version, copy, there: true };
        assert_eq!(cold.encode(), include_bytes!("../tests/old/cold_v7.bin"));
        assert_eq!(Effect::decode(include_bytes!("../tests/old/cold_v7.bin")), Ok(cold));
        let demote = Effect::Demote { tenant, key, version };
        assert_eq!(demote.encode(), [7, 15, 3, 1, b'k', 7]);
    }

    /// The same for tables.
    #[test]
    fn bytes_of_a_table_are_still_read() {
        use crate::directory::{ShardId, TableId, TableRecord};
        let first = 1 << 40;
        let table = TableRecord {
            id: TableId(first),
            db: "llama".into(),
            db_id: first + 1,
            name: "8b".into(),
            prefix: b"llama@8b/".into(),
            index_id: first + 2,
            partition_id: first + 3,
            first_shard: ShardId(first + 4),
            dropped: true,
            ctime_ms: 7000,
            mtime_ms: 9000,
            ..TableRecord::default_of(TenantId(2))
        };
        let table = Effect::Directory { revision: 6, change: Box::new(Change::Table(table)) };
        assert_eq!(table.encode(), include_bytes!("../tests/old/table_v7.bin"));
        assert_eq!(Effect::decode(include_bytes!("../tests/old/table_v7.bin")), Ok(table));
    }

    /// The same for changefeeds.
    #[test]
    fn bytes_of_a_changefeed_are_still_read() {
        use crate::directory::{FeedId, FeedRecord, FeedState, Trouble};
        let trouble = Trouble { at_ms: 7000, addr: "m1:50051".into(), code: "CDC:ErrUnknown".into(), message: "why".into() };
        let feed = FeedRecord {
            id: FeedId(3),
            tenant: TenantId(2),
            name: "f".into(),
            sink: "s3://bucket/p?access-key=xxxxx".into(),
            sealed: Some(perilune_protocol::sealed::Sealed { key: 9, nonce: [5; 12], bytes: vec![1, 2, 3] }),
            config: "{}".into(),
            start: Tso(77),
            target: Some(Tso(99)),
            state: FeedState::Finished,
            error: Some(trouble.clone()),
            warning: Some(trouble),
            run: 2,
            creator: "0.1.0".into(),
            ctime_ms: 7000,
            mtime_ms: 9000,
        };
        let feed = Effect::Directory { revision: 7, change: Box::new(Change::Feed(feed)) };
        assert_eq!(feed.encode(), include_bytes!("../tests/old/feed_v8.bin"));
        assert_eq!(Effect::decode(include_bytes!("../tests/old/feed_v8.bin")), Ok(feed));
        let gone = Effect::Directory { revision: 8, change: Box::new(Change::FeedGone(FeedId(3))) };
        assert_eq!(gone.encode(), [8, 11, 8, 7, 3]);
    }

    /// The same for checkpoints, and for nodes that come and go.
    #[test]
    fn bytes_of_version_8_are_still_read() {
        use crate::checkpoints::Stage;
        let name = ColdName("67e55044-10b1-426f-9247-bb680e5fe0c8".parse().unwrap());
        let kept = Checkpoint { number: 300, name, vault: VaultId(2), stage: Stage::Kept, at_ms: 7000, objects: 200, saved: 190 };
        let kept = Effect::Checkpoint(kept);
        assert_eq!(kept.encode(), include_bytes!("../tests/old/checkpoint_v8.bin"));
        assert_eq!(Effect::decode(include_bytes!("../tests/old/checkpoint_v8.bin")), Ok(kept));

        let node = NodeId("67e55044-10b1-426f-9247-bb680e5fe0c8".parse().unwrap());
        let heard = Effect::Node { node, tenant: TenantId(5), up: Some("one".into()) };
        assert_eq!(heard.encode(), include_bytes!("../tests/old/node_v8.bin"));
        assert_eq!(Effect::decode(include_bytes!("../tests/old/node_v8.bin")), Ok(heard));
        assert_eq!(Effect::Cleared { tenant: TenantId(5) }.encode(), [8, 18, 5]);
    }

    /// Bytes that the release before wrote for a commit of two copies.
    #[test]
    fn an_object_of_version_2_wants_as_many_copies_as_it_has() {
        let Ok(Effect::Commit(record)) = Effect::decode(include_bytes!("../tests/old/commit_v2.bin")) else { panic!("not a commit") };
        assert_eq!((record.key, record.version, record.size, record.checksum), ("model/layer0/block42".into(), Tso(77), 5000, 7));
        assert_eq!((record.replicas.len(), record.wanted), (2, 2));
    }
}
