//! Copies in vaults: what may leave memory because of them, who still finds it, and what nobody refers to any more.

use super::copies::{Story, contents, object, room};
use super::*;
use perilune_protocol::{ColdName, FaultCode, VaultId};
use perilune_state::effect::ColdCopy;
use perilune_state::objects::KeyRef;
use perilune_state::objects::recency::Orders;
use perilune_state::snapshot;

fn copy(name: ColdName) -> ColdCopy {
    ColdCopy { vault: VaultId(1), name, stored: 100 }
}

fn demote(leader: &mut Leader, key: &str) -> Applied {
    let effect = State::demotion(&object(&leader.state, key).unwrap());
    leader.commit(effect)
}

/// A copy comes to a vault.
fn save(leader: &mut Leader, key: &str) -> ColdCopy {
    leader.has_vault();
    let copy = copy(ColdName::random());
    let effect = State::cold_copy(&object(&leader.state, key).unwrap(), copy.clone(), true);
    assert_eq!(leader.commit(effect), Applied::Done);
    copy
}

impl Story {
    /// Something happens to the copy in a vault of an object, if that exists.
    pub(super) fn cold_step(&mut self, name: &str, at: &str) {
        let Some(found) = object(&self.leader.state, name) else { return };
        match self.draw(5) {
            0 | 1 => {
                let copy = copy(ColdName::random());
                self.uploads.push(copy.name);
                self.leader.has_vault();
                let clean = found.cold.is_some();
                let applied = self.leader.commit(State::cold_copy(&found, copy, true));
                assert_eq!(applied == Applied::Done, !clean, "{at}: {name}: {applied:?}");
            }
            2 | 3 => {
                let applied = self.leader.commit(State::demotion(&found));
                assert_eq!(matches!(applied, Applied::Done | Applied::Nothing), found.cold.is_some(), "{at}: {name}: {applied:?}");
            }
            // Where it was all there is, whoever found it lost has the object removed.
            _ => {
                if let Some(cold) = found.cold.as_ref().filter(|_| !found.replicas.is_empty()) {
                    assert_eq!(self.leader.commit(State::cold_copy(&found, ColdCopy::clone(cold), false)), Applied::Done, "{at}");
                }
            }
        }
    }
}

#[test]
fn who_begins_again_without_the_memory_has_what_is_in_vaults_and_no_segment() {
    let (mut leader, _) = Leader::with_nodes(2, 16 * MIB);
    for key in ["saved", "unsaved", "left"] {
        leader.put(key, MIB);
    }
    save(&mut leader, "saved");
    save(&mut leader, "left");
    assert_eq!(demote(&mut leader, "left"), Applied::Done);
    let (mut bytes, mut passed_on) = (Vec::new(), Vec::new());
    snapshot::writer(leader.state.clone())(&mut bytes).unwrap();
    snapshot::without_memory(&mut bytes.as_slice(), &mut passed_on).unwrap();
    let state = Arc::new(snapshot::read(&mut passed_on.as_slice(), RULES, 1).unwrap());
    state.lead(1).unwrap();
    assert!(state.segments.table().is_empty());
    for key in ["saved", "left"] {
        assert!(object(&state, key).unwrap().is_only_cold(), "{key}");
    }
    let unsaved = object(&state, "unsaved").unwrap();
    assert!(unsaved.replicas.is_empty() && unsaved.cold.is_none(), "it is for the job that removes what nobody can reach");
    assert_eq!((state.meters.of(TENANT).bytes(), state.meters.of(TENANT).objects()), (0, 3));
    assert_eq!(state.directory.known().vault(VaultId(1)), leader.state.directory.known().vault(VaultId(1)));
    assert!(snapshot::without_memory(&mut &bytes[..bytes.len() / 2], &mut Vec::new()).is_err(), "half of one is none");
}

