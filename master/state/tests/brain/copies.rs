//! Copies that come and go: no lease is broken, no two live things share space, and whoever replays the log agrees.

use super::*;
use perilune_protocol::{ColdName, Extent, FaultCode, ReplicaPlace};
use perilune_state::objects::{KeyRef, Object};
use perilune_state::replicas::{CopyRefusal, CopyRoom};
use perilune_state::snapshot;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub(super) fn object(state: &State, key: &str) -> Option<Arc<Object>> {
    state.standing(KeyRef::new(TENANT, &key.into()))
}

/// Room as the engine asks for it: windows are logged when needed.
pub(super) fn room(leader: &mut Leader, size: u64, target: SegmentId) -> Option<CopyRoom> {
    loop {
        let segment = leader.state.segments.table().get(target)?.clone();
        match leader.state.copy_room(size, &segment, leader.now) {
            Ok(room) => return Some(room),
            Err(CopyRefusal::NeedWindow(effect)) => leader.commit(*effect),
            Err(CopyRefusal::Full) => return None,
        };
    }
}

fn move_to(leader: &mut Leader, key: &str, target: SegmentId, drop: Option<SegmentId>) -> Applied {
    let object = object(&leader.state, key).unwrap();
    let room = room(leader, object.size, target).unwrap();
    leader.commit(State::replicas(&object, Some(&room), drop))
}

/// Version, copies wanted, the one in a vault, copies.
type Lasting = (u64, u8, Option<ColdName>, Vec<(SegmentId, Vec<Extent>)>);

/// Everything that lasts of objects.
pub(super) fn contents(state: &State) -> BTreeMap<String, Lasting> {
    let mut all = BTreeMap::new();
    state.index.for_each(&mut |o| {
        let here = o.replicas.iter().filter(|r| state.segments.table().get(r.segment.id()).is_some());
        let mut copies: Vec<_> = here.map(|r| (r.segment.id(), r.extents.to_vec())).collect();
        copies.sort_unstable();
        all.insert(o.key.to_object_key().to_string(), (o.version.0, o.wanted(), o.cold.as_ref().map(|cold| cold.name), copies));
        ControlFlow::Continue(())
    });
    all
}

#[test]
fn a_copy_that_moved_is_read_where_it_is_and_stays_where_it_was_until_its_readers_are_done() {
    let (mut leader, _) = Leader::with_nodes(2, 16 * MIB);
    let from = leader.put("k", MIB).replicas[0].segment;
    let to = *leader.segments().iter().find(|id| **id != from).unwrap();
    assert!(leader.exists("k"));
    assert_eq!(move_to(&mut leader, "k", to, Some(from)), Applied::Done);
    assert_eq!(leader.state.peek(TENANT, &key("k")).unwrap().replicas[0].segment, to);
    assert_eq!(leader.used(), 2 * MIB);
    assert_eq!(leader.state.segments.table().get(from).unwrap().held(), MIB);
    assert_eq!(leader.remove("k", false), Err(-706), "the lease was granted to the object, wherever it lies");
    leader.state.limbo.sweep(leader.now + RULES.lease_ms - 1, true);
    assert_eq!(leader.used(), 2 * MIB);
    leader.now += RULES.lease_ms;
    leader.state.limbo.sweep(leader.now, true);
    assert_eq!(leader.used(), MIB);
    assert_eq!(leader.state.segments.table().get(from).unwrap().held(), 0);
    leader.remove("k", false).unwrap();
    assert_eq!(leader.used(), 0, "nobody reads: free at once");
}

