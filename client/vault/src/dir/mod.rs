//! A directory: every object is a file that appears whole, after its bytes are on disk.

mod uploads;

use crate::fault::{Class, VaultFault, Vaulted};
use crate::place::{Fetched, Listed, Part, Payload, same};
use crate::pool::Buffer;
use bytes::Bytes;
use std::fs::{self, File};
use std::io::{ErrorKind, IoSlice, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use uploads::Uploads;

/// Where files lie until they are whole. No object's name begins with a dot.
const UPLOADS: &str = ".uploads";
/// Attempts to move a file into a folder that somebody else keeps removing.
const MOVES: usize = 16;

#[derive(Debug)]
pub(crate) struct Dir {
    dir: PathBuf,
    uploads: Uploads,
}

impl Dir {
    pub(crate) fn new(dir: PathBuf) -> Self {
        let uploads = Uploads::new(dir.join(UPLOADS));
        Self { dir, uploads }
    }

    pub(crate) fn put(&self, name: &str, bytes: &[Bytes], create: bool) -> Vaulted<()> {
        self.write(bytes, |id| self.publish(id, name, create))
    }

    pub(crate) fn replace(&self, name: &str, there: &Bytes, bytes: Bytes) -> Vaulted<()> {
        self.write(&[bytes], |id| {
            // Once all is on disk, so that next to nothing lies between the look and the move.
            same(&self.get(name, None)?.joined().bytes, there)?;
            self.publish(id, name, false)
        })
    }

    fn write(&self, bytes: &[Bytes], publish: impl FnOnce(&str) -> Vaulted<()>) -> Vaulted<()> {
        let id = self.begin()?;
        let write = || {
            let file = self.uploads.file(&id)?;
            write_all(&file, bytes)?;
            file.sync_all()
        };
        let done = write().map_err(|e| self.fault(e)).and_then(|()| publish(&id));
        if done.is_err() {
            // What failed is what is told; the file may be gone already.
            let _ = self.abort(&id);
        }
        done
    }

    pub(crate) fn get(&self, name: &str, range: Option<Range<u64>>) -> Vaulted<Fetched> {
        let read = || {
            let file = File::open(self.dir.join(name))?;
            let size = file.metadata()?.len();
            let range = range.clone().unwrap_or(0..size);
            let mut parts = Payload::new();
            let (mut at, end) = (range.start, range.end.min(size));
            while at < end {
                let mut buffer = Buffer::take(usize::try_from(end - at).unwrap_or(usize::MAX));
                file.read_exact_at(&mut buffer, at)?;
                at += buffer.len() as u64;
                parts.push(buffer.into_bytes());
            }
            Ok((range, Fetched { parts, size }))
        };
        let (range, got) = read().map_err(|e: std::io::Error| match e.kind() {
            ErrorKind::UnexpectedEof => Class::Damaged.with("it became shorter while it was read"),
            _ => self.fault(e),
        })?;
        if range.start > got.size || (range.start == got.size && !range.is_empty()) {
            return Err(Class::Damaged.with(format!("it has {} bytes, and those from {} on were asked for", got.size, range.start)));
        }
        Ok(got)
    }

    pub(crate) fn head(&self, name: &str) -> Vaulted<u64> {
        Ok(fs::metadata(self.dir.join(name)).map_err(|e| self.fault(e))?.len())
    }

    pub(crate) fn list(&self, folder: &str, after: Option<&str>, max: usize) -> Vaulted<Vec<Listed>> {
        let mut found = Vec::new();
        self.walk(folder, after.unwrap_or(""), max, &mut found)?;
        Ok(found)
    }

    /// In the order of whole names, as S3 lists: a folder stands where its name with a `/` does.
    fn walk(&self, folder: &str, after: &str, max: usize, found: &mut Vec<Listed>) -> Vaulted<()> {
        let entries = match fs::read_dir(self.dir.join(folder)) {
            Err(e) if e.kind() == ErrorKind::NotFound && self.dir.is_dir() => return Ok(()),
            entries => entries.and_then(Iterator::collect::<std::io::Result<Vec<_>>>).map_err(|e| self.fault(e))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let (Ok(name), Ok(kind)) = (entry.file_name().into_string(), entry.file_type()) else { continue };
            if !name.starts_with('.') && (kind.is_dir() || kind.is_file()) {
                let between = if folder.is_empty() { "" } else { "/" };
                names.push(format!("{folder}{between}{name}{}", if kind.is_dir() { "/" } else { "" }));
            }
        }
        names.sort_unstable();
        for name in names {
            if found.len() >= max {
                break;
            }
            match name.strip_suffix('/') {
                Some(folder) if name.as_str() > after || after.starts_with(&name) => self.walk(folder, after, max, found)?,
                None if name.as_str() > after => match self.head(&name) {
                    Ok(size) => found.push(Listed { name, size }),
                    // Deleted meanwhile.
                    Err(fault) if fault.class == Class::NoObject => {}
                    Err(fault) => return Err(fault),
                },
                _ => {}
            }
        }
        Ok(())
    }

    pub(crate) fn delete(&self, name: &str) -> Vaulted<()> {
        let path = self.dir.join(name);
        fs::remove_file(&path).map_err(|e| self.fault(e))?;
        let folders: Vec<_> = self.folders_of(&path).collect();
        for folder in &folders {
            match fs::remove_dir(folder) {
                Err(e) if e.kind() != ErrorKind::NotFound => {
                    // One that is not empty stays, and so do those above it.
                    return sync(folder).map_err(|e| self.fault(e));
                }
                _ => {}
            }
        }
        sync(&self.dir).map_err(|e| self.fault(e))
    }

    pub(crate) fn begin(&self) -> Vaulted<String> {
        self.uploads.begin().map_err(|e| self.fault(e))
    }

    pub(crate) fn part(&self, id: &str, part: &Part) -> Vaulted<()> {
        let write = || {
            let file = self.uploads.file(id)?;
            let mut at = part.offset;
            for bytes in &part.bytes {
                file.write_all_at(bytes, at)?;
                at += bytes.len() as u64;
            }
            Ok(())
        };
        write().map_err(|e| self.fault(e))
    }

    pub(crate) fn complete(&self, name: &str, id: &str, size: u64) -> Vaulted<()> {
        let file = self.uploads.file(id).map_err(|e| self.fault(e))?;
        let there = file.metadata().map_err(|e| self.fault(e))?.len();
        if there != size {
            return Err(Class::Invalid.with(format!("the upload has {there} bytes and should have {size}")));
        }
        file.sync_all().map_err(|e| self.fault(e))?;
        self.publish(id, name, false)
    }

    pub(crate) fn abort(&self, id: &str) -> Vaulted<()> {
        self.uploads.forget(id).map_err(|e| self.fault(e))
    }

    pub(crate) fn tidy(&self) -> Vaulted<()> {
        self.uploads.tidy().map_err(|e| self.fault(e))
    }

    /// Gives a whole file its name.
    fn publish(&self, id: &str, name: &str, create: bool) -> Vaulted<()> {
        let to = self.dir.join(name);
        let go = || self.uploads.publish(id, &to, create);
        let mut moved = go();
        for _ in 0..MOVES {
            // Whoever deletes the last file of a folder removes the folder.
            if !matches!(&moved, Err(e) if e.kind() == ErrorKind::NotFound && self.dir.is_dir()) {
                break;
            }
            moved = self.make_folders(&to).and_then(|()| go());
        }
        moved.map_err(|e| self.fault(e))?;
        match sync(self.folders_of(&to).next().unwrap_or(&self.dir)) {
            // Deleted again already.
            Err(e) if e.kind() != ErrorKind::NotFound => Err(self.fault(e)),
            _ => Ok(()),
        }
    }

    /// Makes the folders above `path`, but never the vault's own. Their names are on disk before anything is moved there.
    fn make_folders(&self, path: &Path) -> std::io::Result<()> {
        let folders: Vec<_> = self.folders_of(path).collect();
        let mut above = self.dir.as_path();
        for folder in folders.into_iter().rev() {
            match fs::create_dir(folder) {
                Ok(()) => sync(above)?,
                Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
                Err(_) => {}
            }
            above = folder;
        }
        Ok(())
    }

    /// The folders between a file and the vault's directory, innermost first.
    fn folders_of<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = &'a Path> {
        path.ancestors().skip(1).take_while(|folder| *folder != self.dir)
    }

    fn fault(&self, error: std::io::Error) -> VaultFault {
        if error.kind() == ErrorKind::NotFound && !self.dir.is_dir() {
            return Class::NoBucket.with(format!("{} is gone: make the directory, or correct the vault", self.dir.display()));
        }
        error.into()
    }
}

/// All of these, one behind the other.
fn write_all(mut file: &File, parts: &[Bytes]) -> std::io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = parts.iter().filter(|part| !part.is_empty()).map(|part| IoSlice::new(part)).collect();
    let mut left = &mut slices[..];
    while !left.is_empty() {
        match file.write_vectored(left) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut left, written),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn sync(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}
