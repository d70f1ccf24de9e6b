//! What a restarted master knows, and what it must not hand out.

use super::*;
use perilune_protocol::{Extent, Pin, ReplicaPlace};
use perilune_state::effect::ObjectRecord;
use perilune_state::snapshot;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Version, size and copies of every object.
fn contents(state: &State) -> BTreeMap<String, (u64, u64, usize)> {
    let mut all = BTreeMap::new();
    state.index.for_each(&mut |o| {
        all.insert(o.key.to_object_key().to_string(), (o.version.0, o.size, o.replicas.len()));
        ControlFlow::Continue(())
    });
    all
}

/// A copy in which no two objects claim the same space.
fn copied(state: &Arc<State>) -> State {
    let (copy, overlaps) = snapshot::copy(state);
    assert!(overlaps.is_empty() && copy.is_ready(), "no two objects share space");
    copy
}

#[test]
fn nothing_acknowledged_is_forgotten() {
    let (mut leader, nodes) = Leader::with_nodes(1, 64 * MIB);
    for n in 0..100 {
        leader.put(&format!("k{n}"), 4096 * (n + 1));
    }
    leader.remove("k7", false).unwrap();
    let mut again = leader.restarted();
    assert_eq!(contents(&again.state), contents(&leader.state));
    assert!(again.exists("k99"), "readable before its node is heard");
    again.hear(nodes[0], 1);
    again.put("new", 100);
}

#[test]
fn space_a_dead_writer_may_still_write_into_is_not_handed_out() {
    let (mut leader, nodes) = Leader::with_nodes(1, 16 * MIB);
    let orphaned = leader.start("unfinished", MIB, &PutConfig::default()).unwrap();
    leader.put("kept", MIB);
    let mut again = leader.restarted();
    again.hear(nodes[0], 1);
    let first: Vec<_> = again.put("n", MIB).replicas[0].extents.clone();
    assert!(!first.contains(&orphaned.replicas[0].extents[0]), "what was in the window is left alone, the rest is not");
    again.pass(RULES.put_discard_ms - 1);
    again.hear(nodes[0], 1);
    assert!(again.start("too many", 16 * MIB, &PutConfig::default()).is_err());
    again.pass(1);
    again.hear(nodes[0], 1);
    let extents: Vec<_> = (0..14).map(|n| again.put(&format!("n{n}"), MIB).replicas[0].extents[0]).collect();
    assert!(extents.contains(&orphaned.replicas[0].extents[0]), "then it is used again");
}

#[test]
fn leases_of_the_predecessor_are_honoured() {
    let (mut leader, nodes) = Leader::with_nodes(1, 16 * MIB);
    leader.put("k", MIB);
    assert!(leader.exists("k"));
    let mut again = leader.restarted();
    again.hear(nodes[0], 1);
    assert_eq!(again.remove("k", false), Err(-706), "a reader of the old leader may still be reading");
    let before = again.used();
    again.remove("k", true).unwrap();
    assert_eq!(again.used(), before);
    again.state.limbo.sweep(1 + RULES.lease_ms, true);
    assert_eq!(again.used(), before - MIB);
    again.put("own", MIB);
    again.remove("own", false).expect("what this leader published itself it need not hold back");
}

/// A segment that has been full once must not be useless to each new leader.
#[test]
fn a_new_leader_gives_room_at_once_however_much_was_written_before() {
    let (mut leader, nodes) = Leader::with_nodes(1, 256 * MIB);
    for round in 0..3 {
        (0..250).for_each(|n| drop(leader.put(&format!("{round}/{n}"), MIB)));
        leader.narrow();
        (0..250).for_each(|n| leader.remove(&format!("{round}/{n}"), true).unwrap());
        leader.now += RULES.lease_ms + 1;
        leader.state.limbo.sweep(leader.now, true);
        leader.hear(nodes[0], 1);
    }
    let unfinished = leader.start("unfinished", MIB, &PutConfig::default()).unwrap().replicas[0].extents[0];
    for reign in 0..10 {
        leader = leader.succeeded(RULES.lease_ms + 2);
        leader.hear(nodes[0], reign);
        for n in 0..2 {
            let grant = leader.put(&format!("of {reign}/{n}"), MIB);
            assert!(!grant.replicas[0].extents.contains(&unfinished), "reign {reign}: its writer may still write");
        }
    }
    // No leader was there for long, and yet what the first ones left behind closes.
    for reign in 0..40 {
        leader = leader.succeeded(RULES.lease_ms + 2);
        leader.hear(nodes[0], reign);
        leader.put(&format!("late {reign}"), MIB);
        leader.remove(&format!("late {reign}"), true).unwrap();
        leader.pass(RULES.put_discard_ms / 10);
    }
    let space_of = |leader: &Leader| leader.state.segments.table().get(leader.segments()[0]).unwrap().clone();
    let window: u32 = space_of(&leader).space().window().iter().map(|opened| opened.frames.count).sum();
    assert!(window <= 13 * 16, "{window} frames of 1024, of which a leader opens 16, are in the window");
}

