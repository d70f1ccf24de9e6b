//! No connection harms another.

use crate::engine::Served;
use crate::http;
use perilune_master::api::serve::Limits;
use std::io::{Read, Write};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether the server closed the connection, waiting for it.
fn closed(stream: &mut std::net::TcpStream) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn garbage_is_refused_and_only_its_own_connection_closed() {
    let served = Served::start();
    let garbage: [&[u8]; 5] =
        [b"\x00\x01\x02\x03\r\n\r\n", b"PRLN\x01\x00\x00\x00", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\r\n\r\n\xff\xfe\xfd\r\n\r\n"];
    for bytes in garbage {
        let mut stream = http::connect(served.addr);
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(closed(&mut stream), "{bytes:?}");
        assert_eq!(served.get("/health").body, "OK");
    }
    let long = format!("/query_key?key={}", "k".repeat(100_000));
    assert_eq!(served.get(&long).status, 414);
}

#[test]
fn a_request_that_never_ends_is_cut_off() {
    let served = Served::within(Limits { head: Duration::from_millis(50), ..Limits::default() });
    let mut half = http::connect(served.addr);
    half.write_all(b"GET /health HTTP/1.1\r\nHost").unwrap();
    let mut silent = http::connect(served.addr);
    assert_eq!(served.get("/health").body, "OK");
    assert!(closed(&mut half) && closed(&mut silent));
}

#[test]
fn a_full_house_lets_the_next_one_in_when_a_place_is_free() {
    let served = Served::within(Limits { connections: 2, head: Duration::from_millis(100), ..Limits::default() });
    let idle = [http::connect(served.addr), http::connect(served.addr)];
    assert_eq!(served.get("/health").body, "OK", "waited for an idle connection to be closed");
    drop(idle);
}

#[test]
fn a_reader_that_takes_nothing_holds_up_nobody() {
    let served = Served::within(Limits { stall: Duration::from_millis(200), ..Limits::default() });
    for n in 0..300_000 {
        served.engine.put(format!("{n:064}"), &[]);
    }
    let mut stuck = http::connect(served.addr);
    stuck.write_all(b"GET /get_all_keys HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    until("the listing's start", || served.engine.shown.load(Ordering::Relaxed) > 0);
    assert_eq!(served.get("/health").body, "OK");
    assert!(served.get("/get_all_keys").whole, "another reader gets everything");
    // What the kernel had buffered arrives, and then not a proper end.
    until("the end of the stuck listing", || served.runtime.metrics().num_alive_tasks() == 1);
    let reply = http::read(stuck, false);
    assert!(!reply.whole && reply.body.len() < 300_000 * 65, "{} bytes", reply.body.len());
}

#[test]
fn a_reader_that_leaves_ends_its_listing() {
    let served = Served::start();
    for n in 0..300_000 {
        served.engine.put(format!("{n:064}"), &[]);
    }
    let mut leaving = http::connect(served.addr);
    leaving.write_all(b"GET /get_all_keys HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut first = [0; 1000];
    leaving.read_exact(&mut first).unwrap();
    drop(leaving);
    until("the end of the connection", || served.runtime.metrics().num_alive_tasks() == 1);
    assert!(served.engine.shown.load(Ordering::Relaxed) < 300_000);
}

#[test]
fn a_stop_finishes_what_is_under_way() {
    let served = Served::start();
    let mut idle = http::connect(served.addr);
    assert_eq!(served.get("/health").status, 200);
    served.stop.send(true).unwrap();
    served.runtime.block_on(served.server).unwrap();
    assert!(closed(&mut idle));
    assert!(std::net::TcpStream::connect(served.addr).is_err(), "nobody listens any more");
}
