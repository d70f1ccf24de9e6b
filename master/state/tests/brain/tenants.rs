//! Tenants: whose memory a value lies in, how much there may be of it, and what every later leader knows of that.

use super::*;
use perilune_protocol::FaultCode;
use perilune_protocol::sealed::Sealed;
use perilune_protocol::tenant::Quota;
use perilune_state::directory::{NewFeed, TenantStatus};
use perilune_state::snapshot;

impl Leader {
    fn tenant(&mut self, name: &str) -> TenantId {
        self.decide(|known| known.create(name, "", "", 1)).unwrap();
        self.state.directory.tenant(name).unwrap()
    }

    fn lend(&mut self, tenant: TenantId, size: u64) -> (NodeId, SegmentId) {
        let node = NodeId::random();
        let desc = desc(node, 7, size);
        let id = desc.id;
        self.commit(Effect::lend(tenant, "", desc));
        self.hear(node, 77);
        (node, id)
    }

    fn start_of(&mut self, tenant: TenantId, key: &str, size: u64, config: &PutConfig) -> Result<PutGrant, PutRefusal> {
        self.version += 1;
        self.commit(Effect::TsoLimit(Tso(self.version)));
        loop {
            let stamp = Stamp { tenant, pool: None, now: self.now, host: "", writer: WriterId::random(), session: 1, draw: self.version };
            match self.state.put_start(&key.into(), size, config, Tso(self.version), stamp) {
                Err(PutRefusal::NeedWindow(effect)) => drop(self.commit(*effect)),
                other => return other,
            }
        }
    }

    fn end_of(&mut self, tenant: TenantId, key: &str, version: Tso) -> Applied {
        let Ok(PutEnding::Propose(effect)) = self.state.put_end(tenant, &key.into(), version, 7) else { panic!("not in progress") };
        self.commit(effect)
    }

    fn has(&self, tenant: TenantId) -> (u64, u64) {
        let meter = self.state.meters.of(tenant);
        (meter.objects(), meter.bytes())
    }

    /// What the meter should say: objects in the index, and puts in progress, of which the test keeps account.
    fn counted(&self, tenant: TenantId) -> (u64, u64) {
        let (mut objects, mut bytes) = (0, 0);
        self.state.index.for_each(&mut |o| {
            if o.key.as_ref().tenant == tenant {
                objects += 1;
                bytes += o.size * o.replicas.len() as u64;
            }
            std::ops::ControlFlow::Continue(())
        });
        (objects, bytes)
    }
}

fn code(refusal: &PutRefusal) -> FaultCode {
    match refusal {
        PutRefusal::Fault(fault) | PutRefusal::NeedRoom(_, fault) | PutRefusal::NeedNode(fault) => fault.code,
        PutRefusal::NeedWindow(_) => panic!("a window is not a fault"),
    }
}

#[test]
fn one_key_of_two_tenants_is_two_objects_in_two_memories() {
    let (mut leader, _) = Leader::with_nodes(1, 16 * MIB);
    let acme = leader.tenant("acme");
    let config = PutConfig::default();
    assert_eq!(code(&leader.start_of(acme, "k", 100, &config).unwrap_err()), FaultCode::NoSpace, "others' memory is not theirs");
    let (_, segment) = leader.lend(acme, 16 * MIB);
    let grant = leader.start_of(acme, "k", 100, &config).unwrap();
    assert_eq!(grant.replicas[0].segment, segment);
    leader.end_of(acme, "k", grant.version);
    leader.put("k", 200);
    let size = |leader: &Leader, tenant| leader.state.peek(tenant, &"k".into()).unwrap().size;
    assert_eq!((size(&leader, acme), size(&leader, TENANT)), (100, 200));
    // However often: never on the other's.
    for n in 0..20 {
        let grant = leader.start_of(acme, &format!("k{n}"), MIB / 2, &PutConfig { replicas: 1, ..config.clone() }).unwrap();
        assert_eq!(grant.replicas[0].segment, segment);
    }
    assert!(leader.start_of(acme, "two", 1, &PutConfig { replicas: 2, ..config }).is_err(), "one segment holds one copy");
}

