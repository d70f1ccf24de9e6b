//! Snapshot files: the machine after one entry, so that the log before it can go.
//!
//! ```text
//! | "PRLNSNAP" | version = 1 | index | term | cluster id | crc-32c of all before |      44 bytes and the sum
//! | length > 0 | crc-32c | bytes ... |   as often as needed
//! | 0 | crc-32c of the next 8 bytes | sum of all lengths |                             end of file
//! ```

use super::directory::write_whole;
use super::disk::{Cursor, Disk, For};
use super::entry::crc;
use super::machine::SnapshotWriter;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use uuid::Uuid;

const MAGIC: [u8; 8] = *b"PRLNSNAP";
const VERSION: u32 = 1;
const HEAD: usize = 8 + 4 + 8 + 8 + 16;
const CHUNK_BYTES: usize = 256 << 10;
const RECEIVED: &str = "received";

/// Which entry a snapshot stands behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SnapshotId {
    pub(super) index: u64,
    pub(super) term: u64,
}

impl SnapshotId {
    pub(super) fn path(self, dir: &Path) -> PathBuf {
        dir.join(format!("{}-{}", self.index, self.term))
    }

    /// One that another member sent, whole, which the log has not taken over yet.
    pub(super) fn received(self, dir: &Path) -> PathBuf {
        dir.join(format!("{}-{}.{RECEIVED}", self.index, self.term))
    }

    fn head(self, cluster: Uuid) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        head[..8].copy_from_slice(&MAGIC);
        head[8..12].copy_from_slice(&VERSION.to_le_bytes());
        head[12..20].copy_from_slice(&self.index.to_le_bytes());
        head[20..28].copy_from_slice(&self.term.to_le_bytes());
        head[28..].copy_from_slice(cluster.as_bytes());
        head
    }
}

/// The snapshots in a directory, oldest first. Removes leftovers of unfinished ones, and what other members sent, unless the log begins
/// behind that very entry: then it had been taken over, and only lacks its name.
pub(super) fn list(disk: &dyn Disk, dir: &Path, begins: SnapshotId) -> io::Result<Vec<SnapshotId>> {
    let mut found = Vec::new();
    if disk.is_file(&begins.received(dir)) {
        disk.rename(&begins.received(dir), &begins.path(dir))?;
        disk.sync_dir(dir)?;
    }
    for (name, _) in disk.list(dir)? {
        if name.ends_with(".tmp") || name.ends_with(RECEIVED) {
            disk.remove(&dir.join(name))?;
        } else if let Some((index, term)) = name.split_once('-')
            && let (Ok(index), Ok(term)) = (index.parse(), term.parse())
        {
            found.push(SnapshotId { index, term });
        }
    }
    found.sort();
    Ok(found)
}

/// Writes a snapshot; afterwards it is on disk, whole, under its name.
pub(super) fn write(disk: &dyn Disk, dir: &Path, id: SnapshotId, cluster: Uuid, body: SnapshotWriter) -> io::Result<()> {
    write_whole(disk, &id.path(dir), |file| {
        let head = id.head(cluster);
        let mut out = BufWriter::with_capacity(64 << 10, file);
        out.write_all(&head)?;
        out.write_all(&crc(&head).to_le_bytes())?;
        let mut chunks = Chunks { out, chunk: Vec::with_capacity(CHUNK_BYTES), total: 0 };
        body(&mut chunks)?;
        chunks.finish()
    })
}

struct Chunks<W> {
    out: W,
    chunk: Vec<u8>,
    total: u64,
}

impl<W: Write> Chunks<W> {
    fn put(&mut self) -> io::Result<()> {
        if !self.chunk.is_empty() {
            self.out.write_all(&(self.chunk.len() as u32).to_le_bytes())?;
            self.out.write_all(&crc(&self.chunk).to_le_bytes())?;
            self.out.write_all(&self.chunk)?;
            self.total += self.chunk.len() as u64;
            self.chunk.clear();
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        self.put()?;
        let total = self.total.to_le_bytes();
        self.out.write_all(&0u32.to_le_bytes())?;
        self.out.write_all(&crc(&total).to_le_bytes())?;
        self.out.write_all(&total)?;
        self.out.flush()
    }
}

impl<W: Write> Write for Chunks<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(CHUNK_BYTES - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..n]);
        if self.chunk.len() == CHUNK_BYTES {
            self.put()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a snapshot's body; every byte it gives has passed its checksum.
pub(super) struct Reader<R> {
    from: R,
    chunk: Vec<u8>,
    at: usize,
    total: u64,
    ended: bool,
}

/// Which entry a file stands behind, and of which cluster it is, as its head says.
pub(super) fn head(disk: &dyn Disk, path: &Path) -> io::Result<(SnapshotId, Uuid)> {
    let mut head = [0; HEAD + 4];
    Cursor::new(disk.open(path, For::Reading)?).read_exact(&mut head).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => damaged("it is cut short"),
        _ => e,
    })?;
    check_head(&head)?;
    let word = |at: usize| head[at..at + 8].iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
    let cluster = Uuid::from_slice(&head[28..HEAD]).map_err(io::Error::other)?;
    Ok((SnapshotId { index: word(12), term: word(20) }, cluster))
}

