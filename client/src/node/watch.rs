//! Memory that somebody takes away while it is lent: noticed at the next beat, said, and given no new objects.
//!
//! The mapping itself stays valid, so what can still be read is still served; but bytes put there now would not survive this process.

use super::record::Kept;
use perilune_protocol::SegmentId;
use std::collections::HashSet;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use tracing::error;

/// What was found spoiled, so that each is said once.
#[derive(Default)]
pub(crate) struct Watch {
    spoiled: HashSet<SegmentId>,
}

impl Watch {
    /// Segments whose object was found spoiled since the last look.
    pub(crate) fn look(&mut self, kept: &[Kept]) -> Vec<SegmentId> {
        let mut found = Vec::new();
        for kept in kept.iter().filter(|kept| !kept.leaving && !self.spoiled.contains(&kept.id)) {
            if let Some(why) = spoiled(kept) {
                let (id, object) = (kept.id, &kept.object);
                error!(
                    "/dev/shm/{object} {why} while segment {id} is mounted on it: no new objects go there, and those in it end with this process"
                );
                found.push(kept.id);
            }
        }
        self.spoiled.extend(&found);
        found
    }

    /// The master could not be told; the next look finds them again.
    pub(crate) fn forget(&mut self, segments: &[SegmentId]) {
        self.spoiled.retain(|id| !segments.contains(id));
    }
}

fn spoiled(kept: &Kept) -> Option<&'static str> {
    match std::fs::symlink_metadata(format!("/dev/shm/{}", kept.object)) {
        Err(e) if e.kind() == ErrorKind::NotFound => Some("was removed"),
        // What cannot be looked at is not known to be spoiled.
        Err(_) => None,
        Ok(now) if (now.dev(), now.ino()) != (kept.identity.device, kept.identity.inode) => Some("was replaced"),
        Ok(now) if now.len() < kept.offset + kept.size => Some("was cut short"),
        Ok(_) => None,
    }
}