#[test]
fn a_copy_of_what_is_gone_gives_its_room_back_and_changes_nothing() {
    let (mut leader, _) = Leader::with_nodes(2, 16 * MIB);
    let from = leader.put("k", MIB).replicas[0].segment;
    let to = *leader.segments().iter().find(|id| **id != from).unwrap();
    let old = object(&leader.state, "k").unwrap();
    let written = room(&mut leader, MIB, to).unwrap();
    let given_up = room(&mut leader, MIB, to).unwrap();
    let new = leader.start("k", MIB, &upsert()).unwrap();
    leader.end("k", new.version);
    assert!(matches!(leader.commit(State::replicas(&old, Some(&written), Some(from))), Applied::Refused(_)));
    assert_eq!(leader.state.peek(TENANT, &key("k")).unwrap().replicas, new.replicas);
    assert_eq!(leader.used(), 2 * MIB, "the object, and what a node may still write");
    leader.state.copy_give_up(given_up, true, leader.now);
    leader.state.limbo.sweep(leader.now + RULES.put_release_ms - 1, true);
    assert_eq!(leader.used(), 2 * MIB);
    leader.state.limbo.sweep(leader.now + RULES.put_release_ms, false);
    assert_eq!(leader.used(), 2 * MIB, "leftovers stay while nobody is to clear them away");
    leader.state.limbo.sweep(leader.now + RULES.put_release_ms, true);
    assert_eq!(leader.used(), MIB);
    let late = room(&mut leader, MIB, to).unwrap();
    leader.now += RULES.put_release_ms;
    leader.state.copy_give_up(late, true, leader.now);
    leader.state.limbo.sweep(leader.now + RULES.put_discard_ms - 1, true);
    assert_eq!(leader.used(), 2 * MIB, "an order that was taken just now");
    leader.state.limbo.sweep(leader.now + RULES.put_discard_ms, true);
    assert_eq!(leader.used(), MIB);
    // To a segment that went meanwhile: the copy that is to go stays.
    let object = object(&leader.state, "k").unwrap();
    let at = object.replicas[0].segment.id();
    let other = *leader.segments().iter().find(|id| **id != at).unwrap();
    let written = room(&mut leader, MIB, other).unwrap();
    leader.commit(Effect::Unmount { segment: other });
    assert!(matches!(leader.commit(State::replicas(&object, Some(&written), Some(at))), Applied::Refused(_)));
    assert!(leader.exists("k"));
}

#[test]
fn a_segment_that_drains_takes_no_copy_that_was_begun_before() {
    let (mut leader, _) = Leader::with_nodes(2, 16 * MIB);
    let from = leader.put("k", MIB).replicas[0].segment;
    let to = *leader.segments().iter().find(|id| **id != from).unwrap();
    let found = object(&leader.state, "k").unwrap();
    let written = room(&mut leader, MIB, to).unwrap();
    leader.commit(Effect::Drain { segment: to, grace_ms: 60_000 });
    let refused = leader.commit(State::replicas(&found, Some(&written), Some(from)));
    assert!(matches!(&refused, Applied::Refused(fault) if fault.code == FaultCode::SegmentNotFound), "{refused:?}");
    assert_eq!(leader.used(), MIB, "what was written there is free again");
    let copies = contents(&leader.state);
    assert_eq!(copies["k"].3.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [from], "the copy that was to go stays");
    // What was there before it drained may be said again, and changes nothing.
    let (mut leader, _) = Leader::with_nodes(2, 16 * MIB);
    let from = leader.put("k", MIB).replicas[0].segment;
    let to = *leader.segments().iter().find(|id| **id != from).unwrap();
    let found = object(&leader.state, "k").unwrap();
    let written = room(&mut leader, MIB, to).unwrap();
    let moved = State::replicas(&found, Some(&written), Some(from));
    assert_eq!(leader.commit(moved.clone()), Applied::Done);
    leader.commit(Effect::Drain { segment: to, grace_ms: 60_000 });
    assert_eq!(leader.commit(moved), Applied::Nothing);
    assert_eq!(contents(&leader.state)["k"].3[0].0, to);
}

