//! Over HTTP: all that there is, and then what happens, comes to what there is in the end.

use super::*;
use perilune_protocol::ObjectKey;
use perilune_protocol::event::{Cursor, Mark, Streamed, What};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::sync::atomic::{AtomicBool, Ordering};

/// More than one part has.
const OBJECTS: usize = 9000;

fn ask(master: &Master, query: &str, headers: &[(&str, &str)]) -> (u16, Box<dyn Read>) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let url = format!("http://{}/api/v2/{query}", master.http_addrs()[0]);
    let request = headers.iter().fold(agent.get(url), |request, (name, value)| request.header(*name, *value));
    let answer = request.call().unwrap();
    (answer.status().as_u16(), Box::new(answer.into_body().into_reader()))
}

fn json(master: &Master, query: &str) -> (u16, Value) {
    let (status, body) = ask(master, query, &[]);
    (status, serde_json::from_reader(body).unwrap())
}

fn put_all(peer: &mut Peer, keys: &[String]) {
    for keys in keys.chunks(500) {
        let puts = keys.iter().map(|key| (key.as_str().into(), 10)).collect();
        let granted = peer.call(&object::PutStart { puts, config: PutConfig::default(), writer: WriterId::random() }).unwrap();
        let ends = keys.iter().zip(granted).map(|(key, grant)| (key.as_str().into(), grant.unwrap().version, 7)).collect();
        peer.call(&object::PutEnd { puts: ends }).unwrap().into_iter().for_each(|outcome| outcome.unwrap());
    }
}

fn keys(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("k{n}")).collect()
}

/// Objects by their keys, as whoever applies events knows them.
#[derive(Default)]
struct Index(BTreeMap<String, u64>);

impl Index {
    fn apply(&mut self, kind: &str, key: &str, version: u64) {
        let known = self.0.get(key).copied();
        match kind {
            "put" if known.is_none_or(|known| known <= version) => drop(self.0.insert(key.into(), version)),
            "removed" if known == Some(version) => drop(self.0.remove(key)),
            _ => {}
        }
    }

    fn apply_json(&mut self, event: &Value) {
        let number = event["version"].as_u64().unwrap_or(0);
        self.apply(event["event"].as_str().unwrap(), event["key"].as_str().unwrap_or_default(), number);
    }

    fn assert_is(&self, master: &Master) {
        let mut list = String::new();
        let url = format!("http://{}/get_all_keys", master.http_addrs()[0]);
        ureq::get(url).call().unwrap().into_body().into_reader().read_to_string(&mut list).unwrap();
        let (there, told): (BTreeSet<&str>, BTreeSet<&str>) = (list.lines().collect(), self.0.keys().map(String::as_str).collect());
        let missing: Vec<_> = there.difference(&told).take(5).collect();
        let extra: Vec<_> = told.difference(&there).take(5).collect();
        assert!(there.len() > 100 && missing.is_empty() && extra.is_empty(), "missing {missing:?}, extra {extra:?} of {}", there.len());
    }
}

/// What a stream of server-sent events says: id, event and data of each block.
fn blocks(body: Box<dyn Read>) -> impl Iterator<Item = (Option<String>, String, Value)> {
    let mut lines = BufReader::new(body).lines().map(Result::unwrap);
    std::iter::from_fn(move || {
        let block: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
        let field = |name: &str| block.iter().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        Some((field("id: "), field("event: ")?, serde_json::from_str(&field("data: ")?).unwrap()))
    })
}

#[test]
fn a_snapshot_and_its_tail_come_to_what_there_is_while_puts_and_removals_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let master = start(dir.path());
    let mut peer = Peer::hello(&master);
    peer.lend();
    put_all(&mut peer, &keys(0..OBJECTS));
    let (is_over, mut index) = (AtomicBool::new(false), Index::default());
    let (mut last, mut settled, mut parts, mut cursors) = (None::<String>, 0, 0, Vec::new());
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut peer = Peer::hello(&master);
            for n in 0.. {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                let gone: Vec<String> = (0..10).map(|nth| format!("k{}", (n * 10 + nth) * 7 % OBJECTS)).collect();
                let keys = gone.iter().map(|key| ObjectKey::from(key.as_str())).collect();
                peer.call(&object::Remove { keys, force: true }).unwrap();
                // Some of them come back, and others come.
                put_all(&mut peer, &[format!("new{n}"), gone[0].clone(), gone[1].clone()]);
            }
        });
        // Thrown out behind the first part, it goes on with the second.
        'streams: loop {
            let accept = ("accept", "text/event-stream");
            let headers: Vec<_> = [accept].into_iter().chain(last.as_deref().map(|id| ("last-event-id", id))).collect();
            let (status, body) = ask(&master, "events?from=snapshot&kind=put,removed", &headers);
            assert_eq!(status, 200);
            for (id, kind, data) in blocks(body) {
                if kind != "resolved" {
                    index.apply_json(&data);
                    assert_eq!(id.is_none(), data["cursor"].is_null(), "{data}");
                    cursors.extend(id);
                    continue;
                }
                assert!(!writer.is_finished());
                last = id;
                if let Some(stamp) = data["settled"].as_u64() {
                    assert!(cursors.is_empty() && stamp >= settled && data["resolved"] == 0, "no place within what there is: {data}");
                    (settled, parts) = (stamp, parts + 1);
                    if parts == 1 {
                        continue 'streams;
                    }
                } else if data["resolved"].as_u64().unwrap() >= settled && cursors.len() > 100 {
                    break 'streams;
                }
            }
            panic!("the stream ended");
        }
        is_over.store(true, Ordering::Relaxed);
        writer.join().unwrap();
    });
    assert_eq!(parts, 2);
    // The tail goes on from page to page, by what the stream said last.
    let (end, mut from) = (json(&master, "events").1["resolved"].as_u64().unwrap(), last.unwrap());
    while let (_, page) = json(&master, &format!("events?kind=put,removed&from={from}"))
        && {
            page["events"].as_array().unwrap().iter().for_each(|event| index.apply_json(event));
            from = page["next"].as_str().unwrap().into();
            page["resolved"].as_u64() < Some(end)
        }
    {}
    index.assert_is(&master);
}

