//! What masters tell of what happened: everything once, in one order, and the same before and after a restart and on every master.

use super::group::Group;
use super::*;
use perilune_master::events::{EventLog, ReadError};
use perilune_protocol::event::{Cursor, Event, EventFilter, What};
use perilune_protocol::rpc::watch::{Follow, From, Watch};
use perilune_protocol::{FaultCode, ObjectKey, Tso};
use std::process::Command;
use std::sync::Arc;
use uuid::Uuid;

/// All from a place on, in small pages.
fn told(log: &EventLog, from: Cursor) -> (Vec<Event>, Cursor) {
    let (mut events, mut next) = (Vec::new(), from);
    loop {
        let page = log.read(next, 200).unwrap();
        assert!(page.events.iter().all(|event| event.cursor <= page.next && event.commit_ts <= page.resolved));
        let end = page.next == next;
        events.extend(page.events);
        next = page.next;
        if end {
            assert!(events.is_sorted_by(|a, b| a.cursor < b.cursor && a.commit_ts <= b.commit_ts));
            return (events, next);
        }
    }
}

/// Until all before this place is known there.
fn reaches(log: &EventLog, place: Cursor) {
    until("a master has come so far", || log.resolved().1 >= place);
}

fn events(master: &Master) -> Arc<EventLog> {
    Arc::clone(master.engine().events())
}

fn all(master: &Master) -> Vec<Event> {
    let log = events(master);
    told(&log, log.oldest().unwrap().1).0
}

/// How many nodes it told of. Each is told a moment after it lent something.
fn nodes_up(master: &Master) -> usize {
    all(master).iter().filter(|event| matches!(event.what, What::NodeUp { .. })).count()
}

/// Keys put and removed and what became of segments, in order.
fn brief(events: &[Event]) -> Vec<String> {
    let word = |event: &Event| match &event.what {
        What::Put { key, .. } => format!("+{key}"),
        What::Removed { key, reason, .. } => format!("-{key} {}", reason.as_str()),
        other => other.kind().as_str().into(),
    };
    events.iter().filter(|event| !matches!(event.what, What::NodeUp { .. })).map(word).collect()
}

fn remove(peer: &mut Peer, keys: &[&str]) {
    let keys: Vec<ObjectKey> = keys.iter().map(|key| (*key).into()).collect();
    peer.call(&object::Remove { keys, force: true }).unwrap().into_iter().for_each(|outcome| outcome.unwrap());
}

#[test]
fn what_took_effect_is_told_once_also_after_a_restart_and_by_the_same_cursors() {
    let dir = tempfile::tempdir().unwrap();
    // So that it begins again with a snapshot.
    let begin = || Master::start(MasterConfig { snapshot_entries: 5, ..config(dir.path()) }).unwrap();
    let master = begin();
    let mut peer = Peer::hello(&master);
    let first = peer.lend();
    (0..4).for_each(|n| drop(peer.put(&format!("k{n}"), 5000)));
    // A put that comes too late: where it was written is gone.
    let late = peer.put_start("late", 5000).unwrap();
    remove(&mut peer, &["k1"]);
    peer.call(&segment::Unmount { segments: vec![first.id], grace_ms: 0 }).unwrap().remove(0).unwrap();
    let ended = peer.call(&object::PutEnd { puts: vec![("late".into(), late.version, 7)] }).unwrap().remove(0);
    assert_eq!(ended.unwrap_err().code, FaultCode::SegmentNotFound);
    until("what lay there is gone", || peer.call(&perilune_protocol::rpc::cluster::Stat {}).unwrap().objects == 0);
    peer.lend();
    let last = peer.put("last", 100);

    until("both nodes are told of", || nodes_up(&master) == 2);
    let before = all(&master);
    let mut shown = brief(&before);
    shown[7..10].sort();
    let expected = ["mounted", "+k0", "+k1", "+k2", "+k3", "-k1 removed", "unmounted"];
    assert_eq!(shown[..7], expected);
    assert_eq!(shown[7..], ["-k0 orphaned", "-k2 orphaned", "-k3 orphaned", "mounted", "+last"]);
    let put = before.iter().rfind(|event| matches!(event.what, What::Put { .. })).unwrap();
    let What::Put { version, size, checksum, replicas, .. } = &put.what else { panic!("{put:?}") };
    assert_eq!((*version, *size, *checksum, replicas), (last.version, 100, 7, &last.replicas));
    assert!(put.commit_ts > last.version, "it was decided after it began");

    master.stop();
    let master = begin();
    assert!(master.engine().stat().applied > 0);
    assert_eq!(all(&master), before);
    let log = events(&master);
    for (nth, event) in before.iter().enumerate() {
        assert_eq!(told(&log, event.cursor).0, before[nth + 1..], "from behind {nth}");
        let at = log.at(event.commit_ts).unwrap();
        let later: Vec<_> = before.iter().filter(|e| e.commit_ts > event.commit_ts).cloned().collect();
        assert_eq!(told(&log, at).0, later, "after the stamp of {nth}");
    }
    let mut peer = Peer::hello(&master);
    peer.lend();
    peer.put("more", 100);
    assert_eq!(brief(&told(&log, before.last().unwrap().cursor).0), ["mounted", "+more"]);
}