#[test]
fn an_object_that_is_being_removed_is_not_brought_back_by_a_copy() {
    let (mut leader, _) = Leader::with_nodes(2, 16 * MIB);
    let from = leader.put("k", MIB).replicas[0].segment;
    let to = *leader.segments().iter().find(|id| **id != from).unwrap();
    let found = object(&leader.state, "k").unwrap();
    let written = room(&mut leader, MIB, to).unwrap();
    let removal = leader.state.remove(TENANT, &key("k"), false, leader.now).unwrap();
    assert_eq!(leader.commit(State::replicas(&found, Some(&written), Some(from))), Applied::Done);
    assert!(!leader.exists("k"), "a removal was decided: nobody gets a lease");
    leader.commit(removal);
    assert_eq!((leader.used(), leader.state.index.len()), (0, 0));
    // And whoever still holds the form that was replaced removes the one that stands.
    leader.put("j", MIB);
    let found = object(&leader.state, "j").unwrap();
    let from = found.replicas[0].segment.id();
    let to = *leader.segments().iter().find(|id| **id != from).unwrap();
    move_to(&mut leader, "j", to, Some(from));
    let removal = leader.state.condemn(&found, false, leader.now).unwrap();
    leader.commit(removal);
    assert_eq!((leader.used(), leader.state.index.len()), (0, 0));
}

#[test]
fn an_object_remembers_how_many_copies_were_wanted() {
    let (mut leader, _) = Leader::with_nodes(2, 16 * MIB);
    let effort = PutConfig { replicas: 3, best_effort: true, ..PutConfig::default() };
    let grant = leader.start("k", 5000, &effort).unwrap();
    leader.end("k", grant.version);
    for state in [&leader.state, &leader.restarted().state, &Arc::new(snapshot::copy(&leader.state).0)] {
        let object = object(state, "k").unwrap();
        assert_eq!((object.replicas.len(), object.wanted()), (2, 3));
    }
}

/// What a reader was told, and until when it may rely on it.
struct Lease {
    replicas: Vec<ReplicaPlace>,
    until: u64,
}

fn overlap(a: &ReplicaPlace, b: &ReplicaPlace) -> bool {
    let crosses = |x: &Extent, y: &Extent| x.offset < y.offset + y.len && y.offset < x.offset + x.len;
    a.segment == b.segment && a.extents.iter().any(|x| b.extents.iter().any(|y| crosses(x, y)))
}

pub(super) struct Story {
    pub(super) leader: Leader,
    draw: u64,
    leases: Vec<Lease>,
    rooms: Vec<(Arc<Object>, CopyRoom, Option<SegmentId>)>,
    /// The oracle: which keys exist, and the version of each.
    known: BTreeMap<String, u64>,
    /// Every upload that was named.
    pub(super) uploads: Vec<ColdName>,
}