#[test]
fn whoever_leads_next_knows_the_tenants_and_whose_memory_is_whose() {
    let (mut leader, _) = Leader::with_nodes(1, 16 * MIB);
    let acme = leader.tenant("acme");
    let quota = Quota { bytes: Some(3000), objects: None };
    leader.decide(|known| known.set_quota("acme", quota, 2)).unwrap();
    leader.decide(|known| known.set_overdue("acme", true, 3)).unwrap();
    let gone = leader.tenant("gone");
    leader.decide(|known| known.drop_tenant("gone", 4)).unwrap();
    leader.decide(|known| known.gone("gone", 5)).unwrap();
    let (_, segment) = leader.lend(acme, 16 * MIB);
    leader.decide(|known| known.declare("acme", "db", "t", b"t/", 4, 6)).unwrap();
    leader.decide(|known| known.declare("acme", "db", "left", b"l/", 4, 6)).unwrap();
    leader.decide(|known| known.undeclare("acme", "db", "left", 6)).unwrap();
    let sealed = Some(Sealed { key: 1, nonce: [0; 12], bytes: vec![7] });
    let [name, sink, config, creator] = ["f", "blackhole://", "{}", "0"].map(String::from);
    let new = NewFeed { name, sink, sealed, config, start: Tso(7), target: None, creator };
    leader.decide(|known| known.create_feed("acme", &new, 7)).unwrap();

    let mut bytes = Vec::new();
    snapshot::writer(leader.state.clone())(&mut bytes).unwrap();
    let by_snapshot = snapshot::read(&mut bytes.as_slice(), RULES, 1).unwrap();
    let (by_copy, _) = snapshot::copy(&leader.state);
    for (how, state) in [("log", leader.restarted().state), ("snapshot", by_snapshot.into()), ("copy", by_copy.into())] {
        assert_eq!(**state.directory.known(), **leader.state.directory.known(), "{how}");
        assert_eq!(state.segments.table().get(segment).unwrap().tenant(), acme, "{how}");
    }
    assert_ne!(leader.tenant("next"), gone, "numbers are not given again");
    assert_eq!(leader.decide(|known| known.create("gone", "", "", 9)), Err(Refused::Exists("gone".into())), "nor are names");
}

#[test]
fn a_change_that_was_decided_upon_what_is_not_so_any_more_does_nothing() {
    let (mut leader, _) = Leader::with_nodes(1, 16 * MIB);
    let late = leader.state.directory.known().create("late", "", "", 1).unwrap().unwrap();
    leader.tenant("first");
    assert!(matches!(leader.commit(Effect::Directory { revision: 1, change: Box::new(late.clone()) }), Applied::Refused(_)));
    assert!(matches!(leader.commit(Effect::Directory { revision: 3, change: Box::new(late) }), Applied::Refused(_)));
    assert_eq!(leader.state.directory.tenant("late").unwrap_err().code, FaultCode::TenantNotFound);
    assert_eq!(leader.restarted().state.directory.known().revision, 1, "and nothing when it is read again");
}

#[test]
fn the_life_of_a_tenant_says_what_is_served() {
    let (mut leader, _) = Leader::with_nodes(1, 16 * MIB);
    let acme = leader.tenant("acme");
    leader.lend(acme, 16 * MIB);
    let config = PutConfig::default();
    let serves = |leader: &mut Leader| {
        let put = leader.start_of(acme, "k", 1, &config).map(|grant| leader.state.put_revoke(acme, &"k".into(), grant.version, 1));
        (leader.state.directory.may_use(acme).map_err(|f| f.code), put.map(drop).map_err(|refusal| code(&refusal)))
    };
    assert_eq!(serves(&mut leader), (Ok(()), Ok(())));
    leader.decide(|known| known.set_overdue("acme", true, 2)).unwrap();
    assert_eq!(serves(&mut leader), (Ok(()), Err(FaultCode::TenantOverdue)));
    leader.decide(|known| known.drop_tenant("acme", 3)).unwrap();
    assert_eq!(serves(&mut leader), (Err(FaultCode::TenantDeleted), Err(FaultCode::TenantDeleted)));
    assert_eq!(leader.decide(|known| known.set_overdue("acme", false, 4)), Err(Refused::Dropped("acme".into())));
    assert_eq!(leader.decide(|known| known.drop_tenant("acme", 4)), Ok(()), "twice is as good as once");
    assert!(leader.decide(|known| known.drop_tenant("default", 4)).is_err());
    let status = leader.state.directory.known().named("acme").unwrap().status;
    assert_eq!(status, TenantStatus::Deleted);
}

