//! Sinks that are slow, refuse, or are taken away, and feeds that fall too far behind: nothing is lost that is not told to be.

use super::deliver::find;
use super::s3d::{AK, BUCKET, S3d, SK};
use super::webhook::{Listener, keys};
use super::*;
use perilune_master::log::Keeps;
use std::collections::BTreeMap;

impl Served {
    fn create_hook(&self, id: &str, listener: &Listener, config: Value) {
        self.create(json!({"changefeed_id": id, "sink_uri": format!("http://{}", listener.addr), "replica_config": config}));
    }

    fn put_many(&self, count: usize) -> Vec<String> {
        let keys: Vec<String> = (0..count).map(|nth| format!("k{nth:05}")).collect();
        for some in keys.chunks(50) {
            self.put(&some.iter().map(String::as_str).collect::<Vec<_>>());
        }
        keys
    }

    /// The error of a feed that failed for good, and is told by whoever asks.
    fn failed(&self, feed: &str) -> Value {
        self.until_state(feed, "failed");
        self.get("changefeeds")["items"].as_array().unwrap().iter().find(|found| found["id"] == feed).unwrap()["error"].clone()
    }
}

#[test]
fn a_listener_that_is_slow_delays_its_own_feed_and_no_other() {
    let (listener, served) = (Listener::start(), Served::start());
    served.create_hook("slow", &listener, json!({}));
    served.create_csv("quick");
    served.lend();
    served.until_delivered("slow");
    listener.hold(true);
    served.put(&["a"]);
    wait::wait("it to be asked", || listener.of("rows").iter().any(|seen| seen.body.contains("\"a\"")).then_some(()));
    let far = served.get("changefeeds/slow/status")["checkpoint_ts"].clone();
    served.put(&["b"]);
    served.until_delivered("quick");
    let slow = served.get("changefeeds/slow/status");
    assert_eq!((&slow["state"], &slow["checkpoint_ts"]), (&"normal".into(), &far), "what is not taken is not told to be");
    listener.hold(false);
    served.until_delivered("slow");
    assert_eq!(keys(&listener), ["a", "b"]);
    assert_eq!(served.keys("quick"), ["Ia", "Ib"]);
}

#[test]
fn what_is_complete_is_known_while_a_listener_is_slow_or_away() {
    let (listener, served) = (Listener::start(), Served::start());
    let config = json!({"filter": {"rules": ["default.*"]}, "synced_status": {"synced_check_interval": 1, "checkpoint_interval": 1}});
    served.create_hook("f", &listener, config);
    served.lend();
    served.put(&["a"]);
    served.until_delivered("f");
    let stamp = |said: &Value, name: &str| said[name].as_u64().unwrap() >> 18;
    let behind = |what: &str| {
        wait::wait(what, || {
            let said = served.get("changefeeds/f/status");
            (stamp(&said, "resolved_ts") >= stamp(&said, "checkpoint_ts") + 1500).then_some(())
        });
        // Case 3b: not 3a, which says that all of it may have arrived.
        let said = served.get("changefeeds/f/synced");
        assert_eq!((&said["synced"], &said["info"]), (&false.into(), &"The data syncing is not finished, please wait".into()), "{said}");
    };
    listener.hold(true);
    served.put(&["b"]);
    behind("what a slow listener has not taken");
    listener.answer_to(Some(("\"c\"", 503)));
    listener.hold(false);
    served.put(&["c"]);
    served.until_state("f", "pending");
    behind("what a listener that is away has not taken");
    listener.answer_to(None);
    wait::wait("case 2", || (served.get("changefeeds/f/synced")["info"] == "Data syncing is finished").then_some(()));
}

#[test]
fn a_feed_tells_that_its_tenant_has_nothing_any_more_before_it_goes() {
    let listener = Listener::start();
    let served = Served::start_with(|config| config.meta_token = Some(perilune_protocol::access::Token::of_the_page()));
    let page = |what: &str, said: Value| {
        let path = format!("/MetaService/http/{what}?token=greedisgood9999");
        assert_eq!(http::send(served.master.http_addrs()[0], "POST", &path, &said.to_string()).status, 200, "{what}");
    };
    page("create_instance", json!({"instance_id": "team", "name": "team", "user_id": "u"}));
    served.create(json!({"changefeed_id": "f", "namespace": "team", "sink_uri": format!("http://{}?timeout=60s", listener.addr)}));
    // The first that is made.
    let segment = served.lend_to(TenantId(1));
    let told = |what: &str| listener.of("rows").iter().any(|seen| seen.body.contains(&segment.to_string()) && seen.body.contains(what));
    wait::wait("the segment", || told("mounted").then_some(()));
    let before = listener.of("rows").len();
    listener.hold(true);
    page("drop_instance", json!({"instance_id": "team"}));
    page("recycle_instance", json!({"instance_id": "team"}));
    // Its sink is slow: it is waited for.
    wait::wait("the end to be told", || (listener.of("rows").len() > before).then_some(()));
    let state = || served.ask("GET", "changefeeds/f/status?namespace=team", "").status;
    assert_eq!(state(), 200);
    listener.hold(false);
    wait::wait("the feed to go", || (state() == 400).then_some(()));
    assert!(listener.bodies("rows").iter().any(|body| body.contains("unmounted")), "it had arrived by then");
}

