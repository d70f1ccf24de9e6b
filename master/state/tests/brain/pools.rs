//! Pools: whose puts go where, what takes nothing, who may lend, and what every later leader knows of that.

use super::*;
use perilune_protocol::FaultCode;
use perilune_state::directory::{Described, Known, Meant, NodeKind, NodeStatus, PoolId, PoolKind, PoolRefused, PoolStatus, Refused};
use perilune_state::snapshot;

impl Leader {
    fn add_pool(&mut self, name: &str, users: &[&str], nodes: &[Described]) -> Result<PoolId, Refused> {
        let users: Vec<String> = users.iter().map(|user| (*user).into()).collect();
        self.decide(|known| known.add_pool(pool(name), PoolKind::Compute, &users, nodes, 1))?;
        Ok(self.state.directory.known().pools().last().unwrap().id)
    }

    /// A node that presents `1:acme:NAME` lends a segment.
    fn lend_as(&mut self, tenant: TenantId, name: &str, n: u64) -> SegmentId {
        let node = NodeId::random();
        let desc = desc(node, n, 16 * MIB);
        let id = desc.id;
        assert_eq!(self.commit(Effect::lend(tenant, &format!("1:acme:{name}"), desc)), Applied::Done);
        self.hear(node, 70 + n);
        id
    }

    fn place(&mut self, tenant: TenantId, pool: Option<PoolId>, replicas: u8) -> Result<Vec<SegmentId>, FaultCode> {
        self.version += 1;
        self.commit(Effect::TsoLimit(Tso(self.version)));
        let (key, config) = (format!("k{}", self.version), PutConfig { replicas, ..PutConfig::default() });
        loop {
            let stamp = Stamp { tenant, pool, now: self.now, host: "", writer: WriterId::random(), session: 1, draw: self.version };
            match self.state.put_start(&key.as_str().into(), MIB, &config, Tso(self.version), stamp) {
                Err(PutRefusal::NeedWindow(effect)) => drop(self.commit(*effect)),
                Ok(grant) => return Ok(grant.replicas.iter().map(|r| r.segment).collect()),
                Err(PutRefusal::Fault(fault) | PutRefusal::NeedNode(fault) | PutRefusal::NeedRoom(_, fault)) => return Err(fault.code),
            }
        }
    }
}

fn pool(name: &str) -> Meant<'_> {
    Meant { tenant: "acme", cluster_id: name, name }
}

fn node(name: &str, port: u16) -> Described {
    Described { unique_id: format!("1:acme:{name}"), ip: "10.0.0.1".into(), host: String::new(), port: Some(port), kind: None }
}

fn frontend(name: &str, port: u16, kind: NodeKind) -> Described {
    Described { kind: Some(kind), ..node(name, port) }
}

/// Two pools of one node each, and what they lend.
fn two_pools() -> (Leader, TenantId, [PoolId; 2], [SegmentId; 2]) {
    let mut leader = Leader::new();
    leader.decide(|known| known.create("acme", "", "", 1)).unwrap();
    let acme = leader.state.directory.tenant("acme").unwrap();
    let pools = [
        leader.add_pool("prefill", &["jack"], &[node("p", 9050)]).unwrap(),
        leader.add_pool("decode", &["lx"], &[node("d", 9051)]).unwrap(),
    ];
    let segments = [leader.lend_as(acme, "p", 1), leader.lend_as(acme, "d", 2)];
    (leader, acme, pools, segments)
}

