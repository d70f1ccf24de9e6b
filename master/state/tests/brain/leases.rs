//! Who may read until when, and what that holds back.

use super::*;
use perilune_protocol::FaultCode;
use perilune_state::objects::KeyRef;

#[test]
fn a_lookup_leases_and_a_leased_object_stays() {
    let (mut leader, _) = Leader::with_nodes(1, 16 * MIB);
    leader.put("k", MIB);
    assert!(leader.exists("k"));
    assert_eq!(leader.remove("k", false), Err(-706));
    leader.now += RULES.lease_ms;
    assert_eq!(leader.remove("k", false), Ok(()));
    assert_eq!(leader.used(), 0, "nobody reads: free at once");
    assert_eq!(leader.remove("k", false), Err(-704));
}

#[test]
fn force_removes_the_object_but_not_the_bytes_a_reader_was_promised() {
    let (mut leader, _) = Leader::with_nodes(1, 16 * MIB);
    leader.put("k", MIB);
    assert!(leader.exists("k"));
    assert_eq!(leader.remove("k", true), Ok(()));
    assert!(!leader.exists("k"));
    leader.state.limbo.sweep(leader.now + RULES.lease_ms - 1, true);
    assert_eq!(leader.used(), MIB);
    leader.state.limbo.sweep(leader.now + RULES.lease_ms, true);
    assert_eq!(leader.used(), 0);
}

#[test]
fn an_upsert_keeps_the_old_bytes_for_their_readers() {
    let (mut leader, _) = Leader::with_nodes(1, 16 * MIB);
    let old = leader.put("k", MIB);
    assert!(leader.exists("k"));
    let new = leader.start("k", MIB, &upsert()).unwrap();
    assert_ne!(old.replicas, new.replicas, "a published buffer is never overwritten");
    leader.end("k", new.version);
    assert_eq!(leader.used(), 2 * MIB);
    leader.state.limbo.sweep(leader.now + RULES.lease_ms, true);
    assert_eq!(leader.used(), MIB);
}

#[test]
fn an_object_that_is_being_removed_cannot_be_leased() {
    let (mut leader, _) = Leader::with_nodes(1, 16 * MIB);
    leader.put("k", 100);
    let removal = leader.state.remove(TENANT, &key("k"), false, leader.now).unwrap();
    assert!(!leader.exists("k"), "between the decision and the log nobody gets a lease");
    assert_eq!(leader.state.match_prefix(TENANT, &[key("k")], leader.now), 0);
    leader.commit(removal);
}

#[test]
fn a_prefix_ends_at_the_first_gap_and_leases_only_what_it_counts() {
    let (mut leader, _) = Leader::with_nodes(1, 16 * MIB);
    for k in ["a", "b", "d"] {
        leader.put(k, 100);
    }
    let chain: Vec<_> = ["a", "b", "c", "d"].map(key).into();
    assert_eq!(leader.state.match_prefix(TENANT, &chain, leader.now), 2);
    assert_eq!(leader.remove("a", false), Err(-706));
    assert_eq!(leader.remove("d", false), Ok(()));
}

#[test]
fn what_somebody_else_removes_is_not_said_to_be_leased() {
    let (mut leader, _) = Leader::with_nodes(1, 16 * MIB);
    leader.put("k", MIB);
    let object = leader.state.index.get(KeyRef::new(TENANT, &key("k"))).unwrap();
    assert!(leader.exists("k"));
    assert_eq!(leader.state.condemn(&object, false, leader.now).unwrap_err().code, FaultCode::ObjectLeased);
    let later = leader.now + RULES.lease_ms;
    let removal = leader.state.condemn(&object, false, later).unwrap();
    let fault = leader.state.condemn(&object, false, later).unwrap_err();
    assert!(fault.code == FaultCode::ObjectNotFound && fault.message.contains("being removed"), "{fault}");
    assert_eq!(leader.commit(removal), Applied::Done);
}