#[test]
fn a_feed_has_no_more_in_flight_than_its_quota() {
    let quota = 64 << 10;
    let (listener, served) = (Listener::start(), Served::start());
    // So long that it is not asked a second time while it is held.
    let hook = format!("http://{}?timeout=10m", listener.addr);
    served.create(json!({"changefeed_id": "hook", "sink_uri": hook, "replica_config": {"memory_quota": quota}}));
    // It would flush after ten minutes.
    let config = json!({"memory_quota": quota, "sink": {"date_separator": "none", "csv": {"include_commit_ts": true},
        "cloud_storage_config": {"flush_interval": "10m"}}});
    served.create(json!({"changefeed_id": "files", "sink_uri": served.sink("f", "csv"), "replica_config": config}));
    served.lend();
    served.until_delivered("hook");
    let before = listener.of("rows").len();
    listener.hold(true);
    let put = served.put_many(1000);
    wait::wait("files", || (served.keys("f").len() > 800).then_some(()));
    let mut files = BTreeMap::new();
    find(&served.dir.path().join("sinks/f/default"), &mut files);
    assert!(files.len() > 3 && files.values().all(|text| text.len() < quota), "{:?}", files.values().map(String::len).collect::<Vec<_>>());
    assert!(listener.of("rows").len() <= before + 1, "one after the other");
    listener.hold(false);
    served.until_delivered("hook");
    assert_eq!(keys(&listener), put);
    assert!(listener.bodies("rows").iter().all(|body| body.len() < quota));
}

#[test]
fn a_feed_that_is_deleted_while_it_writes_writes_no_more() {
    let (listener, served) = (Listener::start(), Served::start());
    served.create_hook("f", &listener, json!({}));
    served.lend();
    served.until_delivered("f");
    listener.hold(true);
    served.put(&["a"]);
    wait::wait("it to be asked", || listener.of("rows").iter().any(|seen| seen.body.contains("\"a\"")).then_some(()));
    assert_eq!(served.ask("DELETE", "changefeeds/f", "").status, 200);
    let asked = listener.of("rows").len();
    listener.hold(false);
    // Another of that name begins now, with nothing of what was.
    served.put(&["b"]);
    served.create_hook("f", &listener, json!({}));
    served.put(&["c"]);
    served.until_delivered("f");
    let after: Vec<_> = listener.of("rows").into_iter().skip(asked).map(|seen| seen.body).collect();
    assert!(
        after.iter().all(|body| !body.contains("\"a\"") && !body.contains("\"b\"")) && keys(&listener).contains(&"c".into()),
        "{after:?}"
    );
}

/// A feed of objects to a listener that has been asked for the row of `a` and does not answer.
fn held(served: &Served, listener: &Listener) {
    let sink = format!("http://{}?timeout=60s", listener.addr);
    served.create(json!({"changefeed_id": "f", "sink_uri": sink, "replica_config": {"filter": {"rules": ["default.*"]}}}));
    served.create(json!({"changefeed_id": "beside", "sink_uri": "blackhole://"}));
    served.lend();
    served.until_delivered("f");
    listener.hold(true);
    served.put(&["a"]);
    wait::wait("it to be asked", || listener.of("rows").iter().any(|seen| seen.body.contains("\"a\"")).then_some(()));
}

