//! A snapshot on demand, to be kept elsewhere.

use super::directory::snapshots;
use super::disk::{Cursor, DiskFile, For};
use super::driver::Driver;
use super::group::tell;
use super::machine::Machine;
use super::request::Answer;
use super::snapshot::{self, SnapshotId};
use crate::planted::{self, Defect};
use perilune_protocol::{Fault, FaultCode};
use std::fmt;
use std::io::{self, BufReader, Read};
use std::sync::Arc;
use uuid::Uuid;

/// A whole snapshot file, open for reading. It stays readable whatever becomes of its name.
pub struct Dump {
    pub(super) file: Arc<dyn DiskFile>,
    /// Its length in bytes.
    pub bytes: u64,
    /// It holds everything up to this entry of the log.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
}

impl fmt::Debug for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dump").field("bytes", &self.bytes).field("index", &self.index).field("term", &self.term).finish()
    }
}

impl Dump {
    /// Fills `piece` with what lies at `at`.
    ///
    /// # Errors
    /// The disk's; [`io::ErrorKind::UnexpectedEof`] behind the end.
    pub fn read_at(&self, piece: &mut [u8], at: u64) -> io::Result<()> {
        let mut cursor = Cursor::new(Arc::clone(&self.file));
        cursor.offset = at;
        cursor.read_exact(piece)
    }

    /// What the machine wrote, from the beginning of the file on; every byte it gives has passed its checksum. `cluster`: whose dump it is.
    pub(crate) fn body(&self, cluster: Uuid) -> io::Result<impl Read + use<'_>> {
        let from = BufReader::new(Cursor::new(Arc::clone(&self.file)));
        snapshot::Reader::new(from, SnapshotId { index: self.index, term: self.term }, cluster)
    }
}

/// Dumps that wait: for a snapshot behind this entry at least.
pub(super) type Dumps = Vec<(u64, Answer<Dump>)>;

impl<M: Machine> Driver<M> {
    /// Answered with the newest snapshot, once one holds all that is applied now.
    pub(super) fn dump(&mut self, answer: Answer<Dump>) {
        if self.poison.is_some() {
            return tell(answer, Err(self.storage_fault()));
        }
        if self.applied == 0 {
            return tell(answer, Err(FaultCode::WrongState.with("nothing has happened here yet that a snapshot could hold")));
        }
        let needs = if planted::is(Defect::OldDump) { 0 } else { self.applied };
        self.dumps.push((needs, answer));
    }

    /// Whether somebody waits for a newer snapshot than there is.
    pub(super) fn wants_dump(&self) -> bool {
        let newest = self.snapshots.last().map_or(0, |s| s.index);
        self.dumps.iter().any(|(needs, _)| *needs > newest)
    }

    pub(super) fn settle_dumps(&mut self) {
        let Some(id) = self.snapshots.last().copied() else { return };
        let path = id.path(&snapshots(&self.directory.path));
        for (_, answer) in self.dumps.extract_if(.., |(needs, _)| *needs <= id.index) {
            let opened = self.directory.disk.open(&path, For::Reading).and_then(|file| Ok((file.size()?, file)));
            let dump = opened.map(|(bytes, file)| Dump { file, bytes, index: id.index, term: id.term });
            tell(answer, dump.map_err(|e| FaultCode::Storage.with(format!("{}: {e}", path.display()))));
        }
    }

    pub(super) fn end_dumps(&mut self, fault: &Fault) {
        self.dumps.drain(..).for_each(|(_, answer)| tell(answer, Err(fault.clone())));
    }
}