impl Story {
    pub(super) fn draw(&mut self, below: u64) -> u64 {
        self.draw = self.draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.draw >> 33) % below
    }

    /// Space was given out: nobody may hold any of it.
    fn given(&self, place: &ReplicaPlace, at: &str) {
        let leased = self.leases.iter().filter(|l| l.until > self.leader.now).flat_map(|l| &l.replicas);
        assert!(!leased.into_iter().any(|r| overlap(r, place)), "{at}: given out while a reader may read it");
        let under_way = self.rooms.iter().map(|(_, room, _)| room.place());
        assert!(!under_way.into_iter().any(|r| overlap(&r, place)), "{at}: given out while a node writes it");
        for (key, (.., copies)) in contents(&self.leader.state) {
            let shares = |(segment, extents): &(SegmentId, Vec<Extent>)| {
                overlap(&ReplicaPlace { segment: *segment, extents: extents.clone() }, place)
            };
            assert!(!copies.iter().any(shares), "{at}: given out while {key} lies there");
        }
    }

    fn step(&mut self, at: &str) {
        let name = format!("k{}", self.draw(12));
        match self.draw(14) {
            0 | 1 => {
                let config = PutConfig { replicas: 1 + self.draw(2) as u8, ..upsert() };
                let size = 1 + self.draw(3 * MIB);
                if let Ok(grant) = self.leader.start(&name, size, &config) {
                    grant.replicas.iter().for_each(|place| self.given(place, at));
                    assert_eq!(self.leader.end(&name, grant.version), Applied::Done, "{at}");
                    self.known.insert(name, grant.version.0);
                }
            }
            2 => {
                let force = self.draw(2) == 0;
                if self.leader.remove(&name, force).is_ok() {
                    assert!(self.known.remove(&name).is_some(), "{at}: {name} was not there");
                }
            }
            3 | 4 => {
                let found = self.leader.state.locate(TENANT, &[key(&name)], self.leader.now).remove(0);
                assert_eq!(found.as_ref().ok().map(|place| place.version.0), self.known.get(&name).copied(), "{at}: {name}: {found:?}");
                if let Ok(place) = found {
                    self.leases.push(Lease { replicas: place.replicas, until: self.leader.now + RULES.lease_ms });
                }
            }
            5 | 6 => {
                let Some(object) = object(&self.leader.state, &name) else { return };
                let segments = self.leader.segments();
                let target = segments[self.draw(segments.len() as u64) as usize];
                if object.replica_on(target).is_none()
                    && let Some(room) = room(&mut self.leader, object.size, target)
                {
                    self.given(&room.place(), at);
                    let first = object.replicas.first().map(|r| r.segment.id());
                    let drop = first.filter(|_| self.draw(3) > 0);
                    self.rooms.push((object, room, drop));
                }
            }
            7 | 8 => {
                if self.rooms.is_empty() {
                    return;
                }
                let nth = self.draw(self.rooms.len() as u64) as usize;
                let (object, room, drop) = self.rooms.swap_remove(nth);
                if self.draw(4) == 0 {
                    let writes = self.draw(2) == 0;
                    self.leader.state.copy_give_up(room, writes, self.leader.now);
                } else {
                    // Never the last copy: the caller's duty.
                    let now = self.leader.state.standing(object.key.as_ref());
                    let drop = drop.filter(|_| now.is_some_and(|now| now.version == object.version));
                    self.leader.commit(State::replicas(&object, Some(&room), drop));
                }
            }
            10..=13 => self.cold_step(&name, at),
            _ => {
                self.leader.now += self.draw(RULES.lease_ms);
                self.leader.judge_all_heard();
                self.leader.state.limbo.sweep(self.leader.now, true);
            }
        }
    }
}

impl Leader {
    fn judge_all_heard(&self) {
        for (n, segment) in self.state.segments.table().iter().enumerate() {
            self.state.nodes.register(segment.node(), perilune_state::segments::nodes::Said::default(), n as u64 + 1, self.now);
        }
        self.judge();
    }
}

