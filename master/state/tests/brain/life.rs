//! Put, get, remove: the life of an object and its space.

use super::*;
use perilune_protocol::FaultCode;

#[test]
fn nothing_is_visible_before_the_end_of_a_put() {
    let (mut leader, _) = Leader::with_nodes(1, 16 * MIB);
    let grant = leader.start("k", 100, &PutConfig::default()).unwrap();
    assert!(!leader.exists("k"));
    assert_eq!(leader.state.peek(TENANT, &key("k")).unwrap_err().code, FaultCode::ObjectNotFound);
    assert_eq!(leader.end("k", grant.version), Applied::Done);
    let place = leader.state.peek(TENANT, &key("k")).unwrap();
    assert_eq!((place.size, place.checksum, place.replicas), (100, 7, grant.replicas));
}

#[test]
fn ending_twice_is_harmless_and_ending_another_put_is_refused() {
    let (mut leader, _) = Leader::with_nodes(1, 16 * MIB);
    let grant = leader.put("k", 100);
    assert_eq!(leader.end("k", grant.version), Applied::Done);
    let fault = leader.state.put_end(TENANT, &key("k"), Tso(999), 7).unwrap_err();
    assert_eq!(fault.code, FaultCode::InvalidWrite);
}

#[test]
fn a_put_is_committed_once_however_often_its_end_is_asked_for() {
    let (mut leader, _) = Leader::with_nodes(1, 16 * MIB);
    let grant = leader.start("k", MIB, &PutConfig::default()).unwrap();
    let PutEnding::Propose(commit) = leader.state.put_end(TENANT, &key("k"), grant.version, 7).unwrap() else { panic!("first") };
    let again = leader.state.put_end(TENANT, &key("k"), grant.version, 7).unwrap();
    assert_eq!(again, PutEnding::Underway, "a second commit could follow the removal, and publish space that is someone else's");
    leader.commit(commit);
    assert_eq!(leader.state.put_end(TENANT, &key("k"), grant.version, 7), Ok(PutEnding::Published));
    leader.remove("k", false).unwrap();
    assert_eq!(leader.state.put_end(TENANT, &key("k"), grant.version, 7).unwrap_err().code, FaultCode::InvalidWrite);
}

#[test]
fn a_fresh_node_is_placed_on_before_a_node_is_used_twice() {
    let (mut leader, nodes) = Leader::with_nodes(1, 16 * MIB);
    leader.put("warm", MIB);
    leader.commit(Effect::Mount(desc(nodes[0], 9, 16 * MIB)));
    leader.node(1, 16 * MIB);
    for n in 0..10 {
        let grant = leader.start(&format!("k{n}"), MIB, &PutConfig { replicas: 2, ..PutConfig::default() }).unwrap();
        let table = leader.state.segments.table();
        let node = |n: usize| table.get(grant.replicas[n].segment).unwrap().node();
        assert_ne!(node(0), node(1));
    }
}

#[test]
fn what_cannot_be_lent_is_refused_even_from_the_log() {
    let mut leader = Leader::new();
    for size in [0, 4095, 1 << 60, u64::MAX] {
        assert!(matches!(leader.commit(Effect::Mount(desc(NodeId::random(), 1, size))), Applied::Refused(_)), "{size}");
    }
    let (mut leader, _) = Leader::with_nodes(1, 16 * MIB);
    let segment = leader.segments()[0];
    assert_eq!(leader.commit(Effect::Drain { segment, grace_ms: u64::MAX }), Applied::Done);
    leader.restarted();
}

#[test]
fn a_key_is_put_once_unless_upserted() {
    let (mut leader, _) = Leader::with_nodes(1, 16 * MIB);
    leader.put("k", 100);
    assert_eq!(code(leader.start("k", 100, &PutConfig::default()).unwrap_err()), -705);
    let second = leader.start("k", 200, &upsert()).unwrap();
    assert_eq!(leader.state.peek(TENANT, &key("k")).unwrap().size, 100, "the old version is readable until the new one is published");
    assert_eq!(leader.end("k", second.version), Applied::Done);
    assert_eq!(leader.state.peek(TENANT, &key("k")).unwrap().size, 200);
}

#[test]
fn two_writers_of_one_key_do_not_meet() {
    let (mut leader, _) = Leader::with_nodes(1, 16 * MIB);
    let first = leader.start("k", 100, &PutConfig::default()).unwrap();
    assert_eq!(code(leader.start("k", 100, &upsert()).unwrap_err()), -705);
    leader.now += RULES.put_discard_ms;
    let second = leader.start("k", 100, &PutConfig::default()).unwrap();
    assert_ne!(first.replicas, second.replicas, "the first writer may still write");
    assert_eq!(leader.state.put_end(TENANT, &key("k"), first.version, 7).unwrap_err().code, FaultCode::InvalidWrite);
    assert_eq!(leader.end("k", second.version), Applied::Done);
}