/// What a reader may still read is told by the log, whoever applies it, and by snapshots.
#[test]
fn what_was_removed_before_the_leader_died_is_left_alone_until_its_leases_have_ended() {
    for (by_snapshot, by_copy) in [(false, false), (false, true), (true, false), (true, true)] {
        let (mut leader, nodes) = Leader::with_nodes(1, 16 * MIB);
        let read = leader.put("read", MIB).replicas[0].extents[0];
        leader.put("kept", MIB);
        leader.narrow();
        assert!(leader.exists("read"));
        leader.remove("read", true).unwrap();
        let state = if by_snapshot {
            let mut bytes = Vec::new();
            snapshot::writer(leader.state.clone())(&mut bytes).unwrap();
            snapshot::read(&mut bytes.as_slice(), RULES, 5).unwrap()
        } else {
            let state = State::new(RULES);
            leader.log.iter().for_each(|effect| drop(state.apply(effect.clone(), 5)));
            state
        };
        let state = if by_copy { copied(&Arc::new(state)) } else { state };
        state.lead(6).unwrap();
        let mut again = Leader { state: Arc::new(state), log: leader.log.clone(), now: 6, version: leader.version };
        again.hear(nodes[0], 1);
        let mut taken = Vec::new();
        while let Ok(grant) = again.start(&format!("n{}", taken.len()), MIB, &PutConfig::default()) {
            taken.push(grant.replicas[0].extents[0]);
        }
        assert_eq!((taken.len(), taken.contains(&read)), (14, false));
        again.state.limbo.sweep(5 + RULES.lease_ms - 1, true);
        assert!(again.start("early", MIB, &PutConfig::default()).is_err());
        again.state.limbo.sweep(5 + RULES.lease_ms, true);
        assert_eq!(again.start("later", MIB, &PutConfig::default()).unwrap().replicas[0].extents[0], read);
    }
}

#[test]
fn what_left_twice_is_left_alone_for_those_who_read_it_last() {
    let (mut leader, nodes) = Leader::with_nodes(1, 16 * MIB);
    let state = State::new(RULES);
    let mut place = Vec::new();
    for (round, learned) in [(0, 5), (1, 4000)] {
        let known = leader.log.len() * round;
        let grant = leader.put("k", MIB);
        // With it the window is full, and closes.
        leader.put(&format!("kept {round}"), MIB);
        leader.narrow();
        leader.remove("k", true).unwrap();
        leader.log[known..].iter().for_each(|effect| drop(state.apply(effect.clone(), learned)));
        place.push(grant.replicas[0].extents.clone());
    }
    assert_eq!(place[0], place[1]);
    state.lead(4001).unwrap();
    let mut again = Leader { state: Arc::new(state), log: leader.log.clone(), now: 4001, version: leader.version };
    again.hear(nodes[0], 1);
    while again.start(&format!("n{}", again.version), 4096, &PutConfig::default()).is_ok() {}
    let full = again.used();
    again.state.limbo.sweep(4000 + RULES.lease_ms - 1, true);
    assert_eq!(again.used(), full, "of the first only");
    again.state.limbo.sweep(4000 + RULES.lease_ms, true);
    assert!(again.used() < full);
}