#[test]
fn what_is_in_a_vault_may_leave_memory_and_is_found_all_the_same() {
    let (mut leader, _) = Leader::with_nodes(1, 16 * MIB);
    leader.put("k", MIB);
    assert!(matches!(demote(&mut leader, "k"), Applied::Refused(_)), "it would be lost");
    let saved = save(&mut leader, "k");
    assert_eq!(leader.used(), MIB);
    assert_eq!(leader.state.locate(TENANT, &[key("k")], leader.now)[0].as_ref().unwrap().replicas.len(), 1);
    assert_eq!(demote(&mut leader, "k"), Applied::Done);
    assert_eq!(demote(&mut leader, "k"), Applied::Nothing, "once more");
    leader.state.limbo.sweep(leader.now + RULES.lease_ms - 1, true);
    assert_eq!(leader.used(), MIB, "somebody was told to read it");
    leader.now += RULES.lease_ms;
    leader.state.limbo.sweep(leader.now, true);
    let meter = leader.state.meters.of(TENANT);
    assert_eq!((leader.used(), meter.bytes(), meter.objects()), (0, 0, 1));
    assert!(leader.exists("k"));
    assert_eq!(leader.state.match_prefix(TENANT, &[key("k"), key("l")], leader.now), 1);
    let place = leader.state.locate(TENANT, &[key("k")], leader.now).remove(0).unwrap();
    assert_eq!((place.size, place.lease_ms, place.replicas.len()), (MIB, 0, 0));
    assert!(leader.state.peek(TENANT, &key("k")).is_err(), "nothing of it is in memory");
    let mut listed = 0;
    leader.state.for_each(TENANT, &mut |_| {
        listed += 1;
        std::ops::ControlFlow::Continue(())
    });
    assert_eq!(listed, 1);
    // After every way to another state, too.
    let mut bytes = Vec::new();
    snapshot::writer(leader.state.clone())(&mut bytes).unwrap();
    let restored = Arc::new(snapshot::read(&mut bytes.as_slice(), RULES, 1).unwrap());
    for state in [restored, leader.restarted().state, Arc::new(snapshot::copy(&leader.state).0)] {
        let found = object(&state, "k").unwrap();
        assert!(found.is_only_cold() && found.cold.as_deref() == Some(&saved));
        let meter = state.meters.of(TENANT);
        assert_eq!((meter.bytes(), meter.objects()), (0, 1));
    }
    // Back in memory.
    let found = object(&leader.state, "k").unwrap();
    let target = leader.segments()[0];
    let room = room(&mut leader, MIB, target).unwrap();
    assert_eq!(leader.commit(State::replicas(&found, Some(&room), None)), Applied::Done);
    assert_eq!(leader.state.locate(TENANT, &[key("k")], leader.now)[0].as_ref().unwrap().replicas.len(), 1);
    assert!(object(&leader.state, "k").unwrap().cold.is_some(), "and in the vault");
    leader.remove("k", true).unwrap();
    assert_eq!(leader.state.garbage.take(), Some(saved));
    assert!(leader.state.garbage.is_empty());
}

#[test]
fn a_segment_that_goes_leaves_cold_what_is_in_a_vault() {
    let (mut leader, _) = Leader::with_nodes(1, 16 * MIB);
    leader.put("saved", MIB);
    leader.put("not saved", MIB);
    save(&mut leader, "saved");
    let segment = leader.segments()[0];
    leader.commit(Effect::Unmount { segment });
    assert!(leader.exists("saved") && !leader.exists("not saved"));
    assert!(leader.state.locate(TENANT, &[key("saved")], leader.now)[0].as_ref().unwrap().replicas.is_empty());
    let next = leader.restarted();
    assert!(next.exists("saved") && !next.exists("not saved"));
}

#[test]
fn a_node_that_is_lost_may_be_read_around() {
    let (mut leader, nodes) = Leader::with_nodes(1, 16 * MIB);
    leader.put("k", MIB);
    save(&mut leader, "k");
    leader.now += RULES.silence.lost_ms + 1;
    leader.judge();
    assert!(leader.state.locate(TENANT, &[key("k")], leader.now)[0].as_ref().unwrap().replicas.is_empty());
    leader.hear(nodes[0], 2);
    assert_eq!(leader.state.locate(TENANT, &[key("k")], leader.now)[0].as_ref().unwrap().replicas.len(), 1);
}

#[test]
fn a_copy_that_is_lost_in_its_vault_leaves_what_is_in_memory() {
    let (mut leader, _) = Leader::with_nodes(1, 16 * MIB);
    leader.put("k", MIB);
    let saved = save(&mut leader, "k");
    let found = object(&leader.state, "k").unwrap();
    let other = State::cold_copy(&found, copy(ColdName::random()), false);
    leader.commit(other);
    assert!(object(&leader.state, "k").unwrap().cold.is_some(), "it was about another");
    leader.commit(State::cold_copy(&found, saved.clone(), false));
    assert!(object(&leader.state, "k").unwrap().cold.is_none() && leader.exists("k"));
    assert_eq!(leader.state.garbage.take(), Some(saved));
    assert!(matches!(demote(&mut leader, "k"), Applied::Refused(_)));
}

#[test]
fn a_copy_takes_the_place_of_the_one_it_was_made_for_alone() {
    let (mut leader, _) = Leader::with_nodes(1, 16 * MIB);
    leader.put("k", MIB);
    let first = save(&mut leader, "k");
    let found = object(&leader.state, "k").unwrap();
    let [second, late] = [(); 2].map(|()| copy(ColdName::random()));
    let moved = State::saved(&found, second.clone());
    assert_eq!(leader.commit(moved.clone()), Applied::Done);
    assert_eq!((leader.state.garbage.take(), leader.commit(moved)), (Some(first.clone()), Applied::Nothing));
    // Somebody else was quicker, and what was its copy before is nobody's business.
    assert!(matches!(leader.commit(State::saved(&found, late.clone())), Applied::Refused(_)));
    leader.commit(State::cold_copy(&found, first, false));
    assert_eq!((leader.state.garbage.take(), leader.state.was_replaced(&found)), (Some(late), true));
    assert_eq!((demote(&mut leader, "k"), leader.restarted().exists("k")), (Applied::Done, true));
}