#[test]
fn abandoned_space_comes_back_only_after_the_release_time() {
    let (mut leader, _) = Leader::with_nodes(1, 16 * MIB);
    leader.start("k", MIB, &PutConfig::default()).unwrap();
    leader.now += RULES.put_discard_ms + 1;
    assert_eq!(leader.state.discard_abandoned(leader.now).puts, 1);
    leader.now = RULES.put_release_ms;
    leader.state.limbo.sweep(leader.now, true);
    assert_eq!(leader.used(), MIB);
    leader.now += 1;
    leader.state.limbo.sweep(leader.now, true);
    assert_eq!(leader.used(), 0);
}

#[test]
fn a_revoked_put_gives_its_space_back_after_the_write_deadline() {
    let (mut leader, _) = Leader::with_nodes(1, 16 * MIB);
    let grant = leader.start("k", MIB, &PutConfig::default()).unwrap();
    leader.state.put_revoke(TENANT, &key("k"), grant.version, leader.now).unwrap();
    leader.state.put_revoke(TENANT, &key("k"), grant.version, leader.now).unwrap();
    assert_eq!(leader.state.put_end(TENANT, &key("k"), grant.version, 7).unwrap_err().code, FaultCode::InvalidWrite);
    leader.start("k", 100, &PutConfig::default()).expect("the key is free at once");
    leader.state.limbo.sweep(leader.now + RULES.put_discard_ms, true);
    assert!(leader.used() < MIB);
}

#[test]
fn replicas_go_to_distinct_segments_or_not_at_all() {
    let (mut leader, nodes) = Leader::with_nodes(2, 16 * MIB);
    let two = PutConfig { replicas: 2, ..PutConfig::default() };
    let three = PutConfig { replicas: 3, ..PutConfig::default() };
    let grant = leader.start("k", 100, &two).unwrap();
    assert_ne!(grant.replicas[0].segment, grant.replicas[1].segment);
    assert_eq!(code(leader.start("k3", 100, &three).unwrap_err()), -600);
    let effort = leader.start("k3", 100, &PutConfig { best_effort: true, ..three.clone() }).unwrap();
    assert_eq!(effort.replicas.len(), 2);
    // Two segments on one node serve when there are not enough nodes.
    leader.commit(Effect::Mount(desc(nodes[0], 9, 16 * MIB)));
    leader.judge();
    assert_eq!(leader.start("k4", 100, &three).unwrap().replicas.len(), 3);
}

#[test]
fn bad_puts_say_what_is_wrong() {
    let mut empty = Leader::new();
    assert_eq!(code(empty.start("k", 1, &PutConfig::default()).unwrap_err()), -200);
    let (mut leader, _) = Leader::with_nodes(1, 16 * MIB);
    let long = "x".repeat(4097);
    for (key, size, config, expected) in [
        ("", 1, PutConfig::default(), -600),
        (long.as_str(), 1, PutConfig::default(), -600),
        ("k", 0, PutConfig::default(), -600),
        ("k", 17 << 30, PutConfig::default(), -600),
        ("k", 17 * MIB, PutConfig::default(), -200),
        ("k", 1, PutConfig { replicas: 0, ..PutConfig::default() }, -600),
    ] {
        assert_eq!(code(leader.start(key, size, &config).unwrap_err()), expected, "key of {} bytes, size {size}", key.len());
    }
    assert_eq!(leader.used(), 0);
}

#[test]
fn a_full_segment_asks_for_room_and_takes_what_is_freed() {
    let (mut leader, _) = Leader::with_nodes(1, 16 * MIB);
    for n in 0..8 {
        leader.put(&format!("k{n}"), 2 * MIB);
    }
    let Err(PutRefusal::NeedRoom(bytes, fault)) = leader.start("more", 2 * MIB, &PutConfig::default()) else { panic!("it is full") };
    assert_eq!((bytes, fault.code), (2 * MIB, FaultCode::NoSpace));
    leader.remove("k3", false).unwrap();
    leader.put("more", 2 * MIB);
    assert_eq!(leader.used(), 16 * MIB);
}

#[test]
fn who_asks_for_room_again_gets_the_same_and_has_it_as_long_as_if_it_were_new() {
    let (mut leader, _) = Leader::with_nodes(1, 16 * MIB);
    let writer = WriterId::random();
    let first = leader.start_by(writer, "k", MIB, &upsert()).unwrap();
    leader.now += RULES.put_discard_ms - 1;
    assert_eq!(leader.start_by(writer, "k", MIB, &upsert()).unwrap(), first, "its answer may have been lost");
    assert!(leader.start("k", MIB, &upsert()).is_err(), "somebody else waits");
    assert!(leader.start_by(writer, "k", 2 * MIB, &upsert()).is_err(), "another value is another put");
    leader.now += RULES.put_discard_ms - 1;
    assert_eq!(leader.state.discard_abandoned(leader.now).puts, 0);
    assert_eq!(leader.end("k", first.version), Applied::Done);
    let second = leader.start_by(writer, "k", MIB, &upsert()).unwrap();
    assert_ne!(second.version, first.version, "what was published is not given again");
    leader.now += 2 * RULES.put_discard_ms;
    assert_eq!(leader.state.discard_abandoned(leader.now).puts, 1);
    assert_ne!(leader.start_by(writer, "k", MIB, &upsert()).unwrap().version, second.version, "nor what was discarded");
}
