//! What consumers ask for, and get: what they choose, all that there is in parts, and each at its own speed.

use super::*;
use perilune_master::api::serve::Limits;
use perilune_protocol::event::{Cursor, EventFilter};
use perilune_protocol::rpc::watch::{Follow, Followed, From, ListAll, ListFeed, Listed, Watch};
use perilune_protocol::{FaultCode, ObjectKey};
use serde_json::Value;
use std::collections::BTreeSet;

/// What a path below `/api/v2/` answers.
fn get(master: &Master, path: &str) -> (u16, Value) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut answer = agent.get(format!("http://{}/api/v2/{path}", master.http_addrs()[0])).call().unwrap();
    let text = answer.body_mut().read_to_string().unwrap();
    (answer.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

fn create_feed(master: &Master, body: &Value) {
    let url = format!("http://{}/api/v2/changefeeds", master.http_addrs()[0]);
    assert_eq!(ureq::post(url).send(body.to_string()).unwrap().status(), 200);
}

/// Events of a page, as a word and a key each.
fn brief(page: &Value) -> Vec<String> {
    let word = |event: &Value| format!("{} {}", event["event"].as_str().unwrap(), event["key"].as_str().unwrap_or("-"));
    page["events"].as_array().unwrap_or_else(|| panic!("{page}")).iter().map(word).collect()
}

fn lag(master: &Master, consumer: &str, unit: &str) -> Option<f64> {
    let page = ureq::get(format!("http://{}/metrics", master.http_addrs()[0])).call().unwrap().body_mut().read_to_string().unwrap();
    let name = format!("perilune_consumer_lag_{unit}{{consumer=\"{consumer}\",tenant=\"\"}} ");
    page.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok())
}

