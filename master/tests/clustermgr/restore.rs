//! What was dumped is restored, whole or not at all.

use crate::group::{Group, said};
use perilune_master::{Master, MasterConfig, Restore};
use serde_json::json;
use std::fs;
use std::path::Path;
use uuid::Uuid;

fn dump(group: &Group, id: u64) -> (u64, Vec<u8>) {
    let url = format!("http://{}/snapshot/dump", group.http(id));
    let mut reply = ureq::get(url).call().unwrap();
    let header = |name: &str| reply.headers()[name].to_str().unwrap().to_owned();
    assert_eq!((reply.status().as_u16(), header("content-type").as_str()), (200, "application/octet-stream"));
    let (index, term): (u64, u64) = (header("raft-snapshot-index").parse().unwrap(), header("raft-snapshot-term").parse().unwrap());
    assert_eq!((header("raft-snapshot-name"), term > 0), (format!("{index}-{term}"), true));
    let length: usize = header("content-length").parse().unwrap();
    let bytes = reply.body_mut().read_to_vec().unwrap();
    assert_eq!(bytes.len(), length);
    (index, bytes)
}

fn restore(group: &mut Group, dir: &Path, file: &Path) -> Result<Master, String> {
    restore_as(group, dir, file, None)
}

fn restore_as(group: &mut Group, dir: &Path, file: &Path, cluster: Option<Uuid>) -> Result<Master, String> {
    let any = "127.0.0.1:0".parse().unwrap();
    let config = MasterConfig { rpc: any, http: vec![any], peer_listen: None, ..group.config(9) };
    Master::start(MasterConfig { member: 1, cluster, data_dir: dir.into(), restore: Some(Restore::File(file.into())), ..config })
        .map_err(|e| e.to_string())
}

#[test]
fn what_any_master_dumped_begins_a_new_group() {
    let mut group = Group::start(3);
    let (leader, follower) = (group.leader(), group.follower());
    for n in 0..100 {
        assert_eq!(said(&group.post(leader, "/config/set", &json!({"key": format!("k{n}"), "value": "v"}).to_string())), (200, ""));
    }
    for asked in [leader, follower] {
        let (index, bytes) = dump(&group, asked);
        let outside = tempfile::tempdir().unwrap();
        let (file, dir) = (outside.path().join("dump"), outside.path().join("data"));
        fs::write(&file, &bytes).unwrap();
        let same = Some(group.cluster);
        let why = restore_as(&mut group, &dir, &file, same).err().unwrap();
        assert!(why.contains("needs an id of its own") && !dir.exists(), "{why}");
        let master = restore(&mut group, &dir, &file).unwrap();
        for n in [0, 50, 99] {
            assert_eq!(master.engine().setting(&format!("k{n}")).as_deref(), Some("v"));
        }
        let get = |path: &str| crate::http::ask(master.http_addrs()[0], "GET", path).json();
        assert_ne!(get("/member/list")["cluster_id"], group.cluster.to_string(), "it is another group");
        let raft = get("/stat")["raft_status"].take();
        assert!(raft["applied"].as_u64() > Some(index) && raft["peers"].as_array().unwrap().len() == 1, "{raft}");
        let set = crate::http::send(master.http_addrs()[0], "POST", "/config/set", r#"{"key":"k0","value":"later"}"#);
        assert_eq!(said(&set), (200, ""));
        master.stop();
        // In use now: not restored into again, and what is there goes on.
        let why = restore(&mut group, &dir, &file).err().unwrap();
        assert!(why.contains("is not empty"), "{why}");
        let any = "127.0.0.1:0".parse().unwrap();
        let again = MasterConfig { data_dir: dir.clone(), rpc: any, http: vec![any], ..MasterConfig::default() };
        let master = Master::start(again).unwrap();
        assert_eq!(master.engine().setting("k0").as_deref(), Some("later"));
        assert_eq!(master.engine().setting("k99").as_deref(), Some("v"));
    }
    // Dumped again without anything new, it is the same file.
    assert_eq!(dump(&group, leader), dump(&group, leader));
}

#[test]
fn a_file_that_is_not_whole_changes_nothing() {
    let mut group = Group::start(1);
    assert_eq!(said(&group.post(1, "/config/set", r#"{"key":"k","value":"v"}"#)), (200, ""));
    let (_, whole) = dump(&group, 1);
    let outside = tempfile::tempdir().unwrap();
    let (file, dir) = (outside.path().join("dump"), outside.path().join("deep/data"));
    fs::create_dir(outside.path().join("deep")).unwrap();
    let mut refused = |bytes: &[u8], what: &str| {
        fs::write(&file, bytes).unwrap();
        let why = restore(&mut group, &dir, &file).err().unwrap_or_else(|| panic!("accepted: {what}"));
        assert!(why.contains("cannot be restored from") && why.contains("dump"), "{what}: {why}");
        assert_eq!(fs::read_dir(outside.path().join("deep")).unwrap().count(), 0, "{what} left something behind");
    };
    for cut in 0..whole.len() {
        refused(&whole[..cut], &format!("cut at {cut}"));
    }
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        refused(&flipped, &format!("flipped at {at}"));
    }
    refused(&[&whole[..], b"x"].concat(), "something behind the end");
    let missing = outside.path().join("missing");
    let why = restore(&mut group, &dir, &missing).err().unwrap();
    assert!(why.contains("missing"), "{why}");
    let busy = group.dirs[&1].path().to_owned();
    fs::write(&file, &whole).unwrap();
    assert!(restore(&mut group, &busy, &file).err().unwrap().contains("is not empty"));
    assert_eq!(group.get(1, "/config/get?key=k").json(), "v");
}
