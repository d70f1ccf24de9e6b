//! Which devices are used, and how each is opened.

use crate::fault::{EngineError, Failure, TransferErrorKind};
use crate::rdma::RdmaSettings;
use crate::transport::rdma::gid::Gid;
use crate::transport::rdma::link::PAUSE;
use crate::transport::rdma::sys::{Class, Context, Domain, Limits, Port};
use crate::transport::rdma::topology::{Sysfs, Topology};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

/// An opened device.
pub(crate) struct Device {
    pub(crate) name: String,
    pub(crate) context: Arc<Context>,
    /// All memory of the engine is registered here.
    pub(crate) domain: Arc<Domain>,
    pub(crate) limits: Limits,
    pub(crate) port: u8,
    pub(crate) numa_node: Option<u32>,
    pub(crate) ethernet: bool,
    /// It speaks iWARP: connects by the connection manager, and says of a write that it is sent, not that it arrived.
    pub(crate) iwarp: bool,
    /// Its acknowledgements come after the bytes are in memory, but the success of a read may be a lie: see `rdma/mod.rs`.
    pub(crate) soft_roce: bool,
    /// Of the packets that its queue pairs send.
    pub(crate) class: Class,
    gid_index: Option<u8>,
    sysfs: Sysfs,
    /// The entry that was used last: a table has a thousand places, and mostly it is still the one.
    last_gid: Mutex<Option<Gid>>,
}

impl Device {
    /// Opens a device, whether or not its port is active now.
    fn open(name: &str, settings: &RdmaSettings, sysfs: &Sysfs) -> Result<Self, Unusable> {
        let context = Context::open(name).map_err(|e| e.to_string())?;
        let port = context.port(settings.port).map_err(|e| e.to_string())?;
        let iwarp = context.is_iwarp();
        match active(name, settings.port, &port) {
            Ok(()) => {
                let gid = gid_of(sysfs, name, settings.port, (port.ethernet, iwarp), settings.gid_index);
                gid.map_err(|cause| Unusable { cause, set_so: settings.gid_index.is_some() })?;
            }
            Err(cause) => tracing::info!("RDMA: not used yet: {cause}"),
        }
        let domain = Domain::new(&context).map_err(|e| e.to_string())?;
        let numa_node = settings.numa_nodes.get(name).copied().or_else(|| sysfs.node_of_device(name));
        Ok(Self {
            name: name.to_owned(),
            limits: context.limits(),
            soft_roce: context.is_soft_roce(),
            context,
            domain,
            port: settings.port,
            numa_node,
            ethernet: port.ethernet,
            iwarp,
            class: Class { traffic: settings.traffic_class, level: settings.service_level },
            gid_index: settings.gid_index,
            sysfs: sysfs.clone(),
            last_gid: Mutex::default(),
        })
    }

    /// The address of its port now, for peers; `None` while the port is not active.
    pub(crate) fn address(&self) -> Option<[u8; 16]> {
        self.current_port().and_then(|_| self.current_gid()).ok().map(|gid| gid.bytes)
    }

    /// The address of its port now. It may change: a link that comes back gets its addresses anew, maybe at other places of the table.
    pub(crate) fn current_gid(&self) -> Result<Gid, Failure> {
        let mut last = self.last_gid.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gid) = last.filter(|gid| Gid::at(&self.sysfs, &self.name, self.port, gid.index) == Some(*gid)) {
            return Ok(gid);
        }
        let gid = gid_of(&self.sysfs, &self.name, self.port, (self.ethernet, self.iwarp), self.gid_index).map_err(unusable)?;
        *last = Some(gid);
        Ok(gid)
    }

    /// Its port now. An error when it is not active.
    pub(crate) fn current_port(&self) -> Result<Port, Failure> {
        let port = self.context.port(self.port).map_err(|e| unusable(e.to_string()))?;
        active(&self.name, self.port, &port).map_err(unusable)?;
        Ok(port)
    }
}

fn active(name: &str, number: u8, port: &Port) -> Result<(), String> {
    if port.active { Ok(()) } else { Err(format!("{name}: port {number} is not active but {}: is its link up?", port.state)) }
}

fn gid_of(sysfs: &Sysfs, name: &str, port: u8, (ethernet, iwarp): (bool, bool), wanted: Option<u8>) -> Result<Gid, String> {
    let chosen = if iwarp { Gid::of_iwarp(sysfs, name, port) } else { Gid::choose(&Gid::table(sysfs, name, port), ethernet, wanted) };
    chosen.map_err(|cause| format!("{name}: port {port}: {cause}"))
}