#[test]
fn tables_and_feeds_choose_what_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let token = Some(perilune_protocol::access::Token::of_the_page());
    let master = Master::start(MasterConfig { meta_token: token, ..config(dir.path()) }).unwrap();
    let table = r#"{"instance_id": "default", "db_name": "llama", "table_name": "kv", "prefix": "llama/", "shards": 4}"#;
    let url = format!("http://{}/MetaService/http/create_table?token=greedisgood9999", master.http_addrs()[0]);
    let created: Value = ureq::post(url).send(table).unwrap().body_mut().read_json().unwrap();
    assert_eq!(created["code"], "OK", "{created}");
    let mut peer = Peer::hello(&master);
    create_feed(
        &master,
        &serde_json::json!({"changefeed_id": "f", "sink_uri": "blackhole://", "replica_config": {"filter": {
            "rules": ["llama.*", "system.segments"], "event_filters": [{"matcher": ["llama.*"], "ignore_event": ["delete"]}]}}}),
    );
    peer.lend();
    ["llama/1", "qwen/1", "llama/2"].iter().for_each(|key| drop(peer.put(key, 100)));
    peer.call(&object::Remove { keys: vec!["llama/1".into(), "qwen/1".into()], force: true }).unwrap();
    let told = |query: &str| brief(&get(&master, &format!("events?from=oldest&{query}")).1);
    assert_eq!(told("table=llama.*"), ["put llama/1", "put llama/2", "removed llama/1"]);
    assert_eq!(told("table=llama.*&kind=removed"), ["removed llama/1"]);
    assert_eq!(told("table=*.*,!llama.kv,!system.*"), ["put qwen/1", "removed qwen/1"]);
    assert_eq!(told("table=system.segments"), ["mounted -"]);
    assert!(told("table=nothing.here").is_empty());
    let feed = |query: &str| get(&master, &format!("changefeeds/f/events?{query}"));
    let (status, page) = feed("from=oldest");
    assert_eq!((status, brief(&page)), (200, vec!["mounted -".into(), "put llama/1".into(), "put llama/2".into()]));
    let cursor = page["events"][1]["cursor"].as_str().unwrap();
    assert_eq!(brief(&feed(&format!("from={cursor}")).1), ["put llama/2"]);
    // Over RPC the same.
    let ask = |feed: &str, from| {
        let (filter, consumer) = (EventFilter::default(), String::new());
        let watch = Watch { from, filter, everybody: true, most_bytes: 1 << 20, wait_ms: 0, consumer };
        Follow { feed: Some(feed.into()), watch }
    };
    let over_rpc = |told: Followed| told.watched.events.iter().map(|event| event.cursor).collect::<Vec<_>>();
    let over_http = page["events"].as_array().unwrap().iter().map(|event| event["cursor"].as_str().unwrap().parse().unwrap());
    let over_http: Vec<Cursor> = over_http.collect();
    assert_eq!(over_rpc(peer.call(&ask("f", From::Oldest)).unwrap()), over_http);
    assert_eq!(over_rpc(peer.call(&ask("f", From::Cursor(cursor.parse().unwrap()))).unwrap()), over_http[2..]);
    // What there is, too.
    let list = ListAll { filter: EventFilter::default(), everybody: true, part: 0, parts: 0, begin: None };
    let listed = peer.call(&ListFeed { feed: "f".into(), list: list.clone() }).unwrap();
    assert_eq!(keys(std::slice::from_ref(&listed)), [ObjectKey::from("llama/2")].into());
    assert_eq!(listed.events.len(), 2, "it, and the segment");
    assert_eq!(peer.call(&ListFeed { feed: "g".into(), list }).unwrap_err().code, FaultCode::InvalidParams);
    until("all is delivered", || peer.call(&ask("f", From::Checkpoint)).unwrap().watched.events.is_empty());
    assert_eq!(peer.call(&ask("g", From::Oldest)).unwrap_err().code, FaultCode::InvalidParams);
    assert_eq!(peer.call(&ask("f", From::Checkpoint).watch).unwrap_err().code, FaultCode::InvalidParams, "of a feed only");
    let stamp = page["events"][0]["commit_ts"].as_u64().unwrap();
    assert_eq!(brief(&feed(&format!("from={stamp}&kind=put")).1), ["put llama/1", "put llama/2"]);
    // Without a place from the checkpoint on, which comes to the end.
    until("all is delivered", || brief(&feed("").1).is_empty());
    for (path, status) in [
        ("events?table=llama", 400),
        ("events?table=a.[", 400),
        ("events?from=1", 410),
        ("events?from=99999999999999999999", 400),
        ("events?consumer=a%20b", 400),
        ("changefeeds/f/events?from=yesterday", 400),
        ("changefeeds/f/events?from=AWflUEQQsUJvkke7aA5f4MgAAAAAAAAATQAAAAN4aFPP", 400),
        ("changefeeds/f/events?from=1", 410),
        ("changefeeds/g/events", 400),
        ("changefeeds/f/events?namespace=nobody", 400),
    ] {
        let (found, body) = get(&master, path);
        assert_eq!(found, status, "{path}: {body}");
    }
    let future = Cursor { index: u64::MAX, ..master.engine().events().resolved().1 };
    assert_eq!(get(&master, &format!("events?from={future}")).0, 409);
}

/// All parts from `first` on.
fn parts(peer: &mut Peer, begin: Option<Cursor>, first: u32, parts: u32) -> Vec<Listed> {
    let list = |part, begin| ListAll { filter: EventFilter::default(), everybody: true, part, parts, begin };
    (first..parts).map(|part| peer.call(&list(part, begin)).unwrap()).collect()
}

fn keys(listed: &[Listed]) -> BTreeSet<ObjectKey> {
    let events = listed.iter().flat_map(|listed| &listed.events);
    events.filter_map(|event| event.what.object().map(|(key, _)| key.clone())).collect()
}