#[test]
fn parts_are_pages_and_frames_too() {
    let dir = tempfile::tempdir().unwrap();
    let master = start(dir.path());
    let mut peer = Peer::hello(&master);
    peer.lend();
    put_all(&mut peer, &keys(0..OBJECTS));
    // Who goes on in many parts cuts nobody else's list.
    let end = master.engine().events().resolved().1;
    assert_eq!(json(&master, &format!("events?from=snapshot.0.7.{end}")).0, 200);
    assert_eq!(json(&master, &format!("events?from=snapshot.0.65536.{end}")).0, 400);
    let (mut index, mut from, mut settled) = (Index::default(), "snapshot".to_owned(), Vec::new());
    let behind = loop {
        let (status, page) = json(&master, &format!("events?kind=put&prefix=k1&from={from}"));
        assert_eq!(status, 200, "{page}");
        page["events"].as_array().unwrap().iter().for_each(|event| index.apply_json(event));
        from = page["next"].as_str().unwrap().into();
        match page["settled"].as_u64() {
            Some(stamp) => settled.push(stamp),
            None => break page["resolved"].as_u64().unwrap(),
        }
    };
    assert!(settled.len() == 2 && behind >= settled[1] && from.parse::<Cursor>().is_ok());
    assert!(index.0.len() > 1000 && index.0.keys().all(|key| key.starts_with("k1")));

    // As frames the same, and marks where nothing matches.
    let frames = |query: &str| {
        let (status, mut body) = ask(&master, query, &[("accept", "application/vnd.perilune.events")]);
        assert_eq!(status, 200);
        std::iter::from_fn(move || {
            let mut len = [0; 4];
            body.read_exact(&mut len).ok()?;
            let mut frame = vec![0; u32::from_le_bytes(len) as usize];
            body.read_exact(&mut frame).ok()?;
            Some(postcard::from_bytes::<Streamed>(&frame).unwrap())
        })
    };
    let (mut framed, mut parts) = (Index::default(), 0);
    for frame in frames("events?from=snapshot&kind=put&prefix=k1") {
        match frame {
            Streamed::Event(event) => {
                let What::Put { key, version, .. } = &event.what else { panic!("{event:?}") };
                framed.apply("put", &key.to_string(), version.0);
            }
            Streamed::Mark(Mark { settled: Some(_), .. }) => parts += 1,
            Streamed::Mark(_) => break,
            Streamed::Ended(fault) => panic!("{fault}"),
        }
    }
    assert!(parts == 2 && framed.0 == index.0);
    let nothing = frames("events?from=oldest&kind=cleared").next();
    let Some(Streamed::Mark(Mark { next, settled: None, .. })) = nothing else { panic!("{nothing:?}") };

    // Who comes too late is told what to ask for; so is whoever says what is no place.
    let (status, late) = json(&master, "events?from=1");
    let oldest = late["oldest"].as_str().unwrap();
    assert_eq!((status, late["snapshot"].as_str(), late["code"].as_str()), (410, Some("snapshot"), Some("OUT_OF_RANGE")), "{late}");
    assert_eq!(json(&master, &format!("events?from={oldest}")).0, 200);
    let place = |text: &str| text.parse::<Cursor>().unwrap();
    assert!(place(&next) > place(oldest), "it got on, though it was told nothing");
    assert_eq!(json(&master, &format!("events?from={}", u64::MAX)).0, 409, "a stamp of the future");
    let (_, now) = json(&master, "events");
    assert_eq!(json(&master, &format!("events?from={}", now["resolved"])).0, 200);
    assert!(json(&master, "events?from=snapshot").1["settled"].as_u64() >= Some(settled[1]));
    let foreign = "AWflUEQQsUJvkke7aA5f4MgAAAAAAAAATQAAAAN4aFPP";
    for wrong in ["snapshots".into(), "snapshot.".into(), format!("snapshot.7.2.{oldest}"), format!("snapshot.1.2.{foreign}")] {
        assert_eq!(json(&master, &format!("events?from={wrong}")).0, 400, "{wrong}");
    }
}

