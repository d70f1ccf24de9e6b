//! From a data directory to a machine that stands where it stood: newest whole snapshot, then the entries behind it.

use super::LogError;
use super::directory::{Directory, io_error, snapshots};
use super::engine::corrupt;
use super::machine::Machine;
use super::snapshot::{self, SnapshotId};
use super::store::Store;
use std::path::Path;

/// Feeds the newest whole snapshot to the machine. Gives the snapshots that may be counted on, oldest first, the last being that one.
pub(super) fn restore<M: Machine>(directory: &Directory, store: &Store, machine: &mut M) -> Result<Vec<SnapshotId>, LogError> {
    let dir = snapshots(&directory.path);
    let mut found = snapshot::list(&*directory.disk, &dir, store.cut()).map_err(|e| io_error(&dir, "cannot be listed", e))?;
    while let Some(id) = found.last().copied() {
        let path = id.path(&dir);
        match snapshot::open(&*directory.disk, &path, id, directory.cluster).and_then(|mut body| machine.restore(&mut body)) {
            Ok(()) => {
                if id.index < store.cut_index() {
                    break;
                }
                if id.index > store.last() {
                    return Err(corrupt(
                        &directory.path,
                        format!("the log ends at entry {}, before its snapshot {}", store.last(), path.display()),
                    ));
                }
                return Ok(found);
            }
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => return Err(io_error(&path, "cannot be read", e)),
            Err(e) => {
                tracing::error!(snapshot = %path.display(), "a damaged snapshot is set aside, an older one and more of the log are used: {e}");
                let aside = path.with_extension("damaged");
                directory.disk.rename(&path, &aside).map_err(|e| io_error(&path, "cannot be set aside", e))?;
                found.pop();
            }
        }
    }
    // Without a snapshot the log must reach back to its first entry.
    if store.cut_index() > 0 {
        let what = format!("the log begins behind entry {}, and no whole snapshot reaches that far", store.cut_index());
        return Err(corrupt(&directory.path, what));
    }
    Ok(Vec::new())
}

/// Deletes all but the last `count` snapshots.
pub(super) fn prune(directory: &Directory, kept: &mut Vec<SnapshotId>, count: usize) {
    while kept.len() > count {
        remove(directory, &kept.remove(0).path(&snapshots(&directory.path)));
    }
}

/// Deletes a snapshot that is of no more use.
pub(super) fn remove(directory: &Directory, path: &Path) {
    if let Err(e) = directory.disk.remove(path) {
        tracing::warn!(snapshot = %path.display(), "an old snapshot could not be deleted: {e}");
    }
}
