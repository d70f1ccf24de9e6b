//! A master that asks for a token: nothing is answered, and nothing done, for callers without it.

use crate::{Peer, config, memory, until};
use perilune_master::{Master, MasterConfig};
use perilune_protocol::access::Token;
use perilune_protocol::rpc::{self, cluster, object, segment, session};
use perilune_protocol::{FaultCode, ObjectKey, Outcome};
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
