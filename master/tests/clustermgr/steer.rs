//! Who the masters are, and who leads: each row of the table of members and leadership, and its effect.

use crate::group::{Group, said};
use crate::http;
use crate::wait::wait;
use perilune_master::MasterConfig;
use serde_json::json;
use std::io::Write;

const ILLEGAL: (u16, &str) = (400, r#"{"error":"Illegal Arguments"}"#);
const NOT_ALLOWED: (u16, &str) = (400, r#"{"error":"Request Not Allow"}"#);
const DUPLICATED: (u16, &str) = (910, r#"{"error":"duplicated member info"}"#);
const DONE: (u16, &str) = (200, "");

#[test]
fn d4_and_d5_who_cannot_be_added() {
    let group = Group::start(1);
    let add = |body: serde_json::Value| group.post(1, "/member/add", &body.to_string());
    let host = group.peer(1).to_string();
    for kind in [0, 3] {
        // Checked first, whatever else is wrong.
        assert_eq!(said(&add(json!({"peer_id": 1, "host": host, "member_type": kind}))), ILLEGAL);
    }
    assert_eq!(said(&add(json!({"peer_id": 1, "host": "h:1", "member_type": 1}))), DUPLICATED);
    assert_eq!(said(&add(json!({"peer_id": 9, "host": host, "member_type": 1}))), DUPLICATED);
    assert_eq!(said(&add(json!({"peer_id": 1, "host": host, "member_type": 2}))), DUPLICATED, "it votes already");
    for body in [
        json!({"peer_id": 0, "host": "h:1", "member_type": 1}),
        json!({"peer_id": 9, "host": "h", "member_type": 1}),
        json!({"peer_id": 9, "host": "h:0", "member_type": 1}),
        json!({"peer_id": 9, "host": "", "member_type": 1}),
        json!({"peer_id": 9, "host": "h:1", "member_type": 1, "node_host": "nowhere"}),
        json!({"peer_id": 9, "host": "h:1", "member_type": 1, "rpc_host": "h"}),
        json!({"peer_id": 9, "host": "h:1"}),
    ] {
        assert_eq!(said(&add(body.clone())), ILLEGAL, "{body}");
    }
    for body in ["", "{", "[]", "7", r#"{"peer_id": -1}"#, r#"{"peer_id": "1"}"#, r#"{"member_type": 256}"#, r#"{"host": 5}"#] {
        let reply = group.post(1, "/member/add", body);
        assert_eq!((reply.status, reply.json()["code"].as_str()), (400, Some("Argument")), "{body}: {}", reply.body);
    }
    let long = format!(r#"{{"host": "{}"}}"#, "x".repeat(100_000));
    assert_eq!(group.post(1, "/member/add", &long).json()["code"], "Argument");
    assert_eq!(group.get(1, "/member/list").json()["members"].as_array().unwrap().len(), 1);
}

#[test]
fn a_master_that_no_other_can_call_takes_nobody_in() {
    let mut group = Group::start(1);
    group.down(1);
    let alone = tempfile::tempdir().unwrap();
    let config = MasterConfig { data_dir: alone.path().into(), peer_listen: None, ..group.founder(1) };
    group.start_as(config);
    for body in [json!({"peer_id": 9, "member_type": 1}), json!({"peer_id": 9, "host": "h:1", "member_type": 1})] {
        assert_eq!(said(&group.post(1, "/member/add", &body.to_string())), ILLEGAL, "{body}");
    }
}

#[test]
fn d6_a_learner_is_added_and_votes_only_once_it_keeps_up() {
    let mut group = Group::start(1);
    let (host, node_host) = (group.peer(4).to_string(), group.http(4).to_string());
    let learner = json!({"peer_id": 4, "host": host, "member_type": 1, "node_host": node_host}).to_string();
    assert_eq!(said(&group.post(1, "/member/add", &learner)), DONE);
    let seen = group.peer_seen(1, 4).unwrap();
    assert_eq!((&seen["isLearner"], &seen["host"], &seen["active"]), (&json!(true), &json!(host), &json!(false)));
    assert_eq!(said(&group.post(1, "/member/add", &learner)), DUPLICATED, "a learner twice");
    // It does not vote: one of one is a majority.
    assert_eq!(said(&group.post(1, "/config/set", r#"{"key":"balance","value":"Enable"}"#)), DONE);
    // It cannot lead either.
    assert_eq!(said(&group.post(1, "/leadership/transfer", r#"{"peer_id": 4}"#)), ILLEGAL);

    let elsewhere = json!({"peer_id": 4, "host": "h:1", "member_type": 2}).to_string();
    assert_eq!(said(&group.post(1, "/member/add", &elsewhere)), DUPLICATED);
    let promote = json!({"peer_id": 4, "host": host, "member_type": 2}).to_string();
    assert_eq!(said(&group.post(1, "/member/add", &promote)), DONE);
    let listed = || group.get(1, "/member/list").json()["members"][1].take();
    let expected = json!({
        "peer_id": 4, "host": host, "node_host": node_host, "rpc_host": "", "member_type": 1, "rises": true, "leads": false,
    });
    assert_eq!(listed(), expected, "nobody is there yet");
    assert_eq!(said(&group.post(1, "/member/remove", r#"{"peer_id": 4}"#)), DONE);
    assert_eq!(said(&group.post(1, "/member/add", &learner)), DUPLICATED, "an id is not used again");
    group.down(1);
}

#[test]
fn d7_who_can_be_removed() {
    let mut group = Group::start(3);
    let (leader, follower) = (group.leader(), group.follower());
    let remove = |id: u64, how: &str| format!(r#"{{"peer_id": {id}{how}}}"#);
    assert_eq!(said(&group.post(leader, "/member/remove", &remove(9, ""))), ILLEGAL);
    assert_eq!(said(&group.post(leader, "/member/remove", &remove(leader, ""))), NOT_ALLOWED);
    assert_eq!(said(&group.post(follower, "/member/remove", &remove(leader, r#","force":true"#))), NOT_ALLOWED);

    // Without one of the two that are there, no majority of the other two would be.
    let third = 6 - leader - follower;
    group.down(third);
    wait("the leader to miss it", || (group.peer_seen(leader, third)?["active"] == json!(false)).then_some(()));
    assert_eq!(said(&group.post(leader, "/member/remove", &remove(follower, ""))), NOT_ALLOWED);
    assert_eq!(group.raft(leader)["peers"].as_array().unwrap().len(), 3);
    // The one that is gone may go.
    assert_eq!(said(&group.post(follower, "/member/remove", &remove(third, ""))), DONE);
    assert_eq!(group.raft(leader)["peers"].as_array().unwrap().len(), 2);
    // By force even so: what is left of the group is this leader.
    assert_eq!(said(&group.post(leader, "/member/remove", &remove(follower, r#","force":true"#))), DONE);
    assert_eq!(group.get(leader, "/member/list").json()["members"].as_array().unwrap().len(), 1);
    assert_eq!(said(&group.post(leader, "/config/set", r#"{"key":"a","value":"b"}"#)), DONE);
}

#[test]
fn d8_and_d9_the_lead_goes_where_it_is_sent() {
    let group = Group::start(3);
    let (leader, follower) = (group.leader(), group.follower());
    let term = group.raft(leader)["term"].as_u64();
    assert_eq!(said(&group.post(follower, "/leadership/transfer", r#"{"peer_id": 9}"#)), ILLEGAL);
    assert_eq!(said(&group.post(follower, "/leadership/transfer", "{}")), ILLEGAL);
    let to = format!(r#"{{"peer_id": {follower}}}"#);
    assert_eq!(said(&group.post(follower, "/leadership/transfer", &to)), DONE);
    wait("the other to lead", || (group.leader() == follower).then_some(()));
    assert!(group.raft(follower)["term"].as_u64() > term);
    assert_eq!(group.raft(follower)["transferee"], 0);
}

#[test]
fn d15_without_a_majority_nothing_is_changed() {
    let mut group = Group::start(3);
    let leader = group.leader();
    (1..=3).filter(|id| *id != leader).for_each(|id| group.down(id));
    let set = r#"{"key":"balance","value":"Enable"}"#;
    // Still leading it proposes what nobody acknowledges; then it notices.
    let first = group.post(leader, "/config/set", set);
    assert!([906, 907].contains(&first.status), "{first:?}");
    wait("it to know of no leader", || (group.raft(leader)["leader"] == json!(0)).then_some(()));
    for (path, body) in
        [("/config/set", set), ("/member/remove", r#"{"peer_id":2}"#), ("/leadership/transfer", r#"{"peer_id":2}"#), ("/member/add", "{}")]
    {
        assert_eq!(said(&group.post(leader, path, body)), (907, r#"{"error":"no leader"}"#), "{path}");
    }
    assert_eq!(said(&group.get(leader, "/config/get?key=balance")), (908, r#"{"error":"raft read index error"}"#));
    let stat = group.get(leader, "/stat").json();
    assert_eq!((&stat["leader_host"], &stat["raft_status"]["peers"]), (&json!(""), &json!([])));
    assert!(["StateFollower", "StateCandidate", "StatePreCandidate"].contains(&stat["raft_status"]["raftState"].as_str().unwrap()));
}

#[test]
fn d16_methods_and_paths_that_are_not() {
    let group = Group::start(3);
    for asked in [group.leader(), group.follower()] {
        for path in ["/stat", "/member/list", "/config/get", "/config/list", "/disk/list", "/disk/info", "/service/list"] {
            assert_eq!(group.post(asked, path, "{}").status, 405, "POST {path}");
        }
        for path in ["/member/add", "/member/remove", "/leadership/transfer", "/config/set", "/config/delete"] {
            assert_eq!(group.get(asked, path).status, 405, "GET {path}");
        }
        assert_eq!((group.post(asked, "/member", "{}").status, group.get(asked, "/stats").status), (404, 404));
    }
}

#[test]
fn a_request_is_sent_on_whole_and_only_once() {
    let group = Group::start(3);
    let (leader, follower) = (group.leader(), group.follower());
    let other = 6 - leader - follower;
    let value = "x".repeat(16 << 10);
    let body = json!({"key": "large", "value": value}).to_string();
    assert_eq!(said(&group.post(follower, "/config/set", &body)), DONE);
    assert_eq!(group.get(other, "/config/get?key=large").json(), value);
    assert_eq!(group.post(follower, "/config/set", &"x".repeat(2 << 20)).status, 413);
    let reply = group.post(leader, "/config/set", &"x".repeat((64 << 10) + 1));
    assert_eq!(said(&reply), (413, r#"{"error":"the body is longer than 65536 bytes","code":"Argument"}"#));
    // The query goes along, and what the leader refuses is what the asker hears.
    assert_eq!(said(&group.post(follower, "/config/delete?key=large", "")), DONE);
    assert_eq!(group.get(other, "/config/get?key=large").status, 404);
    let reply = group.post(follower, "/config/delete?key=balance", "");
    assert_eq!(said(&reply), (933, r#"{"error":"reject delete system config"}"#));
    // Other faces too.
    let removed = group.post(follower, "/api/v1/remove_all", "");
    assert_eq!(said(&removed), (200, r#"{"success":true,"removed_count":0}"#));
    // One that was sent on already goes no further.
    let mut stream = http::connect(group.http(follower));
    let head = "POST /config/set HTTP/1.1\r\nHost: x\r\nConnection: close\r\nx-perilune-forwarded: 9\r\nContent-Length: 2\r\n\r\n{}";
    stream.write_all(head.as_bytes()).unwrap();
    assert_eq!(said(&http::read(stream, false)), (907, r#"{"error":"no leader"}"#));
}
