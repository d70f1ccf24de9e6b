//! The objects in `/dev/shm` that segments lie in: whose they are by name, and finding them again after a kill.

use super::record::Kept;
use perilune_protocol::{Fault, FaultCode, NodeId, Outcome, SegmentId};
use perilune_transfer_engine::{Memory, MemoryError, host_id};
use std::collections::HashSet;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use tracing::{info, warn};

/// What became of the memory of a segment since the last run.
pub(super) enum Reopened {
    Intact(Arc<Memory>),
    /// The bytes are nowhere any more: the object is missing, another has its name, or the host was restarted.
    Gone(&'static str),
}

/// Whatever else keeps the memory from being mapped may pass, and the bytes with their objects are still there: then the node must not
/// start without them, for the master would take them for lost.
pub(super) fn reopen(kept: &Kept) -> Outcome<Reopened> {
    let Kept { id, object, identity, .. } = kept;
    let refused = |why: &dyn std::fmt::Display| {
        FaultCode::Storage.with(format!(
            "segment {id} of the last run cannot be lent again: {why}. Start again when that is cured, or remove /dev/shm/{object} to do without it"
        ))
    };
    if identity.host.is_empty() || host_id().is_empty() {
        return Err(refused(&"/proc/sys/kernel/random/boot_id cannot be read, so nobody knows whether the host was restarted"));
    }
    if identity.host != host_id() {
        return Ok(Reopened::Gone("the host was restarted since"));
    }
    match std::fs::symlink_metadata(format!("/dev/shm/{object}")) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Reopened::Gone("the object is missing")),
        Err(e) => return Err(refused(&e)),
        Ok(found) if (found.dev(), found.ino()) != (identity.device, identity.inode) => {
            return Ok(Reopened::Gone("another object has its name now"));
        }
        Ok(_) => {}
    }
    let memory = Memory::open(object, kept.offset, kept.size).map_err(|e| refused(&e))?;
    if memory.identity() == identity { Ok(Reopened::Intact(memory)) } else { Err(refused(&"the object was exchanged just now")) }
}

pub(super) fn prefix(node: NodeId) -> String {
    format!("perilune-{node}-")
}

/// Whether a name is one that a node gives to memory it allocates.
pub(super) fn is_ours(name: &str) -> bool {
    let Some(ids) = name.strip_prefix("perilune-") else { return false };
    let is_id = |text: Option<&str>| text.is_some_and(|text| text.parse::<SegmentId>().is_ok());
    ids.len() == 73 && is_id(ids.get(..36)) && is_id(ids.get(37..))
}

/// Objects that this node made and did not live to write down. The lock on the data directory says that they are nobody else's.
pub(super) fn remove_orphans(node: NodeId, known: &HashSet<String>) {
    let prefix = prefix(node);
    let Ok(entries) = std::fs::read_dir("/dev/shm") else { return };
    for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        if name.starts_with(&prefix) && !known.contains(&name) {
            info!(object = %name, "removing memory that an earlier run left behind");
            unlink(&name);
        }
    }
}

pub(super) fn unlink(object: &str) {
    if let Err(error) = Memory::unlink(object) {
        warn!(%object, "cannot be removed: {error}");
    }
}

pub(super) fn memory_fault(error: &MemoryError) -> Fault {
    let code = match error {
        MemoryError::Missing(_) => FaultCode::SegmentNotFound,
        MemoryError::Unreadable(_) => FaultCode::Forbidden,
        MemoryError::Exists(_) => FaultCode::SegmentExists,
        MemoryError::System { .. } => FaultCode::NoSpace,
        _ => FaultCode::InvalidParams,
    };
    code.with(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_nodes_memory_are_told_from_others() {
        let ours = format!("{}{}", prefix(NodeId::random()), SegmentId::random());
        assert!(is_ours(&ours));
        for other in ["perilune-demo", "perilune-", "x", &ours[1..], &format!("{ours}x"), &"perilune-é".repeat(9)] {
            assert!(!is_ours(other), "{other}");
        }
    }
}
