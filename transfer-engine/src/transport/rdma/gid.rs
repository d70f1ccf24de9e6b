//! The addresses of a port (GIDs), and which of them is used.

use crate::transport::rdma::topology::Sysfs;
use nix::ifaddrs::getifaddrs;
use std::fmt;
use std::net::Ipv6Addr;

/// How packets with such an address look, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum GidKind {
    /// UDP over IP: goes through routers.
    RoceV2,
    /// InfiniBand, or Ethernet frames of their own.
    IbOrRoceV1,
    /// TCP over IP.
    Iwarp,
}

impl fmt::Display for GidKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RoceV2 => "RoCE v2",
            Self::IbOrRoceV1 => "IB/RoCE v1",
            Self::Iwarp => "iWARP",
        })
    }
}

/// An entry of a port's table of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gid {
    /// Its place in the table.
    pub(crate) index: u8,
    pub(crate) kind: GidKind,
    pub(crate) bytes: [u8; 16],
}

impl Gid {
    /// All entries of a port that are in use. They come and go with the addresses of the network interface.
    pub(crate) fn table(sysfs: &Sysfs, device: &str, port: u8) -> Vec<Self> {
        let places = sysfs.list(&format!("class/infiniband/{device}/ports/{port}/gids"));
        let entry = |name: &String| Self::at(sysfs, device, port, name.parse().ok()?);
        let mut table: Vec<Self> = places.iter().filter_map(entry).collect();
        table.sort_by_key(|gid| gid.index);
        table
    }

    /// The entry at one place, if it is in use.
    pub(crate) fn at(sysfs: &Sysfs, device: &str, port: u8, index: u8) -> Option<Self> {
        let folder = format!("class/infiniband/{device}/ports/{port}");
        let address: Ipv6Addr = sysfs.read(&format!("{folder}/gids/{index}"))?.parse().ok()?;
        // The kernel refuses to tell the type of an entry that is not in use.
        let kind = match sysfs.read(&format!("{folder}/gid_attrs/types/{index}"))?.as_str() {
            "RoCE v2" => GidKind::RoceV2,
            _ => GidKind::IbOrRoceV1,
        };
        Some(Self { index, kind, bytes: address.octets() }).filter(|_| !address.is_unspecified())
    }

    /// The IP address of an iWARP device, in the form of a GID. Its real GID is the hardware address of its network interface, which leads to
    /// the address.
    pub(crate) fn of_iwarp(sysfs: &Sysfs, device: &str, port: u8) -> Result<Self, String> {
        let gid = sysfs.read(&format!("class/infiniband/{device}/ports/{port}/gids/0")).and_then(|text| text.parse::<Ipv6Addr>().ok());
        let hardware = gid.map(|gid| gid.octets()[..6].iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":"));
        let netdevs = sysfs.list("class/net");
        let same = |netdev: &&String| sysfs.read(&format!("class/net/{netdev}/address")) == hardware;
        let netdevs: Vec<&String> = netdevs.iter().filter(same).collect();
        let known = getifaddrs().map_err(|e| format!("the addresses of this machine: {e}"))?;
        let mapped = known.filter(|known| netdevs.contains(&&known.interface_name)).filter_map(|known| {
            let address = known.address?;
            let v4 = address.as_sockaddr_in().map(|v4| v4.ip().to_ipv6_mapped());
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip()))
        });
        let best = mapped.map(|ip| Self { index: 0, kind: GidKind::Iwarp, bytes: ip.octets() }).min_by_key(Self::class);
        best.ok_or_else(|| match netdevs[..] {
            [] => "no network interface has its hardware address".to_owned(),
            [netdev, ..] => format!("its network interface {netdev} has no IP address"),
        })
    }

    /// The entry to use: the one that is wanted; on InfiniBand the first; else RoCE v2 before v1, and then an IPv4 address before a global
    /// one of IPv6 before a link-local one. The error lists what there is.
    pub(crate) fn choose(table: &[Self], ethernet: bool, wanted: Option<u8>) -> Result<Self, String> {
        let chosen = match wanted {
            Some(wanted) => table.iter().find(|gid| gid.index == wanted),
            None if ethernet => table.iter().min_by_key(|gid| (gid.kind, gid.class(), gid.index)),
            None => table.iter().min_by_key(|gid| gid.index),
        };
        chosen.copied().ok_or_else(|| {
            let known: Vec<String> = table.iter().map(Self::to_string).collect();
            match (wanted, known.is_empty()) {
                (_, true) => "the port has no GID: does its network interface have an address?".to_owned(),
                (Some(wanted), false) => format!("the port has no GID of index {wanted}; it has {}", known.join(", ")),
                (None, false) => "the port has no GID that can be used".to_owned(),
            }
        })
    }

    /// Its bytes as an address.
    pub(crate) fn address(&self) -> Ipv6Addr {
        self.bytes.into()
    }

    /// Smaller is better.
    fn class(&self) -> u8 {
        let address = self.address();
        match address.to_ipv4_mapped() {
            Some(v4) => u8::from(v4.is_loopback()),
            None if address.is_unicast_link_local() => 3,
            None => 2,
        }
    }
}

impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.index, self.address(), self.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::rdma::topology::tests::folder;

    fn gid(index: u8, kind: GidKind, address: &str) -> Gid {
        Gid { index, kind, bytes: address.parse::<Ipv6Addr>().unwrap().octets() }
    }

    #[test]
    fn the_best_address_is_chosen() {
        let mut table = vec![
            gid(0, GidKind::IbOrRoceV1, "fe80::1"),
            gid(1, GidKind::RoceV2, "fe80::1"),
            gid(2, GidKind::IbOrRoceV1, "::ffff:10.0.0.1"),
            gid(3, GidKind::RoceV2, "2001:db8::1"),
            gid(4, GidKind::RoceV2, "::ffff:127.0.0.1"),
            gid(5, GidKind::RoceV2, "::ffff:10.0.0.1"),
            gid(6, GidKind::RoceV2, "::ffff:10.0.0.2"),
        ];
        // What is best goes away, one after the other.
        for want in [5, 6, 4, 3, 1, 2, 0] {
            assert_eq!(Gid::choose(&table, true, None).unwrap().index, want);
            assert_eq!(Gid::choose(&table, false, None).unwrap(), table[0], "InfiniBand takes the first");
            table.retain(|gid| gid.index != want);
        }
        assert!(Gid::choose(&table, true, None).unwrap_err().contains("no GID"));
    }

    #[test]
    fn a_wanted_index_is_taken_or_those_that_exist_are_named() {
        let table = [gid(0, GidKind::RoceV2, "fe80::1"), gid(3, GidKind::IbOrRoceV1, "::ffff:10.0.0.1")];
        assert_eq!(Gid::choose(&table, true, Some(3)), Ok(table[1]));
        let error = Gid::choose(&table, true, Some(1)).unwrap_err();
        assert_eq!(error, "the port has no GID of index 1; it has 0: fe80::1 (RoCE v2), 3: ::ffff:10.0.0.1 (IB/RoCE v1)");
    }

    #[test]
    fn the_table_is_read_as_far_as_it_is_in_use() {
        let at = |file: &str| format!("class/infiniband/rxe0/ports/1/{file}");
        let files = [
            (at("gids/0"), "fe80:0000:0000:0000:0000:00ff:fe00:0001\n"),
            (at("gid_attrs/types/0"), "RoCE v2\n"),
            (at("gids/1"), "0000:0000:0000:0000:0000:ffff:0a4e:0001\n"),
            (at("gid_attrs/types/1"), "IB/RoCE v1\n"),
            (at("gids/2"), "0000:0000:0000:0000:0000:0000:0000:0000\n"),
            (at("gid_attrs/types/2"), "RoCE v2\n"),
            (at("gids/10"), "2001:0db8:0000:0000:0000:0000:0000:0001\n"),
            (at("gid_attrs/types/10"), "RoCE v2\n"),
            (at("gids/11"), "2001:0db8:0000:0000:0000:0000:0000:0002\n"),
            (at("gids/300"), "2001:0db8:0000:0000:0000:0000:0000:0003\n"),
            (at("gids/what"), "rubbish\n"),
        ];
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        let (_root, sysfs) = folder(&files);
        let want = [
            gid(0, GidKind::RoceV2, "fe80::ff:fe00:1"),
            gid(1, GidKind::IbOrRoceV1, "::ffff:10.78.0.1"),
            gid(10, GidKind::RoceV2, "2001:db8::1"),
        ];
        assert_eq!(Gid::table(&sysfs, "rxe0", 1), want);
        assert_eq!(Gid::table(&sysfs, "rxe0", 2), []);
    }

    #[test]
    fn an_iwarp_device_has_the_address_of_its_network_interface() {
        let gid = ("class/infiniband/siw0/ports/1/gids/0", "0200:0000:00aa:0000:0000:0000:0000:0000\n");
        let lo = ("class/net/lo/address", "02:00:00:00:00:aa\n");
        let (_root, sysfs) = folder(&[gid, lo, ("class/net/eth7/address", "02:00:00:00:00:ab\n")]);
        let found = Gid::of_iwarp(&sysfs, "siw0", 1).unwrap();
        assert_eq!((found.address(), found.kind), ("::ffff:127.0.0.1".parse().unwrap(), GidKind::Iwarp));
        let (_root, sysfs) = folder(&[gid, ("class/net/none7/address", "02:00:00:00:00:aa\n")]);
        assert_eq!(Gid::of_iwarp(&sysfs, "siw0", 1).unwrap_err(), "its network interface none7 has no IP address");
        let (_root, sysfs) = folder(&[gid]);
        assert_eq!(Gid::of_iwarp(&sysfs, "siw0", 1).unwrap_err(), "no network interface has its hardware address");
    }
}
