//! A snapshot on demand, to be kept elsewhere.

use super::directory::snapshots;
use super::driver::Driver;
use super::group::tell;
use super::machine::Machine;
use super::request::Answer;
use super::snapshot::{self, SnapshotId};
use perilune_protocol::{Fault, FaultCode};
use std::fs::File;
use std::io::{self, BufReader, Read};
use uuid::Uuid;

/// A whole snapshot file, open for reading. It stays readable whatever becomes of its name.
#[derive(Debug)]
pub struct Dump {
    /// The file, at its beginning.
    pub file: File,
    /// Its length in bytes.
    pub bytes: u64,
    /// It holds everything up to this entry of the log.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
}

impl Dump {
    /// What the machine wrote, from the beginning of the file on; every byte it gives has passed its checksum. `cluster`: whose dump it is.
    pub(crate) fn body(&self, cluster: Uuid) -> io::Result<impl Read + use<'_>> {
        io::Seek::rewind(&mut &self.file)?;
        snapshot::Reader::new(BufReader::new(&self.file), SnapshotId { index: self.index, term: self.term }, cluster)
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
        self.dumps.push((self.applied, answer));
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
            let opened = File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
            let dump = opened.map(|(bytes, file)| Dump { file, bytes, index: id.index, term: id.term });
            tell(answer, dump.map_err(|e| FaultCode::Storage.with(format!("{}: {e}", path.display()))));
        }
    }

    pub(super) fn end_dumps(&mut self, fault: &Fault) {
        self.dumps.drain(..).for_each(|(_, answer)| tell(answer, Err(fault.clone())));
    }
}
