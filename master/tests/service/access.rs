//! A master that asks for a token: nothing is answered, and nothing done, for callers without it.

use crate::{Peer, config, memory, until};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use perilune_master::{Master, MasterConfig};
use perilune_protocol::access::Token;
use perilune_protocol::principal::{Principal, Role};
use perilune_protocol::rpc::{self, cluster, object, segment, session};
use perilune_protocol::{FaultCode, ObjectKey, Outcome, RunId, SegmentDesc};
use std::io::Write;
use std::net::SocketAddr;

const SECRET: &str = "a token nobody guesses";

/// It listens for everybody, which nothing but the token allows.
fn start(dir: &std::path::Path) -> Master {
    let all = SocketAddr::from(([0, 0, 0, 0], 0));
    let token = Some(Token::new(&SECRET.replace(' ', "-")).unwrap());
    Master::start(MasterConfig { rpc: all, token, ..config(dir) }).unwrap()
}

fn reach(master: &Master) -> Peer {
    Peer::reach(SocketAddr::from(([127, 0, 0, 1], master.rpc_addr().port()))).unwrap()
}

#[test]
fn calls_without_the_token_are_refused_and_do_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let master = start(dir.path());
    let mut stranger = reach(&master);
    let hello = session::Hello { agent: "test".into(), tenant: String::new() };
    assert_eq!(stranger.call(&hello).unwrap_err().code, FaultCode::Unauthorized);
    assert_eq!(stranger.call(&cluster::Stat {}).unwrap_err().code, FaultCode::Unauthorized);
    let desc = memory();
    let register = session::Register { node: desc.node, name: "stranger".into(), rest: String::new(), segments: vec![desc.clone()] };
    assert_eq!(stranger.call(&register).unwrap_err().code, FaultCode::Unauthorized);
    for wrong in ["", "a-token-nobody-guesse", "a-token-nobody-guesses-", "A-token-nobody-guesses"] {
        assert_eq!(stranger.call(&session::Authenticate { token: wrong.into() }).unwrap_err().code, FaultCode::Unauthorized);
        assert_eq!(stranger.call(&segment::ListSegments {}).unwrap_err().code, FaultCode::Unauthorized, "after {wrong:?}");
    }

    let mut friend = reach(&master);
    friend.call(&session::Authenticate { token: SECRET.replace(' ', "-") }).unwrap();
    friend.call(&hello).unwrap();
    assert!(friend.call(&cluster::ListNodes {}).unwrap().is_empty(), "the stranger registered nothing");
    let desc = friend.lend();
    friend.put("k", 100);
    let found = friend.call(&object::Locate { keys: vec![ObjectKey::from("k")] }).unwrap();
    assert_eq!(found[0].as_ref().unwrap().replicas[0].segment, desc.id);
    assert_eq!(stranger.call(&object::Locate { keys: vec!["k".into()] }).unwrap_err().code, FaultCode::Unauthorized);
}

#[test]
fn http_asks_too_for_everything_but_health() {
    let dir = tempfile::tempdir().unwrap();
    let master = start(dir.path());
    let at = |path: &str| format!("http://{}{path}", master.http_addrs()[0]);
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    for path in ["/metrics", "/get_all_keys", "/role", "/nowhere"] {
        for header in [None, Some("Bearer wrong"), Some("Basic YTpi"), Some("")] {
            let request = agent.get(at(path));
            let mut answer = match header {
                Some(value) => request.header("Authorization", value).call().unwrap(),
                None => request.call().unwrap(),
            };
            assert_eq!(answer.status(), 401, "{path} {header:?}");
            assert_eq!(answer.headers()["www-authenticate"], "Bearer");
            assert!(answer.body_mut().read_to_string().unwrap().contains("--admin-token-file"));
        }
    }
    assert_eq!(agent.get(at("/health")).call().unwrap().status(), 200);
    let with_token = |path| agent.get(at(path)).header("Authorization", format!("Bearer {}", SECRET.replace(' ', "-"))).call().unwrap();
    assert_eq!(with_token("/metrics").status(), 200);
    assert_eq!(with_token("/nowhere").status(), 404);
    // `any:TOKEN`, as tools send it that know users and passwords only.
    let basic = BASE64_STANDARD.encode(format!("any:{}", SECRET.replace(' ', "-")));
    assert_eq!(agent.get(at("/metrics")).header("Authorization", format!("Basic {basic}")).call().unwrap().status(), 200);
    // The face of TiCDC says it in its own words.
    let code = |header: Option<&str>| {
        let mut request = agent.get(at("/api/v2/changefeeds"));
        if let Some(header) = header {
            request = request.header("Authorization", header);
        }
        let mut answer = request.call().unwrap();
        (answer.status().as_u16(), answer.body_mut().read_json::<serde_json::Value>().unwrap()["error_code"].clone())
    };
    assert_eq!(code(None), (401, "CDC:ErrCredentialNotFound".into()));
    assert_eq!(code(Some("Basic YTpi")), (401, "CDC:ErrUnauthorized".into()));
    assert_eq!(agent.get(at("/api/v2/health")).call().unwrap().status(), 200);
}

