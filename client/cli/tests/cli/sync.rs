//! TiFlash's page about the group: whose second copies are in step, and which master collects garbage, with real processes.

use crate::group::{at, leader, master};
use crate::harness::{Dev, run, said, wait_for};
use crate::pools::TOKEN;
use crate::tenants::{node, send};
use serde_json::{Value, json};

fn get(address: &str, path: &str) -> (u16, String) {
    send("GET", &format!("http://{address}{path}"), "")
}

#[test]
fn shards_are_in_step_that_have_second_copies() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(dir.path());
    let created = run(["tables", "create", "default", "llama.8b", "llama@", "--shards", "4", "--http", &dev.http]);
    assert!(created.status.success(), "{}", said(&created));
    let listed = run(["tables", "list", "default", "--json", "--http", &dev.http]).stdout;
    let table: Value = serde_json::from_slice(listed.split(|byte| *byte == b'\n').next().unwrap()).unwrap();
    let id = table["table_id"].as_str().unwrap().to_owned();
    let keyspace = table["keyspace_id"].as_u64().unwrap();
    assert_eq!(keyspace, u64::from(u32::MAX));
    let nothing = (200, "0\n\n".to_owned());
    for spelled in ["tiflash", "tifash"] {
        for path in [id.clone(), "999999".into(), "-1".into(), format!("keyspace/{keyspace}/table/{id}"), format!("keyspace/1/table/{id}")]
        {
            assert_eq!(get(&dev.http, &format!("/{spelled}/sync-status/{path}")), nothing, "{path}");
        }
        for path in ["abc", "12abc", "keyspace/1/100", "keyspace/x/table/1", "1/2", &"9".repeat(10_000), "%00", "..%2f1"] {
            assert_eq!(get(&dev.http, &format!("/{spelled}/sync-status/{path}")).0, 400, "{path:.20}");
        }
        assert_eq!(get(&dev.http, &format!("/{spelled}/sync-status/")), (400, String::new()));
    }

    // One copy is none that another could take the place of; two are.
    let other = node(&dev, dir.path(), "default");
    let value = dir.path().join("value");
    std::fs::write(&value, "bytes").unwrap();
    let put = |key: &str, copies: &str| dev.run(&["put", key, value.to_str().unwrap(), "--replicas", copies]);
    assert!(put("llama@alone", "1").status.success());
    let path = format!("/tiflash/sync-status/{id}");
    assert_eq!(get(&dev.http, &path), nothing);
    for n in 0..40 {
        let output = wait_for("two nodes", || Some(put(&format!("llama@{n}"), "2")).filter(|output| output.status.success()));
        assert!(said(&output).contains("stored"), "{}", said(&output));
    }
    let (status, text) = get(&dev.http, &path);
    let shards: Vec<&str> = table["tablet_ids"].as_array().unwrap().iter().map(|shard| shard.as_str().unwrap()).collect();
    assert_eq!((status, text.as_str()), (200, format!("4\n{}\n", shards.join(" ")).as_str()), "what lacks one is younger than two minutes");
    // A store node asks the master.
    assert_eq!(get(&other.rest, &path), (200, text.clone()));
    assert_eq!(get(&other.rest, &format!("/tifash/sync-status/keyspace/{keyspace}/table/{id}")), (200, text));
    assert_eq!((get(&other.rest, "/tiflash/sync-status/abc").0, get(&other.rest, "/tiflash/sync-status/7")), (400, nothing));

    // Masters and store nodes: one slash more changes nothing, and whoever only looks has nothing done.
    for address in [&dev.http, &other.rest] {
        for spelled in ["tiflash", "tifash"] {
            let page = |what: &str| get(address, &format!("/{spelled}/{what}"));
            assert_eq!(page("sync-status/"), (400, String::new()));
            assert_eq!(page(&format!("sync-status/{id}")), page(&format!("sync-status/{id}/")));
            for what in ["remote/owner/info", "remote/owner/resign", "remote/gc", "remote/upload", "remote/info"] {
                let plain = page(what);
                assert_eq!((plain.0, page(&format!("{what}/"))), (200, plain), "{what}");
                assert!(page(&format!("{what}//")).0 >= 400, "{what}");
            }
            for what in ["owner/resign", "gc", "upload", "gc/"] {
                let url = format!("http://{address}/{spelled}/remote/{what}");
                assert_eq!((send("HEAD", &url, "").0, send("POST", &url, "").0), (405, 200), "{what}");
            }
        }
    }
}

#[test]
fn one_master_collects_and_another_when_it_resigns() {
    const GROUP: u8 = 23;
    let dir = tempfile::tempdir().unwrap();
    let masters: Vec<_> = (1..=3).map(|nth| master(GROUP, dir.path(), nth)).collect();
    let http = |nth: usize| at(GROUP, 30_000 + nth);
    let ask = |nth: usize, what: &str| {
        let (status, text) = get(&http(nth), &format!("/tifash/remote/owner/{what}"));
        assert_eq!(status, 200, "{text}");
        serde_json::from_str::<Value>(&text).unwrap()
    };
    leader(GROUP);
    assert_eq!(ask(1, "info"), json!({"message": "can not get gc owner, disagg_mode=None"}));
    assert_eq!(ask(2, "resign"), json!({"message": "can not resign gc owner, disagg_mode=None"}));

    let obj = json!({"ak": "ak", "sk": "sk", "bucket": "b", "prefix": "p", "endpoint": "127.0.0.1:9", "external_endpoint": "127.0.0.1:9",
        "region": "r", "provider": "S3"});
    let body = json!({"instance_id": "acme", "user_id": "u", "vault": {"obj_info": obj}}).to_string();
    let created = send("PUT", &format!("http://{}/MetaService/http/create_instance?token={TOKEN}", http(1)), &body);
    assert_eq!(created.0, 200, "{}", created.1);

    // Whom all take for it, and nobody else does.
    let owner = |after: Option<usize>| {
        wait_for("one owner", || {
            let all: Vec<Value> = (1..=3).map(|nth| ask(nth, "info")).collect();
            let owners: Vec<usize> = (1..=3).filter(|nth| all[nth - 1]["status"] == "IsOwner").collect();
            let [owner] = owners[..] else { return None };
            let agree = all.iter().all(|said| said["owner_id"] == at(GROUP, 10_000 + owner).as_str() && said["status"] != "NoLeader");
            (agree && Some(owner) != after).then_some(owner)
        })
    };
    let first = owner(None);
    let other = first % 3 + 1;
    assert_eq!(ask(other, "resign"), json!({"message": "This node is not the remote gc owner, can't be resigned."}));
    assert_eq!(ask(first, "resign"), json!({"message": "Done"}));
    let second = owner(Some(first));
    // Each of them in turn, also who does not lead.
    let posted = send("POST", &format!("http://{}/tiflash/remote/owner/resign", http(second)), "");
    assert_eq!((posted.0, posted.1.as_str()), (200, r#"{"message":"Done"}"#));
    let third = owner(Some(second));
    assert!(third != first && third != second);
    // Twice at one time: one does, one is told.
    let both = std::thread::scope(|scope| {
        let resign = || ask(third, "resign")["message"] == "Done";
        let (a, b) = (scope.spawn(resign), scope.spawn(resign));
        [a.join().unwrap(), b.join().unwrap()]
    });
    assert_eq!(both.iter().filter(|done| **done).count(), 1);
    assert_eq!(owner(Some(third)), first);
    drop(masters);
}
