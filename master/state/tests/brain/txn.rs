//! Puts that somebody else than their writer ends.

use super::*;
use perilune_protocol::FaultCode;
use perilune_state::shards::ShardCount;
use perilune_state::txn::Txn;

#[test]
fn the_room_of_an_aborted_put_waits_for_its_writer_and_all_else_is_free_at_once() {
    for (writer_gone, wait_ms) in [(false, RULES.put_release_ms), (true, RULES.put_discard_ms)] {
        let (mut leader, _) = Leader::with_nodes(1, 16 * MIB);
        let (writer, other) = (WriterId::random(), WriterId::random());
        let config = PutConfig::default();
        let first = leader.start_by(writer, "a", MIB, &config).unwrap();
        leader.start_by(writer, "b", MIB, &config).unwrap();
        leader.start_by(other, "c", MIB, &config).unwrap();
        let tenant = TenantId::default();
        let state = leader.state.clone();
        assert_eq!((state.open_puts(tenant).len(), state.open_puts(TenantId(9)).len()), (3, 0));

        // By the number of any of its puts, or by its label: all that is of it.
        let mine = state.puts_of(tenant, Txn::Version(first.version));
        assert_eq!(
            mine.iter().map(|put| put.version).collect::<Vec<_>>(),
            state.puts_of(tenant, Txn::Label(writer)).iter().map(|put| put.version).collect::<Vec<_>>()
        );
        assert_eq!(mine.len(), 2);
        assert!(mine.iter().all(|put| state.abort(put, writer_gone, leader.now)));
        assert!(!mine.iter().any(|put| state.abort(put, writer_gone, leader.now)), "once");
        let gone = state.puts.last_given_up(|gone| gone.version == first.version).unwrap();
        assert_eq!((gone.writer, state.meters.of(tenant).objects()), (writer, 1));
        let told = state.put_end(tenant, &key("a"), first.version, 7).unwrap_err();
        assert_eq!(told.code, FaultCode::WrongState, "its writer does not begin it anew: {told}");
        assert_eq!(state.put_revoke(tenant, &key("a"), first.version, leader.now).unwrap_err().code, FaultCode::WrongState);

        // Key and label again, in other room; what it had is free when it may write no more.
        let again = leader.start_by(writer, "a", MIB, &config).unwrap();
        assert_ne!(again.replicas, first.replicas);
        assert_eq!(leader.used(), 4 * MIB, "writer gone: {writer_gone}");
        leader.pass(wait_ms - 1);
        state.limbo.sweep(leader.now, true);
        assert_eq!(leader.used(), 4 * MIB, "writer gone: {writer_gone}");
        leader.pass(1);
        state.limbo.sweep(leader.now, true);
        assert!(leader.used() <= 2 * MIB, "writer gone: {writer_gone}");
    }
}

#[test]
fn shards_are_counted_as_they_are() {
    let (mut leader, _) = Leader::with_nodes(2, 16 * MIB);
    let tenant = TenantId::default();
    leader.decide(|known| known.declare("default", "db", "t", b"t/", 1, 6)).unwrap();
    let table = leader.state.directory.known().tables_of(tenant).remove(0);
    let two = PutConfig { replicas: 2, ..PutConfig::default() };
    for name in ["t/1", "t/2", "other"] {
        let grant = leader.start(name, MIB, &two).unwrap();
        leader.end(name, grant.version);
    }
    leader.put("t/alone", 5);
    let count = |leader: &Leader| -> ShardCount {
        let counts = leader.state.count_shards(tenant, &|shard| table.has(shard));
        assert!(counts.len() <= 1, "{counts:?}");
        counts.into_values().next().unwrap_or_default()
    };
    let now = count(&leader);
    assert_eq!((now.objects, now.bytes, now.copies, now.segments.len(), now.doubled), (3, 2 * MIB + 5, 5, 2, 2));
    let version = leader.state.peek(tenant, &key("t/alone")).unwrap().version;
    assert_eq!(now.lacks_since, Some(version));
    leader.remove("t/alone", true).unwrap();
    assert_eq!((count(&leader).objects, count(&leader).lacks_since), (2, None));
    assert!(count(&leader).is_in_step(Tso::from_physical(1 << 40)), "however old");
    assert!(leader.state.published(tenant, version).is_none());
    leader.remove("t/1", true).unwrap();
    leader.remove("t/2", true).unwrap();
    assert_eq!(count(&leader), ShardCount::default());
}
