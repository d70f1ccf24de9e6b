//! Which RDMA devices this machine has, which of them are two ends of one cable, and the GID that perftest must be told.

use crate::rivals::Trouble;
use nix::ifaddrs::getifaddrs;
use std::fs::{read_dir, read_to_string};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

/// Where the kernel tells of RDMA devices.
const DEVICES: &str = "/sys/class/infiniband";

/// Whether this machine has an RDMA device.
pub fn present() -> bool {
    !names().is_empty()
}

/// A device as perftest and UCX are told of it. Port 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) name: String,
    /// The index of its RoCE v2 GID that carries an IPv4 address.
    pub(super) gid_index: usize,
    pub(super) address: Ipv4Addr,
}

/// The devices of the asking side and those of the other side, as many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) asking: Vec<Device>,
    pub(super) serving: Vec<Device>,
}

impl Ends {
    /// The ends that were named; who names none gets all pairs of devices whose addresses are in one subnet, or else the first device twice.
    pub(super) fn find(asking: &[String], serving: &[String]) -> Result<Self, Trouble> {
        let look_up = |names: &[String]| names.iter().map(|name| Device::find(name)).collect::<Result<Vec<_>, _>>();
        let (asking, serving) = match (look_up(asking)?, look_up(serving)?) {
            (asking, serving) if asking.is_empty() && serving.is_empty() => {
                let all: Vec<Device> = names().iter().filter_map(|name| Device::find(name).ok()).collect();
                pairs(&all, netmask)
            }
            (asking, serving) if serving.is_empty() => (asking.clone(), asking),
            (asking, serving) if asking.is_empty() => (serving.clone(), serving),
            both => both,
        };
        if asking.len() != serving.len() {
            return Err(format!("{} devices ask and {} serve: name as many for each side", asking.len(), serving.len()).into());
        }
        if asking.is_empty() {
            return Err(format!("no device in {DEVICES} has a RoCE v2 GID with an IPv4 address on port 1").into());
        }
        Ok(Self { asking, serving })
    }

    /// The first `count` of each side.
    pub(super) fn first(&self, count: usize) -> Self {
        Self { asking: self.asking[..count].to_vec(), serving: self.serving[..count].to_vec() }
    }
}

impl Device {
    fn find(name: &str) -> Result<Self, Trouble> {
        let port = PathBuf::from(DEVICES).join(name).join("ports/1");
        let gids = read_dir(port.join("gids")).map_err(|e| format!("RDMA device {name}: reading {}: {e}", port.join("gids").display()))?;
        let mut indices: Vec<usize> = gids.filter_map(|gid| gid.ok()?.file_name().to_str()?.parse().ok()).collect();
        indices.sort_unstable();
        let v4 = |index: usize| {
            // The kernel answers an error for entries of the table that are empty.
            let kind = read_to_string(port.join(format!("gid_attrs/types/{index}"))).ok()?;
            let gid: Ipv6Addr = read_to_string(port.join(format!("gids/{index}"))).ok()?.trim().parse().ok()?;
            gid.to_ipv4_mapped().filter(|_| kind.trim() == "RoCE v2")
        };
        let found = indices.into_iter().find_map(|index| Some((index, v4(index)?)));
        let (gid_index, address) = found.ok_or_else(|| format!("RDMA device {name} has no RoCE v2 GID with an IPv4 address on port 1"))?;
        Ok(Self { name: name.to_owned(), gid_index, address })
    }
}

/// In the order of their names.
fn names() -> Vec<String> {
    let mut names: Vec<String> =
        read_dir(DEVICES).into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// Devices that share a subnet, two by two; when none do, the first one with itself.
fn pairs(all: &[Device], netmask: impl Fn(Ipv4Addr) -> Option<Ipv4Addr>) -> (Vec<Device>, Vec<Device>) {
    let subnet = |device: &Device| netmask(device.address).map(|mask| device.address & mask);
    let mut left: Vec<&Device> = all.iter().collect();
    let (mut asking, mut serving) = (Vec::new(), Vec::new());
    while !left.is_empty() {
        let one = left.remove(0);
        if let Some(at) = left.iter().position(|other| subnet(one).is_some() && subnet(other) == subnet(one)) {
            asking.push(one.clone());
            serving.push(left.remove(at).clone());
        }
    }
    if asking.is_empty() {
        asking.extend(all.first().cloned());
        serving.clone_from(&asking);
    }
    (asking, serving)
}

fn netmask(of: Ipv4Addr) -> Option<Ipv4Addr> {
    let entry = getifaddrs().ok()?.find(|entry| entry.address.as_ref().and_then(|a| a.as_sockaddr_in()).is_some_and(|a| a.ip() == of))?;
    Some(entry.netmask?.as_sockaddr_in()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_one_cable_are_found() {
        let device = |name: &str, address: [u8; 4]| Device { name: name.to_owned(), gid_index: 1, address: address.into() };
        let all = [device("va", [10, 78, 0, 1]), device("vb", [10, 78, 0, 2]), device("vc", [10, 79, 0, 1]), device("vd", [10, 79, 0, 2])];
        let mask = |_| Some(Ipv4Addr::new(255, 255, 255, 0));
        let named = |devices: &[Device]| devices.iter().map(|d| d.name.clone()).collect::<Vec<_>>();
        let (asking, serving) = pairs(&all, mask);
        assert_eq!((named(&asking), named(&serving)), (vec!["va".to_owned(), "vc".to_owned()], vec!["vb".to_owned(), "vd".to_owned()]));
        let (asking, serving) = pairs(&all[..1], mask);
        assert_eq!((named(&asking), named(&serving)), (vec!["va".to_owned()], vec!["va".to_owned()]));
        let (asking, _) = pairs(&[all[0].clone(), all[2].clone()], mask);
        assert_eq!(named(&asking), ["va"]);
        assert_eq!(pairs(&[], mask).0, []);
    }

    #[test]
    fn a_device_that_is_not_there_is_named() {
        let error = Ends::find(&["no-such-device".to_owned()], &[]).unwrap_err().to_string();
        assert!(error.contains("no-such-device"), "{error}");
    }
}
