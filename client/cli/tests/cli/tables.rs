//! Tables, shards and puts that nobody ends, with real processes and real bytes.

use crate::harness::{Dev, run, said, wait_for};
use crate::keys::Logged;
use crate::raw::Raw;
use crate::tenants::send;
use perilune_protocol::rpc::object::{PutEnd, PutGrant, PutStart};
use perilune_protocol::{FaultCode, PutConfig, WriterId};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::Output;

const TOKEN: &str = "token=greedisgood9999";

struct Page<'a>(&'a Dev);

impl Page<'_> {
    fn text(&self, call: &str, body: &str) -> (u16, String) {
        send("POST", &format!("http://{}/MetaService/http/{call}?{TOKEN}", self.0.http), body)
    }

    /// The status, the code and the message of a call that is answered by a text.
    fn status(&self, call: &str, body: &Value) -> (u16, String) {
        let (status, text) = self.text(call, &body.to_string());
        assert!(text.starts_with("status {\n  code: ") && text.ends_with("}\n"), "{text}");
        (status, text)
    }

    fn json(&self, call: &str, body: &Value) -> Value {
        let agent = ureq::Agent::new_with_config(ureq::Agent::config_builder().http_status_as_error(false).build());
        let url = format!("http://{}/MetaService/http/v1/{call}?{TOKEN}", self.0.http);
        let mut reply = agent.put(&url).header("Accept", "application/json").send(body.to_string()).unwrap();
        let answer: Value = serde_json::from_str(&reply.body_mut().read_to_string().unwrap()).unwrap();
        assert_eq!(answer["code"], "OK", "{call} {body}: {answer}");
        answer["result"].clone()
    }

    fn tables(&self) -> Vec<Value> {
        self.json("list_tables", &json!({"instance_id": "default"})).as_array().unwrap().clone()
    }

    /// The objects of each shard of a table that has some.
    fn rows(&self, table: &Value) -> BTreeMap<u64, u64> {
        let idx: Vec<Value> = table["tablet_ids"].as_array().unwrap().iter().map(|id| json!({"tablet_id": id})).collect();
        let stats = self.json("get_tablet_stats", &json!({"instance_id": "default", "tablet_idx": idx}));
        let number = |value: &Value| value.as_str().unwrap().parse::<u64>().unwrap();
        let all = stats["tablet_stats"].as_array().unwrap().iter().map(|s| (number(&s["idx"]["tablet_id"]), number(&s["num_rows"])));
        all.filter(|(_, rows)| *rows > 0).collect()
    }

    fn open(&self) -> Vec<Value> {
        self.json("list_txns", &json!({"instance_id": "default"})).as_array().unwrap().clone()
    }

    fn used(&self) -> u64 {
        let (_, text) = send("GET", &format!("http://{}/MetaService/http/get_instance?{TOKEN}&instance_id=default", self.0.http), "");
        serde_json::from_str::<Value>(&text).unwrap()["result"]["used_bytes"].as_str().unwrap().parse().unwrap()
    }
}

fn tables(dev: &Dev, args: &[&str]) -> Output {
    run(["tables"].iter().chain(args).copied().chain(["--http", &dev.http]))
}

fn put(dev: &Dev, key: &str) {
    let body = json!({"key": key, "value": "0123456789"}).to_string();
    let put = send("PUT", &format!("http://{}/api/put", dev.rest), &body);
    assert_eq!(put.0, 200, "{key}: {put:?}");
}

