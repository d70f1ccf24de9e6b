//! `space_stat`: what the segments hold and could take. A segment is what the page calls a disk, a frame of its allocator a chunk.

use super::IDC;
use crate::engine::Group;
use perilune_protocol::rpc::job::JobSegment;
use perilune_protocol::{NodeId, PutConfig, SegmentId};
use perilune_state::segments::{Phase, Reach};
use perilune_state::settings::Switch;
use perilune_state::usage::Usage;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use utoipa::ToSchema;

#[derive(Serialize, ToSchema)]
pub(super) struct SpaceStat {
    total_space: u64,
    free_space: u64,
    used_space: u64,
    pub(super) writable_space: u64,
    total_blob_node: u64,
    total_disk: u64,
    disk_stat_infos: [DiskStat; 1],
}

#[derive(Default, Serialize, ToSchema)]
struct DiskStat {
    idc: &'static str,
    total: u64,
    total_chunk: u64,
    total_free_chunk: u64,
    available: u64,
    /// Nothing makes a segment read-only but draining it.
    readonly: u64,
    expired: u64,
    /// Lost with its node, like the next two: what is left to be copied elsewhere waits, is being copied, or there is none.
    broken: u64,
    repairing: u64,
    repaired: u64,
    dropping: u64,
    /// Unmounted since this master began.
    dropped: u64,
}

/// Of one segment, what the numbers are made of.
struct Disk {
    node: NodeId,
    size: u64,
    used: u64,
    chunks: u64,
    free_chunks: u64,
    drains: bool,
    heard: bool,
    status: Status,
}

/// The page's numbers for the life of a disk. One that was dropped is not shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Normal = 1,
    Broken = 2,
    Repairing = 3,
    Repaired = 4,
}

/// What the job that repairs lost segments says of each.
pub(super) struct Repairs(BTreeMap<SegmentId, Status>);

impl Repairs {
    pub(super) fn of(group: &Group) -> Self {
        let status = |segment: &JobSegment| match segment.status.as_str() {
            "repairing" => Status::Repairing,
            "repaired" => Status::Repaired,
            _ => Status::Broken,
        };
        let jobs = group.engine().jobs();
        let repair = jobs.iter().filter(|job| job.job == Switch::DiskRepair.key());
        Self(repair.flat_map(|job| &job.segments).map(|segment| (segment.segment, status(segment))).collect())
    }

    /// Only the leader knows of lost ones.
    pub(super) fn status(&self, group: &Group, usage: &Usage) -> Status {
        if !group.leads() || usage.segment.reach() != Reach::Lost {
            return Status::Normal;
        }
        self.0.get(&usage.segment.id()).copied().unwrap_or(Status::Broken)
    }
}

/// Whether the node behind a segment is heard. Only the leader hears nodes: others take it that they are there.
pub(super) fn is_heard(group: &Group, usage: &Usage) -> bool {
    !group.leads() || usage.segment.reach() == Reach::Alive
}

pub(super) fn stat(group: &Group, usage: &[Usage]) -> SpaceStat {
    let repairs = Repairs::of(group);
    let disk = |u: &Usage| Disk {
        node: u.segment.node(),
        size: u.segment.space().capacity(),
        used: u.used,
        chunks: u.frames,
        free_chunks: u.free_frames,
        drains: u.segment.phase() != Phase::Mounted,
        heard: is_heard(group, u),
        status: repairs.status(group, u),
    };
    let disks: Vec<Disk> = usage.iter().map(disk).collect();
    sum(&disks, group.engine().state().segments.unmounts(), PutConfig::default().replicas)
}