#[test]
fn no_copy_comes_to_a_vault_that_was_dropped() {
    let (mut leader, _) = Leader::with_nodes(1, 16 * MIB);
    leader.put("k", MIB);
    let found = object(&leader.state, "k").unwrap();
    let applied = leader.commit(State::cold_copy(&found, copy(ColdName::random()), true));
    assert!(matches!(applied, Applied::Refused(_)) && matches!(demote(&mut leader, "k"), Applied::Refused(_)));
    assert!(leader.exists("k") && object(&leader.state, "k").unwrap().cold.is_none());
}

#[test]
fn a_removal_that_was_decided_holds_whatever_becomes_of_the_copies() {
    let (mut leader, _) = Leader::with_nodes(1, 16 * MIB);
    leader.has_vault();
    leader.put("k", MIB);
    let removal = leader.state.remove(TENANT, &key("k"), false, leader.now).unwrap();
    let condemned = leader.state.index.get(KeyRef::new(TENANT, &key("k"))).unwrap();
    leader.commit(State::cold_copy(&condemned, copy(ColdName::random()), true));
    leader.commit(State::demotion(&condemned));
    assert!(!leader.exists("k"));
    leader.commit(removal);
    assert_eq!((leader.used(), leader.state.index.len(), leader.state.garbage.len()), (0, 0, 1));
}

#[test]
fn what_is_only_in_a_vault_keeps_its_value_unless_it_is_put_to_replace_it_and_does_not_wait_to_be_evicted() {
    let (mut leader, _) = Leader::with_nodes(1, 16 * MIB);
    leader.put("k", MIB);
    save(&mut leader, "k");
    demote(&mut leader, "k");
    for leader in [&leader, &leader.restarted()] {
        let mut orders = Orders::begin(&leader.state.recency, &*leader.state.index);
        orders.refresh(&leader.state.recency, 1);
        assert!(orders.of(TENANT).next(leader.now, 9, u64::MAX, |_| true).is_empty());
    }
    let refused = leader.start("k", 2 * MIB, &PutConfig::default()).unwrap_err();
    assert_eq!(code(refused), FaultCode::ObjectExists.number());
    let grant = leader.start("k", 2 * MIB, &upsert()).unwrap();
    assert_eq!(leader.end("k", grant.version), Applied::Done);
    assert_eq!(contents(&leader.state)["k"].2, None);
    assert_eq!((leader.used(), leader.state.garbage.len()), (2 * MIB, 1));
}

/// Bytes of the first release that knew copies in vaults.
#[test]
fn a_snapshot_with_copies_in_vaults_is_still_read() {
    let state = snapshot::read(&mut include_bytes!("../old/snapshot_cold_v7.bin").as_slice(), RULES, 1).unwrap();
    let found = object(&state, "cold").unwrap();
    let copy = found.cold.as_ref().unwrap();
    assert_eq!((found.version, found.size, found.replicas.len(), copy.vault, copy.stored), (Tso(1), 5000, 0, VaultId(1), 100));
    let found = object(&state, "both").unwrap();
    assert_eq!((found.size, found.replicas.len(), found.cold.is_some()), (6000, 1, true));
    assert!(object(&state, "memory").unwrap().cold.is_none());
}

#[test]
fn what_is_saved_is_read_out_of_its_vault_where_only_silent_nodes_have_it() {
    let (mut leader, nodes) = Leader::with_nodes(2, 16 * MIB);
    leader.put("saved", MIB);
    save(&mut leader, "saved");
    let copies = |leader: &Leader| {
        let place = leader.state.locate(TENANT, &[key("saved")], leader.now).remove(0).unwrap();
        assert_eq!(place.size, MIB);
        place.replicas.len()
    };
    assert_eq!(copies(&leader), 1);
    let at = object(&leader.state, "saved").unwrap().replicas[0].segment.node();
    let (its, other) = if at == nodes[0] { (1, 2) } else { (2, 1) };
    leader.state.nodes.disconnected(other);
    leader.judge();
    assert_eq!(copies(&leader), 1);
    leader.state.nodes.disconnected(its);
    leader.judge();
    assert_eq!(copies(&leader), 1, "nobody else could read the vault");
    leader.hear(nodes[other as usize - 1], other);
    assert_eq!(copies(&leader), 0);
    assert!(leader.exists("saved"));
    leader.hear(nodes[its as usize - 1], its);
    assert_eq!(copies(&leader), 1);
}