#[test]
fn keys_are_of_the_table_with_the_longest_rule_and_counted_in_its_shards() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(dir.path());
    let page = Page(&dev);
    for key in ["llama@8b/old", "other"] {
        put(&dev, key);
    }
    for (table, prefix) in [("llama.all", "llama@"), ("llama.8b", "llama@8b/")] {
        let output = tables(&dev, &["create", "default", table, prefix]);
        assert!(output.status.success(), "{}", said(&output));
    }
    let [all, small, rest] = page.tables().try_into().unwrap();
    assert_eq!((&all["table_name"], &small["prefix"], &rest["db_name"]), (&"all".into(), &"llama@8b/".into(), &"default".into()));
    assert_eq!(all["db_id"], small["db_id"]);

    (0..40).for_each(|n| put(&dev, &format!("llama@8b/{n}")));
    (0..10).for_each(|n| put(&dev, &format!("llama@70b/{n}")));
    let sums = || [&all, &small, &rest].map(|table| page.rows(table).values().sum::<u64>());
    assert_eq!(sums(), [10, 41, 1], "what was there before is counted, too");
    assert!(page.rows(&small).len() > 8, "over many shards: {:?}", page.rows(&small));
    dev.ok(&["rm", "llama@8b/7"]);
    assert_eq!(sums(), [10, 40, 1]);

    // As the page asks, and as it is answered there.
    let (shard, rows) = page.rows(&small).pop_first().unwrap();
    let [table, index, partition] = ["table_id", "index_id", "partition_id"].map(|name| small[name].as_str().unwrap());
    let sample = format!(
        r#"{{
    "cloud_unique_id":"1:default:regression-cloud-unique-id0",
    "tablet_idx": [{{
        "table_id":{table},
        "index_id":{index},
        "partition_id":{partition},
        "tablet_id":{shard}
    }}]
}}"#
    );
    let expected = format!(
        "status {{\n  code: OK\n  msg: \"\"\n}}\ntablet_stats {{\n  idx {{\n    table_id: {table}\n    index_id: {index}\n    partition_id: \
         {partition}\n    tablet_id: {shard}\n  }}\n  data_size: {}\n  num_rows: {rows}\n  num_rowsets: {rows}\n  num_segments: 1\n  \
         base_compaction_cnt: 0\n  cumulative_compaction_cnt: 0\n  cumulative_point: 0\n}}\n",
        10 * rows
    );
    for call in ["get_tablet_stats", "v1/get_tablet_stats"] {
        assert_eq!(page.text(call, &sample), (200, expected.clone()));
    }
    assert_eq!(
        page.text("get_tablet_stats", r#"{"instance_id": "default", "tablet_idx": [],}"#),
        (200, "status {\n  code: OK\n  msg: \"\"\n}\n".into())
    );
    let lost = |ids: Value| page.status("get_tablet_stats", &json!({"instance_id": "default", "tablet_idx": [ids]}));
    for wrong in [
        json!({"tablet_id": 7}),
        json!({"tablet_id": shard, "table_id": 1}),
        json!({"tablet_id": shard, "index_id": table}),
        json!({"tablet_id": shard, "partition_id": u64::MAX}),
    ] {
        let (status, text) = lost(wrong.clone());
        assert!(status == 404 && text.contains("code: TABLET_NOT_FOUND\n  msg: \"tablet stats not found, tablet_id="), "{wrong}: {text}");
    }
    assert_eq!(lost(json!({})), (400, "status {\n  code: INVALID_ARGUMENT\n  msg: \"no valid tablet_id given\"\n}\n".into()));
    assert_eq!(page.text("get_tablet_stats", "{").0, 400);
    let (status, text) = page.text("get_tablet_stats", &" ".repeat(100_000));
    assert!(status == 413 && text.contains("the body is longer than 65536 bytes"), "{text}");

    // Numbers are for good: after a restart, and of what was dropped. Two who declare the same at one time: one does, one is told.
    let both = std::thread::scope(|scope| {
        let declare = || tables(&dev, &["create", "default", "d.t", "both/", "--shards", "3"]).status.success();
        let (a, b) = (scope.spawn(declare), scope.spawn(declare));
        [a.join().unwrap(), b.join().unwrap()]
    });
    assert_eq!(both.iter().filter(|done| **done).count(), 1);
    let before = page.tables();
    let mut dev = dev;
    dev.kill();
    let dev = dev.start_again(dir.path(), &["--segment-size", "64MiB"]);
    let page = Page(&dev);
    assert_eq!(page.tables(), before);
    assert!(tables(&dev, &["drop", "default", "llama.8b"]).status.success());
    assert_eq!(page.rows(&all).values().sum::<u64>(), 50, "its keys are of the rule that is left");
    let (status, text) = page.status("get_tablet_stats", &json!({"instance_id": "default", "tablet_idx": [{"tablet_id": shard}]}));
    assert_eq!((status, text.contains("TABLET_NOT_FOUND")), (404, true));

    // Jobs: none is done yet.
    let job = |body: Value| page.status("abort_tablet_job", &body);
    let with = |tablet: Value, compaction: Value| json!({"cloud_unique_id": "1:default:n", "job": {"idx": {"tablet_id": tablet}, "compaction": compaction}});
    let says = |(status, text): (u16, String), expected: u16, why: &str| assert!(status == expected && text.contains(why), "{why}: {text}");
    says(job(json!({"cloud_unique_id": "1:default:n"})), 400, "no valid job specified");
    says(job(with(json!(shard), json!([]))), 400, "no valid job specified");
    says(job(with(json!(0), json!([{"id": 113_974}]))), 400, "no valid tablet_id given");
    says(job(with(json!(shard), json!([{"id": "j"}]))), 404, &format!("tablet {shard} has been dropped"));
    let first = all["tablet_ids"][0].as_str().unwrap();
    says(job(with(json!(first), json!([{"id": 113_974}]))), 400, &format!("job not found, instance_id=default tablet_id={first} job="));
    says(job(json!({"cloud_unique_id": "x", "job": {}})), 400, "empty instance_id");

    // What it prints does the same.
    let output = tables(&dev, &["create", "default", "by.curl", "curl'd/", "--curl"]);
    let line = String::from_utf8(output.stdout).unwrap();
    assert!(line.starts_with("curl "), "{line}");
    let done = std::process::Command::new("sh").args(["-c", &format!("{} -s", line.trim())]).output();
    if done.as_ref().is_ok_and(|done| done.status.success()) {
        assert!(page.tables().iter().any(|table| table["prefix"] == "curl'd/"), "{line}");
    }
    // Of calls that are answered by a text it asks for JSON, as the command does.
    for args in
        [&["stats", "default", first, "--curl"][..], &["abort", "default", "7", "--curl"], &["abort-job", "default", first, "7", "--curl"]]
    {
        let line = String::from_utf8(tables(&dev, args).stdout).unwrap();
        assert!(line.contains("-H 'Accept: application/json'"), "{line}");
    }
    for (args, why) in [
        (&["create", "default", "nodot", "p"][..], "DATABASE.TABLE"),
        (&["create", "default", "a.b", ""], "prefix has 1 to 256 bytes"),
        (&["create", "nobody", "a.b", "p"], "instance not existed"),
        (&["drop", "default", "default.default"], "always exists"),
        (&["drop", "default", "a.b"], "there is no table a.b"),
        (&["create", "default", "a.b", "p", "--shards", "0"], "1 to 1024 shards"),
    ] {
        let output = tables(&dev, args);
        assert!(!output.status.success() && said(&output).contains(why), "{args:?}: {}", said(&output));
    }
}

