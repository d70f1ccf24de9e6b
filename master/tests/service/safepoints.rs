//! What somebody needs is kept longer than what nobody does, and no longer than they need it.

use super::*;
use perilune_master::log::Keeps;
use perilune_protocol::event::EventFilter;
use perilune_protocol::rpc::watch::{Follow, From, Watch};
use serde_json::{Value, json};

/// A log that keeps nothing for whoever comes, and cuts itself often.
fn forgetful(dir: &Path) -> Master {
    Master::start(forgets(dir)).unwrap()
}

fn forgets(dir: &Path) -> MasterConfig {
    MasterConfig { snapshot_entries: 20, event_log: Keeps { whoever: 0, most: 1 << 20 }, ..config(dir) }
}

/// Status and body of an answer.
fn ask(master: &Master, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let request = ureq::http::Request::builder().method(method).uri(format!("http://{}/api/v2/{path}", master.http_addrs()[0]));
    let answer = match body {
        Value::Null => agent.run(request.body(()).unwrap()),
        body => agent.run(request.body(body.to_string()).unwrap()),
    };
    let mut answer = answer.unwrap();
    let text = answer.body_mut().read_to_string().unwrap();
    (answer.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

fn services(master: &Master) -> Vec<String> {
    let (status, body) = ask(master, "GET", "safepoints", &Value::Null);
    assert_eq!(status, 200, "{body}");
    body["service_gc_safe_points"].as_array().unwrap().iter().map(|service| service["service_id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_a_service_needs_is_kept_until_it_needs_it_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let master = forgetful(dir.path());
    let mut peer = Peer::hello(&master);
    peer.lend();
    let mut nth = 0;
    let mut put = |count: usize| {
        for _ in 0..count {
            nth += 1;
            peer.put(&format!("k{nth}"), 100);
        }
    };
    let log = std::sync::Arc::clone(master.engine().events());
    let (_, begin) = log.oldest().unwrap();
    put(60);
    until("what nobody needs is gone", || {
        put(1);
        log.read(begin, 1).is_err()
    });
    let (resolved, from) = log.resolved();
    let (status, body) = ask(&master, "PUT", "safepoints/router", &json!({"safe_point": resolved.0, "ttl": 3600}));
    assert!(status == 200 && body["gc_safe_point"].as_u64().unwrap() <= resolved.0, "{status} {body}");
    assert_eq!(services(&master), ["router"]);
    put(100);
    let snapshots = || {
        let page = ureq::get(format!("http://{}/metrics", master.http_addrs()[0])).call().unwrap().body_mut().read_to_string().unwrap();
        let of = |line: &str| line.strip_prefix("perilune_log_snapshots_total ")?.parse::<u64>().ok();
        page.lines().find_map(of).unwrap()
    };
    let before = snapshots();
    until("the log could be cut behind it", || {
        put(5);
        snapshots() > before + 3
    });
    let (mut puts, mut next) = (0, from);
    loop {
        let page = log.read(next, 1 << 20).expect("what is needed is kept");
        if page.next == next {
            break;
        }
        puts += page.events.len();
        next = page.next;
    }
    assert!(puts >= 100, "{puts}");

    assert_eq!(ask(&master, "DELETE", "safepoints/router", &Value::Null), (200, json!({})));
    assert!(services(&master).is_empty());
    until("it is gone once nobody needs it", || {
        put(1);
        log.read(from, 1).is_err()
    });
    let (status, body) = ask(&master, "PUT", "safepoints/router", &json!({"safe_point": resolved.0, "ttl": 3600}));
    assert!(status == 410 && services(&master).is_empty(), "{status} {body}");
    let now = log.resolved().0.0;
    for (name, body, expected) in [
        ("router", json!({"safe_point": now}), 400),
        ("router", json!({"safe_point": now, "ttl": 0}), 400),
        ("router", json!({"safe_point": now, "ttl": 8 * 86_400}), 400),
        ("router", json!({"safe_point": "now", "ttl": 60}), 400),
        ("a%20b", json!({"safe_point": now, "ttl": 60}), 400),
        (&"x".repeat(201), json!({"safe_point": now, "ttl": 60}), 400),
    ] {
        let (status, said) = ask(&master, "PUT", &format!("safepoints/{name}"), &body);
        assert_eq!(status, expected, "{body}: {said}");
    }
    assert_eq!(ask(&master, "PUT", "safepoints/brief", &json!({"safe_point": now, "ttl": 1})).0, 200);
    until("its time is over", || services(&master).is_empty());
}

#[test]
fn feeds_hold_what_they_have_not_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let master = forgetful(dir.path());
    let feed = json!({"changefeed_id": "f", "sink_uri": "blackhole://?password=hunter2"});
    assert_eq!(ask(&master, "POST", "changefeeds", &feed).0, 200);
    // Until it is said for all feeds together, and that may be at any moment.
    assert!(services(&master).contains(&"ticdc-creating-0_f".to_owned()));
    let wrong = json!({"changefeed_id": "g", "sink_uri": "nowhere://"});
    assert_eq!(ask(&master, "POST", "changefeeds", &wrong).0, 400);
    assert!(!services(&master).iter().any(|service| service.ends_with("_g")), "a feed that is not created holds nothing");
    master.stop();

    let master = forgetful(dir.path());
    until("it is said for all feeds", || services(&master).first().is_some_and(|first| first == "ticdc"));
    let (_, points) = ask(&master, "GET", "safepoints", &Value::Null);
    let (_, status) = ask(&master, "GET", "changefeeds/f/status", &Value::Null);
    assert!(points["min_service_gc_safe_point"].as_u64().unwrap() < status["checkpoint_ts"].as_u64().unwrap(), "{points} {status}");

    let (status, kept) = ask(&master, "GET", "unsafe/metadata", &Value::Null);
    let keys: Vec<&str> = kept.as_array().unwrap().iter().map(|kept| kept["key"].as_str().unwrap()).collect();
    for expected in
        ["/pd/gc/safe_point/service/ticdc", "/tidb/cdc/default/__cdc_meta__/owner", "/tidb/cdc/default/default/changefeed/info/f"]
    {
        assert!(status == 200 && keys.contains(&expected), "{keys:?}");
    }
    assert!(kept.to_string().contains("blackhole") && !kept.to_string().contains("hunter2"), "{kept}");
    assert_eq!(ask(&master, "DELETE", "unsafe/service_gc_safepoint", &Value::Null), (200, json!({})));
    assert!(services(&master).is_empty());
    assert_eq!(ask(&master, "POST", "unsafe/resolve_lock", &json!({"region_id": 1, "ts": 2})), (200, json!({})));
    assert_eq!(ask(&master, "POST", "unsafe/resolve_lock", &json!({"region_id": "x"})).0, 400);
    assert_eq!(ask(&master, "POST", "log", &json!({"log_level": "loud=quiet=so"})).0, 400);
    assert_eq!(ask(&master, "DELETE", "changefeeds/f", &Value::Null).0, 200);
}

/// All files below a directory, one behind the other.
fn text_below(dir: &Path) -> String {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.map(|path| if path.is_dir() { text_below(&path) } else { std::fs::read_to_string(path).unwrap_or_default() }).collect()
}

#[test]
fn a_master_that_joined_and_leads_keeps_and_tells_what_only_the_others_have() {
    let (one, two, sinks) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let member = |id: u64, dir: &Path, join: Vec<String>| {
        let (vault_root, peer_listen) = (Some(sinks.path().to_owned()), Some(SocketAddr::from(([127, 0, 0, 1], 0))));
        Master::start(MasterConfig { member: id, vault_root, peer_listen, join, ..forgets(dir) }).unwrap()
    };
    let first = member(1, one.path(), Vec::new());
    let mut peer = Peer::hello(&first);
    peer.lend();
    let log = std::sync::Arc::clone(first.engine().events());
    let (begin, mut nth) = (log.oldest().unwrap().1, 0);
    until("what nobody needs is gone", || {
        nth += 1;
        peer.put(&format!("gone{nth}"), 100);
        log.read(begin, 1).is_err()
    });
    let cursor = log.resolved().1;
    let sink = format!("file://{}/f?protocol=csv", sinks.path().display());
    let config = json!({"sink": {"cloud_storage_config": {"flush_interval": "2s"}}});
    assert_eq!(ask(&first, "POST", "changefeeds", &json!({"changefeed_id": "f", "sink_uri": sink, "replica_config": config})).0, 200);
    assert_eq!(ask(&first, "POST", "changefeeds/f/pause", &Value::Null).0, 200);
    let checkpoint = ask(&first, "GET", "changefeeds/f/status", &Value::Null).1["checkpoint_ts"].as_u64().unwrap();
    (0..100).for_each(|n| drop(peer.put(&format!("kept{n}"), 100)));

    let second = member(2, two.path(), vec![first.http_addrs()[0].to_string()]);
    until("it leads", || {
        // Not as long as it has no vote.
        let _ = ureq::post(format!("http://{}/leadership/transfer", first.http_addrs()[0])).send(json!({"peer_id": 2}).to_string());
        Peer::connect(&second).call(&session::Hello { agent: "test".into(), tenant: String::new() }).is_ok()
    });
    assert!(second.engine().events().read(cursor, 1).is_err(), "its log begins later");
    // Said for all feeds as soon as it leads.
    until("it holds what the feed needs", || services(&second).contains(&"ticdc".to_owned()));
    let (_, points) = ask(&second, "GET", "safepoints", &Value::Null);
    assert!(points["min_service_gc_safe_point"].as_u64().unwrap() < checkpoint, "{points}");

    // Who comes with a place of before is told what followed it, and may hold it.
    let mut peer = Peer::hello(&second);
    let mut told = |from: From| {
        let filter = EventFilter { prefixes: vec!["kept".into()], ..EventFilter::default() };
        let watch = Watch { from, filter, everybody: true, most_bytes: 1 << 20, wait_ms: 0, consumer: "router".into() };
        let followed = peer.call(&Follow { feed: None, watch }).unwrap();
        // What is about no object is told, too: the node of the first has gone silent meanwhile.
        let keys = followed.watched.events.iter().filter_map(|event| Some(event.what.object()?.0.to_string()));
        keys.collect::<Vec<_>>()
    };
    for from in [From::Cursor(cursor), From::After(perilune_protocol::Tso(checkpoint))] {
        assert_eq!(told(from).first().map(String::as_str), Some("kept0"));
    }
    let (status, body) = ask(&second, "PUT", "safepoints/router", &json!({"safe_point": checkpoint, "ttl": 3600}));
    assert_eq!((status, &body["gc_safe_point"]), (200, &checkpoint.into()), "{body}");
    let (status, body) = ask(&second, "PUT", "safepoints/late", &json!({"safe_point": 2, "ttl": 3600}));
    assert!(status == 410 && body["error"].as_str().unwrap().contains("by no master that can be asked"), "{status} {body}");
    // Services may fill what there is for them: feeds hold what they need all the same.
    let now = json!({"safe_point": second.engine().events().resolved().0.0, "ttl": 3600});
    assert_eq!(ask(&second, "PUT", "safepoints/ticdc-mine", &now).0, 400);
    (1..128).for_each(|n| assert_eq!(ask(&second, "PUT", &format!("safepoints/r{n}"), &now).0, 200, "{n}"));
    let (status, body) = ask(&second, "PUT", "safepoints/more", &now);
    assert!(status == 507 && body["error"].as_str().unwrap().contains("128 safepoints of services"), "{status} {body}");

    // And a feed gets it.
    let (status, body) = ask(&second, "POST", "changefeeds/f/resume", &json!({}));
    assert_eq!(status, 200, "{body}");
    until("it has delivered all of it", || {
        let text = text_below(sinks.path());
        (0..100).all(|n| text.contains(&format!("kept{n}\"")))
    });
}
