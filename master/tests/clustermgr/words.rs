//! Settings, and what is told of segments and store nodes.

use crate::group::{Group, said};
use perilune_master::engine::{Asker, Speaker};
use perilune_protocol::rpc::object::{PutEnd, PutStart};
use perilune_protocol::rpc::segment::{Mount, Unmount};
use perilune_protocol::rpc::session::Register;
use perilune_protocol::*;
use serde_json::json;

#[test]
fn d10_d11_and_d13_settings_of_one() {
    let group = Group::start(1);
    let get = |key: &str| group.get(1, &format!("/config/get?key={key}"));
    let set = |key: &str, value: &str| group.post(1, "/config/set", &json!({"key": key, "value": value}).to_string());
    for path in ["/config/get", "/config/get?key=", "/config/get?kay=balance"] {
        assert_eq!(said(&group.get(1, path)), (400, r#"{"error":"args(ConfigArgs) field(Key) do not omit","code":"Argument"}"#));
    }
    assert_eq!(said(&get("unheard-of")), (404, r#"{"error":"Not Found"}"#));
    for (key, default) in [
        ("disk_repair", "Disable"),
        ("balance", "Disable"),
        ("disk_drop", "Enable"),
        ("blob_delete", "Enable"),
        ("shard_repair", "Disable"),
        ("vol_inspect", "Disable"),
    ] {
        assert_eq!(get(key).json(), default, "{key}");
        for value in ["Enable", "disable", "TRUE", "false"] {
            assert_eq!(said(&set(key, value)), (200, ""));
            assert_eq!(get(key).json(), value, "exactly what was set");
        }
        assert_eq!(said(&set(key, "perhaps")), (400, r#"{"error":"Illegal Arguments"}"#));
        assert_eq!(get(key).json(), "false");
    }
    assert_eq!(get("volume_inspect").json(), "false", "another name of vol_inspect");
    for key in ["code_mode", "code_mode_extend", "volume_chunk_size", "volume_overbought_ratio", "chunk_oversold_ratio", "shard_init_done"]
    {
        assert_eq!(said(&set(key, "1")), (400, r#"{"error":"Illegal Arguments"}"#), "{key}");
    }
    // Jobs keep how far they are under names of their own.
    assert_eq!(said(&set("job.balance", "{}")), (400, r#"{"error":"Illegal Arguments"}"#));
    let delete = group.post(1, "/config/delete?key=job.balance", "");
    assert_eq!(said(&delete), (933, r#"{"error":"reject delete system config"}"#));
    // What is only misspelled is not taken for something else.
    let unknown = set("writeback", "strict");
    assert_eq!((unknown.status, unknown.json()["code"].as_str()), (400, Some("Argument")));
    assert!(unknown.json()["error"].as_str().unwrap().contains("there is write_back"), "{:?}", unknown.json());
    assert_eq!(get("write_back").json(), "lenient");
    // Any other name is free, and any text a value.
    for value in ["", "b", "\"quoted\"\n", "ä"] {
        assert_eq!((said(&set("a key", value)), get("a%20key").json()), ((200, ""), json!(value)));
    }
    for body in [r#"{"key":"x"}"#, r#"{"value":"x"}"#, r#"{"key":"x","value":1}"#, "", "null"] {
        let reply = group.post(1, "/config/set", body);
        assert_eq!((reply.status, reply.json()["code"].as_str()), (400, Some("Argument")), "{body}");
    }
    let all = group.get(1, "/config/list").json();
    assert_eq!((&all["configs"]["a key"], &all["configs"]["balance"]), (&json!("ä"), &json!("false")));
    assert_eq!((&all["configs"]["tenant_retention_seconds"], &all["defaults"]["balance"]), (&json!("259200"), &json!("Disable")));
    assert_eq!(said(&group.post(1, "/config/delete?key=a+key", "")), (200, ""));
    assert_eq!(get("a%20key").status, 404);
}

#[test]
fn d12_what_is_set_anywhere_is_read_anywhere_at_once() {
    let group = Group::start(3);
    let leader = group.leader();
    for round in 0..20 {
        for set in 1..=3 {
            let value = format!("{round}/{set}");
            let body = json!({"key": "k", "value": value}).to_string();
            assert_eq!(said(&group.post(set, "/config/set", &body)), (200, ""));
            for get in 1..=3 {
                assert_eq!(group.get(get, "/config/get?key=k").json(), value, "set at {set}, read at {get}, leader {leader}");
            }
        }
    }
}

const MIB: u64 = 1 << 20;
const SESSION: u64 = 1;

fn segment(node: NodeId, size: u64, port: u16) -> SegmentDesc {
    SegmentDesc {
        id: SegmentId::random(),
        name: format!("s{port}"),
        node,
        base: 0,
        size,
        protocol: Protocol::Tcp,
        location: String::new(),
        endpoints: vec![Endpoint::Tcp(format!("127.0.0.1:{port}"))],
        capability: Capability::random(),
    }
}

#[test]
fn segments_are_disks_and_store_nodes_are_services() {
    let group = Group::start(3);
    let leader = group.leader();
    let engine = group.up[&leader].engine();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (node, other) = (NodeId::random(), NodeId::random());
    let segments = [segment(node, 64 * MIB, 15_000), segment(node, 32 * MIB, 15_001), segment(other, 16 * MIB, 15_002)];
    runtime.block_on(async {
        for node in [node, other] {
            let register = Register { node, name: "n".into(), rest: format!("http://{node}"), segments: Vec::new() };
            engine.register(SESSION, &Speaker::default(), register).await.unwrap();
        }
        engine.mount(SESSION, &Speaker::default(), Mount { segments: segments.to_vec() }).await.unwrap();
    });
    // The whole of what is lent is free.
    let space = |id: u64| group.get(id, "/stat").json()["space_stat"].take();
    let stat = space(leader);
    assert_eq!((&stat["total_space"], &stat["free_space"]), (&json!(112 * MIB), &json!(112 * MIB)));
    assert_eq!((&stat["writable_space"], &stat["used_space"]), (&json!(112 * MIB), &json!(0)));
    assert_eq!((&stat["total_blob_node"], &stat["total_disk"]), (&json!(2), &json!(3)));
    let idc = &stat["disk_stat_infos"][0];
    assert_eq!((&idc["total"], &idc["available"], &idc["total_chunk"]), (&json!(3), &json!(3), &idc["total_free_chunk"]));
    assert_eq!(group.get(leader, "/stat").json()["volume_stat"]["can_alloc_volume"], 1);

    let put = |key: &str, size: u64| {
        runtime.block_on(async {
            let puts = vec![(key.into(), size)];
            let grant = engine
                .put_start(
                    TenantId::default(),
                    Asker::default(),
                    PutStart { puts, config: PutConfig::default(), writer: WriterId::random() },
                )
                .await
                .remove(0)
                .unwrap();
            let end = PutEnd { puts: vec![(key.into(), grant.version, 7)] };
            engine.put_end(TenantId::default(), end).await.remove(0).unwrap();
        });
    };
    (0..40).for_each(|n| put(&format!("k{n}"), 256 << 10));
    let stat = space(leader);
    let used = stat["used_space"].as_u64().unwrap();
    assert!((10 * MIB..20 * MIB).contains(&used) && stat["free_space"].as_u64() == Some(112 * MIB - used), "{stat}");
    assert!(stat["disk_stat_infos"][0]["total_free_chunk"].as_u64() < stat["disk_stat_infos"][0]["total_chunk"].as_u64());
    assert_eq!(group.get(leader, "/stat").json()["volume_stat"]["active_volume"], 1);
    // Whoever follows sees the same, from the log.
    for id in 1..=3 {
        crate::wait::wait("the others to have it", || (space(id)["used_space"] == json!(used)).then_some(()));
        assert_eq!(space(id)["disk_stat_infos"][0]["total_free_chunk"], stat["disk_stat_infos"][0]["total_free_chunk"]);
        assert_eq!(group.get(id, "/service/list").json()["nodes"].as_array().unwrap().len(), 2);
    }

    // Pages, one disk each.
    let mut marker = 0;
    let mut seen = Vec::new();
    loop {
        let page = group.get(leader, &format!("/disk/list?count=1&marker={marker}")).json();
        let Some(disk) = page["disks"].get(0).cloned() else { break };
        marker = page["marker"].as_u64().unwrap();
        assert_eq!(disk["disk_id"], marker);
        let info = group.get(leader, &format!("/disk/info?disk_id={marker}")).json();
        assert_eq!((&info, &disk["idc"], &disk["status"]), (&disk, &json!("z0"), &json!(1)));
        let of = segments.iter().find(|s| disk["segment_id"] == json!(s.id.to_string())).unwrap();
        assert_eq!((&disk["host"], &disk["size"]), (&json!(of.tcp_endpoint()), &json!(of.size)));
        assert_eq!(Some(of.size), disk["used"].as_u64().zip(disk["free"].as_u64()).map(|(u, f)| u + f));
        seen.push(of.id);
    }
    assert_eq!(seen.len(), 3);
    let count = |query: &str| group.get(leader, &format!("/disk/list?{query}")).json()["disks"].as_array().unwrap().len();
    assert_eq!((count("host=127.0.0.1:15001"), count("idc=z0"), count("idc=z1"), count("status=1"), count("status=2")), (1, 3, 0, 3, 0));
    assert_eq!(said(&group.get(leader, "/disk/info?disk_id=1")), (911, r#"{"error":"disk not found"}"#));
    for (path, code) in [("/disk/info", true), ("/disk/info?disk_id=x", true), ("/disk/list?count=-1", true), ("/disk/list?rack=r", false)]
    {
        let reply = group.get(leader, path);
        assert_eq!((reply.status, reply.json()["code"].is_string()), (400, code), "{path}: {}", reply.body);
    }

    // What drains is no space any more, and what went is not there.
    let nodes = group.get(leader, "/service/list").json();
    assert!(nodes["nodes"].as_array().unwrap().iter().any(|n| n["host"] == json!(format!("http://{node}"))), "{nodes}");
    let unmount = |n: usize, grace_ms| {
        let question = Unmount { segments: vec![segments[n].id], grace_ms };
        runtime.block_on(engine.unmount(None, question)).remove(0).unwrap();
    };
    unmount(0, 60_000);
    let stat = space(leader);
    assert_eq!((&stat["total_space"], &stat["disk_stat_infos"][0]["dropping"]), (&json!(48 * MIB), &json!(1)));
    unmount(2, 0);
    let stat = space(leader);
    assert_eq!((&stat["total_disk"], &stat["disk_stat_infos"][0]["dropped"]), (&json!(2), &json!(1)));
    assert_eq!(stat["total_blob_node"], 1);
}
