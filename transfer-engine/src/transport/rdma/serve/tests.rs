//! The exchange over real sockets, as far as it goes without a device: who is answered, refused, given up, and who gets keys.

use super::conn::grant;
use super::reactor::STRANGERS_MAX;
use super::*;
use crate::memory::Memory;
use crate::transport::rdma::wire::{self, Ask, ENDS_MAX, End, Refusal, Tell, VERSION};
use perilune_protocol::Capability;
use std::io::{Read, Write};
use std::net::TcpStream;

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);

fn server(patience: Duration) -> RdmaServer {
    start("127.0.0.1:0".parse().unwrap(), Arc::default(), Vec::new(), &RdmaSettings::default(), patience).unwrap()
}

fn peer(server: &RdmaServer) -> TcpStream {
    let stream = TcpStream::connect(server.at).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
}

fn hello() -> Ask {
    Ask::Hello { version: VERSION }
}

fn end() -> End {
    End { number: 1, psn: 2, gid: [3; 16], lid: 0, mtu: 1024, reads: 1, answers: 1 }
}

#[track_caller]
fn answered(peer: &TcpStream) {
    wire::send(peer, &hello()).unwrap();
    assert_eq!(wire::receive::<Tell>(peer).unwrap(), Tell::Devices { version: VERSION, devices: Vec::new() });
}

#[track_caller]
fn closed(mut peer: &TcpStream) {
    // An end, or a reset when something was still unread; never a timeout and never an answer.
    match peer.read(&mut [0; 64]) {
        Ok(count) => assert_eq!(count, 0),
        Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset),
    }
}

#[test]
fn a_peer_of_another_version_is_told_so() {
    let server = server(LONG);
    assert_eq!(server.endpoint(), Endpoint::Rdma(server.at.to_string()));
    answered(&peer(&server));
    let other = peer(&server);
    wire::send(&other, &Ask::Hello { version: VERSION + 1 }).unwrap();
    let Tell::Refused { cause } = wire::receive(&other).unwrap() else { panic!("it must be refused") };
    assert!(cause.contains(&format!("version {VERSION}")) && cause.contains(&format!("version {}", VERSION + 1)), "{cause}");
    closed(&other);
}

#[test]
fn noise_and_questions_out_of_turn_end_their_own_connection_only() {
    let server = server(LONG);
    let mut slow = peer(&server);
    let greeting = wire::encode(&hello());
    slow.write_all(&greeting[..3]).unwrap();
    let key = Ask::Key { id: 1, segment: SegmentId::random(), capability: Capability::random() };
    let connect = |device, count| Ask::Connect { device, ends: vec![end(); count], token: None };
    for out_of_turn in [vec![key.clone()], vec![connect(0, 1)]] {
        let peer = peer(&server);
        out_of_turn.iter().for_each(|ask| wire::send(&peer, ask).unwrap());
        closed(&peer);
    }
    // There is no device, so no `Connect` is right either.
    for after_greeting in [key, hello(), connect(0, 1), connect(0, 0), connect(u16::MAX, ENDS_MAX + 1)] {
        let peer = peer(&server);
        answered(&peer);
        wire::send(&peer, &after_greeting).unwrap();
        closed(&peer);
    }
    // No question is so long.
    let long = ((64 << 10) + 1_u32).to_le_bytes();
    for noise in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 5000], &[1, 0, 0, 0, 77], &long] {
        let mut peer = peer(&server);
        peer.write_all(noise).unwrap();
        closed(&peer);
    }
    slow.write_all(&greeting[3..]).unwrap();
    assert!(matches!(wire::receive(&slow).unwrap(), Tell::Devices { .. }));
}

#[test]
fn who_does_not_say_what_it_wants_is_given_up() {
    let server = server(Duration::from_millis(50));
    let (silent, mut slow, greeted) = (peer(&server), peer(&server), peer(&server));
    slow.write_all(&[1]).unwrap();
    wire::send(&greeted, &hello()).unwrap();
    assert!(matches!(wire::receive(&greeted).unwrap(), Tell::Devices { .. }));
    [&silent, &slow, &greeted].into_iter().for_each(closed);
    answered(&peer(&server));
}

#[test]
fn a_crowd_of_strangers_keeps_nobody_out() {
    let server = server(LONG);
    let crowd: Vec<TcpStream> = (0..=STRANGERS_MAX).map(|_| peer(&server)).collect();
    closed(&crowd[0]);
    answered(&crowd[1]);
    answered(&crowd[STRANGERS_MAX]);
}

#[test]
fn a_server_that_stops_closes_its_connections() {
    let server = server(LONG);
    let peer = peer(&server);
    answered(&peer);
    drop(server);
    closed(&peer);
}

#[test]
fn keys_are_for_who_has_the_right_and_as_long_as_the_segment_is_lent() {
    let (exports, lent) = (Exports::default(), Lent::new(Vec::new(), 1 << 20));
    let (id, capability) = (SegmentId::random(), Capability::random());
    let export = |memory: &Arc<Memory>| {
        exports.insert(id, Arc::clone(memory), capability).unwrap();
        exports.find(id).unwrap()
    };
    let keys = |capability| grant(id, capability, &exports, &lent);
    assert_eq!(keys(capability), Err(Refusal::UnknownSegment), "it is not exported");
    let first = Memory::anonymous(3 << 20).unwrap();
    let exported = export(&first);
    assert_eq!(keys(capability), Err(Refusal::UnknownSegment), "it is not lent this way");
    lent.lend(id, &exported).unwrap();
    lent.lend(id, &exported).unwrap();
    let wanted = wire::Grant { base: first.base(), size: 3 << 20, piece: 1 << 20, keys: Vec::new() };
    assert_eq!(keys(capability), Ok(wanted));
    assert_eq!(keys(Capability::random()), Err(Refusal::Denied));
    assert!(lent.take(id).is_none(), "its gate is open");
    assert!(exports.withdraw(id));
    assert_eq!(keys(capability), Err(Refusal::UnknownSegment), "it is withdrawn");
    let second = Memory::anonymous(1 << 20).unwrap();
    let successor = export(&second);
    assert_eq!(keys(capability), Err(Refusal::UnknownSegment), "the keys of its predecessor are not its own");
    assert!(matches!(lent.lend(id, &successor), Err(EngineError::AlreadyExported(_))));
    assert!(lent.take(id).is_some());
    assert!(matches!(lent.lend(id, &exported), Err(EngineError::NotExported(_))), "its gate is closed");
    lent.lend(id, &successor).unwrap();
    assert_eq!(keys(capability).unwrap().base, second.base());
}
