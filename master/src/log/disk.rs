//! The files below the log: the only room of the log that asks the system for one. Behind a trait, so that a simulation can lose what was
//! not synced.

use super::LogError;
use super::directory::io_error;
use nix::fcntl::{FallocateFlags, fallocate};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum For {
    /// It must be there.
    Reading,
    /// It must be there.
    Writing,
    /// It may be there.
    Appending,
    /// Empty, whatever was there.
    Replacing,
}

/// A file system as the log needs one. Errors are those of [`std::fs`]. A name that was made, changed or removed is on disk after
/// [`Disk::sync_dir`] of its directory, not before.
pub(crate) trait Disk: Send + Sync {
    fn open(&self, path: &Path, purpose: For) -> io::Result<Arc<dyn DiskFile>>;

    /// Names in a directory, and how long the files are; in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>>;

    fn is_file(&self, path: &Path) -> bool;

    /// Whether it is a directory; an error where nothing is.
    fn is_dir(&self, path: &Path) -> io::Result<bool>;

    /// Makes a directory, and those above it.
    fn make_dir(&self, path: &Path) -> io::Result<()>;

    /// Bytes that can still be written below a directory.
    fn free(&self, dir: &Path) -> io::Result<u64>;

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    fn remove(&self, path: &Path) -> io::Result<()>;

    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Nobody else opens this directory until what this gives is dropped.
    fn lock(&self, dir: &Path) -> Result<Box<dyn Send>, LogError>;
}

/// An open file, at any position, from any thread.
pub(crate) trait DiskFile: Send + Sync {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize>;

    fn write_at(&self, from: &[u8], offset: u64) -> io::Result<usize>;

    fn size(&self) -> io::Result<u64>;

    fn set_size(&self, bytes: u64) -> io::Result<()>;

    /// Room ahead of writing; reads as zeros.
    fn allocate(&self, offset: u64, bytes: u64) -> io::Result<()>;

    /// What was written is on disk.
    fn sync(&self) -> io::Result<()>;
}

/// The disks of this machine.
pub(super) struct System;

impl Disk for System {
    fn open(&self, path: &Path, purpose: For) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(purpose != For::Reading).mode(0o600);
        options.create(matches!(purpose, For::Appending | For::Replacing)).truncate(purpose == For::Replacing);
        Ok(Arc::new(options.open(path)?))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for file in fs::read_dir(dir)? {
            let file = file?;
            // One that goes meanwhile is none.
            if let (Ok(name), Ok(known)) = (file.file_name().into_string(), file.metadata()) {
                files.push((name, known.len()));
            }
        }
        Ok(files)
    }

    fn is_file(&self, path: &Path) -> bool {
        path.is_file()
    }

    fn is_dir(&self, path: &Path) -> io::Result<bool> {
        fs::metadata(path).map(|found| found.is_dir())
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn free(&self, dir: &Path) -> io::Result<u64> {
        let known = nix::sys::statvfs::statvfs(dir)?;
        Ok(known.blocks_available().saturating_mul(known.fragment_size()))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn lock(&self, dir: &Path) -> Result<Box<dyn Send>, LogError> {
        let path = dir.join("LOCK");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).map_err(|e| io_error(&path, "cannot be opened", e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let pid = file.read_to_string(&mut holder).ok().and_then(|_| holder.trim().parse::<u32>().ok());
                return Err(LogError::Locked { path: dir.into(), holder: pid.map(|p| format!(" (pid {p})")).unwrap_or_default() });
            }
            Err(TryLockError::Error(e)) => return Err(io_error(&path, "cannot be locked", e)),
        }
        // The pid is a courtesy to the next who tries; on a full disk it may be missing.
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Box::new(Lock(file)))
    }
}

struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing would not do: a child process that is just being forked holds a copy of the descriptor until it execs.
        let _ = self.0.unlock();
    }
}

impl DiskFile for File {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, into, offset)
    }

    fn write_at(&self, from: &[u8], offset: u64) -> io::Result<usize> {
        FileExt::write_at(self, from, offset)
    }

    fn size(&self) -> io::Result<u64> {
        self.metadata().map(|m| m.len())
    }

    fn set_size(&self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }

    fn allocate(&self, offset: u64, bytes: u64) -> io::Result<()> {
        match fallocate(self, FallocateFlags::empty(), offset as i64, bytes as i64) {
            Ok(()) | Err(nix::Error::EOPNOTSUPP) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Reads a whole, small file.
pub(super) fn read_all(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    Cursor::new(disk.open(path, For::Reading)?).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A position in a file.
pub(super) struct Cursor {
    file: Arc<dyn DiskFile>,
    pub(super) offset: u64,
}

impl Cursor {
    pub(super) fn new(file: Arc<dyn DiskFile>) -> Self {
        Self { file, offset: 0 }
    }

    /// What was written is on disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}

impl Read for Cursor {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(into, self.offset)?;
        self.offset += n as u64;
        Ok(n)
    }
}

impl Write for Cursor {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let n = self.file.write_at(from, self.offset)?;
        self.offset += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Cursor {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (base, by) = match to {
            SeekFrom::Start(offset) => (offset, 0),
            SeekFrom::Current(by) => (self.offset, by),
            SeekFrom::End(by) => (self.file.size()?, by),
        };
        self.offset = base.checked_add_signed(by).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.offset)
    }
}
