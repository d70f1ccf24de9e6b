//! Masters that join a running group, and those that must not.

use crate::group::{Group, said};
use crate::wait::wait;
use perilune_master::{Master, MasterConfig};
use serde_json::{Value, json};
use std::fs;

/// Starts master `id` as one that joins by way of master `by`.
fn join(group: &mut Group, id: u64, by: u64) -> Result<(), String> {
    let config = MasterConfig { join: vec![group.http(by).to_string()], ..group.config(id) };
    start(group, config)
}

fn start(group: &mut Group, config: MasterConfig) -> Result<(), String> {
    let id = config.member;
    group.up.insert(id, Master::start(config).map_err(|e| e.to_string())?);
    Ok(())
}

fn is_voter(group: &Group, by: u64, id: u64) -> bool {
    group.peer_seen(by, id).is_some_and(|peer| peer["isLearner"] == json!(false))
}

#[test]
fn a_group_grows_from_one_to_three_and_survives_its_first_master() {
    let mut group = Group::start(1);
    assert_eq!(said(&group.post(1, "/config/set", r#"{"key":"k","value":"before"}"#)), (200, ""));
    join(&mut group, 2, 1).unwrap();
    wait("the second to vote", || is_voter(&group, 1, 2).then_some(()));
    // By way of one that follows.
    join(&mut group, 3, 2).unwrap();
    wait("the third to vote", || is_voter(&group, 1, 3).then_some(()));
    let listed = group.get(3, "/member/list").json();
    assert_eq!(listed["cluster_id"], group.cluster.to_string());
    for (at, id) in (1..=3).enumerate() {
        let member = &listed["members"][at];
        let address = |key: &str| member[key].as_str().unwrap().to_owned();
        assert_eq!((&member["peer_id"], &member["member_type"]), (&json!(id), &json!(2)));
        assert_eq!((address("host"), address("node_host")), (group.peer(id).to_string(), group.http(id).to_string()));
        assert_eq!(address("rpc_host"), group.rpc(id).to_string());
    }
    group.down(1);
    let leader = wait("one of the others to lead", || {
        let led = |id: &u64| group.raft(*id)["raftState"] == "StateLeader";
        [2, 3].into_iter().find(led)
    });
    let other = 5 - leader;
    assert_eq!(group.get(other, "/config/get?key=k").json(), "before");
    // Started again as it was started first, it is simply back; so is the first.
    group.down(other);
    join(&mut group, other, leader).unwrap();
    group.up(1);
    group.leader();
    assert_eq!(said(&group.post(1, "/config/set", r#"{"key":"k","value":"after"}"#)), (200, ""));
    assert_eq!(group.get(other, "/config/get?key=k").json(), "after");
}

#[test]
fn a_learner_that_joins_as_one_is_promoted_by_hand() {
    let mut group = Group::start(1);
    // Announced before it is there, to vote later.
    let (host, node_host) = (group.peer(2).to_string(), group.http(2).to_string());
    let announce = json!({"peer_id": 2, "host": host, "member_type": 2, "node_host": node_host}).to_string();
    assert_eq!(said(&group.post(1, "/member/add", &announce)), (200, ""));
    join(&mut group, 2, 1).unwrap();
    wait("the second to vote", || is_voter(&group, 1, 2).then_some(()));

    let config = MasterConfig { join: vec![group.http(1).to_string()], learner: true, ..group.config(3) };
    start(&mut group, config).unwrap();
    let level = |peer: &Value, commit: &Value| peer["match"] == *commit && peer["active"] == json!(true);
    wait("the third to keep up", || level(&group.peer_seen(1, 3)?, &group.raft(1)["commit"]).then_some(()));
    assert!(!is_voter(&group, 1, 3));
    let promote = json!({"peer_id": 3, "host": group.peer(3).to_string(), "member_type": 2}).to_string();
    assert_eq!(said(&group.post(2, "/member/add", &promote)), (200, ""));
    wait("the third to vote", || is_voter(&group, 1, 3).then_some(()));
    assert_eq!(group.post(2, "/member/add", &promote).status, 910, "once it votes there is nothing left to promote");
}

#[test]
fn who_must_not_join_is_told_why() {
    let mut group = Group::start(1);
    let refusal = |group: &mut Group, change: &dyn Fn(&mut MasterConfig)| {
        let mut config = MasterConfig { join: vec![group.http(1).to_string()], ..group.config(2) };
        change(&mut config);
        let dir = config.data_dir.clone();
        let made = perilune_master::log::is_made(&dir);
        let why = start(group, config).unwrap_err();
        assert_eq!(perilune_master::log::is_made(&dir), made, "nothing was begun: {why}");
        why
    };
    let why = refusal(&mut group, &|c| c.cluster = Some(uuid::Uuid::new_v4()));
    assert!(why.contains("this is the cluster"), "{why}");
    let why = refusal(&mut group, &|c| c.member = 1);
    assert!(why.contains("votes in this group"), "{why}");
    let first = group.peer(1);
    let why = refusal(&mut group, &|c| {
        c.peer_listen = Some(([0, 0, 0, 0], 0).into());
        c.insecure = true;
    });
    assert!(why.contains("every interface"), "{why}");
    let nobody = group.http(9).to_string();
    let why = refusal(&mut group, &|c| c.join = vec![nobody.clone()]);
    assert!(why.contains("no master takes this one in") && why.contains(&nobody), "{why}");
    // Something that listens and is no master.
    let raft = first.to_string();
    let why = refusal(&mut group, &|c| c.join = vec![raft.clone()]);
    assert!(why.contains(&raft), "{why}");
    let why = refusal(&mut group, &|c| c.peer_listen = None);
    assert!(why.contains("--peer-listen"), "{why}");
    // An id that was used, and a directory of another group.
    let announce = json!({"peer_id": 7, "host": "127.0.0.1:7", "member_type": 1}).to_string();
    assert_eq!(said(&group.post(1, "/member/add", &announce)), (200, ""));
    assert_eq!(said(&group.post(1, "/member/remove", r#"{"peer_id": 7}"#)), (200, ""));
    let why = refusal(&mut group, &|c| c.member = 7);
    assert!(why.contains("7 was used"), "{why}");
    let other = Group::start(1);
    let theirs = tempfile::tempdir().unwrap();
    let dir = theirs.path().to_owned();
    let mut elsewhere = group.config(2);
    elsewhere.data_dir.clone_from(&dir);
    Master::start(elsewhere).unwrap().stop();
    let why = refusal(&mut group, &|c| c.data_dir.clone_from(&dir));
    assert!(why.contains("belongs to the cluster"), "{why}");
    drop(other);
    // None of this has changed the group.
    assert_eq!(group.get(1, "/member/list").json()["members"].as_array().unwrap().len(), 1);
}

#[test]
fn who_stopped_before_it_had_the_list_begins_no_group_of_its_own() {
    let mut group = Group::start(1);
    join(&mut group, 2, 1).unwrap();
    wait("the second to vote", || is_voter(&group, 1, 2).then_some(()));
    group.down(2);
    // As if it had been killed between its first file and its first entry.
    let dir = group.dirs[&2].path().to_owned();
    for inner in ["raft", "snapshots"] {
        fs::remove_dir_all(dir.join(inner)).unwrap();
    }
    let _ = fs::remove_file(dir.join("USED"));
    let joining = MasterConfig { join: vec![group.http(1).to_string()], ..group.config(2) };
    for _ in 0..2 {
        let why = start(&mut group, joining.clone()).unwrap_err();
        assert!(why.contains("never got its member list: remove it and join again"), "{why}");
    }
    // One that began a group by itself, under the same id, does not pass for one that joined. Alone it opens, also if it was so stopped.
    let alone = MasterConfig { cluster: Some(group.cluster), ..group.config(2) };
    Master::start(alone).unwrap().stop();
    let why = start(&mut group, joining).unwrap_err();
    assert!(why.contains("never joined another"), "{why}");
}

#[test]
fn a_group_that_asks_for_a_token_is_joined_and_steered_with_it() {
    let token = perilune_protocol::access::Token::new("0123456789abcdef").unwrap();
    let mut group = Group::start(1);
    group.down(1);
    let first = MasterConfig { token: Some(token.clone()), cluster: Some(group.cluster), ..group.config(1) };
    start(&mut group, first).unwrap();
    assert_eq!((group.get(1, "/stat").status, group.post(1, "/member/add", "{}").status), (401, 401));

    let without = MasterConfig { join: vec![group.http(1).to_string()], ..group.config(2) };
    let why = start(&mut group, without.clone()).unwrap_err();
    assert!(why.contains("a token is asked for") && why.contains("401"), "{why}");
    start(&mut group, MasterConfig { token: Some(token.clone()), ..without }).unwrap();
    // Sent on by the one that follows, with the token of whoever asks.
    let set = |token: &str| {
        let call = ureq::post(format!("http://{}/config/set", group.http(2))).header("Authorization", format!("Bearer {token}"));
        call.config().http_status_as_error(false).build().send(r#"{"key":"k","value":"v"}"#).unwrap().status().as_u16()
    };
    assert_eq!((set(token.secret()), set("0123456789abcdeX")), (200, 401));
    assert_eq!(group.up[&1].engine().setting("k").as_deref(), Some("v"));
}
