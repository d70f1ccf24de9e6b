//! What the network sees.

use crate::{settings, world_of, write_and_check};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};
use perilune_transfer_engine::RdmaSettings;
use std::collections::BTreeSet;
use std::os::fd::AsRawFd;

/// The port of RoCE v2.
const ROCE: [u8; 2] = 4791_u16.to_be_bytes();

#[test]
#[ignore = "needs RDMA devices on a cable: scripts/rxe-vm --net pairs"]
fn packets_have_the_traffic_class_of_who_sends_them() {
    // Copies of all packets of this machine, from the IP header on.
    let packets = socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll).unwrap();
    let class = |end, traffic_class| RdmaSettings { traffic_class, ..settings(&[end]) };
    let world = world_of(class("va", 104), class("vb", 40), false);
    write_and_check(&world, 1, 16 << 10);
    let (mut seen, mut packet) = (BTreeSet::new(), [0; 36]);
    while recv(packets.as_raw_fd(), &mut packet, MsgFlags::empty()).is_ok() {
        // What connection managers say to each other is not ours: it goes to the queue pair 1.
        if packet[0] == 0x45 && packet[22..24] == ROCE && packet[33..] != [0, 0, 1] {
            seen.insert((packet[12..16].to_vec(), packet[1]));
        }
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [(vec![10, 78, 0, 1], 104), (vec![10, 78, 0, 2], 40)]);
}