#[test]
fn a_feed_has_a_snapshot_of_what_it_carries() {
    let dir = tempfile::tempdir().unwrap();
    let master = start(dir.path());
    let mut peer = Peer::hello(&master);
    peer.lend();
    put_all(&mut peer, &keys(0..3));
    let feed = r#"{"changefeed_id": "f", "sink_uri": "blackhole://", "replica_config": {"filter": {"rules": ["system.segments"]}}}"#;
    ureq::post(format!("http://{}/api/v2/changefeeds", master.http_addrs()[0])).send(feed).unwrap();
    let kinds = |query: &str| {
        let page = json(&master, query).1;
        page["events"].as_array().unwrap().iter().map(|event| event["event"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(kinds("changefeeds/f/events?from=snapshot"), ["mounted"]);
    assert_eq!(kinds("events?from=snapshot&kind=put").len(), 3);
}

#[test]
fn a_stream_of_a_feed_obeys_its_rules_as_they_are_and_ends_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let master = start(dir.path());
    let mut peer = Peer::hello(&master);
    peer.lend();
    let feeds = format!("http://{}/api/v2/changefeeds", master.http_addrs()[0]);
    let rules = |rules: &str| {
        format!(r#"{{"replica_config": {{"filter": {{"rules": ["{rules}"]}}}}, "changefeed_id": "f", "sink_uri": "blackhole://"}}"#)
    };
    ureq::post(&feeds).send(rules("default.*")).unwrap();
    let (_, body) = ask(&master, "changefeeds/f/events?from=now", &[("accept", "text/event-stream")]);
    let mut told =
        blocks(body).filter(|(_, kind, _)| kind != "resolved").map(|(_, kind, data)| (kind, data["key"].as_str().map(str::to_owned)));
    peer.put("a", 100);
    assert_eq!(told.next(), Some(("put".into(), Some("a".into()))));
    ureq::post(format!("{feeds}/f/pause")).send_empty().unwrap();
    let narrowed = r#"{"replica_config": {"filter": {"rules": ["system.segments"]}}}"#;
    ureq::put(format!("{feeds}/f")).send(narrowed).unwrap();
    peer.put("b", 100);
    peer.lend();
    assert_eq!(told.next(), Some(("mounted".into(), None)), "and not what the rules take no more");
    ureq::delete(format!("{feeds}/f")).call().unwrap();
    assert_eq!(told.next(), Some(("ended".into(), None)));
    assert_eq!(told.next(), None);
}

#[test]
fn what_was_put_to_a_table_is_told_of_it_after_it_was_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let token = Some(perilune_protocol::access::Token::of_the_page());
    let master = Master::start(MasterConfig { meta_token: token, ..config(dir.path()) }).unwrap();
    let meta = |call: &str, body: &str| {
        let url = format!("http://{}/MetaService/http/{call}?token=greedisgood9999", master.http_addrs()[0]);
        let answer: Value = ureq::post(url).send(body).unwrap().body_mut().read_json().unwrap();
        assert_eq!(answer["code"], "OK", "{answer}");
    };
    let mut peer = Peer::hello(&master);
    peer.lend();
    let old = peer.put("rt/old", 100).version;
    until("the next millisecond", || master.engine().events().resolved().0.physical_ms() > old.physical_ms());
    meta("create_table", r#"{"instance_id": "default", "db_name": "rt", "table_name": "a", "prefix": "rt/", "shards": 4}"#);
    ["rt/0", "rt/1"].iter().for_each(|key| drop(peer.put(key, 100)));
    meta("drop_table", r#"{"instance_id": "default", "db_name": "rt", "table_name": "a"}"#);
    let keys = ["rt/1", "rt/old"].iter().map(|key| ObjectKey::from(*key)).collect();
    peer.call(&object::Remove { keys, force: true }).unwrap().into_iter().for_each(|outcome| outcome.unwrap());
    let told = |query: &str| {
        let page = json(&master, query).1;
        let brief = |event: &Value| format!("{} {}", event["event"].as_str().unwrap(), event["key"].as_str().unwrap());
        page["events"].as_array().unwrap_or_else(|| panic!("{page}")).iter().map(brief).collect::<Vec<_>>()
    };
    assert_eq!(told("events?from=oldest&table=rt.*"), ["put rt/0", "put rt/1", "removed rt/1"]);
    assert_eq!(told("events?from=oldest&table=default.*"), ["put rt/old", "removed rt/old"]);
    assert_eq!(told("events?from=snapshot&table=rt.*"), ["put rt/0"]);
}
