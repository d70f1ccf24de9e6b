//! The page of seed 004: each of its calls, with its own bodies, on a group of one and a group of three.

use crate::group::{Group, said};
use crate::http;
use crate::wait::wait;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const PEER: [&str; 9] = ["active", "host", "id", "isLearner", "match", "next", "paused", "pendingSnapshot", "state"];

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn set<'a>(names: &[&'a str]) -> BTreeSet<&'a str> {
    names.iter().copied().collect()
}

/// The keys as on the page, no more and no less.
fn assert_form(stat: &Value) {
    assert_eq!(keys(stat), set(&["leader_host", "raft_status", "space_stat", "volume_stat"]));
    let raft = ["applied", "commit", "leader", "nodeId", "peers", "raftApplied", "raftState", "term", "transferee", "vote"];
    assert_eq!(keys(&stat["raft_status"]), set(&raft));
    stat["raft_status"]["peers"].as_array().unwrap().iter().for_each(|peer| assert_eq!(keys(peer), set(&PEER)));
    let space = ["disk_stat_infos", "free_space", "total_blob_node", "total_disk", "total_space", "used_space", "writable_space"];
    assert_eq!(keys(&stat["space_stat"]), set(&space));
    let disk = "available broken dropped dropping expired idc readonly repaired repairing total total_chunk total_free_chunk";
    assert_eq!(keys(&stat["space_stat"]["disk_stat_infos"][0]), disk.split(' ').collect());
    assert_eq!(stat["space_stat"]["disk_stat_infos"][0]["idc"], "z0");
    let volume = ["active_volume", "can_alloc_volume", "idle_volume", "lock_volume", "total_volume", "unlocking_volume"];
    assert_eq!(keys(&stat["volume_stat"]), set(&volume));
}

#[test]
fn d1_stat_of_one() {
    let group = Group::start(1);
    let reply = group.get(1, "/stat");
    assert_eq!((reply.status, reply.header("content-type")), (200, "application/json"));
    let stat = reply.json();
    assert_form(&stat);
    let raft = &stat["raft_status"];
    assert_eq!((&raft["nodeId"], &raft["leader"], &raft["vote"], &raft["transferee"]), (&json!(1), &json!(1), &json!(1), &json!(0)));
    assert_eq!((&raft["raftState"], &stat["leader_host"]), (&json!("StateLeader"), &json!(group.http(1).to_string())));
    assert!(raft["applied"].as_u64() <= raft["commit"].as_u64() && raft["applied"].as_u64() > Some(0), "{raft}");
    let own = &raft["peers"][0];
    assert_eq!((&own["host"], &own["state"]), (&json!(group.peer(1).to_string()), &json!("ProgressStateProbe")));
    assert_eq!((&own["active"], &own["paused"], &own["isLearner"]), (&json!(true), &json!(false), &json!(false)));
    assert_eq!(own["match"].as_u64().map(|m| m + 1), own["next"].as_u64());
    for field in ["total_space", "free_space", "used_space", "writable_space", "total_blob_node", "total_disk"] {
        assert_eq!(stat["space_stat"][field], 0, "nothing is lent: {field}");
    }
    assert_eq!((&stat["volume_stat"]["total_volume"], &stat["volume_stat"]["idle_volume"]), (&json!(1), &json!(1)));
}

#[test]
fn d2_and_d3_stat_of_three() {
    let group = Group::start(3);
    let leader = group.leader();
    let stat = wait("everyone to have everything", || {
        let stat = group.get(leader, "/stat").json();
        let commit = &stat["raft_status"]["commit"];
        let level = |p: &Value| p["match"] == *commit && (p["id"] == json!(leader) || p["state"] == "ProgressStateReplicate");
        stat["raft_status"]["peers"].as_array().unwrap().iter().all(level).then_some(stat)
    });
    assert_form(&stat);
    let raft = &stat["raft_status"];
    assert_eq!((&raft["raftState"], &raft["leader"]), (&json!("StateLeader"), &json!(leader)));
    assert_eq!(raft["peers"].as_array().unwrap().len(), 3);
    for id in 1..=3 {
        let peer = group.peer_seen(leader, id).unwrap();
        assert_eq!((&peer["host"], &peer["active"]), (&json!(group.peer(id).to_string()), &json!(true)));
        let state = if id == leader { "ProgressStateProbe" } else { "ProgressStateReplicate" };
        assert_eq!(peer["state"], state, "{peer}");
        if id != leader {
            let stat = group.get(id, "/stat").json();
            assert_form(&stat);
            let raft = &stat["raft_status"];
            assert_eq!((&raft["raftState"], &raft["peers"]), (&json!("StateFollower"), &json!([])));
            assert_eq!((&raft["leader"], &raft["nodeId"]), (&json!(leader), &json!(id)));
            assert_eq!(stat["leader_host"], group.http(leader).to_string());
        }
    }
}

/// The calls of the page in its order, by whoever is asked.
fn the_page(group: &Group, asked: u64) {
    assert_form(&group.get(asked, "/stat").json());
    let duplicated = (910, r#"{"error":"duplicated member info"}"#);
    let add = group.post(asked, "/member/add", r#"{"peer_id": 1, "host": "127.0.0.1:9998", "member_type": 2}"#);
    assert_eq!(said(&add), duplicated);

    let leader = group.leader();
    let gone = group.post(asked, "/member/remove", r#"{"peer_id": 1}"#);
    if leader == 1 {
        assert_eq!(said(&gone), (400, r#"{"error":"Request Not Allow"}"#));
        let transfer = group.post(asked, "/leadership/transfer", r#"{"peer_id": 1}"#);
        assert_eq!(said(&transfer), (200, ""), "to itself: nothing happens");
        assert_eq!(group.raft(leader)["leader"], 1);
    } else {
        assert_eq!(said(&gone), (200, ""));
    }

    assert_eq!(said(&group.get(asked, "/config/get?key=balance")), (200, r#""Disable""#));
    for value in ["Enable", "Disable"] {
        let body = format!(r#"{{"key":"balance","value":"{value}"}}"#);
        assert_eq!(said(&group.post(asked, "/config/set", &body)), (200, ""));
        assert_eq!(said(&group.get(asked, "/config/get?key=balance")), (200, &*format!("\"{value}\"")));
    }
    let get = http::ask(group.http(asked), "GET", "/config/get?key=balance");
    assert_eq!(get.header("content-type"), "application/json");
}

#[test]
fn the_calls_of_the_page_on_a_group_of_one() {
    the_page(&Group::start(1), 1);
}

#[test]
fn the_calls_of_the_page_on_a_group_of_three_whoever_is_asked() {
    let mut group = Group::start(3);
    let asked = *group.up.keys().find(|id| **id != 1 && **id != group.leader()).unwrap();
    let led = group.leader();
    the_page(&group, asked);
    if led != 1 {
        group.down(1);
    }
    assert_eq!(group.raft(led)["leader"], led);
}