#[test]
fn a_cursor_that_leads_nowhere_is_refused_for_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let master = start(dir.path());
    let log = events(&master);
    let (_, oldest) = log.oldest().unwrap();
    let (_, end) = log.resolved();
    let foreign = Cursor { cluster: Uuid::from_u128(7), ..end };
    assert_eq!(log.read(foreign, 1000).unwrap_err(), ReadError::Foreign(foreign.cluster));
    assert_eq!(log.read(Cursor { index: end.index + 1, ..end }, 1000).unwrap_err(), ReadError::Ahead);
    assert_eq!(log.read(Cursor { place: 1, ..end }, 1000).unwrap_err(), ReadError::Ahead);
    assert_eq!(log.read(Cursor { index: 0, ..end }, 1000).unwrap_err(), ReadError::OutOfRange { oldest });
    Peer::hello(&master).lend();
    assert_eq!(log.at(Tso(1)).unwrap_err(), ReadError::OutOfRange { oldest });
}

/// As where power was lost before the last entries were on disk: others have their numbers now.
#[test]
fn a_cursor_behind_what_was_lost_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (kept, lost) = (dir.path().join("kept"), dir.path().join("lost"));
    let put = |data: &Path, keys: &[&str]| {
        let master = start(data);
        let mut peer = Peer::hello(&master);
        peer.lend();
        keys.iter().for_each(|key| drop(peer.put(key, 100)));
        (master, peer)
    };
    let follow = |peer: &mut Peer, from| {
        let watch =
            Watch { from, filter: EventFilter::default(), everybody: true, most_bytes: 1 << 20, wait_ms: 0, consumer: String::new() };
        peer.call(&Follow { feed: None, watch }).map(|told| Cursor { stamp: told.stamp, ..told.watched.next })
    };
    put(&kept, &["a"]).0.stop();
    assert!(Command::new("cp").arg("-r").args([&kept, &lost]).status().unwrap().success());
    let (master, mut peer) = put(&lost, &["b", "c"]);
    // Of those who watch on, one was told something and one nothing.
    let watching = [From::Oldest, From::Now].map(|from| follow(&mut peer, from).unwrap());
    let ahead = told(&events(&master), events(&master).oldest().unwrap().1).0;
    master.stop();
    let (master, mut peer) = put(&kept, &["d", "e", "f", "g", "h", "i", "j", "k"]);
    for next in watching {
        assert_eq!(follow(&mut peer, From::behind(next)).unwrap_err().code, FaultCode::OutOfRange, "{next:?}");
        let next = follow(&mut peer, From::Oldest).unwrap();
        assert_eq!(follow(&mut peer, From::behind(next)), Ok(next));
    }
    let log = events(&master);
    let here = told(&log, log.oldest().unwrap().1).0;
    for event in &here {
        assert_eq!(page_from(&master, event.cursor), 200, "{event:?}");
        let next = log.read(event.cursor, 1).unwrap().next;
        assert!(page_from(&master, next) == 200 && next.stamp > Tso(0), "{next:?}");
    }
    let (same, other): (Vec<&Event>, Vec<&Event>) = ahead.iter().partition(|event| here.contains(event));
    assert!(same.len() >= 2 && other.len() >= 2, "a segment and a put before, others behind: {ahead:?}");
    assert!(same.iter().all(|event| page_from(&master, event.cursor) == 200));
    for event in other {
        assert_eq!(page_from(&master, event.cursor), 410, "{event:?}");
        assert_eq!(page_from(&master, Cursor { stamp: Tso(0), ..event.cursor }), 200, "as consumers kept it before it had a stamp");
    }
}

/// What is answered to whoever goes on behind a cursor.
fn page_from(master: &Master, cursor: Cursor) -> u16 {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    agent.get(format!("http://{}/api/v2/events?from={cursor}", master.http_addrs()[0])).call().unwrap().status().as_u16()
}

#[test]
fn what_is_resolved_moves_on_while_nothing_happens() {
    let dir = tempfile::tempdir().unwrap();
    let master = start(dir.path());
    let mut peer = Peer::hello(&master);
    peer.lend();
    peer.put("k", 100);
    until("the node is told of: the limit of the stamps was raised for the put, so this is the last entry", || nodes_up(&master) == 1);
    let log = events(&master);
    let (first, end) = log.resolved();
    let applied = master.engine().stat().applied;
    until("the clock moves on", || log.resolved().0.physical_ms() > first.physical_ms() + 20);
    assert_eq!((log.resolved().1, master.engine().stat().applied), (end, applied), "nothing was written");
    let resolved = log.resolved().0;
    peer.put("l", 100);
    reaches(&log, Cursor { index: end.index + 1, ..end });
    let (events, _) = told(&log, end);
    assert!(events[0].commit_ts > resolved);
}