#[test]
fn a_list_is_one_walk_and_never_older_than_it_began() {
    let dir = tempfile::tempdir().unwrap();
    let master = start(dir.path());
    let mut peer = Peer::hello(&master);
    peer.lend();
    (0..40).for_each(|n| drop(peer.put(&format!("k{n}"), 100)));
    let head = parts(&mut peer, None, 0, 1).remove(0);
    assert_eq!((head.parts, keys(std::slice::from_ref(&head)).len()), (1, 40));
    // Of four parts, while more is put.
    let first = peer.call(&ListAll { filter: EventFilter::default(), everybody: true, part: 0, parts: 4, begin: None }).unwrap();
    assert!(first.parts == 4 && first.settled >= first.begin);
    let late = (0..40).map(|n| format!("late{n}")).collect::<Vec<_>>();
    late.iter().for_each(|key| drop(peer.put(key, 100)));
    let rest = parts(&mut peer, Some(first.begin), 1, 4);
    assert!(rest.iter().all(|part| part.begin == first.begin), "all are of one walk");
    let mut all = keys(std::slice::from_ref(&first));
    all.extend(keys(&rest));
    assert_eq!(all.len(), 40);
    assert!(rest.iter().all(|part| part.settled > first.settled));
    // One that began behind it is given nothing of that walk.
    let now = master.engine().events().resolved().1;
    let fresh = parts(&mut peer, Some(now), 0, 4);
    assert!(fresh.iter().all(|part| part.begin >= now) && keys(&fresh).len() == 80);
    assert!(parts(&mut peer, None, 0, 4).iter().all(|part| part.begin >= fresh[0].begin), "the newest of those that are kept");
    for (part, parts) in [(4, 4), (0, u32::MAX), (7, 0)] {
        let question = ListAll { filter: EventFilter::default(), everybody: true, part, parts, begin: None };
        assert_eq!(peer.call(&question).unwrap_err().code, FaultCode::InvalidParams, "{part} of {parts}");
    }
}

#[test]
fn streams_that_nobody_reads_keep_nobody_from_a_list_of_keys() {
    let dir = tempfile::tempdir().unwrap();
    let master = start(dir.path());
    let open = || {
        let mut stream = TcpStream::connect(master.http_addrs()[0]).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(b"GET /api/v2/events HTTP/1.0\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n").unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        (stream, String::from_utf8_lossy(&status[9..]).into_owned())
    };
    let mut opened: Vec<_> = (0..256).map(|_| open()).collect();
    assert!(opened.iter().all(|(_, status)| status == "200"));
    assert_eq!(open().1, "503");
    assert_eq!(ureq::get(format!("http://{}/get_all_keys", master.http_addrs()[0])).call().unwrap().status(), 200);
    // Whose peer has gone makes room.
    opened.truncate(255);
    until("there is room for another", || open().1 == "200");
}

/// So many objects with long keys: events that no socket holds.
const BATCHES: usize = 60;
const BATCH: usize = 100;

fn wide(batch: usize, n: usize) -> String {
    format!("{}{batch}/{n}", "x".repeat(2000))
}

fn put_wide(peer: &mut Peer, batch: usize) {
    let keys: Vec<ObjectKey> = (0..BATCH).map(|n| wide(batch, n).into()).collect();
    let puts = keys.iter().map(|key| (key.clone(), 10)).collect();
    let writer = WriterId::random();
    let granted = peer.call(&object::PutStart { puts, config: PutConfig::default(), writer }).unwrap();
    let ends = keys.into_iter().zip(granted).map(|(key, grant)| (key, grant.unwrap().version, 7)).collect();
    peer.call(&object::PutEnd { puts: ends }).unwrap().into_iter().for_each(|outcome| outcome.unwrap());
}

/// Whether this system has the other end of a connection on it: neither closed nor given up.
fn has_other_end(stream: &TcpStream) -> bool {
    let hex = |at: SocketAddr| format!(":{:04X}", at.port());
    let (there, here) = (hex(stream.peer_addr().unwrap()), hex(stream.local_addr().unwrap()));
    let is_it = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next().is_some_and(|local| local.ends_with(&there)) && fields.next().is_some_and(|peer| peer.ends_with(&here))
    };
    std::fs::read_to_string("/proc/net/tcp").unwrap().lines().any(is_it)
}

