//! The same face in front of the real engine: what clients put is what curl sees.

use crate::http;
use perilune_master::engine::{Asker, Speaker};
use perilune_master::log::Member;
use perilune_master::{Master, MasterConfig};
use perilune_protocol::rpc::object::{PutEnd, PutStart};
use perilune_protocol::rpc::segment::Mount;
use perilune_protocol::rpc::session::Register;
use perilune_protocol::*;
use std::collections::BTreeSet;

const SESSION: u64 = 1;

/// A master with one segment of 1 MiB named `s` and the objects `k0` .. `k9` of 100 bytes.
fn start(dir: &tempfile::TempDir) -> (Master, SegmentDesc) {
    let any = "127.0.0.1:0".parse().unwrap();
    let config = MasterConfig { data_dir: dir.path().to_owned(), rpc: any, http: vec![any], ..MasterConfig::default() };
    let master = Master::start(config).unwrap();
    let desc = SegmentDesc {
        id: SegmentId::random(),
        name: "s".into(),
        node: NodeId::random(),
        base: 0x10_0000,
        size: 1 << 20,
        protocol: Protocol::Tcp,
        location: String::new(),
        endpoints: vec![Endpoint::Tcp("127.0.0.1:15000".into())],
        capability: Capability::random(),
    };
    let engine = master.engine();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let node = Register { node: desc.node, name: "n".into(), rest: String::new(), segments: Vec::new() };
        engine.register(SESSION, &Speaker::default(), node).await.unwrap();
        engine.mount(SESSION, &Speaker::default(), Mount { segments: vec![desc.clone()] }).await.unwrap();
        let keys: Vec<ObjectKey> = (0..10).map(|n| format!("k{n}").into()).collect();
        let puts = keys.iter().map(|key| (key.clone(), 100)).collect();
        let grants = engine
            .put_start(TenantId::default(), Asker::default(), PutStart { puts, config: PutConfig::default(), writer: WriterId::random() })
            .await;
        let ends = keys.into_iter().zip(grants).map(|(key, grant)| (key, grant.unwrap().version, 7)).collect();
        for outcome in engine.put_end(TenantId::default(), PutEnd { puts: ends }).await {
            outcome.unwrap();
        }
    });
    (master, desc)
}

#[test]
fn what_was_put_is_what_curl_sees() {
    let dir = tempfile::tempdir().unwrap();
    let (master, desc) = start(&dir);
    let get = |path: &str| http::ask(master.http_addrs()[0], "GET", path);

    assert_eq!(get("/health").body, "OK");
    assert_eq!((get("/role").body, get("/get_all_segments").body), ("leader".into(), "s\n".into()));
    assert_eq!(get("/leader").json()["leader_address"], master.rpc_addr().to_string());
    let keys = get("/get_all_keys").body;
    assert_eq!(keys.lines().map(str::to_owned).collect::<BTreeSet<_>>(), (0..10).map(|n| format!("k{n}")).collect());

    let segment = &get("/get_segments_detail").json()["segments"][0];
    assert_eq!((&segment["segment_id"], &segment["status"]), (&desc.id.to_string().into(), &"MOUNTED".into()));
    let used = segment["allocator_used_bytes"].as_u64().unwrap();
    assert!((1000..100_000).contains(&used), "{used}");
    assert_eq!(get("/query_segment?segment=s").body, format!("s\nUsed(bytes): {used}\nCapacity(bytes): 1048576\n"));

    let batch = get("/batch_query_keys?keys=k1,k2,absent").json();
    let address = |value: &serde_json::Value| value["buffer_address_"].as_u64().unwrap();
    let (k1, k2) = (&batch["data"]["k1"]["values"][0], &batch["data"]["k2"]["values"][0]);
    assert!([k1, k2].iter().all(|value| (desc.base..desc.base + desc.size).contains(&address(value))));
    assert!(address(k1).abs_diff(address(k2)) >= 100, "two objects do not overlap");
    assert_eq!(batch["data"]["absent"]["error"], "OBJECT_NOT_FOUND");

    let found = get("/query_key?key=k1").json();
    assert_eq!((&found["data"][0]["size_"], &found["data"][0]["buffer_address_"]), (&100.into(), &k1["buffer_address_"]));
    assert_eq!(get("/query_key?key=absent").status, 404);

    let page = get("/metrics").body;
    for line in ["perilune_objects 10", "master_key_count 10", "perilune_hits_total 1", "perilune_misses_total 1", "perilune_log_leader 1"]
    {
        assert!(page.contains(&format!("\n{line}\n")), "{line} is not in\n{page}");
    }
    assert!(get("/metrics/summary").body.contains(" | Keys: 10 (soft-pinned: 0) | Clients: 1 | "));

    let post = |path: &str| http::ask(master.http_addrs()[0], "POST", path).body;
    assert_eq!(post("/api/v1/remove_all"), r#"{"success":true,"removed_count":9}"#, "the query leased one");
    assert_eq!(get("/get_all_keys").body, "k1\n");
    assert_eq!(post("/api/v1/remove_all?force=true"), r#"{"success":true,"removed_count":1}"#);
    assert_eq!(get("/query_key?key=k1").status, 404);
    assert!(get("/metrics").body.contains("\nmaster_remove_all_requests_total 2\n"));
}

#[test]
fn the_leader_is_named_as_its_peers_were_told_not_as_it_listens() {
    let dir = tempfile::tempdir().unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let told = Member { id: 1, address: "127.0.0.1:7".into(), service: "master-1:50051".into(), ..Member::default() };
    let config = MasterConfig { data_dir: dir.path().into(), rpc: any, http: vec![any], peers: vec![told], ..MasterConfig::default() };
    let master = Master::start(config).unwrap();
    let leader = http::ask(master.http_addrs()[0], "GET", "/leader").json();
    assert_eq!(leader["leader_address"], "master-1:50051", "{leader}");
}
