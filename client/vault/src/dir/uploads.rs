//! Files that are not whole yet. They have no name, so that a crash leaves nothing of them, and they get one without a lock that all uploads of a file
//! system wait for, as a move from folder to folder does. Where there is no such thing (NFS) each has a name in a folder for them, and is locked
//! by the process that writes it, so that what a crash leaves is known by its lock.

use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::unistd::linkat;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Error, ErrorKind, Result};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use uuid::Uuid;

#[derive(Debug)]
pub(super) struct Uploads {
    folder: PathBuf,
    files: Mutex<HashMap<String, Arc<File>>>,
    /// Whether what others left was looked for.
    swept: AtomicBool,
}

impl Uploads {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, files: Mutex::default(), swept: AtomicBool::new(false) }
    }

    /// A new file; gives what it is called.
    pub(super) fn begin(&self) -> Result<String> {
        if !self.swept.load(Ordering::Relaxed) {
            self.make_folder()?;
            self.sweep()?;
            self.swept.store(true, Ordering::Relaxed);
        }
        let id = Uuid::new_v4().to_string();
        let file = match self.unnamed() {
            Err(e) if matches!(e.kind(), ErrorKind::Unsupported | ErrorKind::IsADirectory) => self.named(&id)?,
            file => file?,
        };
        self.files().insert(id.clone(), Arc::new(file));
        Ok(id)
    }

    fn unnamed(&self) -> Result<File> {
        self.opened(|| OpenOptions::new().write(true).custom_flags(OFlag::O_TMPFILE.bits()).open(&self.folder))
    }

    fn named(&self, id: &str) -> Result<File> {
        loop {
            let file = self.opened(|| File::create_new(self.path(id)))?;
            file.lock()?;
            // Another process may have swept it away before it was locked.
            if self.path(id).exists() {
                return Ok(file);
            }
        }
    }

    fn opened(&self, open: impl Fn() -> Result<File>) -> Result<File> {
        match open() {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                self.make_folder()?;
                open()
            }
            file => file,
        }
    }

    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(id)
    }

    /// The file of an upload that has neither ended nor been forgotten.
    pub(super) fn file(&self, id: &str) -> Result<Arc<File>> {
        self.files().get(id).cloned().ok_or_else(|| Error::new(ErrorKind::NotFound, "there is no such upload"))
    }

    /// Makes it the file `to`, in the place of one that has that name unless it is to `create` it.
    pub(super) fn publish(&self, id: &str, to: &Path, create: bool) -> Result<()> {
        let (file, from) = (self.file(id)?, self.path(id));
        if file.metadata()?.nlink() == 0 {
            match link(&file, to) {
                // Only what has a name can take the place of another.
                Err(e) if e.kind() == ErrorKind::AlreadyExists && !create => {
                    file.lock()?;
                    link(&file, &from)?;
                    fs::rename(&from, to)?;
                }
                done => done?,
            }
        } else if create {
            fs::hard_link(&from, to)?;
            fs::remove_file(&from)?;
        } else {
            fs::rename(&from, to)?;
        }
        self.files().remove(id);
        Ok(())
    }

    /// It will not become an object.
    pub(super) fn forget(&self, id: &str) -> Result<()> {
        self.files().remove(id);
        match fs::remove_file(self.path(id)) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Removes what processes left that are no more; and the folder, if nothing is under way in it.
    pub(super) fn tidy(&self) -> Result<()> {
        let gone = |e: Error| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(e) };
        self.sweep().or_else(gone)?;
        match fs::remove_dir(&self.folder) {
            Err(e) if e.kind() != ErrorKind::DirectoryNotEmpty => gone(e),
            _ => Ok(()),
        }
    }

    fn files(&self) -> MutexGuard<'_, HashMap<String, Arc<File>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make_folder(&self) -> Result<()> {
        match fs::create_dir(&self.folder) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(e),
            _ => Ok(()),
        }
    }

    /// Removes what processes left that are no more.
    fn sweep(&self) -> Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            // One that is gone meanwhile has ended.
            if let Ok(file) = File::open(&path)
                && file.try_lock().is_ok()
            {
                match fs::remove_file(&path) {
                    Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// Gives a name to a file that has none.
fn link(file: &File, to: &Path) -> Result<()> {
    let from = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(AT_FDCWD, from.as_str(), AT_FDCWD, to, AtFlags::AT_SYMLINK_FOLLOW)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    /// As where files have names from the beginning.
    fn begin_named(uploads: &Uploads) -> String {
        let id = Uuid::new_v4().to_string();
        uploads.files().insert(id.clone(), Arc::new(uploads.named(&id).unwrap()));
        id
    }

    #[test]
    fn what_a_crash_left_is_removed_and_what_is_written_stays() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("u");
        let living = Uploads::new(folder.clone());
        let id = begin_named(&living);
        File::create(folder.join("left")).unwrap();
        let other = Uploads::new(folder.clone());
        let second = other.begin().unwrap();
        assert!(!folder.join("left").exists());
        assert!(living.path(&id).exists() && other.file(&second).is_ok());
        living.forget(&id).unwrap();
        other.forget(&second).unwrap();
        assert!(!living.path(&id).exists() && living.file(&id).is_err());
        let id = begin_named(&living);
        File::create(folder.join("left")).unwrap();
        other.tidy().unwrap();
        assert!(!folder.join("left").exists() && living.path(&id).exists());
        living.forget(&id).unwrap();
        (0..2).for_each(|_| other.tidy().unwrap());
        assert!(!folder.exists());
    }

    #[test]
    fn what_becomes_an_object_leaves_nothing_behind_with_a_name_or_without() {
        let root = tempfile::tempdir().unwrap();
        let uploads = Uploads::new(root.path().join("u"));
        let to = root.path().join("object");
        let begins: [fn(&Uploads) -> String; 2] = [|uploads| uploads.begin().unwrap(), begin_named];
        for begin in begins {
            for (create, text) in [(true, "first"), (false, "second"), (true, "third")] {
                let id = begin(&uploads);
                uploads.file(&id).unwrap().write_all_at(text.as_bytes(), 0).unwrap();
                let published = uploads.publish(&id, &to, create);
                if text == "third" {
                    assert_eq!(published.unwrap_err().kind(), ErrorKind::AlreadyExists);
                    uploads.forget(&id).unwrap();
                    assert_eq!(fs::read_to_string(&to).unwrap(), "second");
                } else {
                    published.unwrap();
                    assert_eq!(fs::read_to_string(&to).unwrap(), text);
                }
                assert!(uploads.file(&id).is_err());
                assert_eq!(fs::read_dir(root.path().join("u")).unwrap().count(), 0, "{text}");
            }
            fs::remove_file(&to).unwrap();
        }
    }
}
