//! What sysfs tells of devices and of the distances between memory, processors and devices.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// The distance of memory to the processors of its own node, as firmware tells it, and what is taken for what is not known.
const LOCAL: u32 = 10;
/// To another node, where no table tells.
const REMOTE: u32 = 20;

/// The folder where the kernel tells of devices: `/sys`, but for tests.
#[derive(Clone, Debug)]
pub(crate) struct Sysfs(PathBuf);

impl Default for Sysfs {
    fn default() -> Self {
        Self(PathBuf::from("/sys"))
    }
}

impl Sysfs {
    #[cfg(test)]
    pub(crate) fn at(root: &std::path::Path) -> Self {
        Self(root.to_owned())
    }

    /// The names of all RDMA devices, in order.
    pub(crate) fn devices(&self) -> Vec<String> {
        self.list("class/infiniband")
    }

    /// Whether there is any: the cheapest question about RDMA.
    pub(crate) fn has_devices(&self) -> bool {
        std::fs::read_dir(self.0.join("class/infiniband")).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// The words of a file, without the blanks around them; `None` when it cannot be read or is empty.
    pub(crate) fn read(&self, path: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.0.join(path)).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    /// The names in a folder, in order.
    pub(crate) fn list(&self, path: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.join(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// The NUMA node a device is attached to; software devices have none.
    pub(crate) fn node_of_device(&self, device: &str) -> Option<u32> {
        self.read(&format!("class/infiniband/{device}/device/numa_node"))?.parse().ok()
    }

    /// Whether a device speaks iWARP, which connects only by the connection manager.
    pub(crate) fn is_iwarp(&self, device: &str) -> bool {
        self.read(&format!("class/infiniband/{device}/node_type")).is_some_and(|kind| kind.starts_with("4:"))
    }
}

/// The distances between the NUMA nodes of this machine, and which processor is in which.
#[derive(Clone, Debug, Default)]
pub(crate) struct Topology {
    distances: BTreeMap<(u32, u32), u32>,
    processors: BTreeMap<u32, u32>,
}

impl Topology {
    pub(crate) fn read(sysfs: &Sysfs) -> Self {
        let mut topology = Self::default();
        let file = |node: u32, name: &str| sysfs.read(&format!("devices/system/node/node{node}/{name}")).unwrap_or_default();
        let online = numbers(&sysfs.read("devices/system/node/online").unwrap_or_default());
        for &node in &online {
            let row = file(node, "distance");
            // A row has a column for each node that is online, not for each number.
            let row = online.iter().zip(row.split_whitespace().filter_map(|cell| cell.parse().ok()));
            topology.distances.extend(row.map(|(&other, distance): (_, u32)| ((node, other), distance)));
            topology.processors.extend(numbers(&file(node, "cpulist")).into_iter().map(|processor| (processor, node)));
        }
        topology
    }

    /// How far two nodes are apart: 10 for the same. What is not known is taken as near, so that it decides nothing.
    pub(crate) fn distance(&self, one: Option<u32>, other: Option<u32>) -> u32 {
        let (Some(one), Some(other)) = (one, other) else { return LOCAL };
        let unlisted = if one == other { LOCAL } else { REMOTE };
        self.distances.get(&(one, other)).copied().unwrap_or(unlisted)
    }

    /// The node of the processor that runs this thread now.
    pub(crate) fn node_of_this_thread(&self) -> Option<u32> {
        let processor = u32::try_from(nix::sched::sched_getcpu().ok()?).ok()?;
        self.processors.get(&processor).copied()
    }
}

/// The numbers of a list like `0-2,5`; what is no number counts for nothing.
fn numbers(list: &str) -> Vec<u32> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse::<u32>().ok()?);
        // No kernel has more processors.
        Some(first..=last.min(1 << 16))
    };
    list.split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A folder with these files and contents.
    pub(crate) fn folder(files: &[(&str, &str)]) -> (tempfile::TempDir, Sysfs) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let sysfs = Sysfs::at(root.path());
        (root, sysfs)
    }

    #[test]
    fn a_machine_without_devices_has_none() {
        let (_root, sysfs) = folder(&[("class/net/lo/mtu", "65536\n")]);
        assert!(!sysfs.has_devices());
        assert_eq!(sysfs.devices(), Vec::<String>::new());
        let (root, sysfs) = folder(&[]);
        std::fs::create_dir_all(root.path().join("class/infiniband")).unwrap();
        assert!(!sysfs.has_devices());
    }

    #[test]
    fn devices_and_their_nodes() {
        let (_root, sysfs) = folder(&[
            ("class/infiniband/mlx5_1/device/numa_node", "1\n"),
            ("class/infiniband/mlx5_0/device/numa_node", "-1\n"),
            ("class/infiniband/siw0/node_type", "4: RNIC\n"),
            ("class/infiniband/rxe0/node_type", "1: CA\n"),
        ]);
        assert!(sysfs.has_devices());
        assert_eq!(sysfs.devices(), ["mlx5_0", "mlx5_1", "rxe0", "siw0"]);
        assert_eq!(["mlx5_0", "mlx5_1", "rxe0", "none"].map(|name| sysfs.node_of_device(name)), [None, Some(1), None, None]);
        assert_eq!(["siw0", "rxe0", "none"].map(|name| sysfs.is_iwarp(name)), [true, false, false]);
    }

    #[test]
    fn distances_are_those_of_the_table_also_with_nodes_missing() {
        let (_root, sysfs) = folder(&[
            ("devices/system/node/online", "0,2-3\n"),
            ("devices/system/node/node0/distance", "10 21 31\n"),
            ("devices/system/node/node0/cpulist", "0-3,8\n"),
            ("devices/system/node/node2/distance", "21 10 41\n"),
            ("devices/system/node/node2/cpulist", "4\n"),
            ("devices/system/node/node3/distance", "rubbish\n"),
        ]);
        let topology = Topology::read(&sysfs);
        let distance = |one, other| topology.distance(Some(one), Some(other));
        assert_eq!([distance(0, 0), distance(0, 2), distance(0, 3), distance(2, 3), distance(2, 2)], [10, 21, 31, 41, 10]);
        assert_eq!([distance(3, 3), distance(3, 0), distance(7, 7), distance(7, 8)], [10, 20, 10, 20], "without a table");
        assert_eq!([topology.distance(None, Some(2)), topology.distance(Some(2), None), topology.distance(None, None)], [10; 3]);
        assert_eq!(topology.processors.iter().map(|(&p, &n)| (p, n)).collect::<Vec<_>>(), [(0, 0), (1, 0), (2, 0), (3, 0), (4, 2), (8, 0)]);
    }

    #[test]
    fn lists_of_numbers() {
        assert_eq!(numbers("0-2,5"), [0, 1, 2, 5]);
        assert_eq!(numbers("7"), [7]);
        assert_eq!(numbers("x,3-,2-1, 4 "), [4]);
        assert_eq!(numbers("4294967295-4294967295"), Vec::<u32>::new());
        assert_eq!(numbers(""), Vec::<u32>::new());
    }
}
