//! Puts that somebody else than their writer ends.

use super::*;
use perilune_protocol::FaultCode;
use perilune_state::shards::ShardCount;
use perilune_state::snapshot;
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
        let aborted: Vec<_> = mine.iter().filter_map(|put| state.abort(put, writer_gone, leader.now)).collect();
        assert_eq!(aborted.len(), 2);
        assert!(mine.iter().all(|put| state.abort(put, writer_gone, leader.now).is_none()), "once");
        let gone = state.puts.last_given_up(|gone| gone.version == first.version).unwrap();
        assert_eq!((gone.writer, state.meters.of(tenant).objects()), (writer, 1));
        // Nor where another leads, however it learned of it.
        aborted.into_iter().for_each(|effect| assert_eq!(leader.commit(effect), Applied::Done));
        let mut bytes = Vec::new();
        snapshot::writer(leader.state.clone())(&mut bytes).unwrap();
        let by_snapshot = snapshot::read(&mut bytes.as_slice(), RULES, 1).unwrap();
        for other in [&leader.restarted().state, &Arc::new(by_snapshot), &Arc::new(snapshot::copy(&leader.state).0)] {
            assert_eq!(other.put_end(tenant, &key("a"), first.version, 7).unwrap_err().code, FaultCode::WrongState);
            assert_eq!(other.put_end(tenant, &key("a"), Tso(999), 7).unwrap_err().code, FaultCode::InvalidWrite);
        }

        // The key again by another, in other room; what it had is free when it may write no more.
        let again = leader.start_by(WriterId::random(), "a", MIB, &config).unwrap();
        assert_ne!(again.replicas, first.replicas);
        assert_eq!(leader.used(), 4 * MIB, "writer gone: {writer_gone}");
        leader.pass(wait_ms - 1);
        state.limbo.sweep(leader.now, true);
        assert_eq!(leader.used(), 4 * MIB, "writer gone: {writer_gone}");
        leader.pass(1);
        state.limbo.sweep(leader.now, true);
        assert!(leader.used() <= 2 * MIB, "writer gone: {writer_gone}");

        let told = state.put_end(tenant, &key("a"), first.version, 7).unwrap_err();
        assert_eq!(told.code, FaultCode::WrongState, "its writer does not begin it anew: {told}");
        assert_eq!(state.put_revoke(tenant, &key("a"), first.version, leader.now).unwrap_err().code, FaultCode::WrongState);
        // Nor where it never heard of the room, and asks again.
        let refused = leader.start_by(writer, "a", MIB, &config).unwrap_err();
        assert!(matches!(&refused, PutRefusal::Fault(fault) if fault.code == FaultCode::WrongState), "{refused:?}");
    }
}

#[test]
fn however_many_were_aborted_a_snapshot_holds_them() {
    let (mut leader, _) = Leader::with_nodes(1, MIB);
    const MANY: u64 = 2500;
    for n in 0..MANY {
        let effect = Effect::Aborted { tenant: TENANT, key: "k".repeat(4096).as_str().into(), version: Tso(n), writer: WriterId::random() };
        assert_eq!(leader.commit(effect), Applied::Done);
    }
    let mut bytes = Vec::new();
    snapshot::writer(leader.state.clone())(&mut bytes).unwrap();
    let read = snapshot::read(&mut bytes.as_slice(), RULES, 1).unwrap();
    for n in [0, MANY / 2, MANY - 1] {
        assert!(read.puts.last_given_up(|gone| gone.version == Tso(n)).is_some_and(|gone| gone.aborted), "{n}");
    }
}

/// One that was stopped does not close its connection.
#[test]
fn the_room_of_a_put_whose_writer_closed_its_connection_waits_for_its_deadline_only() {
    for (aborted, left, wait_ms) in [
        (true, 2, RULES.put_release_ms),
        (true, 1, RULES.put_discard_ms),
        (false, 2, RULES.put_release_ms),
        (false, 1, RULES.put_discard_ms),
    ] {
        let (mut leader, _) = Leader::with_nodes(1, 16 * MIB);
        let grant = leader.start("a", MIB, &PutConfig::default()).unwrap();
        let put = leader.state.open_puts(TENANT).remove(0);
        leader.state.writer_left(left);
        let passed = if aborted { 0 } else { RULES.put_discard_ms + 1 };
        leader.pass(passed);
        if aborted {
            assert!(leader.state.abort(&put, false, leader.now).is_some());
        } else {
            assert_eq!(leader.state.discard_abandoned(leader.now).puts, 1);
        }
        let used = |leader: &Leader| {
            leader.state.limbo.sweep(leader.now, true);
            leader.used()
        };
        if wait_ms > passed {
            leader.pass(wait_ms - passed - 1);
            assert_eq!(used(&leader), MIB, "{aborted} {left} {wait_ms}");
            leader.pass(1);
        }
        assert_eq!(used(&leader), 0, "{aborted} {left} {wait_ms}: {grant:?}");
    }
    // Its writer asks again on another connection: it has not left.
    let (mut leader, _) = Leader::with_nodes(1, 16 * MIB);
    let writer = WriterId::random();
    leader.start_by(writer, "a", MIB, &PutConfig::default()).unwrap();
    let put = leader.state.open_puts(TENANT).remove(0);
    leader.state.writer_left(1);
    leader.start_by(writer, "a", MIB, &PutConfig::default()).unwrap();
    assert!(leader.state.abort(&put, false, leader.now).is_some());
    leader.pass(RULES.put_discard_ms + 1);
    leader.state.limbo.sweep(leader.now, true);
    assert_eq!(leader.used(), MIB);
}

/// It was not stopped in the middle, as it turns out after the put was aborted.
#[test]
fn the_room_of_an_aborted_put_waits_no_longer_once_its_writer_is_known_to_have_ended() {
    let hears: [fn(&State, Tso, WriterId); 5] = [
        |state, version, _| drop(state.put_end(TENANT, &key("a"), version, 7)),
        |state, version, _| drop(state.put_revoke(TENANT, &key("a"), version, 1)),
        |state, _, _| state.writer_left(1),
        |state, version, _| assert_eq!(state.vouch_gone(TENANT, Txn::Version(version)), 1),
        |state, _, writer| assert_eq!(state.vouch_gone(TENANT, Txn::Label(writer)), 1),
    ];
    for (nth, hear) in hears.into_iter().enumerate() {
        let (mut leader, _) = Leader::with_nodes(1, 16 * MIB);
        let writer = WriterId::random();
        let grant = leader.start_by(writer, "a", MIB, &PutConfig::default()).unwrap();
        let put = leader.state.open_puts(TENANT).remove(0);
        assert!(leader.state.abort(&put, false, leader.now).is_some());
        // Of others nothing is learned.
        leader.state.writer_left(2);
        assert_eq!(leader.state.vouch_gone(TenantId(9), Txn::Version(grant.version)), 0);
        leader.pass(RULES.put_discard_ms);
        let used = |leader: &Leader| {
            leader.state.limbo.sweep(leader.now, true);
            leader.used()
        };
        assert_eq!(used(&leader), MIB, "{nth}");
        hear(&leader.state, grant.version, writer);
        assert_eq!(used(&leader), 0, "{nth}");
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
    assert!(count(&leader).is_in_step(Tso::from_physical(1 << 40), false), "however old");
    assert!(leader.state.published(tenant, version).is_none());
    leader.remove("t/1", true).unwrap();
    leader.remove("t/2", true).unwrap();
    assert_eq!(count(&leader), ShardCount::default());
}
