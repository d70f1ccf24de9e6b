//! The test vectors of the face, each over HTTP on a master of its own; those of `synced` are in `api/ticdc/synced.rs`.

use super::*;

const BLACKHOLE: &str = "blackhole://";

fn blackhole(id: &str) -> Value {
    json!({"changefeed_id": id, "sink_uri": BLACKHOLE})
}

#[test]
fn c1_to_c9_what_is_refused_when_a_feed_is_created() {
    let served = Served::start();
    let create = |said: Value| served.refused("POST", "changefeeds", &body(said));
    let no_sink = "400 [CDC:ErrSinkURIInvalid]sink uri invalid 'sink_uri is empty, cannot create a changefeed without sink_uri'";
    assert_eq!(create(json!({})), no_sink);
    assert_eq!(create(json!({"replica_config": null, "changefeed_id": "a_b"})), no_sink, "what comes first is said first");
    for bad in ["a_b", "-a", "a-", "a--b", &"a".repeat(129)] {
        assert_eq!(create(blackhole(bad)), format!("400 [CDC:ErrAPIInvalidParam]invalid changefeed_id: {bad}"));
        let namespace = json!({"changefeed_id": "a", "namespace": bad, "sink_uri": BLACKHOLE});
        assert_eq!(create(namespace), format!("400 [CDC:ErrAPIInvalidParam]invalid namespace: {bad}"));
    }
    let nobodys = json!({"namespace": "nobody", "sink_uri": BLACKHOLE});
    assert_eq!(create(nobodys), "400 [CDC:ErrAPIInvalidParam]invalid namespace: nobody: there is no tenant of this name");

    let made = served.create(json!({"sink_uri": BLACKHOLE}));
    assert_eq!(made["id"].as_str().unwrap().parse::<uuid::Uuid>().unwrap().get_version_num(), 4);
    assert_eq!((&made["state"], &made["namespace"]), (&"normal".into(), &"default".into()));
    assert!(made["start_ts"].as_u64().unwrap() > 0 && made["checkpoint_ts"] == made["start_ts"] && made["resolved_ts"] == made["start_ts"]);
    assert!(made.get("task_status").is_none() && made["checkpoint_time"].as_str().unwrap().len() == 23, "{made}");

    served.create(blackhole("f"));
    assert_eq!(create(blackhole("f")), "500 [CDC:ErrChangeFeedAlreadyExists]changefeed already exists, f");
    let with = |name: &str, value: u64| json!({"changefeed_id": "g", "sink_uri": BLACKHOLE, name: value});
    let future = served.now() + (1 << 40);
    let said = create(with("start_ts", future));
    assert!(said.starts_with(&format!("400 [CDC:ErrAPIInvalidParam]invalid start-ts {future}, larger than current tso ")), "{said}");
    let said = create(with("start_ts", 1));
    let gc =
        "400 [CDC:ErrStartTsBeforeGC]fail to create or maintain changefeed because start-ts 1 is earlier than or equal to GC safepoint at ";
    assert!(said.starts_with(gc), "{said}");
    let start = served.now();
    let said = create(json!({"sink_uri": BLACKHOLE, "start_ts": start, "target_ts": start}));
    let why = format!("fail to create changefeed because target-ts {start} is earlier than start-ts {start}");
    assert_eq!(said, format!("400 [CDC:ErrTargetTsBeforeStartTs]{why}"));
    assert_eq!(create(json!({"sink_uri": "foo://"})), "400 [CDC:ErrSinkURIInvalid]the sink scheme (foo) is not supported");
    assert_eq!(create(json!({"sink_uri": "mysql://h"})), "400 [CDC:ErrSinkURIInvalid]the sink scheme (mysql) is not supported");
    let bad = |said: &str| served.refused("POST", "changefeeds", said);
    assert_eq!(bad(""), "400 [CDC:ErrAPIInvalidParam]invalid api parameter: EOF");
    assert_eq!(bad("{"), "400 [CDC:ErrAPIInvalidParam]invalid api parameter: unexpected EOF");
    let long = " ".repeat((256 << 10) + 1);
    assert_eq!(bad(&long), "413 [CDC:ErrAPIInvalidParam]invalid api parameter: the body is longer than 262144 bytes");
    for wrong in
        ["[]", "7", r#"{"sink_uri": 7}"#, r#"{"start_ts": -1}"#, r#"{"sink_uri": "blackhole://", "replica_config": {"memory_quota": "x"}}"#]
    {
        assert!(bad(wrong).starts_with("400 [CDC:ErrAPIInvalidParam]invalid api parameter: "), "{wrong}");
    }
    let elsewhere = json!({"sink_uri": BLACKHOLE, "pd_addrs": ["http://pd:2379"]});
    assert!(create(elsewhere).starts_with("500 [CDC:ErrAPIGetPDClientFailed]failed to get PDClient to connect PD, please recheck"));
}

#[test]
fn c10_to_c12_what_there_is_not_and_what_runs() {
    let served = Served::start();
    for (method, path) in [
        ("GET", "x"),
        ("PUT", "x"),
        ("GET", "x/meta_info"),
        ("GET", "x/status"),
        ("GET", "x/synced"),
        ("POST", "x/pause"),
        ("POST", "x/resume"),
    ] {
        let said = served.refused(method, &format!("changefeeds/{path}"), "{}");
        assert_eq!(said, "400 [CDC:ErrChangeFeedNotExists]changefeed not exists, default/x", "{method} {path}");
        let bad = path.replace('x', "b_d");
        let said = served.refused(method, &format!("changefeeds/{bad}"), "{}");
        assert_eq!(said, "400 [CDC:ErrAPIInvalidParam]invalid changefeed_id: b_d", "{method} {path}");
    }
    assert_eq!(served.ask("DELETE", "changefeeds/x", "").body, "{}");
    served.create(blackhole("f"));
    let said = served.refused("PUT", "changefeeds/f", "{}");
    let only = "changefeed update error: can only update changefeed config when it is stopped or failed";
    assert_eq!(said, format!("400 [CDC:ErrChangefeedUpdateRefused]{only}"));
    // No such route, or not by this method.
    for (method, path) in
        [("GET", "nothing"), ("PATCH", "changefeeds"), ("DELETE", "changefeeds"), ("PUT", "verify_table"), ("POST", "status")]
    {
        let reply = served.ask(method, path, "");
        assert_eq!((reply.status, reply.body.as_str()), (404, "404 page not found"), "{method} {path}");
    }
    let moved = served.ask("GET", "changefeeds/?state=all", "");
    assert_eq!((moved.status, moved.header("location")), (301, "/api/v2/changefeeds?state=all"));
    assert_eq!(served.ask("POST", "changefeeds/", "").status, 307);
}

#[test]
fn c13_to_c16_a_feed_is_paused_changed_and_goes_on() {
    let served = Served::start();
    let made = served.create(blackhole("f"));
    let start = made["start_ts"].as_u64().unwrap();
    for _ in 0..2 {
        assert_eq!(served.ask("POST", "changefeeds/f/pause", "").body, "{}");
        assert_eq!(served.get("changefeeds/f/status")["state"], "stopped");
    }
    let same = "400 [CDC:ErrChangefeedUpdateRefused]changefeed update error: changefeed config is the same with the old one, do nothing";
    assert_eq!(served.refused("PUT", "changefeeds/f", r#"{"sink_uri": "blackhole://", "start_ts": 7, "changefeed_id": "g"}"#), same);
    let said = served.refused("PUT", "changefeeds/f", &body(json!({"target_ts": start})));
    assert_eq!(said, format!("400 [CDC:ErrChangefeedUpdateRefused]can not update target_ts:{start} less than start_ts:{start}"));
    let bad = body(json!({"sink_uri": "foo://"}));
    let wrapped =
        "400 [CDC:ErrChangefeedUpdateRefused]changefeed update error: [CDC:ErrSinkURIInvalid]the sink scheme (foo) is not supported";
    assert_eq!(served.refused("PUT", "changefeeds/f", &bad), wrapped);
    // What is not said stays.
    let reply =
        served.ask("PUT", "changefeeds/f", &body(json!({"replica_config": {"memory_quota": 5_000_000, "filter": {"rules": ["a.*"]}}})));
    assert_eq!(reply.status, 200, "{}", reply.body);
    let found = reply.json();
    assert_eq!((&found["state"], &found["start_ts"]), (&"stopped".into(), &start.into()));
    let reply = served.ask("PUT", "changefeeds/f", &body(json!({"replica_config": {"case_sensitive": true}})));
    let config = &reply.json()["config"];
    assert_eq!(
        (&config["memory_quota"], &config["filter"]["rules"][0], &config["check_gc_safe_point"]),
        (&5_000_000.into(), &"a.*".into(), &true.into())
    );

    assert_eq!(served.refused("POST", "changefeeds/f/resume", ""), "400 [CDC:ErrAPIInvalidParam]invalid api parameter: EOF");
    assert_eq!(served.ask("POST", "changefeeds/f/resume", "{}").body, "{}");
    served.until_state("f", "normal");
    assert_eq!(served.ask("POST", "changefeeds/f/resume", "{}").body, "{}", "it goes on as it did");
    // From another stamp.
    served.ask("POST", "changefeeds/f/pause", "");
    let said = served.refused("POST", "changefeeds/f/resume", r#"{"overwrite_checkpoint_ts": 1}"#);
    assert!(said.starts_with("400 [CDC:ErrStartTsBeforeGC]"), "{said}");
    let future = served.now() + (1 << 40);
    let said = served.refused("POST", "changefeeds/f/resume", &body(json!({"overwrite_checkpoint_ts": future})));
    assert!(said.starts_with(&format!("400 [CDC:ErrAPIInvalidParam]invalid checkpoint-ts {future}, larger than current tso ")), "{said}");
    let over = served.now();
    assert_eq!(served.ask("POST", "changefeeds/f/resume", &body(json!({"overwrite_checkpoint_ts": over}))).body, "{}");
    assert_eq!(served.get("changefeeds/f")["start_ts"], over);
    // A feed that ends while it delivers.
    assert_eq!(served.ask("DELETE", "changefeeds/f", "").body, "{}");
    assert!(served.refused("GET", "changefeeds/f", "").contains("ErrChangeFeedNotExists"));
}

#[test]
fn c17_lists() {
    let served = Served::start();
    for id in ["b", "a", "c"] {
        served.create(blackhole(id));
    }
    served.ask("POST", "changefeeds/c/pause", "");
    let ids = |query: &str| {
        let found = served.get(&format!("changefeeds{query}"));
        let items: Vec<String> = found["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().into()).collect();
        assert_eq!(found["total"], items.len());
        items.join(" ")
    };
    assert_eq!([ids(""), ids("?state=all"), ids("?state=stopped"), ids("?state=normal")], ["a b c", "a b c", "c", "a b"]);
    assert_eq!([ids("?state=xyz"), ids("?namespace=other")], ["", ""]);
    assert_eq!(served.ask("GET", "changefeeds?state=xyz", "").body, r#"{"total":0,"items":[]}"#);
    let item = &served.get("changefeeds?state=stopped")["items"][0];
    assert!(item["upstream_id"].as_u64().unwrap() > 0 && item["error"].is_null() && item["checkpoint_tso"].as_u64().unwrap() > 0, "{item}");
    assert_eq!((&item["state"], &item["namespace"]), (&"stopped".into(), &"default".into()));
}

#[test]
fn files_of_two_feeds_do_not_lie_in_one_place_and_any_tenant_may_have_feeds() {
    let served = Served::start_with(|config| config.meta_token = Some(perilune_protocol::access::Token::of_the_page()));
    let uri = served.sink("f", "csv");
    served.create(json!({"changefeed_id": "f", "sink_uri": uri}));
    let again = json!({"changefeed_id": "g", "sink_uri": uri.replace("csv", "canal-json")}).to_string();
    assert_eq!(
        served.refused("POST", "changefeeds", &again),
        "400 [CDC:ErrSinkURIInvalid]sink uri invalid 'the changefeed f has its files there'"
    );
    served.create(json!({"changefeed_id": "g", "sink_uri": served.sink("g", "csv")}));
    assert_eq!(served.ask("POST", "changefeeds/g/pause", "").status, 200);
    let there = json!({"sink_uri": uri}).to_string();
    assert!(served.refused("PUT", "changefeeds/g", &there).starts_with("400 [CDC:ErrChangefeedUpdateRefused]"));

    let http = served.master.http_addrs()[0];
    let tenant = json!({"instance_id": "team_a.prod", "name": "team", "user_id": "u"}).to_string();
    assert_eq!(http::send(http, "POST", "/MetaService/http/create_instance?token=greedisgood9999", &tenant).status, 200);
    let made = served.create(json!({"changefeed_id": "f", "namespace": "team_a.prod", "sink_uri": "noop://"}));
    assert_eq!(made["namespace"], "team_a.prod");
    assert_eq!(served.ask("GET", "changefeeds/f/status?namespace=team_a.prod", "").status, 200);

    for typo in ["xyz", "wran", "perilune=debug,nonsense", ""] {
        let said = served.refused("POST", "log", &json!({"log_level": typo}).to_string());
        assert!(
            said.starts_with("400 [CDC:ErrAPIInvalidParam]fail to change log level: ")
                && said.contains("is none of error, warn, info, debug"),
            "{said}"
        );
    }
}

#[test]
fn c18_no_secret_is_shown() {
    let listener = webhook::Listener::start();
    let served = Served::start();
    let uri = format!("http://u:hidden@{}/hook?sasl-password=q&secret=hidden&a=b", listener.addr);
    let made = served.create(json!({"changefeed_id": "f", "sink_uri": uri}));
    let shown = format!("http://u:xxxxx@{}/hook?a=b&sasl-password=xxxxx&secret=xxxxx", listener.addr);
    let found = [made, served.get("changefeeds/f"), served.get("changefeeds/f/meta_info")];
    assert!(found.iter().all(|found| found["sink_uri"] == shown && !found.to_string().contains("hidden")), "{found:?}");
    // It is kept, though, and used after a restart.
    let served = served.restarted();
    served.lend();
    served.put(&["k"]);
    served.until_delivered("f");
    assert!(listener.signed_with("hidden") && listener.bodies("rows").iter().any(|body| body.contains("\"put\"")));
    let everything =
        std::fs::read_dir(served.dir.path().join("data")).unwrap().flatten().flat_map(|e| walk(&e.path())).collect::<Vec<u8>>();
    assert!(!everything.windows(6).any(|bytes| bytes == b"hidden"), "in the log");
}

fn walk(path: &Path) -> Vec<u8> {
    match std::fs::read_dir(path) {
        Ok(entries) => entries.flatten().flat_map(|entry| walk(&entry.path())).collect(),
        Err(_) => std::fs::read(path).unwrap_or_default(),
    }
}

#[test]
fn c20_a_feed_that_has_reached_its_target() {
    let served = Served::start();
    let now = served.now();
    let target = now + (300 << 18);
    let mut said = blackhole("f");
    said["start_ts"] = now.into();
    said["target_ts"] = target.into();
    served.create(said);
    let found = served.until_state("f", "finished");
    assert_eq!(found["checkpoint_ts"], target);
    assert_eq!((served.get("changefeeds")["total"].clone(), served.get("changefeeds?state=all")["total"].clone()), (0.into(), 1.into()));
    assert_eq!(served.get("changefeeds/f")["admin_job_type"], 4);
    assert_eq!(served.ask("POST", "changefeeds/f/resume", "{}").status, 200);
    served.until_state("f", "finished");
}

#[test]
fn c21_and_c22_what_a_config_says_and_what_it_does_not() {
    let served = Served::start();
    let made = served.create(json!({"sink_uri": BLACKHOLE, "replica_config": {"filter": {"rules": ["a.*"]}}}));
    assert_eq!((&made["config"]["filter"]["rules"], &made["config"]["memory_quota"]), (&json!(["a.*"]), &(1_u64 << 30).into()));
    assert_eq!(
        (&made["config"]["check_gc_safe_point"], &made["config"]["sync_point_interval"]),
        (&true.into(), &600_000_000_000_u64.into())
    );
    let said = json!({"sink_uri": BLACKHOLE, "replica_config": {"enable_sync_point": true, "sync_point_interval": "10s"}});
    let why = "500 [CDC:ErrInvalidReplicaConfig]invalid replica config, The SyncPointInterval:10s must be larger than 30s";
    assert_eq!(served.refused("POST", "changefeeds", &body(said)), why);
    let said = json!({"sink_uri": served.sink("x", ""), "replica_config": {}});
    assert_eq!(served.refused("POST", "changefeeds", &body(said)), "500 [CDC:ErrSinkUnknownProtocol]unknown '' message protocol for sink");
    let said = json!({"sink_uri": "file:///elsewhere?protocol=csv"});
    let said = served.refused("POST", "changefeeds", &body(said));
    assert!(said.starts_with("500 [CDC:ErrStorageSinkInvalidConfig]storage sink config invalid: /elsewhere does not lie below "), "{said}");
}

#[test]
fn tables_are_verified_and_the_neighbours_answer() {
    let served = Served::start();
    let found = served.ask("POST", "verify_table", r#"{"replica_config": {"filter": {"rules": ["*.*", "!system.*"]}}}"#).json();
    let default = json!({"database_name": "default", "table_name": "default", "table_id": 1, "is_partition": false});
    assert_eq!(found, json!({"eligible_tables": [default]}));
    assert_eq!(served.ask("POST", "verify_table", r#"{"replica_config": {"filter": {"rules": ["x.*"]}}}"#).json(), json!({}));
    let said = served.refused("POST", "verify_table", r#"{"replica_config": {"filter": {"rules": ["x"]}}}"#);
    assert!(said.starts_with("400 [CDC:ErrFilterRuleInvalid]filter rule is invalid x"), "{said}");

    assert_eq!(served.get("health"), json!({}));
    let status = served.get("status");
    assert_eq!((&status["id"], &status["is_owner"], &status["liveness"]), (&"master-1".into(), &true.into(), &0.into()));
    let captures = served.get("captures");
    assert_eq!((&captures["total"], &captures["items"][0]["is_owner"]), (&1.into(), &true.into()));
    assert_eq!(captures["items"][0]["cluster_id"], status["cluster_id"]);
    let drain = |id: &str| served.refused("POST", &format!("captures/{id}/drain"), "");
    assert_eq!(drain("master-1"), "400 [CDC:ErrSchedulerRequestFailed]scheduler request failed, only one capture alive");
    assert_eq!(drain("a_b"), "400 [CDC:ErrAPIInvalidParam]invalid capture_id: a_b");
    assert_eq!(served.ask("POST", "owner/resign", "").body, "{}");
    let first = served.now();
    assert!(served.now() > first && first >> 18 > 1_700_000_000_000);

    served.create(blackhole("f"));
    let found = wait::wait("somebody delivers it", || Some(served.get("processors")).filter(|found| found["total"] == 1));
    assert_eq!(found["items"][0], json!({"namespace": "default", "changefeed_id": "f", "capture_id": "master-1"}));
    assert_eq!(served.get("processors/f/master-1")["table_ids"], json!([1, 8, 9, 10]));
    assert!(served.refused("GET", "processors/f/master-9", "").contains("ErrCaptureNotExist"));
    let task = &served.get("changefeeds/f")["task_status"][0];
    assert_eq!((&task["capture_id"], &task["table_ids"]), (&"master-1".into(), &json!([1, 8, 9, 10])));
}
