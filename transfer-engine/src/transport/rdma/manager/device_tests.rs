//! Connections by the connection manager between real devices: made, refused, ended.

use super::*;
use crate::rdma::{RdmaConnection, RdmaSettings};
use crate::segment::Exports;
use crate::transport::rdma::device::Devices;
use crate::transport::rdma::open::open;
use crate::transport::rdma::queue::Role;
use crate::transport::rdma::rail::Rail;
use crate::transport::rdma::serve::{RdmaServer, serve};
use crate::transport::rdma::sys::{Capacity, Chain, Completed, CompletionQueue, Status, Verb, WorkRequest, live};
use crate::transport::rdma::wire::{self, Ask, Tell, VERSION};
use crate::transport::rdma::world::link;
use crate::transport::{Address, Server};
use std::net::TcpStream;
use std::process::Command;

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(30);

struct Rig {
    server: RdmaServer,
    at: String,
    device: Arc<Device>,
    completions: Arc<CompletionQueue>,
}

impl Rig {
    fn new(connection: RdmaConnection) -> Self {
        let devices = Arc::new(Devices::new(settings(connection)).unwrap());
        let server = serve("127.0.0.1:0".parse().unwrap(), Arc::new(Exports::default()), &devices).unwrap();
        let perilune_protocol::Endpoint::Rdma(at) = server.endpoint() else { panic!("an RDMA endpoint") };
        let device = Arc::clone(&devices.get().unwrap()[0]);
        let completions = CompletionQueue::new(&device.context, 64, None).unwrap();
        Self { server, at: Address::from_text(&at).display().into_owned(), device, completions }
    }

    fn open(&self, connection: RdmaConnection) -> Result<Rail, Failure> {
        let opened = open(&self.at, &self.device, &self.completions, &settings(connection), (0, 0));
        opened.map(|opened| Rail::new(1, 0, opened)).map_err(|not| not.cause)
    }
}

fn settings(connection: RdmaConnection) -> RdmaSettings {
    RdmaSettings { connection, ..RdmaSettings::default() }
}

#[test]
#[ignore = "needs RDMA devices on a cable: scripts/rxe-vm --net pair"]
fn queue_pairs_are_connected_carry_work_and_end_with_their_peer() {
    let rig = Rig::new(RdmaConnection::Cm);
    let listeners = live().manager_ids;
    assert!(listeners > 0, "the server listens");
    let mut rail = rig.open(RdmaConnection::Cm).unwrap();
    assert_eq!(live().manager_ids, listeners + 4, "one on each side of each queue pair");
    for (place, op) in [(0, Verb::Write), (1, Verb::Write), (0, Verb::Read), (1, Verb::Read)] {
        let mut chain = Chain::new();
        chain.push(WorkRequest { id: 7, op, remote: 0, key: 0, signaled: true }, &[]);
        rail.sendings[place].queue.post(&mut chain).unwrap();
        let (begun, mut done): (_, Vec<Completed>) = (Instant::now(), Vec::new());
        while rig.completions.poll(&mut done) == 0 {
            assert!(begun.elapsed() < LONG, "no completion of {op:?}");
        }
        assert_eq!((done[0].id, done[0].status), (7, Status::Success), "{op:?}");
    }
    let events = rail.events.clone().unwrap();
    assert_eq!(events.ended(), None);
    drop(rig.server);
    let begun = Instant::now();
    let cause = loop {
        match events.ended() {
            Some(cause) => break cause,
            None => assert!(begun.elapsed() < LONG, "the end is not told"),
        }
    };
    assert_eq!(cause, "connection manager: the peer disconnected");
    drop((rail, events));
    assert_eq!((live().manager_ids, live().manager_channels), (0, 0));
}

