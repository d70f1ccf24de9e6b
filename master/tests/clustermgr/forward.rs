//! Requests that are sent on to a leader that is not there any more.

use crate::group::{Group, said};
use crate::http;
use crate::wait::wait;
use perilune_master::MasterConfig;
use serde_json::json;
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

const SET: &str = r#"{"key":"k","value":"v"}"#;

/// Three masters, of whom the one named first leads and says that its HTTP is at `address`. The other one knows.
fn led_from(address: &str) -> (Group, u64, u64) {
    let mut group = Group::start(3);
    let (leader, asked) = (group.leader(), group.follower());
    let next = 6 - leader - asked;
    group.down(asked);
    // It waits for a leader for twice the longer time.
    let patient = (Duration::from_millis(250), Duration::from_secs(10));
    let config = MasterConfig { raft_election: patient, ..group.founder(asked) };
    group.start_as(config);
    group.down(next);
    let config = MasterConfig { http_at: Some(address.to_owned()), ..group.founder(next) };
    group.start_as(config);
    let stat = |group: &Group| group.get(asked, "/stat").json();
    let mut told = Vec::new();
    wait("the lead to go there", || {
        let leads = group.raft(next)["raftState"] == "StateLeader";
        if !leads {
            let now = group.raft(asked)["leader"].as_u64().filter(|id| *id == leader || *id == asked)?;
            // Not waited for: should the lead go meanwhile, it is sent on to `address`, where nobody answers.
            told.push(http::tell(group.http(now), "POST", "/leadership/transfer", &json!({"peer_id": next}).to_string()));
            thread::park_timeout(Duration::from_millis(100));
        }
        (leads && stat(&group)["leader_host"] == address).then_some(())
    });
    (group, next, asked)
}

#[test]
fn what_was_sent_to_a_leader_that_falls_silent_is_answered_when_another_leads() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let (mut group, leader, asked) = led_from(&silent.local_addr().unwrap().to_string());
    let at = group.http(asked);
    let asks = thread::spawn(move || http::send(at, "POST", "/config/set", SET));
    let _unanswered = silent.accept().unwrap();
    group.down(leader);
    assert_eq!(said(&asks.join().unwrap()), (906, r#"{"error":"raft propose error"}"#));
}

#[test]
fn what_could_not_be_sent_waits_for_the_next_leader() {
    let nowhere = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (mut group, leader, asked) = led_from(&nowhere.to_string());
    let at = group.http(asked);
    let asks = thread::spawn(move || http::send(at, "POST", "/config/set", SET));
    group.down(leader);
    assert_eq!(said(&asks.join().unwrap()), (200, ""));
    assert_eq!(group.get(asked, "/config/get?key=k").json(), "v");
}