#[test]
fn a_feed_that_is_paused_is_so_once_its_sink_has_answered() {
    let (listener, served) = (Listener::start(), Served::start_with(|config| config.feed_patience = Duration::from_secs(50)));
    held(&served, &listener);
    let http = served.master.http_addrs()[0];
    let paused = std::thread::spawn(move || http::send(http, "POST", "/api/v2/changefeeds/f/pause", "").status);
    served.until_state("f", "stopped");
    assert!(!paused.is_finished(), "its sink is still being asked");
    // Whoever lets it go on now has it begin behind what is being asked.
    assert_eq!(served.ask("POST", "changefeeds/f/resume", "{}").status, 200);
    let again = std::thread::spawn(move || http::send(http, "POST", "/api/v2/changefeeds/f/pause", "").status);
    served.until_state("f", "stopped");
    listener.hold(false);
    assert_eq!((paused.join().unwrap(), again.join().unwrap()), (200, 200));
    let asked = || ["rows", "watermark"].map(|event| listener.of(event).len());
    let before = asked();
    served.put(&["b"]);
    served.until_delivered("beside");
    assert_eq!((asked(), keys(&listener)), (before, vec!["a".to_owned()]));
    assert_eq!(served.ask("POST", "changefeeds/f/resume", "{}").status, 200);
    served.until_delivered("f");
    assert_eq!(keys(&listener), ["a", "b"]);
}

#[test]
fn a_feed_that_is_deleted_is_gone_once_its_sink_has_answered() {
    let (listener, served) = (Listener::start(), Served::start_with(|config| config.feed_patience = Duration::from_secs(50)));
    held(&served, &listener);
    let http = served.master.http_addrs()[0];
    let deleted = std::thread::spawn(move || http::send(http, "DELETE", "/api/v2/changefeeds/f", "").status);
    wait::wait("it to be unknown", || (served.ask("GET", "changefeeds/f", "").status == 400).then_some(()));
    assert!(!deleted.is_finished(), "its sink is still being asked");
    listener.hold(false);
    assert_eq!(deleted.join().unwrap(), 200);
    let asked = || ["rows", "watermark"].map(|event| listener.of(event).len());
    let before = asked();
    served.put(&["b"]);
    served.until_delivered("beside");
    assert_eq!((asked(), keys(&listener)), (before, vec!["a".to_owned()]));
}

#[test]
fn a_sink_that_does_not_answer_does_not_keep_a_feed_from_being_paused() {
    let (listener, served) = (Listener::start(), Served::start());
    held(&served, &listener);
    let before = served.checkpoint("f");
    assert_eq!(served.ask("POST", "changefeeds/f/pause", "").status, 200);
    let asked = listener.of("rows").len();
    listener.hold(false);
    served.put(&["b"]);
    served.until_delivered("beside");
    assert_eq!((listener.of("rows").len(), served.checkpoint("f")), (asked, before), "nobody has acknowledged that row");
    assert_eq!(served.ask("POST", "changefeeds/f/resume", "{}").status, 200);
    served.until_delivered("f");
    assert_eq!(keys(&listener), ["a", "b"]);
}

#[test]
fn how_far_a_feed_is_does_not_go_back_when_it_is_paused_or_stumbles() {
    let (listener, served) = (Listener::start(), Served::start());
    served.create_hook("f", &listener, json!({"filter": {"rules": ["default.*"]}}));
    served.lend();
    let not_before = |served: &Served, far: u64| assert!(served.checkpoint("f") >= far, "{} is before {far}", served.checkpoint("f"));
    for _ in 0..2 {
        // Nothing happens, so it is written down rarely.
        served.until_delivered("f");
        let far = served.checkpoint("f");
        assert_eq!(served.ask("POST", "changefeeds/f/pause", "").status, 200);
        not_before(&served, far);
        assert_eq!(served.ask("POST", "changefeeds/f/resume", "{}").status, 200);
        served.until_state("f", "normal");
        not_before(&served, far);
    }
    served.until_delivered("f");
    let far = served.checkpoint("f");
    listener.answer_to(Some(("\"poison\"", 503)));
    served.put(&["poison"]);
    served.until_state("f", "pending");
    not_before(&served, far);
    not_before(&served.restarted(), far);
}

#[test]
fn a_bucket_that_is_slow_and_takes_the_keys_no_more_gets_every_row_in_the_end() {
    let (s3, served) = (S3d::start(), Served::start());
    let (endpoint, secret) = (s3.url().replace(':', "%3A").replace('/', "%2F"), SK.replace('/', "%2F").replace('+', "%2B"));
    let uri = format!("s3://{BUCKET}/f?protocol=csv&access-key={AK}&secret-access-key={secret}&endpoint={endpoint}");
    let config =
        json!({"sink": {"date_separator": "none", "csv": {"include_commit_ts": true}, "cloud_storage_config": {"flush_interval": "2s"}}});
    served.create(json!({"changefeed_id": "f", "sink_uri": uri, "replica_config": config}));
    served.lend();
    s3.say("fault slow 100 1000 PUT");
    served.put(&["a"]);
    served.until_delivered("f");
    assert_eq!(served.get("changefeeds/f/status")["state"], "normal");
    s3.say("faults off");
    s3.say(&format!("key remove {AK}"));
    served.put(&["b"]);
    served.until_state("f", "pending");
    let why = served.get("changefeeds")["items"][0]["error"].clone();
    assert!(why["code"] == "CDC:ErrStorageSink" && !why.to_string().contains(SK), "{why}");
    served.put(&["c"]);
    s3.say(&format!("key add {AK} {SK}"));
    served.until_state("f", "normal");
    served.until_delivered("f");
    let mut files = BTreeMap::new();
    find(&s3.files().join("f/default"), &mut files);
    let rows = files.values().flat_map(|text| text.lines()).map(|line| line.split(',').nth(4).unwrap().trim_matches('"').to_owned());
    let mut rows: Vec<String> = rows.collect();
    rows.dedup();
    assert_eq!(rows, ["a", "b", "c"]);
}

