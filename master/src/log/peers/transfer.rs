//! A snapshot on its way: read from its file in stretches there, written to a file, checked and named here.

use super::{frame, invalid};
use crate::log::disk::{Cursor, Disk, For};
use crate::log::snapshot::{self, SnapshotId};
use raft::eraftpb::Message;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

/// How much of the file goes between two looks for messages.
pub(super) const STRETCH: usize = 256 << 10;

/// A snapshot being sent.
pub(in crate::log) struct Outgoing {
    file: Cursor,
    buffer: Vec<u8>,
}

impl Outgoing {
    /// Opens the file and appends the announcement to `out`. The file may be deleted meanwhile: it stays readable.
    pub(in crate::log) fn begin(disk: &dyn Disk, message: &Message, path: &Path, stretch: usize, out: &mut Vec<u8>) -> io::Result<Self> {
        let file = Cursor::new(disk.open(path, For::Reading)?);
        frame::put_snapshot(out, message);
        Ok(Self { file, buffer: vec![0; stretch] })
    }

    /// Appends the next stretch to `out`, or the end; true after the end.
    pub(in crate::log) fn go_on(&mut self, out: &mut Vec<u8>) -> io::Result<bool> {
        let n = self.file.read(&mut self.buffer)?;
        if n == 0 {
            frame::put_end(out);
        } else {
            frame::put_bytes(out, &self.buffer[..n]);
        }
        Ok(n == 0)
    }
}

/// A snapshot that arrives. Dropped before its end, nothing is left of it.
pub(in crate::log) struct Incoming {
    disk: Arc<dyn Disk>,
    message: Message,
    id: SnapshotId,
    file: Cursor,
    /// Swept away when the log is opened, should this process end first.
    path: PathBuf,
}

impl Incoming {
    /// `name` differs from that of every other snapshot that arrives at the same time.
    pub(in crate::log) fn begin(disk: Arc<dyn Disk>, message: Message, dir: &Path, name: &str) -> io::Result<Self> {
        let meta = message.get_snapshot().get_metadata();
        let id = SnapshotId { index: meta.index, term: meta.term };
        if id.index == 0 {
            return Err(invalid("a snapshot of no entry"));
        }
        let path = dir.join(format!("{name}.tmp"));
        let file = Cursor::new(disk.open(&path, For::Replacing)?);
        Ok(Self { disk, message, id, file, path })
    }

    pub(in crate::log) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    /// Checks the whole file and gives it the name under which the log thread looks for it.
    pub(in crate::log) fn finish(mut self, dir: &Path, cluster: Uuid) -> io::Result<Message> {
        self.file.sync()?;
        snapshot::check(&*self.disk, &self.path, self.id, cluster)?;
        self.disk.rename(&self.path, &self.id.received(dir))?;
        Ok(std::mem::take(&mut self.message))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // Renamed, or of no more use; what cannot be removed now is swept away at the next open.
        let _ = self.disk.remove(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::disk::System;
    use std::fs;

    const CLUSTER: Uuid = Uuid::from_u128(42);
    const ID: SnapshotId = SnapshotId { index: 7, term: 2 };

    fn announcement() -> Message {
        let mut message = Message { to: 2, from: 1, ..Message::default() };
        let meta = message.mut_snapshot().mut_metadata();
        (meta.index, meta.term) = (ID.index, ID.term);
        message
    }

    /// What arrives of the snapshot in `from`, after `damage` was done to what was sent.
    fn carry(from: &Path, to: &Path, damage: impl Fn(usize, &mut Vec<u8>)) -> io::Result<Message> {
        let mut out = Vec::new();
        let mut outgoing = Outgoing::begin(&System, &announcement(), &ID.path(from), STRETCH, &mut out)?;
        while !outgoing.go_on(&mut out)? {}
        let mut stream = &out[..];
        let frame::Frame::Snapshot(message) = frame::read(&mut stream)? else { panic!("no announcement") };
        let mut incoming = Incoming::begin(Arc::new(System), message, to, "received.1")?;
        for n in 0.. {
            match frame::read(&mut stream)? {
                frame::Frame::Bytes(mut bytes) => {
                    damage(n, &mut bytes);
                    incoming.write(&bytes)?;
                }
                _ => return incoming.finish(to, CLUSTER),
            }
        }
        unreachable!()
    }

    #[test]
    fn a_snapshot_arrives_whole_or_not_at_all() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let body = vec![9; 3 * STRETCH + 5];
        let written = body.clone();
        snapshot::write(&System, from.path(), ID, CLUSTER, Box::new(move |out| out.write_all(&written))).unwrap();
        for cut in 0..4 {
            assert!(carry(from.path(), to.path(), |n, bytes| bytes.truncate(if n == cut { 5 } else { STRETCH })).is_err());
            assert!(carry(from.path(), to.path(), |n, bytes| bytes[0] ^= u8::from(n == cut)).is_err());
            assert_eq!(fs::read_dir(to.path()).unwrap().count(), 0, "nothing is left of it");
        }
        assert_eq!(carry(from.path(), to.path(), |_, _| ()).unwrap(), announcement());
        assert_eq!(fs::read(ID.received(to.path())).unwrap(), fs::read(ID.path(from.path())).unwrap());
    }
}
