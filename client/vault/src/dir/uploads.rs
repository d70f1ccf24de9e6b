//! Files that are not whole yet. Each is locked by the process that writes it, so that what a crash leaves is known by its lock.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Error, ErrorKind, Result};
use std::path::PathBuf;
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
        if !self.swept.swap(true, Ordering::Relaxed) {
            self.make_folder()?;
            self.sweep()?;
        }
        loop {
            let id = Uuid::new_v4().to_string();
            let file = match File::create_new(self.path(&id)) {
                Err(e) if e.kind() == ErrorKind::NotFound => {
                    self.make_folder()?;
                    File::create_new(self.path(&id))?
                }
                file => file?,
            };
            file.lock()?;
            // Another process may have swept it away before it was locked.
            if self.path(&id).exists() {
                self.files().insert(id.clone(), Arc::new(file));
                return Ok(id);
            }
        }
    }

    pub(super) fn path(&self, id: &str) -> PathBuf {
        self.folder.join(id)
    }

    /// The file of an upload that has neither ended nor been forgotten.
    pub(super) fn file(&self, id: &str) -> Result<Arc<File>> {
        self.files().get(id).cloned().ok_or_else(|| Error::new(ErrorKind::NotFound, "there is no such upload"))
    }

    /// It has become an object.
    pub(super) fn end(&self, id: &str) {
        self.files().remove(id);
    }

    /// It will not become one.
    pub(super) fn forget(&self, id: &str) -> Result<()> {
        self.end(id);
        fs::remove_file(self.path(id))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_crash_left_is_removed_and_what_is_written_stays() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("u");
        let living = Uploads::new(folder.clone());
        let id = living.begin().unwrap();
        File::create(folder.join("left")).unwrap();
        let other = Uploads::new(folder.clone());
        let second = other.begin().unwrap();
        assert!(!folder.join("left").exists());
        assert!(living.path(&id).exists() && other.path(&second).exists());
        living.forget(&id).unwrap();
        assert!(!living.path(&id).exists() && living.file(&id).is_err());
    }
}
