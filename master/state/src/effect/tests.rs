//! Bytes of every release are still read.

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
    assert_eq!(Effect::decode(include_bytes!("../../tests/old/effect_v1.bin")), Ok(sample()));
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
    assert_eq!(Effect::decode(include_bytes!("../../tests/old/directory_v5.bin")), Ok(directory));
    let recycled = Effect::Remove { tenant: TenantId(3), key: "k".into(), version: Tso(7), reason: RemoveReason::Recycled };
    assert_eq!(recycled.encode(), [5, 1, 3, 1, b'k', 7, 4]);
    let Ok(Effect::Lend { tenant, desc }) = Effect::decode(include_bytes!("../../tests/old/lend_v5.bin")) else { panic!("not that") };
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
fn bytes_of_version_11_are_still_read() {
    let writer = WriterId(format!("{:032}", 9).parse().unwrap());
    let aborted = Effect::Aborted { tenant: TenantId(3), key: "k".into(), version: Tso(7), writer };
    let bytes = [&[11, 21, 3, 1, b'k', 7, 16][..], &[0; 15], &[9]].concat();
    assert_eq!((aborted.encode(), Effect::decode(&bytes)), (bytes, Ok(aborted)));
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
    assert_eq!(pool.encode(), include_bytes!("../../tests/old/pool_v6.bin"));
    assert_eq!(Effect::decode(include_bytes!("../../tests/old/pool_v6.bin")), Ok(pool));
    let gone = Effect::Directory { revision: 5, change: Box::new(Change::PoolGone(PoolId(3))) };
    assert_eq!(gone.encode(), [6, 11, 5, 2, 3]);
    let Ok(Effect::LendAs { tenant, unique_id, desc }) = Effect::decode(include_bytes!("../../tests/old/lend_as_v6.bin")) else {
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
    assert_eq!(cold.encode(), include_bytes!("../../tests/old/cold_v7.bin"));
    assert_eq!(Effect::decode(include_bytes!("../../tests/old/cold_v7.bin")), Ok(cold));
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
    assert_eq!(table.encode(), include_bytes!("../../tests/old/table_v7.bin"));
    assert_eq!(Effect::decode(include_bytes!("../../tests/old/table_v7.bin")), Ok(table));
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
    assert_eq!(feed.encode(), include_bytes!("../../tests/old/feed_v8.bin"));
    assert_eq!(Effect::decode(include_bytes!("../../tests/old/feed_v8.bin")), Ok(feed));
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
    assert_eq!(kept.encode(), include_bytes!("../../tests/old/checkpoint_v8.bin"));
    assert_eq!(Effect::decode(include_bytes!("../../tests/old/checkpoint_v8.bin")), Ok(kept));

    let node = NodeId("67e55044-10b1-426f-9247-bb680e5fe0c8".parse().unwrap());
    let heard = Effect::Node { node, tenant: TenantId(5), up: Some("one".into()) };
    assert_eq!(heard.encode(), include_bytes!("../../tests/old/node_v8.bin"));
    assert_eq!(Effect::decode(include_bytes!("../../tests/old/node_v8.bin")), Ok(heard));
    assert_eq!(Effect::Cleared { tenant: TenantId(5) }.encode(), [8, 18, 5]);
}

/// Bytes that the release before wrote for a commit of two copies.
#[test]
fn an_object_of_version_2_wants_as_many_copies_as_it_has() {
    let Ok(Effect::Commit(record)) = Effect::decode(include_bytes!("../../tests/old/commit_v2.bin")) else { panic!("not a commit") };
    assert_eq!((record.key, record.version, record.size, record.checksum), ("model/layer0/block42".into(), Tso(77), 5000, 7));
    assert_eq!((record.replicas.len(), record.wanted), (2, 2));
}
