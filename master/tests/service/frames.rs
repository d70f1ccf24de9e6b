//! Good and bad bytes on the RPC port.

use super::*;
use perilune_protocol::FaultCode;
use perilune_protocol::rpc::cluster;

#[test]
fn questions_are_answered_in_any_number_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let master = start(dir.path());
    let mut peer = Peer::hello(&master);
    let mut out = Vec::new();
    for id in 100..600 {
        rpc::encode_question(&mut out, id, &cluster::Stat {}).unwrap();
    }
    peer.stream.write_all(&out).unwrap();
    let mut ids: Vec<u64> = (0..500).map(|_| peer.answer().unwrap().0).collect();
    ids.sort_unstable();
    assert_eq!(ids, (100..600).collect::<Vec<_>>());
}

#[test]
fn keys_are_nobodys_before_hello_and_unknown_calls_get_a_fault() {
    let dir = tempfile::tempdir().unwrap();
    let master = start(dir.path());
    let mut peer = Peer::connect(&master);
    assert_eq!(peer.call(&object::Exists { keys: vec!["k".into()] }).unwrap_err().code, FaultCode::WrongState);
    let strange = session::Hello { agent: String::new(), tenant: "other".into() };
    assert_eq!(peer.call(&strange).unwrap_err().code, FaultCode::TenantNotFound);
    let mut out = Vec::new();
    frame::encode(&mut out, frame::Kind::Question, 999, 5, |_| Ok::<_, String>(())).unwrap();
    peer.stream.write_all(&out).unwrap();
    let (id, body) = peer.answer().unwrap();
    let fault = rpc::decode::<Outcome<()>>(&body).unwrap().unwrap_err();
    assert_eq!((id, fault.code), (5, FaultCode::NotSupported));
}

#[test]
fn a_message_of_noise_gets_a_fault_and_the_connection_lives() {
    let dir = tempfile::tempdir().unwrap();
    let master = start(dir.path());
    let mut peer = Peer::hello(&master);
    let mut seed = 42u64;
    for id in 1..200u64 {
        let mut out = Vec::new();
        let body: Vec<u8> = (0..id % 60)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (seed >> 56) as u8
            })
            .collect();
        let op = [1, 2, 10, 20, 21, 23, 26][id as usize % 7];
        frame::encode(&mut out, frame::Kind::Question, op, id, |o| {
            o.extend_from_slice(&body);
            Ok::<_, String>(())
        })
        .unwrap();
        peer.stream.write_all(&out).unwrap();
        assert_eq!(peer.answer().expect("seed 42").0, id);
    }
}

#[test]
fn broken_frames_are_told_why_and_closed_without_harm_to_others() {
    let dir = tempfile::tempdir().unwrap();
    let master = start(dir.path());
    let mut other = Peer::hello(&master);
    let mut good = Vec::new();
    rpc::encode_question(&mut good, 1, &cluster::Stat {}).unwrap();
    let with = |at: usize, byte: u8| {
        let mut bad = good.clone();
        bad[at] = byte;
        bad
    };
    let noise: Vec<u8> = (0..4096u32).map(|n| (n * 31 + 7) as u8).collect();
    for (what, bytes, code) in [
        ("another version", with(4, 99), FaultCode::InvalidVersion),
        ("a damaged header", with(9, 1), FaultCode::InvalidParams),
        ("noise", noise, FaultCode::InvalidParams),
        ("http", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), FaultCode::InvalidParams),
    ] {
        let mut peer = Peer::connect(&master);
        // The master may close before it has read everything.
        let _ = peer.stream.write_all(&bytes);
        let (_, body) = peer.answer().unwrap_or_else(|| panic!("{what}: no answer"));
        assert_eq!(rpc::decode::<Outcome<()>>(&body).unwrap().unwrap_err().code, code, "{what}");
        assert!(peer.answer().is_none(), "{what}: closed");
    }
    // Half a frame and gone.
    let mut peer = Peer::connect(&master);
    peer.stream.write_all(&good[..20]).unwrap();
    drop(peer);
    other.call(&cluster::Stat {}).expect("others are served");
}