#[test]
fn nothing_is_lost_shared_or_broken_whatever_the_order() {
    for seed in 1..60u64 {
        let (leader, _) = Leader::with_nodes(4, 16 * MIB);
        let mut story = Story { leader, draw: seed, leases: Vec::new(), rooms: Vec::new(), known: BTreeMap::new(), uploads: Vec::new() };
        (0..100).for_each(|n| story.step(&format!("seed {seed} step {n}")));
        let index = story.leader.log.len();
        let write = snapshot::writer(story.leader.state.clone());
        // A segment the snapshot does not know. Copies may go there, and be all there is of an object when the snapshot meets it.
        story.leader.node(4, 64 * MIB);
        (100..200).for_each(|n| story.step(&format!("seed {seed} step {n}")));
        let mut bytes = Vec::new();
        write(&mut bytes).unwrap();
        (200..300).for_each(|n| story.step(&format!("seed {seed} step {n}")));

        let restored = Arc::new(snapshot::read(&mut bytes.as_slice(), RULES, 1).unwrap());
        for effect in &story.leader.log[index..] {
            restored.apply(Effect::decode(&effect.encode()).unwrap(), 1);
        }
        let truth = contents(&story.leader.state);
        assert_eq!(truth.iter().map(|(k, (v, ..))| (k.clone(), *v)).collect::<BTreeMap<_, _>>(), story.known, "seed {seed}");
        assert_eq!(contents(&restored), truth, "seed {seed}: from the snapshot");
        let (copy, overlaps) = snapshot::copy(&restored);
        assert!(overlaps.is_empty(), "seed {seed}: no two objects share space");
        assert_eq!(contents(&copy), truth, "seed {seed}: a copy");
        let follower = State::new(RULES);
        for effect in &story.leader.log {
            follower.apply(effect.clone(), 1);
        }
        assert_eq!(contents(&follower), truth, "seed {seed}: from the log");
        // Who follows is ready to lead at any time, and knows whose space is whose as if it looked just then.
        assert!(follower.is_ready(), "seed {seed}");
        assert_eq!(used(&follower), used(&copy), "seed {seed}");
        assert!(restored.is_ready(), "seed {seed}: what was met twice or too early has been put right by the log");
        assert_eq!(used(&restored), used(&copy), "seed {seed}");

        // When nobody reads or writes any more, what is used is what lives.
        story.rooms.drain(..).for_each(|(_, room, _)| story.leader.state.copy_give_up(room, false, story.leader.now));
        story.leader.state.limbo.sweep(u64::MAX, true);
        let used = story.leader.used();
        story.leader.now += 2 * RULES.lease_ms;
        for name in story.known.keys() {
            story.leader.remove(name, true).unwrap();
        }
        story.leader.state.limbo.sweep(u64::MAX, true);
        assert!(used > 0 && story.leader.used() == 0, "seed {seed}: {} of {used} bytes leaked", story.leader.used());
        let mut garbage: Vec<_> = std::iter::from_fn(|| story.leader.state.garbage.take()).map(|copy| copy.name).collect();
        garbage.sort_unstable();
        story.uploads.sort_unstable();
        assert!(!garbage.is_empty() && garbage == story.uploads, "seed {seed}: every upload is forgotten once");
    }
}

/// Lookups on other threads while copies move to and fro: the object is never absent, and what a reader was told is not given out again.
#[test]
fn readers_never_miss_an_object_that_moves() {
    let (mut leader, _) = Leader::with_nodes(2, 16 * MIB);
    let segments = leader.segments();
    let mut at = leader.put("k", MIB).replicas[0].segment;
    let (clock, over, told) = (AtomicU64::new(1), AtomicBool::new(false), Mutex::new(Vec::<Lease>::new()));
    let state = leader.state.clone();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !over.load(Ordering::Acquire) {
                    let now = clock.load(Ordering::Acquire);
                    let place = state.locate(TENANT, &[key("k")], now).remove(0).expect("it exists all the time");
                    assert!(state.peek(TENANT, &key("k")).is_ok());
                    let mut seen = 0;
                    state.for_each(TENANT, &mut |_| {
                        seen += 1;
                        ControlFlow::Continue(())
                    });
                    assert_eq!(seen, 1);
                    told.lock().unwrap().push(Lease { replicas: place.replicas, until: now + RULES.lease_ms });
                }
            });
        }
        for _ in 0..4000 {
            let to = *segments.iter().find(|id| **id != at).unwrap();
            let object = object(&leader.state, "k").unwrap();
            if let Some(room) = room(&mut leader, MIB, to) {
                let place = room.place();
                told.lock().unwrap().retain(|lease| {
                    let running = lease.until > leader.now;
                    assert!(!running || !lease.replicas.iter().any(|r| overlap(r, &place)), "given out under a lease");
                    running
                });
                assert_eq!(leader.commit(State::replicas(&object, Some(&room), Some(at))), Applied::Done);
                at = to;
            }
            leader.log.clear();
            leader.now += RULES.lease_ms / 8;
            clock.store(leader.now, Ordering::Release);
            leader.judge_all_heard();
            leader.state.limbo.sweep(leader.now, true);
        }
        over.store(true, Ordering::Release);
    });
}
