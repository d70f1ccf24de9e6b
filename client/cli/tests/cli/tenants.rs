//! Tenants with real processes and real bytes: keys and memory of their own, limits, and the end of them.

use crate::group::{Process, Shared};
use crate::harness::{Dev, perilune, run, said, wait_for};
use serde_json::Value;
use std::path::Path;
use std::process::{Output, Stdio};

/// A node, killed and its memory freed when dropped.
pub(crate) struct Node {
    pub(crate) rest: String,
    process: Process,
    memory: Shared,
}

/// One that lends 64 MiB to a tenant.
pub(crate) fn node(dev: &Dev, dir: &Path, tenant: &str) -> Node {
    let shared = Shared(dir.join(format!("node-{tenant}")));
    let ready = dir.join(format!("ready-{tenant}"));
    let mut store = perilune();
    store.args(["store", "--master", &dev.rpc, "--tenant", tenant, "--http", "127.0.0.1:0", "--segment-size", "64MiB"]);
    store.arg("--data-dir").arg(&shared.0).arg("--ready-file").arg(&ready).stdout(Stdio::null());
    let process = Process(store.spawn().unwrap());
    let addresses: Value = wait_for("the memory to be lent", || serde_json::from_slice(&std::fs::read(&ready).ok()?).ok());
    Node { rest: addresses["rest"].as_str().unwrap().to_owned(), process, memory: shared }
}

fn tenants(dev: &Dev, args: &[&str]) -> Output {
    run(["tenants"].iter().chain(args).copied().chain(["--http", &dev.http]))
}

fn done(dev: &Dev, args: &[&str]) {
    let output = tenants(dev, args);
    assert!(output.status.success(), "{args:?}: {}", said(&output));
}

fn refused(output: &Output, why: &str) {
    assert!(!output.status.success() && said(output).contains(why), "{why}: {}", said(output));
}