fn sum(disks: &[Disk], dropped: u64, replicas: u8) -> SpaceStat {
    let mut idc = DiskStat { idc: IDC, total: disks.len() as u64, dropped, ..DiskStat::default() };
    let (mut total_space, mut used_space) = (0, 0);
    let mut nodes = BTreeSet::new();
    let mut free_of: BTreeMap<NodeId, u64> = BTreeMap::new();
    for disk in disks {
        idc.total_chunk += disk.chunks;
        idc.total_free_chunk += disk.free_chunks;
        if disk.drains {
            idc.dropping += 1;
            continue;
        }
        match disk.status {
            Status::Normal => {}
            Status::Broken => idc.broken += 1,
            Status::Repairing => idc.repairing += 1,
            Status::Repaired => idc.repaired += 1,
        }
        if disk.status != Status::Normal {
            continue;
        }
        total_space += disk.size;
        used_space += disk.used;
        if disk.heard {
            idc.available += 1;
            nodes.insert(disk.node);
            *free_of.entry(disk.node).or_default() += disk.size.saturating_sub(disk.used);
        } else {
            idc.expired += 1;
        }
    }
    SpaceStat {
        total_space,
        free_space: total_space - used_space,
        used_space,
        writable_space: writable(free_of.into_values().collect(), u64::from(replicas.max(1))),
        total_blob_node: nodes.len() as u64,
        total_disk: disks.len() as u64,
        disk_stat_infos: [idc],
    }
}

/// The most bytes of values that nodes with so much free space take with so many copies, each copy on a node of its own: the largest `d` for
/// which the sum of `min(free, d)` is at least `copies * d`.
fn writable(mut free: Vec<u64>, copies: u64) -> u64 {
    free.sort_unstable();
    // A node with more room than all values need holds one copy of each; what the others have must do for the remaining copies.
    let mut rest: u64 = free.iter().sum();
    let mut copies = copies;
    loop {
        let fits = rest / copies;
        match free.pop() {
            Some(largest) if largest > fits && copies > 1 => {
                rest -= largest;
                copies -= 1;
            }
            Some(_) => return fits,
            None => return 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(node: NodeId, size: u64, used: u64) -> Disk {
        Disk { node, size, used, chunks: 8, free_chunks: 3, drains: false, heard: true, status: Status::Normal }
    }

    #[test]
    fn what_can_be_written_is_what_fits_with_its_copies_on_different_nodes() {
        for (free, copies, fits) in
            [(&[][..], 1, 0), (&[10, 20, 30], 1, 60), (&[10, 20, 30], 2, 30), (&[10, 20, 90], 2, 30), (&[7], 2, 0), (&[10, 20, 90], 3, 10)]
        {
            assert_eq!(writable(free.to_vec(), copies), fits, "{free:?} x {copies}");
            // The definition itself.
            let holds = |d: u64| free.iter().map(|f| (*f).min(d)).sum::<u64>() >= copies * d;
            assert!(holds(fits) && !holds(fits + 1), "{free:?} x {copies}");
        }
    }

    #[test]
    fn what_drains_is_not_counted_as_space_and_what_is_silent_takes_nothing() {
        let (a, b) = (NodeId::random(), NodeId::random());
        let lost = |status| Disk { heard: false, status, ..disk(b, 50, 10) };
        let mut disks = vec![disk(a, 100, 40), Disk { drains: true, ..disk(a, 100, 0) }, lost(Status::Normal), disk(a, 10, 10)];
        let stat = sum(&disks, 2, 1);
        assert_eq!((stat.total_space, stat.used_space, stat.free_space, stat.writable_space), (160, 60, 100, 60));
        disks.extend([Status::Broken, Status::Repairing, Status::Repairing, Status::Repaired].map(lost));
        let of_lost = sum(&disks, 2, 1);
        assert_eq!((of_lost.total_space, of_lost.free_space, of_lost.total_disk), (160, 100, 8));
        let idc = &of_lost.disk_stat_infos[0];
        assert_eq!((idc.broken, idc.repairing, idc.repaired, idc.expired), (1, 2, 1, 1));
        let idc = &stat.disk_stat_infos[0];
        assert_eq!((stat.total_blob_node, stat.total_disk, idc.total), (1, 4, 4));
        assert_eq!((idc.available, idc.expired, idc.dropping, idc.dropped), (2, 1, 1, 2));
        assert_eq!((idc.total_chunk, idc.total_free_chunk), (32, 12));
    }
}