/// A snapshot is written while effects go on; restored, and with every effect after its index on top, it is the same state.
#[test]
fn a_snapshot_taken_in_the_middle_converges() {
    for seed in 1..30u64 {
        let (mut leader, _) = Leader::with_nodes(2, 64 * MIB);
        let mut draw = seed;
        let mut step = |leader: &mut Leader| {
            draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let key = format!("k{}", (draw >> 40) % 20);
            if (draw >> 33).is_multiple_of(3) {
                let _ = leader.remove(&key, true);
            } else if let Ok(grant) = leader.start(&key, 1 + (draw >> 50), &PutConfig { replicas: 2, ..upsert() }) {
                leader.end(&key, grant.version);
            }
        };
        (0..50).for_each(|_| step(&mut leader));
        let index = leader.log.len();
        let write = snapshot::writer(leader.state.clone());
        // A segment the snapshot does not know, and objects on it that it may know.
        leader.node(2, 64 * MIB);
        (0..30).for_each(|_| step(&mut leader));
        let mut bytes = Vec::new();
        write(&mut bytes).unwrap();
        (0..30).for_each(|_| step(&mut leader));
        let restored = Arc::new(snapshot::read(&mut bytes.as_slice(), RULES, 1).unwrap());
        for effect in &leader.log[index..] {
            restored.apply(effect.clone(), 1);
        }
        assert_eq!(contents(&restored), contents(&leader.state), "seed {seed}");
        let ready = copied(&restored);
        assert_eq!(contents(&ready), contents(&leader.state), "seed {seed}");
        assert!(restored.is_ready(), "seed {seed}: what was met twice or too early has been put right by the log");
        assert_eq!(used(&restored), used(&ready), "seed {seed}");
        for cut in [0, 3, bytes.len() / 2, bytes.len() - 1] {
            assert!(snapshot::read(&mut &bytes[..cut], RULES, 1).is_err(), "seed {seed}: cut at {cut}");
        }
    }
}

#[test]
fn a_snapshot_of_the_release_before_objects_remembered_what_was_wanted_is_read() {
    let state = snapshot::read(&mut include_bytes!("../old/snapshot_v2.bin").as_slice(), RULES, 1).unwrap();
    let mut wanted = BTreeMap::new();
    state.index.for_each(&mut |o| {
        wanted.insert(o.key.to_object_key().to_string(), (o.size, o.replicas.len(), o.wanted()));
        ControlFlow::Continue(())
    });
    assert_eq!(wanted, [("double".to_owned(), (70_000, 2, 2)), ("single".to_owned(), (5000, 1, 1))].into());
    assert_eq!((state.segments.table().len(), state.soft_pins(), state.settings.get("balance").as_deref()), (2, 1, Some("Enable")));
    state.lead(1).unwrap();
}

#[test]
fn settings_are_in_snapshots_and_in_copies() {
    let state = Arc::new(State::new(RULES));
    let set = |key: &str, value: Option<&str>| Effect::Setting { key: key.into(), value: value.map(str::to_owned) };
    for effect in [set("balance", Some("Enable")), set("a", Some("1")), set("b", Some("2")), set("a", None)] {
        assert_eq!(state.apply(effect, 1), Applied::Done);
    }
    let mut bytes = Vec::new();
    snapshot::writer(state.clone())(&mut bytes).unwrap();
    let restored = Arc::new(snapshot::read(&mut bytes.as_slice(), RULES, 1).unwrap());
    for state in [&restored, &Arc::new(copied(&restored))] {
        assert_eq!(state.settings.map(), Arc::new([("b", "2"), ("balance", "Enable")].map(|(k, v)| (k.to_owned(), v.to_owned())).into()));
    }
}