#[test]
fn a_put_goes_to_the_pool_of_its_caller_as_long_as_that_takes_any() {
    let (mut leader, acme, [prefill, decode], [p, d]) = two_pools();
    let preferred = |leader: &Leader, user: &str, id: &str| leader.state.directory.known().preferred(acme, user, id);
    assert_eq!(preferred(&leader, "jack", ""), Some(prefill));
    assert_eq!(preferred(&leader, "jack", "1:acme:d"), Some(decode), "where it is itself counts first");
    assert_eq!((preferred(&leader, "", ""), preferred(&leader, "eve", "1:acme:x")), (None, None));
    for _ in 0..5 {
        assert_eq!((leader.place(acme, Some(prefill), 1), leader.place(acme, Some(decode), 1)), (Ok(vec![p]), Ok(vec![d])));
    }
    assert_eq!(leader.place(acme, Some(prefill), 2), Ok(vec![p, d]), "a second copy goes elsewhere");
    let full = (0..20).filter(|_| leader.place(acme, Some(prefill), 1) == Ok(vec![d])).count();
    assert!(full > 0, "a full pool is no reason to refuse");

    // A user is of one pool: the other one is left.
    leader.decide(|known| known.set_users(pool("decode"), &["jack".into()], 2)).unwrap();
    let users = |leader: &Leader, id| leader.state.directory.known().pool(id).unwrap().users.clone();
    assert_eq!((preferred(&leader, "jack", ""), users(&leader, prefill)), (Some(decode), Vec::new()));
    leader.decide(|known| known.set_users(pool("prefill"), &["lx".into()], 2)).unwrap();
    assert_eq!((preferred(&leader, "jack", ""), preferred(&leader, "lx", "")), (Some(decode), Some(prefill)));
    leader.decide(|known| known.add_pool(pool("third"), PoolKind::Compute, &["lx".into(), "jack".into()], &[], 2)).unwrap();
    assert_eq!((users(&leader, prefill), users(&leader, decode)), (Vec::new(), Vec::new()));
    for none in [vec![], vec![String::new()], vec!["jack".into(), " ".into()]] {
        let refused = leader.decide(|known| known.set_users(pool("decode"), &none, 2));
        assert_eq!(refused, Err(PoolRefused::NoUsers.into()), "{none:?}");
    }
}

#[test]
fn a_pool_that_sleeps_takes_nothing_and_is_read() {
    let (mut leader, acme, [prefill, _], [p, d]) = two_pools();
    let set = |leader: &mut Leader, name: &str, status| leader.decide(|known| known.set_pool_status(pool(name), status, 2));
    set(&mut leader, "prefill", PoolStatus::Suspended).unwrap();
    for _ in 0..10 {
        assert_eq!(leader.place(acme, Some(prefill), 1), Ok(vec![d]));
    }
    assert!(leader.place(acme, None, 2).is_err(), "nor does it take a second copy");
    let target = leader.state.segments.table().get(p).unwrap().clone();
    assert!(leader.state.copy_room(1, &target, leader.now).is_err() && target.readable(), "nor one that is made later");
    set(&mut leader, "decode", PoolStatus::Suspended).unwrap();
    assert_eq!(leader.place(acme, None, 1), Err(FaultCode::NoSpace));

    assert_eq!(set(&mut leader, "prefill", PoolStatus::Normal), Err(PoolRefused::Status(PoolStatus::Suspended).into()));
    assert_eq!(set(&mut leader, "prefill", PoolStatus::Suspended), Err(PoolRefused::SameStatus(PoolStatus::Suspended).into()));
    set(&mut leader, "prefill", PoolStatus::ToResume).unwrap();
    assert_eq!(leader.place(acme, None, 1), Err(FaultCode::NoSpace), "it is not awake yet");
    set(&mut leader, "prefill", PoolStatus::Normal).unwrap();
    assert_eq!(leader.place(acme, None, 1), Ok(vec![p]));
    assert!(leader.state.to_empty().is_empty(), "nobody was to leave");
}