fn unusable(cause: String) -> Failure {
    Failure::new(TransferErrorKind::PeerUnreachable, cause)
}

/// Why a device is not used.
#[derive(Clone)]
struct Unusable {
    cause: String,
    /// The settings name what is not there, while other devices or addresses are.
    set_so: bool,
}

impl From<String> for Unusable {
    fn from(cause: String) -> Self {
        Self { cause, set_so: false }
    }
}

/// The devices of an engine, opened when the first of them is needed: also those whose port is not active then, so that they are used as soon
/// as it is. Memory is registered with them too.
pub(crate) struct Devices {
    settings: RdmaSettings,
    sysfs: Sysfs,
    topology: OnceLock<Topology>,
    opened: OnceLock<Vec<Arc<Device>>>,
    /// Why there were none when it was looked last, and when it is looked again. Held while devices are opened, so that one thread does.
    missed: Mutex<Option<(Unusable, Instant)>>,
}

impl Devices {
    /// Checks the settings; opens nothing.
    pub(crate) fn new(settings: RdmaSettings) -> Result<Self, EngineError> {
        Self::with(settings, Sysfs::default())
    }

    fn with(settings: RdmaSettings, sysfs: Sysfs) -> Result<Self, EngineError> {
        check(&settings).map_err(EngineError::Setting)?;
        Ok(Self { settings, sysfs, topology: OnceLock::new(), opened: OnceLock::new(), missed: Mutex::default() })
    }

    pub(crate) fn settings(&self) -> &RdmaSettings {
        &self.settings
    }

    /// Whether it is worth trying; as cheap as looking into a folder.
    pub(crate) fn there_may_be_some(&self) -> bool {
        self.sysfs.has_devices()
    }

    /// How far the nodes of this machine are apart.
    pub(crate) fn topology(&self) -> &Topology {
        self.topology.get_or_init(|| Topology::read(&self.sysfs))
    }

    /// All that are used, at least one. Without any it is looked again, but no more often than one rail is tried: a container may see devices
    /// that it cannot open, and each transfer to a peer that has some asks here.
    pub(crate) fn get(&self) -> Result<&[Arc<Device>], Failure> {
        self.opened().map_err(|Unusable { cause, .. }| unusable(cause))
    }

    /// The same for who is to serve: settings that cannot be met are told from a machine that has no RDMA. Ports need not be active yet.
    pub(crate) fn demand(&self) -> Result<&[Arc<Device>], EngineError> {
        let told = |Unusable { cause, set_so }| if set_so { EngineError::Setting(cause) } else { EngineError::NoRdma(cause) };
        let devices = self.opened().map_err(told)?;
        let dark: Vec<String> = devices.iter().filter_map(|device| Some(device.current_port().err()?.cause)).collect();
        if dark.len() == devices.len() {
            tracing::warn!("RDMA: no peer is served before a link is up: {}", dark.join("; "));
        }
        Ok(devices)
    }

    fn opened(&self) -> Result<&[Arc<Device>], Unusable> {
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        let mut missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((why, again)) = &*missed
            && Instant::now() < *again
        {
            return Err(why.clone());
        }
        // Who had the lock before may have opened them.
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        let opened = self.open().inspect_err(|why| *missed = Some((why.clone(), Instant::now() + PAUSE)))?;
        Ok(self.opened.get_or_init(|| opened))
    }

    fn open(&self) -> Result<Vec<Arc<Device>>, Unusable> {
        let (known, wanted) = (self.sysfs.devices(), &self.settings.devices);
        if known.is_empty() {
            return Err(no_device().into());
        }
        if let Some(missing) = wanted.iter().find(|name| !known.contains(name)) {
            let cause = format!("there is no RDMA device `{missing}`; there are: {}", known.join(", "));
            return Err(Unusable { cause, set_so: true });
        }
        let open = |name: &String| Device::open(name, &self.settings, &self.sysfs).map(Arc::new);
        if !wanted.is_empty() {
            return wanted.iter().map(open).collect();
        }
        let (mut opened, mut skipped, mut set_so) = (Vec::new(), Vec::new(), false);
        for name in &known {
            match open(name) {
                Ok(device) => opened.push(device),
                Err(why) => {
                    set_so |= why.set_so;
                    skipped.push(why.cause);
                }
            }
        }
        if opened.is_empty() {
            return Err(Unusable { cause: format!("no RDMA device can be used: {}", skipped.join("; ")), set_so });
        }
        skipped.iter().for_each(|cause| tracing::info!("RDMA: not used: {cause}"));
        Ok(opened)
    }
}