#[test]
fn a_feed_that_the_log_has_left_behind_has_failed_and_begins_elsewhere() {
    let little = |config: &mut MasterConfig| (config.event_log, config.snapshot_entries) = (Keeps { whoever: 1, most: 1 }, 20);
    let served = Served::start_with(little);
    served.create_csv("f");
    served.lend();
    served.put(&["a"]);
    served.until_delivered("f");
    // What was held when it went on once before is no reason to refuse it later.
    for (what, body) in [("pause", ""), ("resume", "{}"), ("pause", "")] {
        assert_eq!(served.ask("POST", &format!("changefeeds/f/{what}"), body).status, 200, "{what}");
    }
    assert!(served.get("safepoints").to_string().contains("ticdc-resuming-0_f"));
    // Until the log begins behind it.
    let why = wait::wait("it to be told", || {
        served.put(&["b"]);
        served.remove("^b$");
        let found = served.get("changefeeds?state=failed")["items"].as_array().unwrap().first().cloned();
        found.map(|found| found["error"].clone())
    });
    assert_eq!(why["code"], "CDC:ErrSnapshotLostByGC", "{why}");
    let said = served.refused("POST", "changefeeds/f/resume", "{}");
    assert!(said.starts_with("400 [CDC:ErrStartTsBeforeGC]"), "{said}");
    assert_eq!(served.get("changefeeds/f/status")["state"], "failed");
    let over = body(json!({"overwrite_checkpoint_ts": served.now()}));
    assert_eq!(served.ask("POST", "changefeeds/f/resume", &over).status, 200);
    served.until_state("f", "normal");
    served.put(&["c"]);
    served.until_delivered("f");
    assert_eq!(served.keys("f").last().unwrap(), "Ic");
}

#[test]
fn a_feed_that_lags_longer_than_garbage_is_kept_for_it_has_failed() {
    let served = Served::start_with(|config| config.feed_gc_ttl = Duration::from_secs(2));
    served.create(json!({"changefeed_id": "f", "sink_uri": "blackhole://"}));
    served.ask("POST", "changefeeds/f/pause", "");
    let why = served.failed("f");
    assert!(why["code"] == "CDC:ErrGCTTLExceeded" && why["message"].as_str().unwrap().contains("the changefeed(f)"), "{why}");
}

#[test]
fn a_feed_that_has_lagged_too_long_has_that_time_again_when_it_is_let_go_on() {
    let (listener, served) = (Listener::start(), Served::start_with(|config| config.feed_gc_ttl = Duration::from_secs(3)));
    served.create_hook("f", &listener, json!({"filter": {"rules": ["default.*"]}}));
    served.lend();
    served.until_delivered("f");
    assert_eq!(served.ask("POST", "changefeeds/f/pause", "").status, 200);
    served.put(&["a"]);
    assert_eq!(served.failed("f")["code"], "CDC:ErrGCTTLExceeded");
    let behind = served.checkpoint("f");
    assert_eq!(served.ask("POST", "changefeeds/f/resume", "{}").status, 200);
    let held = served.get("safepoints");
    assert!(held.to_string().contains("ticdc-resuming-0_f"), "what it lacks is kept for it: {held}");
    let came = |times| {
        let bodies = || listener.bodies("rows").iter().filter(|body| body.contains("\"a\"")).count();
        wait::wait("its row", || (bodies() >= times).then_some(()));
    };
    came(1);
    // From an earlier stamp as well.
    assert_eq!(served.ask("POST", "changefeeds/f/pause", "").status, 200);
    let over = body(json!({"overwrite_checkpoint_ts": behind}));
    assert_eq!(served.ask("POST", "changefeeds/f/resume", &over).status, 200);
    came(2);
}