#[test]
#[ignore = "needs RDMA devices on a cable: scripts/rxe-vm --net pair"]
fn who_does_not_know_the_token_is_refused_and_disturbs_nobody() {
    let rig = Rig::new(RdmaConnection::Cm);
    let stream = TcpStream::connect(&rig.at).unwrap();
    wire::send(&stream, &Ask::Hello { version: VERSION }).unwrap();
    let Tell::Devices { devices, .. } = wire::receive(&stream).unwrap() else { panic!("the devices come first") };
    let offer = devices.iter().find(|offer| Some(offer.gid) != rig.device.address()).unwrap_or(&devices[0]);
    let at = SocketAddr::new(ip_of(offer.gid), offer.manager.unwrap());
    let capacity = Capacity { sends: 16, receives: 1, sges: 1, inline: 0 };
    let queue = Queue::new(&rig.device, Role::Asks, &rig.completions, &rig.completions, capacity).unwrap();
    let refused = connect(&rig.device, &mut [queue], at, 4711).map(|_| ()).unwrap_err();
    assert!(refused.cause.contains(&rig.device.name) && refused.cause.contains("the peer refused"), "{refused:?}");
    rig.open(RdmaConnection::Cm).unwrap();
}

fn ip(line: &str) {
    assert!(Command::new("ip").args(line.split(' ')).status().unwrap().success(), "ip {line}");
}

/// Gives the end vb of the cable another address; its own comes back with the end of this.
struct Moved;

impl Moved {
    fn new() -> Self {
        let moved = Self;
        let lines = [
            "address del 10.78.0.2/24 dev vb",
            "rule add pref 20 from 10.78.0.1 to 10.78.0.9 lookup 101",
            "rule add pref 20 from 10.78.0.9 to 10.78.0.1 lookup 102",
            "route replace 10.78.0.9 dev va src 10.78.0.1 table 101",
            "neighbour replace 10.78.0.9 lladdr 02:00:00:00:00:bb dev va nud permanent",
            "address add 10.78.0.9/24 dev vb",
            "route replace 10.78.0.1 dev vb src 10.78.0.9 table 102",
        ];
        lines.into_iter().for_each(ip);
        moved
    }
}

impl Drop for Moved {
    fn drop(&mut self) {
        ip("address del 10.78.0.9/24 dev vb");
        ip("rule del pref 20 from 10.78.0.1 to 10.78.0.9 lookup 101");
        ip("rule del pref 20 from 10.78.0.9 to 10.78.0.1 lookup 102");
        link(&["up", "vb"]);
    }
}

#[test]
#[ignore = "needs RDMA devices on a cable: scripts/rxe-vm --net pair"]
fn a_port_whose_address_changed_is_listened_at_anew() {
    let rig = Rig::new(RdmaConnection::Cm);
    // The second of the devices is the other end of our cable.
    assert_eq!(rig.open(RdmaConnection::Cm).unwrap().remote, 1);
    let _moved = Moved::new();
    let begun = Instant::now();
    // Until the device has the new address it offers none.
    while rig.open(RdmaConnection::Cm).map_or(true, |rail| rail.remote != 1) {
        assert!(begun.elapsed() < LONG, "it is not found again");
    }
}

#[test]
#[ignore = "needs RDMA devices on a cable: scripts/rxe-vm --net pair"]
fn a_peer_that_does_not_listen_is_named_and_one_that_does_takes_both_ways() {
    let rig = Rig::new(RdmaConnection::Cm);
    let rail = rig.open(RdmaConnection::Exchange).unwrap();
    assert_eq!(rail.events.is_some(), rig.device.iwarp, "iWARP has no other way");
    drop((rail, rig));
    let rig = Rig::new(RdmaConnection::Exchange);
    let outcome = rig.open(RdmaConnection::Cm).map(|_| ());
    if rig.device.iwarp {
        assert!(outcome.is_ok(), "{outcome:?}");
    } else {
        let cause = outcome.unwrap_err().cause;
        assert!(cause.contains("connection manager listens") && cause.contains(&rig.at), "{cause}");
    }
}