#[test]
fn strangers_have_so_many_places_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let master = start(dir.path());
    let authenticate = || session::Authenticate { token: SECRET.replace(' ', "-") };
    let mut friends: Vec<_> = (0..20).map(|_| reach(&master)).collect();
    friends.iter_mut().for_each(|friend| friend.call(&authenticate()).unwrap());
    // Within the time that a stranger has.
    let mut strangers: Vec<_> = (0..256).map(|_| reach(&master)).collect();
    let mut late = reach(&master);
    assert!(late.ask(&authenticate()).is_none(), "there is no place left");
    assert!(friends[0].call(&cluster::ListNodes {}).unwrap().is_empty(), "who is let in keeps its own");
    strangers.truncate(200);
    until("a place to be free", || reach(&master).ask(&authenticate()).is_some());
}

#[test]
fn a_stranger_that_says_much_is_let_go_before_it_has_said_all() {
    let dir = tempfile::tempdir().unwrap();
    let master = start(dir.path());
    let mut stranger = reach(&master);
    let mut question = Vec::new();
    rpc::encode_question(&mut question, 1, &object::RemoveMatching { pattern: "x".repeat(1 << 20), force: true }).unwrap();
    let _ = stranger.stream.write_all(&question[..200_000]);
    assert!(stranger.answer().is_none(), "it hangs up without waiting for the rest");
    let mut friend = reach(&master);
    // In one write, as a client in a hurry may.
    let mut both = Vec::new();
    rpc::encode_question(&mut both, 1, &session::Authenticate { token: SECRET.replace(' ', "-") }).unwrap();
    rpc::encode_question(&mut both, 2, &cluster::Stat {}).unwrap();
    friend.stream.write_all(&both).unwrap();
    for _ in 0..2 {
        let (id, body) = friend.answer().unwrap();
        assert!(if id == 1 {
            rpc::decode::<Outcome<()>>(&body).unwrap().is_ok()
        } else {
            rpc::decode::<Outcome<cluster::ClusterStat>>(&body).unwrap().is_ok()
        });
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).build().into()
}

/// The status that the admin gets.
fn post(master: &Master, path: &str, body: &str) -> u16 {
    let request = agent().post(format!("http://{}{path}", master.http_addrs()[0]));
    request.header("Authorization", format!("Bearer {}", SECRET.replace(' ', "-"))).send(body).unwrap().status().as_u16()
}