#[test]
fn a_put_that_nobody_ends_is_aborted_and_its_label_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--segment-size", "64MiB", "--put-discard", "3s", "--put-release", "4s"];
    let dev = Dev::start_with(dir.path(), &flags);
    let page = Page(&dev);
    let mut writer = Raw::greet(&dev.rpc, "default");
    let label = WriterId::random();
    let begin = |writer: &mut Raw, label, keys: &[&str]| -> Vec<PutGrant> {
        let puts = keys.iter().map(|key| ((*key).into(), 1 << 20)).collect();
        let grants = writer.ask(&PutStart { puts, config: PutConfig::default(), writer: label }).unwrap();
        grants.into_iter().map(Result::unwrap).collect()
    };
    let granted = begin(&mut writer, label, &["half", "other half"]);
    let open = page.open();
    assert_eq!((open.len(), &open[0]["label"], &open[0]["key"]), (2, &label.to_string().into(), &"half".into()));
    assert_eq!(page.used(), 2 << 20, "promised");

    // The form and the answer of the page.
    let txn = granted[0].version.0;
    let sample = format!("{{\n    \"cloud_unique_id\": \"1:default:regression-cloud-unique-id0\",\n    \"txn_id\": {txn}\n}}");
    assert_eq!(page.text("abort_txn", &sample), (200, "status {\n  code: OK\n  msg: \"\"\n}\n".into()));
    assert_eq!((page.open().len(), page.used()), (0, 0), "all that was begun together, and its quota");
    let db = open[0]["db_id"].as_str().unwrap();
    let says = |body: Value, expected: u16, why: String| {
        let (status, text) = page.status("abort_txn", &body);
        assert!(status == expected && text.contains(&why), "{body}: {text}");
    };
    let by = |body: Value| {
        let mut body = body;
        body["cloud_unique_id"] = "1:default:n".into();
        body
    };
    says(
        by(json!({"txn_id": txn})),
        409,
        format!("code: TXN_ALREADY_ABORTED\n  msg: \"transaction is already abort db_id={db}txn_id={txn}\""),
    );
    says(by(json!({"db_id": db, "label": label.to_string()})), 409, format!("running transaction not found, db_id={db} label={label}"));

    // Its writer is told; the key and the label are free; and the bytes of another are where they were put.
    let late = writer.ask(&PutEnd { puts: vec![("half".into(), granted[0].version, 0)] }).unwrap();
    assert_eq!(late[0].as_ref().unwrap_err().code, FaultCode::WrongState, "a client does not begin it anew");
    put(&dev, "half");
    assert_eq!(dev.ok(&["get", "half"]), "0123456789");
    let again = begin(&mut writer, label, &["anew"]);
    let lies = |grant: &PutGrant| grant.replicas[0].extents.clone();
    let apart = |a: &PutGrant, b: &PutGrant| {
        lies(a).iter().all(|x| lies(b).iter().all(|y| x.offset + x.len <= y.offset || y.offset + y.len <= x.offset))
    };
    assert!(again.iter().all(|new| granted.iter().all(|old| apart(new, old))), "a writer that may still write has its room yet");
    says(by(json!({"db_id": db, "label": label.to_string(), "writer_gone": true})), 200, "code: OK".into());

    // What was published stays.
    let query = |key: &str| dev.json(&["query", key])[0]["version"].clone();
    let version = query("half");
    says(by(json!({"txn_id": version})), 409, format!("transaction is already visible db_id={db}txn_id={version}"));
    assert_eq!(dev.ok(&["get", "half"]), "0123456789");
    says(by(json!({"txn_id": 7})), 404, "code: TXN_ID_NOT_FOUND\n  msg: \"failed to get db id, txn_id=7 ".into());
    says(
        by(json!({"db_id": db, "label": "nobody's"})),
        404,
        format!("code: TXN_LABEL_NOT_FOUND\n  msg: \"label not found, db_id={db} label=nobody's\""),
    );
    says(by(json!({})), 400, "invalid txn id and label, db_id=0 txn_id=0 label=".into());
    says(by(json!({"label": "x"})), 400, "invalid txn id and label, db_id=0 txn_id=0 label=x".into());
    says(json!({"cloud_unique_id": "x", "txn_id": 7}), 400, "cannot find instance_id with cloud_unique_id=x label= txn_id=7".into());
    says(by(json!({"db_id": db, "label": "x".repeat(10_000)})), 404, "TXN_LABEL_NOT_FOUND".into());

    // Two abort the same at one time: one does, one is told.
    begin(&mut writer, WriterId::random(), &["twice"]);
    let id: u64 = page.open()[0]["txn_id"].as_str().unwrap().parse().unwrap();
    let both = std::thread::scope(|scope| {
        let abort = || page.text("abort_txn", &by(json!({"txn_id": id})).to_string()).0;
        let (a, b) = (scope.spawn(abort), scope.spawn(abort));
        [a.join().unwrap(), b.join().unwrap()]
    });
    assert!(both == [200, 409] || both == [409, 200], "{both:?}");

    // As a user would: the writer is killed, its put ended, and all its room is there again.
    begin(&mut writer, WriterId::random(), &["killed"]);
    drop(writer);
    let listed = String::from_utf8(tables(&dev, &["puts", "default", "--json"]).stdout).unwrap();
    let id = serde_json::from_str::<Value>(listed.trim()).unwrap()["txn_id"].as_str().unwrap().to_owned();
    let output = tables(&dev, &["abort", "default", &id, "--writer-gone"]);
    assert!(output.status.success(), "{}", said(&output));
    wait_for("the room to be free", || (dev.json(&["stat"])[0]["used"].as_u64().unwrap() < 1 << 20).then_some(()));
}

