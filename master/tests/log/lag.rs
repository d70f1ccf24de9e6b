//! Members that lag: they catch up by a snapshot, whatever happens to it on the way; and those that lost entries.

use crate::cluster::Cluster;
use crate::old::copy;
use crate::wait::wait;
use perilune_master::log::{Feed, LogConfig};
use std::path::Path;

/// Of the entry behind which a snapshot stands, by its name.
fn index_of(path: &Path) -> u64 {
    path.file_name().unwrap().to_str().unwrap().split_once('-').unwrap().0.parse().unwrap()
}

/// Until nobody but `late` has the entries up to `index` any more.
fn put_until_cut(cluster: &mut Cluster, late: u64, index: u64) {
    while cluster.up.iter().any(|(id, node)| *id != late && node.log.status().first_index <= index) {
        cluster.put(10);
    }
}

#[test]
fn a_member_that_was_down_long_catches_up_by_a_snapshot() {
    let mut cluster = Cluster::start(3, LogConfig { snapshot_entries: 40, ..LogConfig::default() });
    cluster.put(10);
    let late = (1..=3).find(|id| *id != cluster.leader()).unwrap();
    cluster.down(late);
    let leader = cluster.leader();
    let large = "x".repeat(1 << 20);
    for n in 0..8 {
        cluster.log(leader).propose(format!("large{n}={large}").into_bytes()).wait().unwrap();
    }
    put_until_cut(&mut cluster, late, 30);
    // It is interrupted twice, and goes on being served.
    cluster.net.limit(late, 2 << 20, 2);
    cluster.up(late);
    cluster.put(30);
    wait("it is fed as the others are", || {
        let progress = cluster.log(cluster.leader()).progress().wait().unwrap();
        progress.members.iter().any(|p| p.member.id == late && p.feed == Feed::Replicate).then_some(())
    });
    cluster.check();
    assert_eq!(cluster.net.limits_left(late), 0, "nothing was interrupted");
    let node = &cluster.up[&late];
    assert!(node.log.status().first_index > 30, "{:?}", node.log.status());
    let (replayed, all) = (node.table.seen().len(), cluster.acknowledged.len());
    assert!(replayed < all, "it replayed {replayed} of {all} effects");
    assert_eq!(node.table.rows()["large7"].len(), 1 << 20);
    // What it took over survives.
    cluster.down(late);
    cluster.up(late);
    cluster.check();
    assert_eq!(cluster.up[&late].table.rows()["large0"].len(), 1 << 20);
    // So does what it had taken over when it was killed before the file had its name; what it had not taken over goes.
    cluster.down(late);
    let snapshots = cluster.dirs[&late].path().join("snapshots");
    let newest = || std::fs::read_dir(&snapshots).unwrap().map(|f| f.unwrap().path()).max_by_key(|path| index_of(path)).unwrap();
    let stray = snapshots.join("9999999-1.received");
    std::fs::copy(newest(), &stray).unwrap();
    cluster.up(late);
    assert!(!stray.exists());
    cluster.check();
    // And it can do without the one who sent it.
    let leader = cluster.leader();
    cluster.down(leader);
    cluster.put(10);
    cluster.check();
}

#[test]
fn a_member_that_runs_and_lags_has_its_state_replaced() {
    let mut cluster = Cluster::start(3, LogConfig { snapshot_entries: 40, ..LogConfig::default() });
    cluster.put(50);
    let leader = cluster.leader();
    let late = (1..=3).find(|id| *id != leader).unwrap();
    cluster.net.isolate(late, 1..=3);
    put_until_cut(&mut cluster, late, 60);
    cluster.net.heal();
    cluster.check();
    assert_eq!(*cluster.up[&late].table.restored.lock().unwrap(), 1);
    cluster.down(late);
    cluster.up(late);
    cluster.check();
}

#[test]
fn a_snapshot_that_was_taken_over_but_not_yet_named_is_found() {
    let mut cluster = Cluster::start(3, LogConfig { snapshot_entries: 40, ..LogConfig::default() });
    cluster.put(10);
    let late = (1..=3).find(|id| *id != cluster.leader()).unwrap();
    cluster.down(late);
    put_until_cut(&mut cluster, late, 60);
    // Taken over, and no more than a few entries behind it, so that no snapshot of its own follows.
    cluster.up(late);
    wait("the snapshot", || (*cluster.up[&late].table.restored.lock().unwrap() == 1).then_some(()));
    cluster.check();
    let status = cluster.log(late).status();
    cluster.down(late);
    let snapshots = cluster.dirs[&late].path().join("snapshots");
    let named = std::fs::read_dir(&snapshots).unwrap().next().unwrap().unwrap().path();
    assert_eq!((index_of(&named), status.first_index), (status.snapshot_index, status.snapshot_index + 1), "{status:?}");
    std::fs::rename(&named, format!("{}.received", named.display())).unwrap();
    cluster.up(late);
    assert!(named.exists());
    cluster.check();
}

#[test]
fn a_damaged_snapshot_is_refused_and_a_new_one_is_made() {
    let mut cluster = Cluster::start(3, LogConfig { snapshot_entries: 40, ..LogConfig::default() });
    cluster.put(10);
    let late = (1..=3).find(|id| *id != cluster.leader()).unwrap();
    cluster.net.isolate(late, 1..=3);
    put_until_cut(&mut cluster, late, 60);
    let before = cluster.up[&late].table.rows();
    for id in (1..=3).filter(|id| *id != late) {
        let files = std::fs::read_dir(cluster.dirs[&id].path().join("snapshots")).unwrap().map(|f| f.unwrap().path());
        for file in files.filter(|f| f.extension().is_none()) {
            let mut bytes = std::fs::read(&file).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&file, bytes).unwrap();
        }
    }
    assert_eq!(cluster.up[&late].table.rows(), before);
    cluster.net.heal();
    cluster.check();
    assert!(cluster.log(late).status().poisoned.is_none());
    assert!(*cluster.up[&late].table.restored.lock().unwrap() > 0);
}

#[test]
fn a_member_whose_last_entries_a_power_loss_took_gets_them_again() {
    let mut cluster = Cluster::start(3, LogConfig { snapshot_entries: 0, ..LogConfig::default() });
    cluster.put(20);
    let leader = cluster.leader();
    let unlucky = leader % 3 + 1;
    cluster.down(unlucky);
    let (dir, earlier) = (cluster.dirs[&unlucky].path().to_owned(), tempfile::tempdir().unwrap());
    copy(&dir, earlier.path());
    cluster.up(unlucky);
    cluster.put(30);
    cluster.check();
    cluster.down(unlucky);
    std::fs::remove_dir_all(&dir).unwrap();
    copy(earlier.path(), &dir);
    cluster.up(unlucky);
    cluster.check();
    // The others can do without each other.
    let leader = cluster.leader();
    cluster.down(leader);
    cluster.check();
}
