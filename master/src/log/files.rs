//! The files under raft-engine. Ours rather than its own, for three reasons: a failed sync must poison the log where raft-engine would
//! panic; the background sync needs the file that is being written; and a broken end of the log is looked at before it is cut off.

use super::counters::{Counters, count};
use super::disk::{Cursor, Disk, DiskFile, For};
use super::tail::damage_in;
use raft_engine::env::{FileSystem, Handle, Permission, WriteExt};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

/// What raft-engine, the log thread and the sync thread share about the log's files.
pub(super) struct Files {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) counters: Arc<Counters>,
    /// The file that appends go to. Set by raft-engine when it opens or rotates a file, which syncs the one before.
    current: Mutex<Option<Arc<dyn DiskFile>>>,
    /// The first sync that failed. After that nobody can know what is on disk, so the log takes nothing more.
    failure: OnceLock<String>,
    /// Damage found where raft-engine would have cut the log: it was not cut.
    damage: OnceLock<(PathBuf, String)>,
    /// The last index handed to the kernel. Written by the log thread (release), read by whoever syncs (acquire, in `sync`).
    appended: AtomicU64,
    /// The last index known to be on disk. Raised by whoever synced (release), read by the log thread (acquire, in `synced`). Entries that
    /// take the place of others, which a follower must accept, may lie below it and be newer than it knows.
    synced: AtomicU64,
    /// Writes handed to the kernel, and how many of the first are on disk: this, not an index, says whether there is something to sync.
    /// As `appended` and `synced`.
    writes: AtomicU64,
    writes_synced: AtomicU64,
}

impl Files {
    pub(super) fn new(disk: Arc<dyn Disk>, counters: Arc<Counters>) -> Self {
        Self {
            disk,
            counters,
            current: Mutex::default(),
            failure: OnceLock::new(),
            damage: OnceLock::new(),
            appended: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            writes_synced: AtomicU64::new(0),
        }
    }

    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    pub(super) fn damage(&self) -> Option<(PathBuf, String)> {
        self.damage.get().cloned()
    }

    /// Called after each write, with the last index in the log then.
    pub(super) fn set_appended(&self, index: u64) {
        self.appended.store(index, Ordering::Release);
        self.writes.fetch_add(1, Ordering::AcqRel);
    }

    /// Called by the log thread after a write that was synced.
    pub(super) fn set_synced(&self, index: u64) {
        self.synced.fetch_max(index, Ordering::AcqRel);
        self.writes_synced.fetch_max(self.writes.load(Ordering::Acquire), Ordering::AcqRel);
    }

    pub(super) fn synced(&self) -> u64 {
        self.synced.load(Ordering::Acquire)
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.writes.load(Ordering::Acquire) > self.writes_synced.load(Ordering::Acquire)
    }

    /// Brings everything appended so far to disk; from any thread, beside appends.
    pub(super) fn sync(&self) {
        // First the counts, then the file: what they count lies in this file, or in one that was synced when this one took over.
        let writes = self.writes.load(Ordering::Acquire);
        let appended = self.appended.load(Ordering::Acquire);
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(file) = current {
            self.sync_file(&*file);
        }
        if self.failure().is_none() {
            self.synced.fetch_max(appended, Ordering::AcqRel);
            self.writes_synced.fetch_max(writes, Ordering::AcqRel);
        }
    }

    fn sync_file(&self, file: &dyn DiskFile) {
        let started = Instant::now();
        if let Err(e) = file.sync() {
            tracing::error!("a sync of the log failed, the log takes nothing more: {e}");
            // The first failure stands.
            let _ = self.failure.set(format!("a sync of the log failed: {e}"));
        }
        self.counters.sync.observe(started.elapsed());
        count(&self.counters.fsyncs, 1);
    }
}

/// The file system as raft-engine sees it.
pub(super) struct LogFiles(pub(super) Arc<Files>);

impl LogFiles {
    fn open_for(&self, path: &Path, purpose: For) -> io::Result<LogFile> {
        let file = self.0.disk.open(path, purpose)?;
        Ok(LogFile { file, path: path.into(), shared: Arc::clone(&self.0) })
    }
}

impl FileSystem for LogFiles {
    type Handle = LogFile;
    type Reader = LogCursor;
    type Writer = LogCursor;

    fn create<P: AsRef<Path>>(&self, path: P) -> io::Result<LogFile> {
        self.open_for(path.as_ref(), For::Appending)
    }

    fn open<P: AsRef<Path>>(&self, path: P, permission: Permission) -> io::Result<LogFile> {
        self.open_for(path.as_ref(), if permission == Permission::ReadWrite { For::Writing } else { For::Reading })
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> io::Result<()> {
        self.0.disk.remove(path.as_ref())
    }

    fn rename<P: AsRef<Path>>(&self, from: P, to: P) -> io::Result<()> {
        self.0.disk.rename(from.as_ref(), to.as_ref())
    }

    fn new_reader(&self, handle: Arc<LogFile>) -> io::Result<LogCursor> {
        Ok(LogCursor::new(handle))
    }

    fn new_writer(&self, handle: Arc<LogFile>) -> io::Result<LogCursor> {
        if handle.is_append() {
            *self.0.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&handle.file));
        }
        Ok(LogCursor::new(handle))
    }
}