/// What is said where there is none.
pub(super) fn no_device() -> String {
    "this machine has no RDMA device: /sys/class/infiniband is empty (soft-RoCE: `rdma link add rxe0 type rxe netdev <interface>`)"
        .to_owned()
}

fn check(settings: &RdmaSettings) -> Result<(), String> {
    let RdmaSettings { devices, port, service_level, queue_pairs, completions, slice, region, .. } = settings;
    let twice = devices.iter().enumerate().find(|(place, name)| devices[..*place].contains(name));
    if let Some((_, name)) = twice {
        Err(format!("RDMA device `{name}` is named twice"))
    } else if *port == 0 {
        Err("RDMA port 0: the ports of a device are numbered from 1".to_owned())
    } else if *service_level > 15 {
        Err(format!("RDMA service level {service_level}: there are 0 to 15"))
    } else if !(1..=16).contains(queue_pairs) {
        Err(format!("{queue_pairs} RDMA queue pairs: there must be 1 to 16"))
    } else if !(16..=4 << 20).contains(completions) {
        Err(format!("completion queues of {completions} entries: there must be 16 to 4194304"))
    } else if !(4 << 10..=8 << 20).contains(slice) {
        Err(format!("an RDMA slice of {slice} bytes: there must be 4 KiB to 8 MiB"))
    } else if *region < 1 << 20 {
        Err(format!("RDMA memory regions of {region} bytes: there must be at least 1 MiB"))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::rdma::topology::tests::folder;

    #[test]
    fn settings_that_cannot_be_are_refused() {
        let bad = |change: &dyn Fn(&mut RdmaSettings), want: &str| {
            let mut settings = RdmaSettings::default();
            change(&mut settings);
            let error = Devices::new(settings).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        };
        bad(&|s| s.devices = vec!["a".into(), "b".into(), "a".into()], "`a` is named twice");
        bad(&|s| s.port = 0, "port 0");
        bad(&|s| s.service_level = 16, "0 to 15");
        bad(&|s| s.queue_pairs = 0, "1 to 16");
        bad(&|s| s.queue_pairs = 17, "1 to 16");
        bad(&|s| s.completions = 15, "16 to 4194304");
        bad(&|s| s.completions = u32::MAX, "16 to 4194304");
        bad(&|s| s.slice = 4095, "4 KiB to 8 MiB");
        bad(&|s| s.slice = (8 << 20) + 1, "4 KiB to 8 MiB");
        bad(&|s| s.region = 0, "at least 1 MiB");
        assert!(Devices::new(RdmaSettings::default()).is_ok());
    }

    #[test]
    fn what_is_missing_is_named() {
        let (_root, sysfs) = folder(&[]);
        let none = Devices::with(RdmaSettings::default(), sysfs).unwrap();
        assert!(!none.there_may_be_some());
        assert!(none.get().map(|_| ()).unwrap_err().cause.contains("/sys/class/infiniband is empty"));

        let (_root, sysfs) = folder(&[("class/infiniband/mlx5_0/node_type", "1: CA"), ("class/infiniband/mlx5_1/node_type", "1: CA")]);
        let wanted = RdmaSettings { devices: vec!["mlx5_1".into(), "mlx5_7".into()], ..Default::default() };
        let devices = Devices::with(wanted, sysfs).unwrap();
        assert!(devices.there_may_be_some());
        let error = devices.get().map(|_| ()).unwrap_err().cause;
        assert_eq!(error, "there is no RDMA device `mlx5_7`; there are: mlx5_0, mlx5_1");
        assert!(matches!(devices.demand().map(|_| ()), Err(EngineError::Setting(same)) if same == error));
        assert!(matches!(none.demand().map(|_| ()), Err(EngineError::NoRdma(_))));
    }

    #[test]
    fn who_asks_again_at_once_is_told_the_same_without_another_look() {
        let (root, sysfs) = folder(&[("class/infiniband/mlx5_0/node_type", "1: CA")]);
        let wanted = RdmaSettings { devices: vec!["mlx5_7".into()], ..Default::default() };
        let devices = Devices::with(wanted, sysfs).unwrap();
        let told = || devices.get().map(|_| ()).unwrap_err().cause;
        let (begun, first) = (Instant::now(), told());
        std::fs::rename(root.path().join("class/infiniband/mlx5_0"), root.path().join("class/infiniband/mlx5_1")).unwrap();
        let second = told();
        assert!(second == first || begun.elapsed() >= PAUSE, "{second}");
        while told() == first {
            assert!(begun.elapsed() < 100 * PAUSE, "it is never looked again");
        }
        assert!(told().ends_with("there are: mlx5_1") && begun.elapsed() >= PAUSE);
    }
}
