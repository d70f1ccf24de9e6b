//! Settings are set at every master while the lead goes around and masters restart: what was acknowledged is there.

use crate::group::Group;
use crate::wait::wait;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Sets `key` to 1, 2, 3, ... at one master, until told to stop. Gives the last value that was acknowledged.
fn set(at: SocketAddr, key: &str, acknowledged: &AtomicU64, done: &AtomicBool) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    for value in 1u64.. {
        if done.load(Ordering::Relaxed) {
            return;
        }
        let body = json!({"key": key, "value": value.to_string()}).to_string();
        // A master that is down refuses the connection, or breaks it.
        let Ok(reply) = agent.post(format!("http://{at}/config/set")).send(body) else {
            std::thread::yield_now();
            continue;
        };
        match reply.status().as_u16() {
            200 => acknowledged.store(value, Ordering::SeqCst),
            906 | 907 => {}
            // It is just starting, or stopping.
            503 if reply.headers().contains_key("x-perilune-stage") => {}
            other => panic!("{key}={value}: {other}"),
        }
    }
}

#[test]
fn what_was_acknowledged_is_there_whoever_was_asked_and_whoever_led() {
    let mut group = Group::start(3);
    let (done, acknowledged) = (AtomicBool::new(false), [0, 0, 0].map(AtomicU64::new));
    let goes_on = |what: &str| {
        let before = acknowledged.each_ref().map(|a| a.load(Ordering::SeqCst));
        wait(what, || acknowledged.iter().zip(before).all(|(a, b)| a.load(Ordering::SeqCst) > b).then_some(()));
    };
    std::thread::scope(|scope| {
        for (n, acknowledged) in acknowledged.iter().enumerate() {
            let (at, done) = (group.http(n as u64 + 1), &done);
            scope.spawn(move || set(at, &format!("k{n}"), acknowledged, done));
        }
        for _ in 0..3 {
            goes_on("something at every master");
            let to = group.follower();
            assert_eq!(group.post(group.leader(), "/leadership/transfer", &format!(r#"{{"peer_id":{to}}}"#)).status, 200);
            goes_on("the same under another leader");
            let leader = group.leader();
            group.down(leader);
            group.up(leader);
        }
        goes_on("the same at the end");
        done.store(true, Ordering::Relaxed);
    });
    for (n, acknowledged) in acknowledged.iter().enumerate() {
        for id in 1..=3 {
            let found: u64 = group.get(id, &format!("/config/get?key=k{n}")).json().as_str().unwrap().parse().unwrap();
            // The last one may have been stored although nobody said so.
            assert!(found >= acknowledged.load(Ordering::SeqCst), "k{n} is {found} at {id}, {acknowledged:?} was acknowledged");
        }
    }
}