#[test]
fn the_log_says_why_a_put_was_aborted() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Logged::start(dir.path());
    let mut writer = Raw::greet(&dev.rpc, "default");
    for (reason, said) in [(json!("stuck engine 7"), "stuck engine 7"), (Value::Null, "User Abort")] {
        let question = PutStart { puts: vec![("half".into(), 4096)], config: PutConfig::default(), writer: WriterId::random() };
        let txn = writer.ask(&question).unwrap().remove(0).unwrap().version.0;
        dev.do_it("abort_txn", &json!({"cloud_unique_id": "1:default:n", "txn_id": txn, "reason": reason}).to_string());
        let log = std::fs::read_to_string(&dev.log).unwrap();
        let line = log.lines().find(|line| line.contains("a transaction was aborted") && line.contains(&txn.to_string()));
        assert!(line.is_some_and(|line| line.contains(said) && line.contains("default")), "{line:?}");
    }
}

#[test]
fn what_was_aborted_stays_so_when_the_master_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--segment-size", "64MiB"];
    let mut dev = Dev::start_with(dir.path(), &flags);
    let mut writer = Raw::greet(&dev.rpc, "default");
    let puts = vec![("half".into(), 1 << 20), ("other half".into(), 1 << 20)];
    let granted = writer.ask(&PutStart { puts, config: PutConfig::default(), writer: WriterId::random() }).unwrap();
    let txn = granted[0].as_ref().unwrap().version;
    let body = json!({"cloud_unique_id": "1:default:n", "txn_id": txn.0});
    assert_eq!(Page(&dev).status("abort_txn", &body).0, 200);
    drop(writer);
    dev.kill();
    let dev = dev.start_again(dir.path(), &flags);
    let mut writer = wait_for("the master", || std::net::TcpStream::connect(&dev.rpc).ok().map(|_| Raw::greet(&dev.rpc, "default")));
    let late = writer.ask(&PutEnd { puts: vec![("half".into(), txn, 0), ("half".into(), perilune_protocol::Tso(7), 0)] }).unwrap();
    let codes: Vec<_> = late.into_iter().map(|told| told.unwrap_err().code).collect();
    assert_eq!(codes, [FaultCode::WrongState, FaultCode::InvalidWrite], "a client begins the second one anew, not the first");
    let (status, text) = Page(&dev).status("abort_txn", &body);
    assert!(status == 409 && text.contains("code: TXN_ALREADY_ABORTED"), "{text}");
}

/// Without that anybody vouches for it: the system of a process that is killed closes its connections, and that of one which was stopped does not.
#[test]
fn the_room_of_a_killed_writer_is_free_once_its_deadline_has_passed() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start_with(dir.path(), &["--segment-size", "64MiB", "--put-discard", "2s"]);
    let mut writer = Raw::greet(&dev.rpc, "default");
    let puts = vec![("half".into(), 1 << 20)];
    writer.ask(&PutStart { puts, config: PutConfig::default(), writer: WriterId::random() }).unwrap().remove(0).unwrap();
    assert_eq!(Page(&dev).open()[0]["writer_left"], false);
    drop(writer);
    wait_for("it to have left", || (Page(&dev).open().first()?["writer_left"] == true).then_some(()));
    let id = Page(&dev).open()[0]["txn_id"].as_str().unwrap().to_owned();
    assert!(tables(&dev, &["abort", "default", &id]).status.success());
    wait_for("the room to be free", || (dev.json(&["stat"])[0]["used"] == 0).then_some(()));
}