fn list(dev: &Dev) -> Vec<Value> {
    let output = tenants(dev, &["list", "--json"]);
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn get(dev: &Dev, tenant: &str, key: &str) -> Output {
    dev.run(&["get", key, "--tenant", tenant])
}

struct Values(tempfile::TempDir);

impl Values {
    fn put(&self, dev: &Dev, tenant: &str, key: &str, value: &[u8]) -> Output {
        let file = self.0.path().join("value");
        std::fs::write(&file, value).unwrap();
        dev.run(&["put", key, file.to_str().unwrap(), "--tenant", tenant])
    }
}

#[test]
fn tenants_have_keys_memory_limits_and_an_end_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(dir.path());
    let values = Values(tempfile::tempdir().unwrap());
    refused(&values.put(&dev, "acme", "k", b"acme's"), "no such tenant");
    done(&dev, &["create", "acme", "--shown", "Acme & Sons", "--user", "u1"]);
    refused(&values.put(&dev, "acme", "k", b"acme's"), "--tenant");
    let node = node(&dev, dir.path(), "acme");

    // One key, two tenants, two values.
    assert!(values.put(&dev, "default", "k", b"everybody's").status.success());
    assert!(values.put(&dev, "acme", "k", b"acme's").status.success());
    assert_eq!((get(&dev, "acme", "k").stdout, get(&dev, "default", "k").stdout), (b"acme's".to_vec(), b"everybody's".to_vec()));
    refused(&get(&dev, "nobody", "k"), "no such tenant");
    let at = |rest: &str, tenant: &str| send("GET", &format!("http://{rest}/api/get/k?tenant_id={tenant}"), "");
    assert_eq!((at(&node.rest, "acme"), at(&dev.rest, "default").0), ((200, "acme's".into()), 200));
    assert_eq!((at(&node.rest, "default").0, at(&dev.rest, "acme").0), (400, 400), "a node has its own tenant's");

    // Over its budget: nothing is added, what there is can be read.
    done(&dev, &["overdue", "acme"]);
    refused(&tenants(&dev, &["overdue", "acme"]), "the instance has already set  instance to overdue, instance_id = acme");
    refused(&values.put(&dev, "acme", "more", b"x"), "TENANT_OVERDUE");
    assert_eq!(get(&dev, "acme", "k").stdout, b"acme's");
    let more = post(&node.rest, "/api/mount", r#"{"size": 16777216}"#);
    assert!(more.0 == 403 && more.1.contains("over its budget"), "{more:?}");
    let more = send("PUT", &format!("http://{}/api/put", node.rest), r#"{"key": "more", "value": "x"}"#);
    assert!(more.0 == 403 && more.1.contains("TENANT_OVERDUE"), "{more:?}");
    done(&dev, &["normal", "acme"]);

    // At its limit its own oldest leaves, and nothing of anybody else's.
    done(&dev, &["quota", "acme", "--bytes", "4MiB", "--objects", "10"]);
    let mib = vec![7; 1 << 20];
    for n in 0..12 {
        let output = values.put(&dev, "acme", &format!("big{n}"), &mib);
        assert!(output.status.success(), "{n}: {}", said(&output));
        let used: u64 = list(&dev)[0]["used_bytes"].as_str().unwrap().parse().unwrap();
        assert!(used <= 4 << 20, "{used}");
    }
    assert!(get(&dev, "acme", "big11").stdout == mib && !get(&dev, "acme", "big0").status.success());
    assert_eq!(get(&dev, "default", "k").stdout, b"everybody's");
    refused(&values.put(&dev, "acme", "huge", &vec![1; 5 << 20]), "its copies take 5 MiB, and the tenant may have ");

    // Its memory is nobody else's, even when its node would have it so.
    drop(node.process);
    let others = ["store", "--master", &dev.rpc, "--http", "127.0.0.1:0", "--data-dir", node.memory.0.to_str().unwrap()];
    refused(&run(others), "another tenant");

    // Dropped: not served, then nothing is left, and nobody is called so again.
    done(&dev, &["drop", "acme"]);
    done(&dev, &["drop", "acme"]);
    refused(&get(&dev, "acme", "big11"), "TENANT_DELETED");
    assert_eq!(list(&dev)[0]["status"], "DELETED");
    refused(&tenants(&dev, &["recycling", "default"]), "the instance is not dropped");
    let table = said(&tenants(&dev, &["recycling", "acme"]));
    assert!(table.contains("idle") && table.contains("may begin"), "{table}");
    done(&dev, &["recycle", "acme"]);
    wait_for("the dropped tenant to be gone", || (list(&dev).len() == 1).then_some(()));
    let segments = dev.json(&["segments"]);
    assert_eq!(segments.len(), 1, "its memory was given back: {segments:?}");
    refused(&tenants(&dev, &["create", "acme"]), "instance already existed, instance_id=acme");
    assert_eq!(get(&dev, "default", "k").stdout, b"everybody's");
}

#[test]
fn tenants_outlive_the_master() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(dir.path());
    done(&dev, &["create", "acme", "--shown", "Acme"]);
    done(&dev, &["quota", "acme", "--bytes", "4MiB"]);
    done(&dev, &["create", "left"]);
    let wrong = dir.path().join("wrong");
    std::fs::write(&wrong, "0123456789abcdef").unwrap();
    let output = tenants(&dev, &["drop", "acme", "--meta-token-file", wrong.to_str().unwrap()]);
    refused(&output, "incorrect token, token=(masked): give masters and this command the same");
    done(&dev, &["drop", "left"]);
    let before = list(&dev);
    dev.kill();
    let dev = dev.start_again(dir.path(), &["--segment-size", "64MiB"]);
    assert_eq!(list(&dev), before);
    assert_eq!((&before[0]["quota_bytes"], &before[2]["status"]), (&"4194304".into(), &"DELETED".into()));
}

/// What curl says, and the status.
fn curl(dev: &Dev, method: &str, call: &str, body: &str) -> (u16, String) {
    send(method, &format!("http://{}/MetaService/http/{call}", dev.http), body)
}

fn post(address: &str, path: &str, body: &str) -> (u16, String) {
    send("POST", &format!("http://{address}{path}"), body)
}

pub(crate) fn send(method: &str, url: &str, body: &str) -> (u16, String) {
    let agent = ureq::Agent::new_with_config(ureq::Agent::config_builder().http_status_as_error(false).build());
    let request = ureq::http::Request::builder().method(method).uri(url).header("Content-Type", "application/json");
    let mut reply = agent.run(request.body(body.to_owned()).unwrap()).unwrap();
    (reply.status().as_u16(), reply.body_mut().read_to_string().unwrap())
}

#[test]
fn the_meta_service_speaks_as_its_page_does() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(dir.path());
    let token = "token=greedisgood9999";
    let msg = |reply: &(u16, String)| (reply.0, serde_json::from_str::<Value>(&reply.1).unwrap()["msg"].as_str().unwrap().to_owned());
    let ask = |call: &str, body: &str| curl(&dev, "PUT", &format!("{call}?{token}"), body);

    assert_eq!(curl(&dev, "GET", "get_instance", ""), (403, "incorrect token, token=(not given)\n".to_owned()));
    assert_eq!(curl(&dev, "GET", "anything?token=wrong", "").0, 403, "asked before it is looked for");
    assert_eq!(msg(&ask("no_such_call", "{}")), (404, "unknown api no_such_call".to_owned()));
    // To the letter, a server knows every call.
    let ok = (200, "{\n    \"code\": \"OK\",\n    \"msg\": \"\"\n}\n".to_owned());
    let set = |value: &str| post(&dev.http, "/config/set", &format!(r#"{{"key": "meta_compat", "value": "{value}"}}"#)).0;
    assert_eq!((set("doc"), ask("no_such_call", "{}"), set("plain")), (200, ok.clone(), 200));
    let sample = r#"{"instance_id": "test_instance", "name": "sample_instance_name", "user_id": "sample_user_id",}"#;
    assert_eq!(curl(&dev, "POST", &format!("v1/create_instance?{token}"), sample), ok);
    assert_eq!(msg(&ask("create_instance", sample)), (409, "instance already existed, instance_id=test_instance".to_owned()));
    assert_eq!(msg(&ask("create_instance", "{}")), (400, "instance id not set".to_owned()));
    for bad in ["a/b", "a\\u0000b", "..", &"x".repeat(10_000)] {
        let (status, why) = msg(&ask("create_instance", &format!(r#"{{"instance_id": "{bad}"}}"#)));
        assert!(status == 400 && why.len() < 300, "{bad:.20}: {why}");
    }
    let (status, why) = msg(&ask("create_instance", "{"));
    assert!(status == 400 && why.starts_with("parse http request '/MetaService/http/create_instance': "), "{why}");
    let (status, why) = msg(&ask("create_instance", &format!(r#"{{"name": "{}"}}"#, "x".repeat(100_000))));
    assert!(status == 413 && why.ends_with("the body is longer than 65536 bytes"), "{why}");

    // Whoever only looks has nothing done.
    let head = |call: &str| curl(&dev, "HEAD", &format!("{call}?{token}&instance_id=test_instance"), "").0;
    assert_eq!((head("get_instance"), head("v1/drop_instance")), (405, 405));
    // The longest id is said whole, and what is null was not said.
    let long = "x".repeat(128);
    assert_eq!(ask("create_instance", &format!(r#"{{"instance_id": "{long}", "obj_info": null, "sse_enabled": null}}"#)), ok);
    assert_eq!(
        msg(&ask("create_instance", &format!(r#"{{"instance_id": "{long}"}}"#))),
        (409, format!("instance already existed, instance_id={long}"))
    );
    let unique = format!("1:{long}:{}", "y".repeat(100));
    let cluster = |nodes: &str| {
        format!(
            r#"{{"instance_id": "{long}", "cluster": {{"cluster_id": "c", "cluster_name": "c", "type": "COMPUTE", "nodes": {nodes}, "mysql_user_name": null}}}}"#
        )
    };
    assert_eq!(ask("add_cluster", &cluster("null")), ok);
    assert_eq!(ask("get_cluster_status", &format!(r#"{{"instance_ids": ["{long}"], "cloud_unique_ids": null, "status": null}}"#)).0, 200);
    let nobody = ask("get_cluster", &format!(r#"{{"cloud_unique_id": "{unique}", "cluster_name": "nobody"}}"#));
    assert_eq!(msg(&nobody), (404, format!(r#"fail to get cluster with cloud_unique_id: "{unique}" cluster_name: "nobody" "#)));
    let gone = ask("drop_node", &cluster(&format!(r#"[{{"cloud_unique_id": "{unique}", "ip": "172.21.0.5", "heartbeat_port": 9050}}]"#)));
    assert!(msg(&gone).1.ends_with(&format!("instance_id={long} cluster_name=c cluster_id=c cloud_unique_id={unique}")), "{gone:?}");

    let status = |op: &str| ask("set_instance_status", &format!("{{\n    \"instance_id\":\"test_instance\",\n    \"op\": \"{op}\"\n}}"));
    assert_eq!(status("SET_OVERDUE"), ok);
    assert_eq!(msg(&status("SET_OVERDUE")), (400, "the instance has already set  instance to overdue, instance_id = test_instance".into()));
    assert_eq!(status("SET_NORMAL"), ok);
    assert_eq!(msg(&status("SET_NORMAL")), (400, "the instance is already normal, instance_id = test_instance".into()));
    assert_eq!(msg(&status("SET_ASIDE")), (400, "invalid request op, op=SET_ASIDE".into()));

    let get = |query: &str| curl(&dev, "GET", &format!("v1/get_instance?{token}&{query}"), "");
    assert_eq!(msg(&get("")), (400, "empty instance_id and cloud_unique_id".into()));
    assert_eq!(msg(&get("cloud_unique_id=2:a:b")), (400, "cannot find instance_id with cloud_unique_id=2:a:b".into()));
    assert_eq!(msg(&get("instance_id=nobody")), (404, "failed to get instance, instance_id=nobody".into()));
    let found: Value = serde_json::from_str(&get("cloud_unique_id=1:test_instance:any").1).unwrap();
    assert_eq!((&found["result"]["user_id"], &found["result"]["status"]), (&"sample_user_id".into(), &"NORMAL".into()));

    let drop = |id: &str| ask("drop_instance", &format!(r#"{{"instance_id": "{id}"}}"#));
    assert_eq!(msg(&drop("nobody")), (404, "instance not existed, instance_id=nobody".into()));
    assert_eq!((drop("test_instance"), drop("test_instance")), (ok.clone(), ok.clone()));
    assert_eq!(msg(&ask("create_instance", sample)).0, 409, "for good");
    for (op, to) in [("SET_NORMAL", "normal"), ("SET_OVERDUE", "overdue")] {
        assert_eq!(msg(&status(op)), (400, format!("can't set deleted instance to {to}, instance_id = test_instance")));
    }
    assert!(get("instance_id=test_instance").1.contains(r#""status": "DELETED""#));
    assert_eq!(msg(&drop("default")).0, 400);

    // Of the recycler, also where Doris has it; nothing else is there.
    let recycler =
        |call: &str| send("PUT", &format!("http://{}/RecyclerService/http/{call}", dev.http), r#"{"instance_id": "test_instance"}"#);
    let same = |call: &str| (recycler(&format!("{call}?{token}")), ask(call, r#"{"instance_id": "test_instance"}"#));
    assert_eq!(recycler("recycle_job_info").0, 403);
    let (there, here) = same("recycle_job_info");
    assert!(there == here && there.1.contains(r#""status": "IDLE""#), "{there:?}");
    assert_eq!(recycler(&format!("recycle_instance?{token}")), ok);
    assert_eq!(msg(&recycler(&format!("drop_instance?{token}"))), (404, "unknown api drop_instance".to_owned()));

    // Two create the same at one time: one does, one is told.
    let both = std::thread::scope(|scope| {
        let create = || ask("create_instance", r#"{"instance_id": "both"}"#).0;
        let (a, b) = (scope.spawn(create), scope.spawn(create));
        let mut both = [a.join().unwrap(), b.join().unwrap()];
        both.sort_unstable();
        both
    });
    assert_eq!(both, [200, 409]);
}