pub(super) fn is_append(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "raftlog")
}

/// Raft-engine's header of a file: 53 bytes that are always the same, its version, and in version 2 the alignment of writes; big-endian.
const HEADER_BEGINS: &[u8] = b"RAFT-LOG-FILE-HEADER-";
const VERSION_2: [u8; 8] = 2u64.to_be_bytes();

/// The first file in the directory whose header asks for aligned writes, which none of ours does. Raft-engine does not check that field,
/// and would ask for as much memory as it says.
pub(super) fn strange_header(disk: &dyn Disk, dir: &Path) -> io::Result<Option<PathBuf>> {
    for (name, _) in disk.list(dir)? {
        let path = dir.join(name);
        let mut header = [0; 69];
        if (is_append(&path) || path.extension().is_some_and(|e| e == "rewrite"))
            && Cursor::new(disk.open(&path, For::Reading)?).read_exact(&mut header).is_ok()
            && header.starts_with(HEADER_BEGINS)
            && header[53..61] == VERSION_2
            && header[61..] != [0; 8]
        {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// One file of the log.
pub(super) struct LogFile {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    shared: Arc<Files>,
}

impl LogFile {
    /// Appends go to `.raftlog` files; `.rewrite` files hold what a purge moved there, from sources it deletes only after a sync.
    fn is_append(&self) -> bool {
        is_append(&self.path)
    }

    /// The low bits of the number in its name.
    fn number(&self) -> u32 {
        self.path.file_stem().and_then(|s| s.to_str()?.parse::<u64>().ok()).unwrap_or_default() as u32
    }

    /// Whether files that were begun after this one hold anything; nothing when that cannot be seen.
    fn has_later(&self) -> Option<bool> {
        let files = self.shared.disk.list(self.path.parent()?).ok()?;
        let own = self.path.file_name()?.to_str()?;
        Some(files.iter().any(|(name, bytes)| is_append(Path::new(name)) && **name > *own && *bytes > 0))
    }
}

impl Handle for LogFile {
    /// Called in recovery only, to cut off the end of the log that cannot be read.
    fn truncate(&self, offset: usize) -> io::Result<()> {
        let mut tail = vec![0; usize::try_from(self.file.size()?.saturating_sub(offset as u64)).unwrap_or(usize::MAX)];
        let mut from = Cursor::new(Arc::clone(&self.file));
        from.offset = offset as u64;
        from.read_exact(&mut tail)?;
        // Space allocated ahead is zero and is cut off after every kill.
        let unread = tail.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
        if self.is_append() && unread > 0 {
            // A file is synced before the next one is begun, so nothing in it can be torn.
            let in_the_middle = || self.has_later()?.then(|| "its last write cannot be read, though a later file follows".into());
            if let Some(what) = damage_in(&tail[..unread], self.number()).or_else(in_the_middle) {
                let what = format!("at byte {offset}, {what}");
                let _ = self.shared.damage.set((self.path.clone(), what.clone()));
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            tracing::warn!(
                file = %self.path.display(), offset, unread,
                "the last write of the log is not whole and is cut off: it was under way when the process or the machine stopped, or was damaged since"
            );
        }
        self.file.set_size(offset as u64)
    }

    fn file_size(&self) -> io::Result<usize> {
        self.file.size().map(|n| n as usize)
    }

    fn sync(&self) -> io::Result<()> {
        // raft-engine would panic at an error; the log thread looks at `failure` instead, before it answers anything.
        self.shared.sync_file(&*self.file);
        Ok(())
    }
}

/// A position in a file of the log.
pub(super) struct LogCursor {
    handle: Arc<LogFile>,
    at: Cursor,
}

impl LogCursor {
    fn new(handle: Arc<LogFile>) -> Self {
        Self { at: Cursor::new(Arc::clone(&handle.file)), handle }
    }
}

impl Read for LogCursor {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.at.read(into)
    }
}

impl Write for LogCursor {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let n = self.at.write(from)?;
        count(&self.handle.shared.counters.bytes_written, n as u64);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for LogCursor {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at.seek(to)
    }
}

impl WriteExt for LogCursor {
    fn truncate(&mut self, offset: usize) -> io::Result<()> {
        self.handle.file.set_size(offset as u64)?;
        self.at.offset = offset as u64;
        Ok(())
    }

    fn allocate(&mut self, offset: usize, size: usize) -> io::Result<()> {
        self.handle.file.allocate(offset as u64, size as u64)
    }
}
