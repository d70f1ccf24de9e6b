//! A directory: every object is a file that appears whole, after its bytes are on disk.

mod uploads;

use crate::fault::{Class, VaultFault, Vaulted};
use crate::place::{Fetched, Listed, Payload, len, same};
use crate::pool::{BUFFER_BYTES, Buffer};
use bytes::Bytes;
use std::fs::{self, File};
use std::io::{ErrorKind, IoSlice, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Semaphore;
use uploads::Uploads;

/// Where files lie until they are whole. No object's name begins with a dot.
const UPLOADS: &str = ".uploads";
/// More than a node has orders at a time.
const CALLS_MAX: usize = 128;
/// Attempts to move a file into a folder that somebody else keeps removing.
const MOVES: usize = 16;

#[derive(Debug)]
pub(crate) struct Dir {
    dir: PathBuf,
    uploads: Uploads,
    /// One for each call that may be in it at a time.
    pub(crate) calls: Arc<Semaphore>,
}

impl Dir {
    pub(crate) fn new(dir: PathBuf) -> Self {
        let uploads = Uploads::new(dir.join(UPLOADS));
        Self { dir, uploads, calls: Arc::new(Semaphore::new(CALLS_MAX)) }
    }

    pub(crate) fn put(&self, name: &str, bytes: &[Bytes], create: bool, until: Instant) -> Vaulted<()> {
        self.make(|file| self.append(file, bytes), |id| self.publish(id, name, create, until))
    }

    /// Of the bytes that `give` gives one after another.
    pub(crate) fn write(
        &self,
        name: &str,
        until: Instant,
        give: impl FnOnce(&mut dyn FnMut(Bytes) -> Vaulted<()>) -> Vaulted<()>,
    ) -> Vaulted<()> {
        let fill = |file: &File| {
            let mut gathered = Payload::new();
            give(&mut |bytes| {
                gathered.push(bytes);
                if len(&gathered) < BUFFER_BYTES as u64 { Ok(()) } else { self.append(file, &std::mem::take(&mut gathered)) }
            })?;
            self.append(file, &gathered)
        };
        self.make(fill, |id| self.publish(id, name, false, until))
    }

    pub(crate) fn replace(&self, name: &str, there: &Bytes, bytes: Bytes, until: Instant) -> Vaulted<()> {
        self.make(
            |file| self.append(file, &[bytes]),
            |id| {
                // Once all is on disk, so that next to nothing lies between the look and the move.
                same(&self.get(name, None)?.joined().bytes, there)?;
                self.publish(id, name, false, until)
            },
        )
    }

    fn append(&self, file: &File, bytes: &[Bytes]) -> Vaulted<()> {
        write_all(file, bytes).map_err(|e| self.fault(e))
    }

    fn make(&self, fill: impl FnOnce(&File) -> Vaulted<()>, publish: impl FnOnce(&str) -> Vaulted<()>) -> Vaulted<()> {
        let id = self.uploads.begin().map_err(|e| self.fault(e))?;
        let make = || {
            let file = self.uploads.file(&id).map_err(|e| self.fault(e))?;
            fill(&file)?;
            file.sync_all().map_err(|e| self.fault(e))?;
            publish(&id)
        };
        let done = make();
        if done.is_err() {
            // What failed is what is told; the file may be gone already.
            let _ = self.uploads.forget(&id);
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

    pub(crate) fn tidy(&self) -> Vaulted<()> {
        self.uploads.tidy().map_err(|e| self.fault(e))
    }

    /// Gives a whole file its name, unless it is later than `until`: whoever waited for it to come or not has stopped waiting, while this process
    /// was stopped, or its disk.
    fn publish(&self, id: &str, name: &str, create: bool, until: Instant) -> Vaulted<()> {
        let to = self.dir.join(name);
        let go = || {
            if Instant::now() >= until {
                return Err(std::io::Error::new(ErrorKind::TimedOut, "the deadline passed before all of it was written"));
            }
            self.uploads.publish(id, &to, create)
        };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_gets_its_name_after_its_deadline() {
        let root = tempfile::tempdir().unwrap();
        let dir = Dir::new(root.path().into());
        let (bytes, now) = ([Bytes::from_static(b"late")], Instant::now());
        dir.put("there", &bytes, true, now + std::time::Duration::from_secs(3600)).unwrap();
        let refused = [
            dir.put("a/b", &bytes, true, now),
            dir.put("a/b", &bytes, false, now),
            dir.replace("there", &bytes[0], Bytes::from_static(b"later"), now),
            dir.write("a/b", now, |write| write(bytes[0].clone())),
        ];
        for refused in refused {
            let fault = refused.unwrap_err();
            assert!(fault.class == Class::Away && fault.message.contains("deadline"), "{fault}");
        }
        assert_eq!(dir.list("", None, 9).unwrap(), [Listed { name: "there".into(), size: 4 }]);
        assert_eq!(dir.get("there", None).unwrap().joined().bytes, bytes[0]);
    }
}
