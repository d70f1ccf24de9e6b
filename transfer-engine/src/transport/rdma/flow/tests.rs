//! What waits for a peer, and which rail is taken, as far as it goes without a device.

use super::*;
use crate::completion::Tally;
use crate::lane::Wake;
use crate::rdma::RdmaSettings;
use crate::request::{LocalSlice, plan::pieces_of};
use crate::segment::{Inner, Segment};
use crate::transport::rdma::Devices;
use crate::transport::rdma::link::Link;
use crate::transport::rdma::open::Opened;
use crate::transport::rdma::rail::Rail;
use crate::transport::rdma::sending::Unproven;
use crate::transport::{Address, Work};
use perilune_protocol::{Capability, Extent, NodeId, Protocol, SegmentDesc, SegmentId};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// The write of a byte to a segment of its own, to which there are so many paths.
fn work(byte: &[u8; 1], paths: usize) -> Box<Work> {
    let (name, location, endpoints, capability) = (String::new(), String::new(), Vec::new(), Capability::random());
    let desc = SegmentDesc {
        id: SegmentId::random(),
        name,
        node: NodeId::random(),
        base: 0,
        size: 1,
        protocol: Protocol::Rdma,
        location,
        endpoints,
        capability,
    };
    let piece = pieces_of(&[Extent { offset: 0, len: 1 }], &[LocalSlice::from_ref(byte)]).unwrap().remove(0);
    let now = Instant::now();
    let paths = vec![(0, Address::from_text("nowhere")); paths];
    let segment = Segment { inner: Arc::new(Inner { desc, paths }) };
    Work::new(Op::Write, segment, piece, Arc::new(Tally::new(1, 1)), 0, now, now + Duration::from_secs(20))
}

/// A lane that knows nobody yet and has opened no device.
fn transport() -> RdmaTransport {
    let devices = Arc::new(Devices::new(RdmaSettings::default()).unwrap());
    RdmaTransport::new(devices, Arc::default(), Arc::new(Wake::new().unwrap())).unwrap()
}

/// A rail without queue pairs, and the other end of its connection.
fn rail(generation: u32) -> (Box<Rail>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let control = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (queues, unproven, scratch) = (Vec::new(), Unproven::default(), Default::default());
    let opened = Opened { control, queues, remote: 0, offers: 1, notices: true, credits: 0, events: None, unproven, scratch };
    (Box::new(Rail::new(generation, 0, opened)), listener.accept().unwrap().0)
}

/// A rail that breaks while its peer is asked for keys is not ended before all that waits was looked at: what it leaves would be lost.
#[test]
fn what_waits_keeps_waiting_when_a_rail_breaks() {
    let mut transport = transport();
    let (rail, _other) = rail(1);
    rail.control.shutdown(Shutdown::Write).unwrap();
    let mut link = Link::new("nowhere".to_owned(), 1);
    link.slots[0] = Slot::Up(rail);
    let ids = [(); 3].map(|()| transport.flights.insert(Flight::new(work(&[0], 1))));
    link.waiting.extend(ids);
    transport.links.push(link);
    transport.rails.insert(1, (0, 0));
    let (now, mut done) = (Instant::now(), Vec::new());
    assert!(matches!(transport.advance(0, ids[0], now, &mut done), Advance::Later));
    transport.pass(0, ids[0], now, &mut done);
    assert!(transport.links[0].waiting.iter().eq(&ids) && done.is_empty());
    assert!(transport.flights.iter().all(|(_, flight)| flight.waits) && transport.rails.contains_key(&1));
    assert!(transport.links[0].slots[0].rail().unwrap().broken.is_some(), "so that the next `ring` ends it");
}

/// Rails that come up and break take their time: who has another path does not wait for the last one.
#[test]
fn work_with_another_path_takes_it_after_fewer_broken_rails() {
    let mut transport = transport();
    let (rail, _other) = rail(1);
    let mut link = Link::new("nowhere".to_owned(), 1);
    link.slots[0] = Slot::Up(rail);
    transport.links.push(link);
    let ids = [(1, 2), (2, 2), (2, 1), (8, 1), (9, 1)].map(|(broken, paths)| {
        let id = transport.flights.insert(Flight { broken, ..Flight::new(work(&[0], paths)) });
        transport.links[0].waiting.push_back(id);
        id
    });
    let mut done = Vec::new();
    transport.go_on(0, &mut done);
    assert_eq!(ids.map(|id| transport.flights.get(id).is_some()), [true, false, true, true, false]);
    assert!(done.iter().all(|done| done.outcome.as_ref().is_err_and(|e| e.kind == TransferErrorKind::PeerGone)), "{done:?}");
}

/// A rail that failed is tried again when it is due, not when the next work or completion happens to come.
#[test]
fn the_lane_wakes_when_a_rail_is_due() {
    let mut transport = transport();
    let mut link = Link::new("nowhere".to_owned(), 2);
    let (rail, _other) = rail(1);
    let now = Instant::now();
    (link.slots[0], link.slots[1]) = (Slot::Up(rail), Slot::Down { cause: None, retry: Some(now + Duration::from_millis(300)) });
    transport.links.push(link);
    assert!(transport.longest_sleep(now) > Duration::from_millis(300));
    transport.revive(0, now);
    assert_eq!(transport.longest_sleep(now), Duration::from_millis(300));
    transport.retry = Some(now);
    transport.revive_due();
    assert_eq!((transport.retry, transport.rails.len()), (None, 0), "a peer without work is left alone");
}

#[test]
fn the_near_rail_is_taken_while_all_are_idle_and_no_more_once_much_waits_there() {
    let best = |rails: [(bool, u64, u32); 2], len| (0..2).min_by_key(|&i: &usize| rank(rails[i].0, rails[i].1, len, rails[i].2)).unwrap();
    assert_eq!(best([(false, 0, 21), (false, 0, 10)], 4096), 1);
    assert_eq!(best([(false, 0, 10), (false, 0, 21)], 4096), 0);
    assert_eq!(best([(false, 8 << 20, 10), (false, 0, 21)], 4096), 1);
    assert_eq!(best([(false, 4096, 10), (false, 0, 21)], 4096), 0, "twice as far is as twice as much");
    assert_eq!(best([(true, 2 << 20, 21), (false, 0, 10)], 4096), 0, "one doorbell for much");
    assert_eq!(best([(false, u64::from(u32::MAX), u32::MAX), (false, 0, 10)], 1), 1, "without overflow");
}
