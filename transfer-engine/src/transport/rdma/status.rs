//! What RDMA this process has, or why none.

use crate::rdma::{RdmaDevice, RdmaGid, RdmaSettings, RdmaStatus};
use crate::transport::rdma::device::no_device;
use crate::transport::rdma::gid::Gid;
use crate::transport::rdma::sys::Context;
use crate::transport::rdma::topology::Sysfs;
use std::io;

/// Looks at every device, also at those that cannot be used. Opens each for a moment.
pub(crate) fn status() -> RdmaStatus {
    let sysfs = Sysfs::default();
    if !sysfs.has_devices() {
        return RdmaStatus::none(no_device());
    }
    if let Err(cause) = Context::names() {
        return RdmaStatus::none(cause.to_string());
    }
    let devices: Vec<RdmaDevice> = sysfs.devices().iter().map(|name| device(&sysfs, name)).collect();
    let active = devices.iter().any(|device| device.active);
    RdmaStatus { reason: (!active).then(|| "no device has an active port".to_owned()), devices }
}

fn device(sysfs: &Sysfs, name: &str) -> RdmaDevice {
    let RdmaSettings { port, gid_index, .. } = RdmaSettings::default();
    let mut device = RdmaDevice { name: name.to_owned(), port, numa_node: sysfs.node_of_device(name), ..Default::default() };
    let outcome = (|| {
        let answer = Context::open(name)?.port(port)?;
        device.active = answer.active;
        answer.state.clone_into(&mut device.state);
        (if answer.ethernet { "Ethernet" } else { "InfiniBand" }).clone_into(&mut device.link_layer);
        device.mtu = answer.mtu;
        device.lid = answer.lid;
        let gid = if sysfs.is_iwarp(name) {
            Gid::of_iwarp(sysfs, name, port)
        } else {
            Gid::choose(&Gid::table(sysfs, name, port), answer.ethernet, gid_index)
        };
        let gid = gid.map_err(io::Error::other)?;
        device.gid = Some(RdmaGid { index: gid.index, address: gid.address().to_string(), kind: gid.kind.to_string() });
        io::Result::Ok(())
    })();
    device.problem = outcome.err().map(|cause| cause.to_string());
    device
}