/// A member leads, follows while another gives the same space to other objects, and leads again with a copy.
#[test]
fn who_leads_again_begins_with_a_copy_that_knows_nothing_of_the_last_reign() {
    let (mut first, nodes) = Leader::with_nodes(1, 16 * MIB);
    for n in 0..8 {
        first.put(&format!("k{n}"), MIB);
    }
    first.start("unfinished", MIB, &PutConfig::default()).unwrap();
    // Decided and never stored, since the lead was lost.
    first.state.remove(TENANT, &key("k7"), true, first.now).unwrap();
    first.state.follow();

    let mut second = first.restarted();
    second.now = 40_000;
    second.hear(nodes[0], 9);
    second.state.limbo.sweep(second.now, true);
    let known = second.log.len();
    for n in 0..4 {
        second.remove(&format!("k{n}"), true).unwrap();
    }
    second.now = 80_000;
    second.state.limbo.sweep(second.now, true);
    second.hear(nodes[0], 9);
    for n in 0..6 {
        second.put(&format!("new{n}"), MIB);
    }
    for effect in &second.log[known..] {
        assert_eq!(first.state.apply(effect.clone(), 5000), Applied::Done);
    }

    assert!(first.state.lead(90_000).is_err(), "what it gave in its reign is still taken");
    let copy = copied(&first.state);
    copy.lead(90_000).unwrap();
    assert_eq!(contents(&copy), contents(&second.state));
    assert_eq!(copy.puts.len(), 0);
    let mut third = Leader { state: Arc::new(copy), log: Vec::new(), now: 90_000, version: second.version + 1 };
    third.hear(nodes[0], 9);
    assert!(third.exists("k7") && third.exists("new5") && !third.exists("k0"));
    third.pass(RULES.put_discard_ms);
    third.hear(nodes[0], 9);
    third.put("unfinished", MIB);
}

/// As in a dump that was taken while copies moved: one of two objects is known as it was before its copy made room for the other.
#[test]
fn of_objects_that_claim_the_same_bytes_only_the_copies_that_cannot_be_are_left_out() {
    let (mut leader, _) = Leader::with_nodes(2, 16 * MIB);
    let [first, second] = leader.segments()[..] else { panic!("two segments") };
    let place = |segment, offset| ReplicaPlace { segment, extents: vec![Extent { offset, len: MIB }] };
    let commit = |key: &str, version: u64, replicas: Vec<ReplicaPlace>| {
        let wanted = replicas.len() as u8;
        Effect::Commit(ObjectRecord {
            tenant: TENANT,
            key: key.into(),
            version: Tso(version),
            size: MIB,
            checksum: 7,
            pin: Pin::Soft,
            replicas,
            wanted,
        })
    };
    leader.log.extend([
        commit("moved", 1, vec![place(first, 0), place(second, 0)]),
        commit("lost", 2, vec![place(first, MIB)]),
        commit("whole", 3, vec![place(first, 0), place(second, 4 * MIB)]),
        commit("other", 4, vec![place(first, MIB)]),
    ]);
    let state = Arc::new(State::new(RULES));
    leader.log.iter().for_each(|effect| drop(state.apply(effect.clone(), 1)));
    assert!(state.lead(1).is_err());
    let (copy, overlaps) = snapshot::copy(&state);
    let left: BTreeMap<String, usize> = overlaps.iter().map(|o| (o.key.to_string(), o.left())).collect();
    assert_eq!(left, [("lost".to_owned(), 0), ("moved".to_owned(), 1)].into());
    copy.begin(&overlaps, 1);
    let meter = copy.meters.of(TENANT);
    assert_eq!((meter.objects(), meter.bytes()), (3, 4 * MIB));
    let state = Arc::new(copy);
    let known = [("moved".to_owned(), (1, MIB, 1)), ("other".to_owned(), (4, MIB, 1)), ("whole".to_owned(), (3, MIB, 2))];
    assert_eq!(contents(&state), known.into());
    let left = state.peek(TENANT, &key("moved")).unwrap();
    assert_eq!(left.replicas, vec![place(second, 0)]);
    assert_eq!((left.checksum, state.soft_pins()), (7, 3));
    let used: Vec<u64> = state.segments.table().iter().map(|s| s.space().used() - s.held()).collect();
    assert_eq!(used, [2 * MIB, 2 * MIB], "what could not be claimed takes nothing");
    leader.state = state;
    leader.remove("moved", true).unwrap();
    leader.now += RULES.lease_ms.max(RULES.put_discard_ms);
    leader.state.limbo.sweep(leader.now, true);
    assert_eq!(leader.used(), 3 * MIB, "and what it has goes with it");
    assert!(leader.exists("whole") && leader.exists("other"));
}