#[test]
fn who_is_not_registered_any_more_lends_nothing_and_is_emptied() {
    let (mut leader, acme, _, [p, d]) = two_pools();
    let may = |leader: &Leader, id: &str, strict| leader.state.directory.may_lend(acme, id, "10.0.0.1:1", strict).map_err(|f| f.code);
    assert_eq!((may(&leader, "", false), may(&leader, "", true)), (Ok(()), Err(FaultCode::Forbidden)));
    assert_eq!((may(&leader, "1:acme:p", true), may(&leader, "1:acme:x", false)), (Ok(()), Err(FaultCode::Forbidden)));
    let other = leader.state.directory.may_lend(TenantId(0), "1:acme:p", "", false);
    assert_eq!(other.map_err(|f| f.code), Err(FaultCode::Forbidden), "another tenant's");

    leader.decide(|known| known.decommission(pool("prefill"), &[node("p", 9050)], 2)).unwrap();
    leader.decide(|known| known.decommission(pool("prefill"), &[node("p", 9050)], 3)).unwrap();
    assert_eq!((may(&leader, "1:acme:p", false), leader.state.to_empty()), (Err(FaultCode::Forbidden), vec![p]));
    assert_eq!(leader.place(acme, None, 1), Ok(vec![d]));
    assert!(leader.state.emptied().is_empty(), "it still lends");
    leader.commit(Effect::Drain { segment: p, grace_ms: 1000 });
    assert!(leader.state.to_empty().is_empty(), "under way");
    leader.commit(Effect::Unmount { segment: p });
    let (of, left) = leader.state.emptied().pop().unwrap();
    leader.decide(|known| known.emptied(&of, &left, 4)).unwrap();
    leader.decide(|known| known.emptied(&of, &left, 4)).unwrap();
    assert_eq!(leader.state.directory.known().pool(of.id).unwrap().nodes[0].status, NodeStatus::Decommissioned);

    let elsewhere = leader.decide(|known| known.drop_nodes(pool("decode"), &[node("d", 9052)], 0, 5));
    assert_eq!(elsewhere, Err(PoolRefused::NoNode("1:acme:d".into()).into()), "another place is another node");
    leader.decide(|known| known.drop_nodes(pool("decode"), &[node("d", 9051)], 0, 5)).unwrap();
    assert_eq!((may(&leader, "1:acme:d", false), leader.state.to_empty()), (Err(FaultCode::Forbidden), vec![d]));
    assert_eq!(leader.place(acme, None, 1), Err(FaultCode::NoSpace));
    leader.decide(|known| known.add_nodes(pool("decode"), &[node("d", 9051)], 6)).unwrap();
    assert_eq!((may(&leader, "1:acme:d", false), leader.state.to_empty()), (Ok(()), vec![]), "taken back in time");
    leader.decide(|known| known.drop_pool(pool("decode"), 0, 7)).unwrap();
    assert_eq!(leader.state.to_empty(), vec![d]);
}

#[test]
fn what_a_node_or_client_presents_says_whose_it_is() {
    let (mut leader, acme, ..) = two_pools();
    leader.decide(|known| known.create("other", "", "", 1)).unwrap();
    let odd = Described { unique_id: "odd one".into(), ..node("o", 9053) };
    leader.decide(|known| known.add_nodes(pool("decode"), std::slice::from_ref(&odd), 2)).unwrap();
    let caller = |name: &str, id: &str| leader.state.directory.caller(name, id).map_err(|f| f.code);
    assert_eq!((caller("", "odd one"), caller("acme", "odd one"), caller("", "1:acme:anyone")), (Ok(acme), Ok(acme), Ok(acme)));
    assert_eq!((caller("", ""), caller("other", "odd one")), (Ok(TenantId(0)), Err(FaultCode::Forbidden)));
    for unknown in ["2:acme:x", "1:acme", "1::x", "1:nobody:x", "another"] {
        assert_eq!(caller("", unknown), Err(FaultCode::TenantNotFound), "{unknown}");
    }
    let theirs = Meant { tenant: "other", cluster_id: "c", name: "c" };
    let taken = leader.state.directory.known().add_pool(theirs, PoolKind::Compute, &[], &[odd], 3);
    assert!(matches!(taken, Err(Refused::Pool(PoolRefused::Occupied { unique_id, .. })) if unique_id == "odd one"));
}