#[test]
fn every_master_tells_the_same_through_changes_of_leaders() {
    let mut group = Group::start();
    let mut cursor = None;
    let mut known: Vec<Event> = Vec::new();
    for round in 0..4 {
        let (nth, mut peer) = group.checked();
        for n in 0..20 {
            group.put(&mut peer, &format!("k{}", (round * 7 + n) % 30), 5000);
        }
        let log = events(group.masters[nth].as_ref().unwrap());
        let (more, next) = told(&log, cursor.unwrap_or(log.oldest().unwrap().1));
        known.extend(more);
        cursor = Some(next);
        group.masters[nth].take().unwrap().stop();
        let (other, _) = group.checked();
        let log = events(group.masters[other].as_ref().unwrap());
        reaches(&log, next);
        assert_eq!(told(&log, log.oldest().unwrap().1).0[..known.len()], known, "round {round}");
        group.up(nth);
    }
    assert!(known.len() > 80);
    let (nth, mut peer) = group.checked();
    group.put(&mut peer, "end", 5000);
    let end = events(group.masters[nth].as_ref().unwrap()).resolved().1;
    let tell = |nth: usize| {
        let log = events(group.masters[nth].as_ref().unwrap());
        reaches(&log, end);
        let (events, _) = told(&log, log.oldest().unwrap().1);
        events.into_iter().filter(|event| event.cursor < end).collect::<Vec<_>>()
    };
    let [one, two, three] = [0, 1, 2].map(tell);
    assert_eq!(one, two);
    assert_eq!(one, three);
    assert_eq!(one[..known.len()], known);
}

#[test]
fn over_http_pages_follow_each_other_and_a_stream_resumes_by_its_last_id() {
    let dir = tempfile::tempdir().unwrap();
    let master = start(dir.path());
    let mut peer = Peer::hello(&master);
    peer.lend();
    (0..5).for_each(|n| drop(peer.put(&format!("k{n}"), 5000)));
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let url = |query: &str| format!("http://{}/api/v2/events?{query}", master.http_addrs()[0]);
    let page = |query: &str| -> (u16, serde_json::Value) {
        let mut answer = agent.get(url(query)).call().unwrap();
        (answer.status().as_u16(), answer.body_mut().read_json().unwrap())
    };
    let (status, told) = page("from=oldest&kind=put&prefix=k");
    let keys: Vec<&str> = told["events"].as_array().unwrap().iter().map(|event| event["key"].as_str().unwrap()).collect();
    assert_eq!((status, keys), (200, vec!["k0", "k1", "k2", "k3", "k4"]));
    let next = told["next"].as_str().unwrap();
    let (_, rest) = page(&format!("from={next}&kind=put"));
    assert_eq!(rest["events"], serde_json::json!([]));
    assert!(rest["resolved"].as_u64() >= told["events"][4]["commit_ts"].as_u64() && rest["behind"] == 0);
    for (query, status) in [
        ("from=yesterday", 400),
        ("kind=born", 400),
        ("wait_ms=x", 400),
        ("tenant_id=nobody", 404),
        ("from=AWflUEQQsUJvkke7aA5f4MgAAAAAAAAATQAAAAN4aFPP", 400),
    ] {
        let (found, body) = page(query);
        assert!(found == status && body["error"].is_string(), "{query}: {found} {body}");
    }

    // Each block of the stream, as its id, its event and its data.
    let stream = |last: &str| {
        let request = agent.get(url("kind=put")).header("accept", "text/event-stream").header("last-event-id", last);
        let body = std::io::BufReader::new(request.call().unwrap().into_body().into_reader());
        let mut lines = std::io::BufRead::lines(body).map(|line| line.unwrap());
        std::iter::from_fn(move || {
            let block: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
            let field = |nth: usize, name: &str| block[nth].strip_prefix(name).unwrap().to_owned();
            Some((field(0, "id: "), field(1, "event: "), field(2, "data: ")))
        })
    };
    let second = told["events"][1]["cursor"].as_str().unwrap();
    let mut blocks = stream(second);
    let shown: Vec<_> =
        blocks.by_ref().take(3).map(|(id, event, data)| (id, event, serde_json::from_str::<serde_json::Value>(&data).unwrap())).collect();
    for (nth, (id, event, data)) in shown.iter().enumerate() {
        assert_eq!((event.as_str(), data, Some(id.as_str())), ("put", &told["events"][nth + 2], data["cursor"].as_str()));
    }
    assert_eq!(blocks.next().unwrap().1, "resolved");
    peer.put("later", 100);
    let (_, event, data) = blocks.find(|(_, event, _)| event != "resolved").unwrap();
    assert!(event == "put" && data.contains("\"later\""), "{data}");
}