fn check_head(head: &[u8; HEAD + 4]) -> io::Result<()> {
    let (head, sum) = head.split_at(HEAD);
    if head[..8] != MAGIC {
        return Err(damaged("it is not a snapshot"));
    }
    if head[8..12] != VERSION.to_le_bytes() {
        return Err(damaged("it is a snapshot of another version"));
    }
    if crc(head).to_le_bytes() != *sum {
        return Err(damaged("the checksum of its head does not match"));
    }
    Ok(())
}

/// Opens a snapshot for reading, after a first pass over the whole file that checks it: a machine is never fed half a snapshot.
pub(super) fn open(disk: &dyn Disk, path: &Path, id: SnapshotId, cluster: Uuid) -> io::Result<Reader<impl Read + use<>>> {
    check(disk, path, id, cluster)?;
    read(disk, path, id, cluster)
}

/// Reads the whole file and says what is wrong with it.
pub(super) fn check(disk: &dyn Disk, path: &Path, id: SnapshotId, cluster: Uuid) -> io::Result<()> {
    io::copy(&mut read(disk, path, id, cluster)?, &mut io::sink()).map(drop)
}

fn read(disk: &dyn Disk, path: &Path, id: SnapshotId, cluster: Uuid) -> io::Result<Reader<impl Read + use<>>> {
    Reader::new(BufReader::new(Cursor::new(disk.open(path, For::Reading)?)), id, cluster)
}

fn damaged(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

impl<R: Read> Reader<R> {
    pub(super) fn new(mut from: R, id: SnapshotId, cluster: Uuid) -> io::Result<Self> {
        let mut head = [0; HEAD + 4];
        from.read_exact(&mut head)?;
        check_head(&head)?;
        if head[..HEAD] != id.head(cluster) {
            return Err(damaged("it is a snapshot of another entry or another cluster"));
        }
        Ok(Self { from, chunk: Vec::new(), at: 0, total: 0, ended: false })
    }

    fn next_chunk(&mut self) -> io::Result<()> {
        let mut head = [0; 8];
        self.from.read_exact(&mut head)?;
        let (length, sum) = head.split_at(4);
        let length = length.iter().rev().fold(0usize, |n, b| n << 8 | usize::from(*b));
        if length > CHUNK_BYTES {
            return Err(damaged(format!("a chunk of {length} bytes")));
        }
        let last = length == 0;
        self.chunk.resize(if last { 8 } else { length }, 0);
        self.from.read_exact(&mut self.chunk)?;
        if crc(&self.chunk).to_le_bytes() != *sum {
            return Err(damaged("the checksum of a chunk does not match"));
        }
        self.at = 0;
        if last {
            if self.chunk != self.total.to_le_bytes() || self.from.read(&mut [0])? != 0 {
                return Err(damaged("its end mark does not match its length"));
            }
            self.ended = true;
            self.chunk.clear();
        }
        self.total += self.chunk.len() as u64;
        Ok(())
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() && !self.ended && !into.is_empty() {
            self.next_chunk()?;
        }
        let n = into.len().min(self.chunk.len() - self.at);
        into[..n].copy_from_slice(&self.chunk[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::disk::System;
    use std::fs;

    #[test]
    fn a_snapshot_survives_and_any_damage_to_it_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (id, cluster) = (SnapshotId { index: 7, term: 2 }, Uuid::from_u128(42));
        let body: Vec<u8> = (0..CHUNK_BYTES as u32 / 2).flat_map(|n| n.to_le_bytes()).chain([1, 2, 3]).collect();
        let written = body.clone();
        write(&System, dir.path(), id, cluster, Box::new(move |out| out.write_all(&written))).unwrap();
        let read = |id: SnapshotId| {
            let mut read = Vec::new();
            open(&System, &id.path(dir.path()), id, cluster).and_then(|mut r| r.read_to_end(&mut read)).map(|_| read)
        };
        assert!(read(id).unwrap() == body);
        assert_eq!(head(&System, &id.path(dir.path())).unwrap(), (id, cluster));
        let begin = SnapshotId { index: 0, term: 0 };
        assert_eq!(list(&System, dir.path(), begin).unwrap(), [id]);
        // What was received counts once the log begins behind it, and is swept away otherwise.
        fs::rename(id.path(dir.path()), id.received(dir.path())).unwrap();
        assert_eq!(list(&System, dir.path(), id).unwrap(), [id]);
        fs::copy(id.path(dir.path()), SnapshotId { index: 9, term: 2 }.received(dir.path())).unwrap();
        assert_eq!(list(&System, dir.path(), id).unwrap(), [id]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);

        let whole = fs::read(id.path(dir.path())).unwrap();
        let ends = [0, 1, 8, 12, 20, 28, 44, 48, 52, 56, CHUNK_BYTES, whole.len() - 20, whole.len() - 16, whole.len() - 8, whole.len() - 1];
        for at in ends {
            fs::write(id.path(dir.path()), &whole[..at]).unwrap();
            assert!(read(id).is_err(), "cut at {at}");
            let mut flipped = whole.clone();
            flipped[at] ^= 4;
            fs::write(id.path(dir.path()), &flipped).unwrap();
            assert!(read(id).is_err(), "flipped at {at}");
        }
        fs::write(id.path(dir.path()), [&whole[..], b"x"].concat()).unwrap();
        assert!(read(id).is_err(), "something behind the end");
        let other = SnapshotId { index: 8, term: 2 };
        fs::write(other.path(dir.path()), &whole).unwrap();
        assert!(read(other).is_err(), "under another name");
    }
}