#[test]
fn frontends_have_one_master() {
    let (mut leader, ..) = two_pools();
    let sql = |known: &Known, nodes: &[Described]| known.add_pool(pool("sql"), PoolKind::Sql, &[], nodes, 10_000);
    let (master, observer) = (frontend("fe1", 9010, NodeKind::Master), frontend("fe2", 9011, NodeKind::Observer));
    let follower = frontend("fe3", 9012, NodeKind::Follower);
    let known = leader.state.directory.known().clone();
    for (nodes, masters, followers) in [
        (vec![], 0, 0),
        (vec![observer.clone()], 0, 0),
        (vec![master.clone(), frontend("fe4", 9013, NodeKind::Master)], 2, 0),
        (vec![master.clone(), follower.clone()], 1, 1),
    ] {
        assert_eq!(sql(&known, &nodes), Err(PoolRefused::Masters { masters, followers }.into()));
    }
    assert!(sql(&known, &[follower]).is_ok(), "followers elect it");
    leader.decide(|known| sql(known, &[master.clone(), observer.clone()])).unwrap();
    let dropped = |known: &Known, node: &Described, now| known.drop_nodes(pool("sql"), std::slice::from_ref(node), 5000, now);
    let known = leader.state.directory.known().clone();
    assert!(matches!(dropped(&known, &observer, 14_999), Err(Refused::Pool(PoolRefused::TooYoung(..)))));
    assert!(matches!(known.drop_pool(pool("sql"), 5000, 14_999), Err(Refused::Pool(PoolRefused::TooYoung(..)))));
    assert!(dropped(&known, &observer, 15_000).is_ok() && known.drop_pool(pool("sql"), 5000, 15_000).is_ok());
    assert!(matches!(dropped(&known, &master, 15_000), Err(Refused::Pool(PoolRefused::Masters { masters: 0, .. }))));
    let second = known.add_nodes(pool("sql"), &[frontend("fe4", 9013, NodeKind::Master)], 15_000);
    assert!(matches!(second, Err(Refused::Pool(PoolRefused::Masters { masters: 2, .. }))));
    assert_eq!(known.set_pool_status(pool("sql"), PoolStatus::Normal, 1), Err(PoolRefused::NotCompute.into()));
    let lends = leader.state.directory.may_lend(known.pools().last().unwrap().tenant, "1:acme:fe1", "", false);
    assert_eq!(lends.map_err(|f| f.code), Err(FaultCode::Forbidden));
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let (leader, ..) = two_pools();
    let known = leader.state.directory.known().clone();
    let add = |id: &str, name: &str, nodes: &[Described]| {
        known.add_pool(Meant { tenant: "acme", cluster_id: id, name }, PoolKind::Compute, &[], nodes, 1).map_err(|refused| match refused {
            Refused::Pool(refused) => refused,
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(add("prefill", "fresh", &[]), Err(PoolRefused::IdTaken("prefill".into())));
    assert_eq!(add("fresh", "prefill", &[]), Err(PoolRefused::NameTaken("prefill".into())));
    for name in ["", "1st", "_x", "a-b", "a b", "ä", "a/b", &"x".repeat(10_000)] {
        assert_eq!(add("fresh", name, &[]), Err(PoolRefused::Name), "{name:.20}");
    }
    assert!(add("fresh", "f", &[]).is_ok(), "one letter is a name, and no node is needed");
    assert_eq!(add("fresh", "fresh", &[node("x", 9050)]), Err(PoolRefused::EndpointTaken("10.0.0.1:9050".into(), PoolKind::Compute)));
    assert!(matches!(add("fresh", "fresh", &[node("x", 1), node("y", 1)]), Err(PoolRefused::EndpointTaken(..))));
    let again = known.add_nodes(pool("prefill"), &[node("x", 1), node("p", 9050)], 1);
    assert!(matches!(again, Err(Refused::Pool(PoolRefused::Occupied { unique_id, .. })) if unique_id == "1:acme:p"));
    let at = |ip: &str| Described { ip: ip.into(), ..node("x", 1) };
    for ip in ["10.0.0.2", "::1", "[fe80::1]", "node-1.rack_2.example.com", "n", "012345678901"] {
        assert!(add("fresh", "fresh", &[at(ip)]).is_ok(), "{ip}");
    }
    for id in ["a/b", "a\\b", "..", "a\u{202e}b"] {
        let named = Meant { tenant: "acme", cluster_id: id, name: "fresh" };
        assert!(matches!(known.add_pool(named, PoolKind::Compute, &[], &[], 1), Err(Refused::Wrong(_))), "{id}");
        assert_eq!(add("fresh", "fresh", &[Described { unique_id: id.into(), ..node("x", 1) }]), Err(PoolRefused::BadNode(0)), "{id}");
    }
    let long = "x".repeat(64);
    for ip in ["10.0.0.256", "1.2.3", "a b", "a/b", "..", "a..b", "-a", "a:b", "[n]", "[1.2.3.4]", "\u{202e}", "ä", "n.", &long] {
        assert_eq!(add("fresh", "fresh", &[at(ip)]), Err(PoolRefused::BadNode(0)), "{ip}");
    }
    for bad in [
        Described { unique_id: String::new(), ..node("x", 1) },
        Described { unique_id: "a\nb".into(), ..node("x", 1) },
        Described { unique_id: "x".repeat(10_000), ..node("x", 1) },
        Described { ip: String::new(), ..node("x", 1) },
        frontend("x", 1, NodeKind::Master),
    ] {
        assert_eq!(add("fresh", "fresh", &[node("w", 2), bad]), Err(PoolRefused::BadNode(1)));
    }
    assert_eq!(add("fresh", "fresh", &[Described { port: None, ..node("x", 1) }]), Err(PoolRefused::NoPort(0)));
    let rename = |name: &str| known.rename_pool("acme", "prefill", name, 1);
    assert!(matches!(rename("prefill"), Err(Refused::Pool(PoolRefused::SameName(_)))));
    assert_eq!(rename("decode"), Err(PoolRefused::NameTaken("decode".into()).into()));
    assert_eq!(known.drop_pool(Meant { name: "decode", ..pool("prefill") }, 0, 1), Err(PoolRefused::Unknown.into()));
    assert_eq!(known.add_nodes(pool("prefill"), &[], 1), Err(PoolRefused::NoNodes.into()));
    assert_eq!(known.drop_tenant("acme", 1), Err(Refused::HasPools("acme".into())));
    assert_eq!(known.drop_pool(Meant { tenant: "nobody", ..pool("prefill") }, 0, 1), Err(Refused::Unknown("nobody".into())));
}

#[test]
fn whoever_leads_next_knows_the_pools_and_what_nodes_present() {
    let (mut leader, acme, [prefill, decode], [p, d]) = two_pools();
    leader.decide(|known| known.set_pool_status(pool("prefill"), PoolStatus::Suspended, 2)).unwrap();
    leader.decide(|known| known.drop_pool(pool("decode"), 0, 3)).unwrap();
    let mut bytes = Vec::new();
    snapshot::writer(leader.state.clone())(&mut bytes).unwrap();
    let by_snapshot = snapshot::read(&mut bytes.as_slice(), RULES, 1).unwrap();
    let (by_copy, _) = snapshot::copy(&leader.state);
    for (how, state) in [("log", leader.restarted().state), ("snapshot", by_snapshot.into()), ("copy", by_copy.into())] {
        assert_eq!(**state.directory.known(), **leader.state.directory.known(), "{how}");
        let table = state.segments.table();
        let looks = |id| table.get(id).map(|s| (s.tenant(), s.unique_id().map(|id| id.to_string()), s.pool(), s.closed()));
        assert_eq!(looks(p), Some((acme, Some("1:acme:p".into()), Some(prefill), true)), "{how}");
        assert_eq!(looks(d), Some((acme, Some("1:acme:d".into()), None, true)), "{how}");
        assert_eq!(state.to_empty(), vec![d], "{how}");
    }
    // What a node presents may change; what it lends then is of another pool.
    let desc = leader.state.segments.table().get(d).unwrap().desc();
    leader.commit(Effect::lend(acme, "1:acme:p", (*desc).clone()));
    assert_eq!(leader.state.segments.table().get(d).unwrap().pool(), Some(prefill));
    assert!(leader.add_pool("next", &[], &[]).unwrap() > decode, "numbers are not given again");
}

/// Bytes of the first release that knew pools: the second of two, the first of which had gone.
#[test]
fn pools_of_version_6_are_still_read() {
    let state = snapshot::read(&mut include_bytes!("../old/snapshot_v6.bin").as_slice(), RULES, 1).unwrap();
    let known = state.directory.known();
    let pool = known.member("1:acme:p", "").unwrap().0;
    assert_eq!(
        (pool.id, pool.name.as_str(), pool.status, &pool.users[..]),
        (PoolId(2), "prefill", PoolStatus::Suspended, &["jack".into()][..])
    );
    assert_eq!((pool.nodes[0].endpoint().as_str(), known.pools().count(), known.revision), ("10.0.0.1:9050", 1, 5));
    let table = state.segments.table();
    let segment = table.iter().next().unwrap();
    assert_eq!((segment.pool(), segment.closed(), segment.tenant()), (Some(PoolId(2)), true, pool.tenant));
}