#[test]
fn meters_say_what_there_is_whatever_becomes_of_puts() {
    for seed in 0..30 {
        let mut draw = u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15) | 1;
        let mut random = |below: u64| {
            draw ^= draw << 13;
            draw ^= draw >> 7;
            draw ^= draw << 17;
            draw % below
        };
        let mut leader = Leader::new();
        let acme = leader.tenant("acme");
        for _ in 0..3 {
            leader.lend(acme, 16 * MIB);
        }
        let quota = Quota { bytes: Some(600_000), objects: Some(12) };
        leader.decide(|known| known.set_quota("acme", quota, 2)).unwrap();
        let mut open: Vec<(String, PutGrant, u64)> = Vec::new();
        for step in 0..300 {
            let key = format!("k{}", random(20));
            match random(10) {
                0..=3 => {
                    let (size, replicas) = (1 + random(100_000), 1 + random(4) as u8);
                    let config = PutConfig { replicas, best_effort: true, upsert: random(2) == 0, ..PutConfig::default() };
                    if let Ok(grant) = leader.start_of(acme, &key, size, &config) {
                        open.push((key, grant, size));
                    }
                }
                4..=6 if !open.is_empty() => {
                    let (key, grant, _) = open.swap_remove(random(open.len() as u64) as usize);
                    leader.end_of(acme, &key, grant.version);
                }
                7 if !open.is_empty() => {
                    let (key, grant, _) = open.swap_remove(random(open.len() as u64) as usize);
                    leader.state.put_revoke(acme, &key.as_str().into(), grant.version, leader.now).unwrap();
                }
                8 => {
                    if let Ok(effect) = leader.state.remove(acme, &key.as_str().into(), true, leader.now) {
                        leader.commit(effect);
                    }
                }
                9 if random(10) == 0 => {
                    leader.now += RULES.put_discard_ms + 1;
                    leader.state.discard_abandoned(leader.now);
                    open.clear();
                    leader.state.segments.table().iter().for_each(|s| leader.hear(s.node(), 77));
                }
                _ => {}
            }
            let (objects, bytes) = leader.counted(acme);
            let promised: u64 = open.iter().map(|(_, grant, size)| size * grant.replicas.len() as u64).sum();
            let should = (objects + open.len() as u64, bytes + promised);
            assert_eq!(leader.has(acme), should, "seed {seed}, step {step}");
            assert!(should.0 <= 12 && should.1 <= 600_000, "seed {seed}, step {step}: {should:?}");
        }
        let again = leader.restarted();
        assert_eq!(again.has(acme), again.counted(acme), "seed {seed}: a leader counts anew");
    }
}

/// A feed whose tenant is gone is gone, and nobody else's is; how far one was counts for that run of it only.
#[test]
fn the_life_of_a_changefeed() {
    use perilune_state::directory::{FeedEvent, FeedId, FeedRefused, FeedState, Trouble};
    let (mut leader, _) = Leader::with_nodes(1, 16 * MIB);
    leader.tenant("acme");
    let new = |name: &str| {
        let [sink, config, creator] = ["blackhole://", "{}", "0"].map(String::from);
        NewFeed { name: name.into(), sink, sealed: None, config, start: Tso(7), target: None, creator }
    };
    let f = new("f");
    for tenant in ["acme", "default"] {
        leader.decide(|known| known.create_feed(tenant, &f, 1)).unwrap();
        assert_eq!(leader.decide(|known| known.create_feed(tenant, &f, 1)), Err(FeedRefused::Exists("f".into()).into()));
    }
    let id = FeedId(1);
    let trouble = Trouble { at_ms: 5, addr: String::new(), code: "c".into(), message: "m".into() };
    let mut step = |event, trouble: Option<&Trouble>| {
        leader.decide(|known| known.advance_feed(id, event, trouble, 2)).unwrap();
        leader.state.directory.known().feed(id).unwrap().clone()
    };
    let pending = step(FeedEvent::Stumbled, Some(&trouble));
    assert_eq!((pending.state, pending.error.as_ref()), (FeedState::Pending, Some(&trouble)));
    let warning = step(FeedEvent::Retried, None);
    assert_eq!((warning.state, warning.error, warning.warning), (FeedState::Warning, None, Some(trouble.clone())));
    assert_eq!(step(FeedEvent::Recovered, None).state, FeedState::Normal);
    assert_eq!(step(FeedEvent::Retried, None).state, FeedState::Normal, "nothing happens");
    let seen = leader.state.directory.known().feed(id).unwrap().clone();
    assert_eq!(leader.decide(|known| known.alter_feed(&seen, &|feed| feed.config = "x".into(), 3)), Err(FeedRefused::Runs.into()));
    leader.decide(|known| known.advance_feed(id, FeedEvent::Broken, Some(&trouble), 3)).unwrap();
    leader.decide(|known| known.alter_feed(&seen, &|feed| feed.config = "x".into(), 3)).unwrap();
    // Who has not seen that does not take it back.
    assert_eq!(leader.decide(|known| known.alter_feed(&seen, &|feed| feed.config = "y".into(), 3)), Err(FeedRefused::Changed.into()));
    leader.decide(|known| known.resume_feed(id, Some(Tso(9)), 4)).unwrap();
    let feed = leader.state.directory.known().feed(id).unwrap().clone();
    assert_eq!((feed.state, feed.run, feed.start, feed.error, feed.config.as_str()), (FeedState::Normal, 2, Tso(9), None, "x"));

    leader.decide(|known| known.drop_tenant("acme", 4)).unwrap();
    leader.decide(|known| known.gone("acme", 5)).unwrap();
    let known = leader.state.directory.known().clone();
    assert_eq!(known.feeds().map(|feed| feed.id).collect::<Vec<_>>(), [FeedId(2)]);
    leader.decide(|known| known.drop_feed(FeedId(2))).unwrap();
    leader.decide(|known| known.create_feed("default", &f, 9)).unwrap();
    assert!(leader.state.directory.known().feed(FeedId(3)).is_some(), "numbers are not given again");
    assert_eq!(leader.decide(|known| known.advance_feed(FeedId(2), FeedEvent::Pause, None, 9)), Err(FeedRefused::Unknown.into()));
}