#[test]
fn who_takes_nothing_is_cut_and_comes_back_to_all_it_missed() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { stall: Duration::from_millis(500), ..Limits::default() };
    let master = Master::start(MasterConfig { http_limits: limits, ..config(dir.path()) }).unwrap();
    let mut peer = Peer::hello(&master);
    peer.lend();
    let all = BATCHES / 2 * BATCH;
    (0..BATCHES / 2).for_each(|batch| put_wide(&mut peer, batch));
    let mut stuck = TcpStream::connect(master.http_addrs()[0]).unwrap();
    nix::sys::socket::setsockopt(&stuck, nix::sys::socket::sockopt::RcvBuf, &65_536).unwrap();
    stuck.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stuck.write_all(b"GET /api/v2/events?from=oldest&kind=put HTTP/1.0\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n").unwrap();
    assert!(has_other_end(&stuck));
    until("it is cut", || !has_other_end(&stuck));
    // What had been sent by then is there, and then nothing.
    let mut sent = Vec::new();
    let end = stuck.read_to_end(&mut sent);
    assert!(end.is_err(), "a stream that was cut has no proper end");
    let text = String::from_utf8_lossy(&sent);
    let whole = &text[..text.rfind("\n\n").expect("an event")];
    let of = |name: &str| whole.lines().filter_map(|line| line.strip_prefix(name).map(str::to_owned)).collect::<Vec<_>>();
    let puts = of("event: ").iter().filter(|kind| *kind == "put").count();
    assert!((1..all).contains(&puts), "{puts}");
    let (mut from, mut next) = (of("id: ").pop().unwrap(), puts);
    while next < all {
        let (status, page) = get(&master, &format!("events?from={from}&kind=put"));
        assert_eq!(status, 200, "{page}");
        for told in brief(&page) {
            assert_eq!(told, format!("put {}", wide(next / BATCH, next % BATCH)));
            next += 1;
        }
        from = page["next"].as_str().unwrap().to_owned();
    }
}

#[test]
fn who_reads_slowly_lags_and_misses_nothing_and_hurts_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let master = start(dir.path());
    let mut peer = Peer::hello(&master);
    peer.lend();
    let mut slow = TcpStream::connect(master.http_addrs()[0]).unwrap();
    // Little lies in the sockets that is sent and not yet read.
    nix::sys::socket::setsockopt(&slow, nix::sys::socket::sockopt::RcvBuf, &65_536).unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let ask = "GET /api/v2/events?from=oldest&kind=put&consumer=slow HTTP/1.0\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n";
    slow.write_all(ask.as_bytes()).unwrap();
    let mut byte = [0; 1];
    slow.read_exact(&mut byte).unwrap();
    for batch in 0..BATCHES {
        put_wide(&mut peer, batch);
        slow.read_exact(&mut byte).unwrap();
    }
    // Others get on meanwhile.
    let (mut fast, mut from) = (0, "oldest".to_owned());
    while fast < BATCHES * BATCH {
        let (status, page) = get(&master, &format!("events?from={from}&kind=put&consumer=fast&wait_ms=1000"));
        assert_eq!(status, 200);
        fast += page["events"].as_array().unwrap().len();
        from = page["next"].as_str().unwrap().to_owned();
    }
    until("who is fast is at the end", || {
        let (_, page) = get(&master, &format!("events?from={from}&kind=put&consumer=fast"));
        from = page["next"].as_str().unwrap().to_owned();
        lag(&master, "fast", "entries") == Some(0.0)
    });
    assert!(
        lag(&master, "slow", "entries") > Some(0.0) && lag(&master, "slow", "seconds") > Some(0.0),
        "it was not given what it did not read"
    );
    let (mut text, mut chunk) = (String::new(), vec![0; 1 << 16]);
    let mut puts = 0;
    while puts < BATCHES * BATCH {
        let read = slow.read(&mut chunk).unwrap();
        assert!(read > 0, "the stream ended behind {puts}");
        text.push_str(std::str::from_utf8(&chunk[..read]).unwrap());
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        for line in text[..whole].lines().filter_map(|line| line.strip_prefix("data: {\"cursor\"")) {
            let key = format!("{}/{}\"", puts / BATCH, puts % BATCH);
            assert!(line.contains(&format!("x{key}")), "in order: {key}");
            puts += 1;
        }
        text.drain(..whole);
    }
    until("it has caught up", || lag(&master, "slow", "entries") == Some(0.0));
}