#[test]
fn memory_comes_back_as_what_it_was_lent_by() {
    let dir = tempfile::tempdir().unwrap();
    let master = start(dir.path());
    assert_eq!(post(&master, "/MetaService/http/create_instance", r#"{"instance_id": "acme"}"#), 200);
    let node = r#"{"cloud_unique_id": "1:acme:p", "ip": "127.0.0.1", "heartbeat_port": 9050}"#;
    let pool = format!(r#"{{"cluster_name": "c", "cluster_id": "c", "type": "COMPUTE", "nodes": [{node}]}}"#);
    let added = post(&master, "/MetaService/http/add_cluster", &format!(r#"{{"instance_id": "acme", "cluster": {pool}}}"#));
    assert_eq!(added, 200);
    let enter = |unique_id: &str| {
        let mut peer = reach(&master);
        peer.call(&session::Authenticate { token: SECRET.replace(' ', "-") }).unwrap();
        let said = session::Greet { tenant: "acme".into(), unique_id: unique_id.into(), ..session::Greet::default() };
        peer.call(&said).map(|_| peer)
    };
    let desc = enter("1:acme:p").unwrap().lend();
    let register = || session::Register { node: desc.node, name: "n".into(), rest: String::new(), segments: vec![desc.clone()] };
    // Neither out of its pool nor into none that there is; and it stays what it was.
    for (id, why) in [("", "1:acme:p"), ("1:acme:typo", "is not registered")] {
        let fault = enter(id).unwrap().call(&register()).unwrap_err();
        assert!(fault.code == FaultCode::Forbidden && fault.message.contains(why), "{fault}");
    }
    assert!(enter("1:acme:p").unwrap().call(&register()).unwrap().unknown.is_empty());
    let long = format!("1:acme:{}", "x".repeat(1024));
    assert_eq!(enter(&long).err().unwrap().code, FaultCode::InvalidParams);
    let mut lender = enter("1:acme:p").unwrap();
    lender.register(&desc, true);
    let wordy = SegmentDesc { name: "x".repeat(1025), ..memory() };
    let wordy = segment::Mount { segments: vec![SegmentDesc { node: desc.node, ..wordy }] };
    assert_eq!(lender.call(&wordy).unwrap_err().code, FaultCode::InvalidParams);
}

#[test]
fn whose_a_segment_is_that_goes_is_told_to_nobody_else() {
    use perilune_protocol::event::{EventFilter, What};
    use perilune_protocol::rpc::watch::{From, Watch};
    let dir = tempfile::tempdir().unwrap();
    let master = start(dir.path());
    let admin_token = Token::new(&SECRET.replace(' ', "-")).unwrap();
    let enter = |tenant: &str, role| {
        let mut peer = reach(&master);
        let principal = Principal { tenant: tenant.into(), user: String::new(), role, generation: 1 };
        peer.call(&session::Authenticate { token: principal.token(&admin_token).unwrap() }).unwrap();
        peer.call(&session::Hello { agent: "test".into(), tenant: String::new() }).unwrap();
        peer
    };
    for tenant in ["acme", "other"] {
        assert_eq!(post(&master, "/MetaService/http/create_instance", &format!(r#"{{"instance_id": "{tenant}"}}"#)), 200);
    }
    let mut lent = Vec::new();
    for tenant in ["acme", "other", "default"] {
        let mut node = enter(tenant, Role::Node);
        let [stays, goes] = [node.lend(), node.lend()].map(|desc| desc.id);
        node.call(&segment::Unmount { segments: vec![stays], grace_ms: 3_600_000 }).unwrap().remove(0).unwrap();
        node.call(&segment::Unmount { segments: vec![goes], grace_ms: 0 }).unwrap().remove(0).unwrap();
        lent.push((tenant, stays, goes));
    }
    let told = |peer: &mut Peer, everybody| {
        let (filter, consumer) = (EventFilter::default(), String::new());
        let question = Watch { from: From::Oldest, filter, everybody, most_bytes: 1 << 20, wait_ms: 0, consumer };
        let events = peer.call(&question).unwrap().events.into_iter().filter_map(|event| match event.what {
            What::Mounted { segment, .. } => Some(("mounted", segment)),
            What::Draining { segment, .. } => Some(("draining", segment)),
            What::Unmounted { segment } => Some(("unmounted", segment)),
            _ => None,
        });
        events.collect::<Vec<_>>()
    };
    for (tenant, stays, goes) in &lent {
        let expected = [("mounted", *stays), ("mounted", *goes), ("draining", *stays), ("unmounted", *goes)];
        // What drains has gone by now, or has not: nothing lies there.
        let gone = ("unmounted", *stays);
        let told = told(&mut enter(tenant, Role::Reader), false);
        assert_eq!(told.strip_suffix(&[gone]).unwrap_or(&told), expected, "{tenant}");
    }
    let mut admin = reach(&master);
    admin.call(&session::Authenticate { token: SECRET.replace(' ', "-") }).unwrap();
    admin.call(&session::Hello { agent: "test".into(), tenant: String::new() }).unwrap();
    let told = told(&mut admin, true);
    assert_eq!(told.iter().filter(|event| !lent.iter().any(|(_, stays, _)| **event == ("unmounted", *stays))).count(), 12);

    // Over HTTP the same, and what a feed of the tenant carries.
    let feed = r#"{"changefeed_id": "f", "namespace": "acme", "sink_uri": "blackhole://", "replica_config": {"filter": {"rules": ["system.segments"]}}}"#;
    assert_eq!(post(&master, "/api/v2/changefeeds", feed), 200);
    let ask = |tenant: &str, path: &str| {
        let token =
            Principal { tenant: tenant.into(), user: String::new(), role: Role::Reader, generation: 1 }.token(&admin_token).unwrap();
        let url = format!("http://{}/api/v2/{path}", master.http_addrs()[0]);
        let mut answer = agent().get(url).header("Authorization", format!("Bearer {token}")).call().unwrap();
        let body: serde_json::Value = answer.body_mut().read_json().unwrap();
        let events = body["events"].as_array().into_iter().flatten().map(|event| event["segment"].as_str().unwrap().to_owned());
        (answer.status().as_u16(), events.take(4).collect::<Vec<_>>())
    };
    for (tenant, stays, goes) in &lent {
        let expected = [stays, goes, stays, goes].map(ToString::to_string).to_vec();
        assert_eq!(ask(tenant, "events?from=oldest&table=system.segments"), (200, expected), "{tenant}");
    }
    let (_, stays, goes) = &lent[0];
    let expected = [stays, goes, stays, goes].map(ToString::to_string).to_vec();
    assert_eq!(ask("acme", "changefeeds/f/events?from=oldest"), (200, expected));
    for (tenant, path) in [
        ("acme", "events?tenant_id=other"),
        ("other", "changefeeds/f/events?namespace=acme"),
        ("acme", "changefeeds/f/events?tenant_id=default"),
        ("acme", "changefeeds"),
        ("acme", "safepoints"),
    ] {
        assert_eq!(ask(tenant, path).0, 403, "{tenant} {path}");
    }
    assert_eq!(ask("other", "changefeeds/f/events").0, 400, "it has none");
}

#[test]
fn whoever_has_the_token_of_one_tenant_touches_nothing_of_another() {
    let dir = tempfile::tempdir().unwrap();
    let master = start(dir.path());
    let admin_token = Token::new(&SECRET.replace(' ', "-")).unwrap();
    let agent = agent();
    let post = |path: &str, body: &str| post(&master, path, body);
    for tenant in ["acme", "other"] {
        assert_eq!(post("/MetaService/http/create_instance", &format!(r#"{{"instance_id": "{tenant}"}}"#)), 200);
    }
    let of =
        |tenant: &str, role| Principal { tenant: tenant.into(), user: String::new(), role, generation: 1 }.token(&admin_token).unwrap();
    let hello = |tenant: &str| session::Hello { agent: "test".into(), tenant: tenant.into() };
    let enter = |tenant: &str, role| {
        let mut peer = reach(&master);
        peer.call(&session::Authenticate { token: of(tenant, role) }).unwrap();
        peer.call(&hello("")).unwrap();
        peer
    };
    let (mut theirs, mut ours) = (enter("other", Role::Node), enter("acme", Role::Node));
    let (their_memory, our_memory) = (theirs.lend(), ours.lend());
    theirs.put("k", 100);
    ours.put("k", 200);
    let size = |peer: &mut Peer| peer.call(&object::Locate { keys: vec!["k".into()] }).unwrap()[0].as_ref().unwrap().size;
    assert_eq!((size(&mut theirs), size(&mut ours)), (100, 200));

    // Another tenant's keys and memory: neither by saying so, nor by naming them.
    let mut stranger = reach(&master);
    stranger.call(&session::Authenticate { token: of("acme", Role::Node) }).unwrap();
    assert_eq!(stranger.call(&hello("other")).unwrap_err().code, FaultCode::Forbidden);
    assert_eq!(stranger.call(&session::Authenticate { token: of("other", Role::Node) }).unwrap_err().code, FaultCode::WrongState);
    let named = session::Greet { unique_id: "1:other:n".into(), ..session::Greet::default() };
    assert_eq!(stranger.call(&named).unwrap_err().code, FaultCode::Forbidden);
    let other_user = session::Greet { user: "jack".into(), ..session::Greet::default() };
    assert_eq!(stranger.call(&other_user).unwrap_err().code, FaultCode::Forbidden);
    let unmount = |id| segment::Unmount { segments: vec![id], grace_ms: 0 };
    assert_eq!(ours.call(&unmount(their_memory.id)).unwrap()[0].as_ref().unwrap_err().code, FaultCode::SegmentNotFound);
    assert_eq!(
        ours.call(&segment::Describe { segments: vec![their_memory.id] }).unwrap()[0].as_ref().unwrap_err().code,
        FaultCode::SegmentNotFound
    );
    let as_them = session::Register { node: their_memory.node, name: "n".into(), rest: String::new(), segments: vec![] };
    assert_eq!(ours.call(&as_them).unwrap_err().code, FaultCode::WrongState, "whoever names none of a node's memory would unmount it");
    let their_work = perilune_protocol::rpc::work::TakeWork { node: their_memory.node, done: vec![], room: 1, wait_ms: 0 };
    assert_eq!(ours.call(&their_work).unwrap_err().code, FaultCode::WrongState);
    let their_run = perilune_protocol::rpc::work::BeginRun { node: their_memory.node, run: RunId::random() };
    assert_eq!(ours.call(&their_run).unwrap_err().code, FaultCode::WrongState, "what they took is not for others to give up");
    for fault in [
        ours.call(&segment::ListSegments {}).map(drop),
        ours.call(&cluster::ListNodes {}).map(drop),
        ours.call(&perilune_protocol::rpc::job::PaceJobs { bytes_per_second: 1 }),
    ] {
        assert_eq!(fault.unwrap_err().code, FaultCode::Forbidden, "the admin's");
    }
    assert_eq!(size(&mut theirs), 100);

    // What a role allows.
    let (mut reader, mut writer) = (enter("acme", Role::Reader), enter("acme", Role::Writer));
    assert_eq!(size(&mut reader), 200);
    let remove = object::Remove { keys: vec!["k".into()], force: true };
    assert_eq!(reader.call(&remove).unwrap_err().code, FaultCode::Forbidden);
    assert_eq!(writer.call(&unmount(our_memory.id)).unwrap_err().code, FaultCode::Forbidden);
    writer.put("mine", 10);
    writer.call(&remove).unwrap()[0].as_ref().unwrap();
    assert!(
        agent
            .get(format!("http://{}/metrics", master.http_addrs()[0]))
            .header("Authorization", format!("Bearer {}", of("acme", Role::Node)))
            .call()
            .unwrap()
            .status()
            == 403
    );

    // A generation that is over is refused, on connections that there are as well.
    assert_eq!(post("/config/set", r#"{"key": "token_generation.acme", "value": "2"}"#), 200);
    assert_eq!(writer.call(&object::Exists { keys: vec!["mine".into()] }).unwrap_err().code, FaultCode::Unauthorized);
    assert_eq!(writer.call(&cluster::Stat {}).unwrap_err().code, FaultCode::Unauthorized);
    let beat = session::Heartbeat { node: our_memory.node };
    assert_eq!(ours.call(&beat).unwrap_err().code, FaultCode::Unauthorized, "what a node lends that is refused falls silent");
    let mut late = reach(&master);
    late.call(&session::Authenticate { token: of("acme", Role::Reader) }).unwrap();
    assert_eq!(late.call(&hello("acme")).unwrap_err().code, FaultCode::Unauthorized);
    assert_eq!(size(&mut theirs), 100);
}
