//! `node.json`: who this node is and which memory it lends, so that it finds both again after a kill.

use perilune_protocol::{FaultCode, NodeId, Outcome, Protocol, SegmentId, checksum};
use perilune_transfer_engine::MemoryIdentity;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The version this build writes.
const VERSION: u32 = 1;

/// What outlives the process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) node: NodeId,
    /// Where the transfer engine listened last.
    pub(crate) listened: Option<SocketAddr>,
    pub(crate) segments: Vec<Kept>,
}

/// One segment: enough to map it again and to know that it is still the same memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) id: SegmentId,
    /// The name of the object in `/dev/shm`.
    pub(crate) object: String,
    /// Bytes from the start of the object.
    pub(crate) offset: u64,
    /// Bytes.
    pub(crate) size: u64,
    /// Whether this node made the object, and removes it when it is unmounted.
    pub(crate) owned: bool,
    /// Whether it was unmounted with a grace period that has not ended.
    pub(crate) leaving: bool,
    /// Whether no master is known to have mounted it yet. Absent in what earlier releases wrote.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) unannounced: bool,
    pub(crate) protocol: Protocol,
    pub(crate) location: String,
    pub(crate) identity: MemoryIdentity,
}

#[derive(Serialize, Deserialize)]
struct Envelope<B> {
    version: u32,
    /// Of the body in compact form, in hexadecimal.
    checksum: String,
    body: B,
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl Record {
    /// A node that never was.
    pub(crate) fn fresh() -> Self {
        Self { node: NodeId::random(), listened: None, segments: Vec::new() }
    }

    pub(crate) fn path(dir: &Path) -> PathBuf {
        dir.join("node.json")
    }

    /// What the last run wrote, or `None` on the first.
    pub(crate) fn load(dir: &Path) -> Outcome<Option<Self>> {
        let path = Self::path(dir);
        match fs::read(&path) {
            Ok(bytes) => Self::decode(&bytes).map(Some).map_err(|why| FaultCode::Storage.with(format!("{}: {why}", path.display()))),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(FaultCode::Storage.with(format!("cannot read {}: {e}", path.display()))),
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let damaged = |why: &dyn std::fmt::Display| format!("damaged ({why}); move it away to start as a new node without segments");
        let versioned: Versioned = serde_json::from_slice(bytes).map_err(|e| damaged(&e))?;
        if versioned.version != VERSION {
            return Err(format!(
                "written in version {}, this release reads version {VERSION}: use the release that wrote it",
                versioned.version
            ));
        }
        let envelope: Envelope<Self> = serde_json::from_slice(bytes).map_err(|e| damaged(&e))?;
        if envelope.checksum != envelope.body.checksum()? {
            return Err(damaged(&"its checksum does not match"));
        }
        Ok(envelope.body)
    }

    fn checksum(&self) -> Result<String, String> {
        let compact = serde_json::to_vec(self).map_err(|e| e.to_string())?;
        Ok(format!("{:016x}", checksum(&[&compact])))
    }

    /// Replaces the file as a whole: after a crash it holds either the old record or the new one.
    pub(crate) fn save(&self, dir: &Path) -> Outcome<()> {
        let path = Self::path(dir);
        let write = || -> io::Result<()> {
            let checksum = self.checksum().map_err(io::Error::other)?;
            let text = serde_json::to_vec_pretty(&Envelope { version: VERSION, checksum, body: self })?;
            let beside = dir.join("node.json.new");
            let mut file = File::create(&beside)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&beside, &path)?;
            File::open(dir)?.sync_all()
        };
        write().map_err(|e| FaultCode::Storage.with(format!("cannot write {}: {e}", path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_version_1_is_still_read() {
        // Written by the first release; must be readable for ever.
        let record = Record::decode(include_bytes!("../../tests/old/node_v1.json")).unwrap();
        assert_eq!(record.node.to_string(), "6f2f2bd0-3c5c-4c0e-9a51-0f6a1df6a001");
        assert_eq!((record.segments.len(), record.segments[0].size, record.segments[0].owned), (1, 4096, true));
    }

    #[test]
    fn what_is_damaged_or_newer_is_refused_with_a_sentence() {
        let good = include_str!("../../tests/old/node_v1.json");
        let newer = good.replace("\"version\": 1", "\"version\": 2");
        assert!(Record::decode(newer.as_bytes()).unwrap_err().contains("version 2"));
        let other = good.replace("4096", "8192");
        assert!(Record::decode(other.as_bytes()).unwrap_err().contains("checksum"));
        for cut in 0..good.trim_end().len() {
            assert!(Record::decode(&good.as_bytes()[..cut]).is_err(), "{cut} bytes");
        }
    }
}
