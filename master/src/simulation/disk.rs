//! A disk in memory: what was not synced may be lost or torn when the power goes, and the system may say no.
//!
//! Names in the log's own folder are mirrored in a real directory, empty, because raft-engine lists that one itself; they are durable at
//! once, as raft-engine syncs them itself. Elsewhere a name is durable once its directory was synced.

use super::draw::Draw;
use crate::log::{Disk, DiskFile, For, LogError};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the disk does to those who use it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moods {
    /// No byte more.
    pub(super) full: bool,
    /// So many syncs fail.
    pub(super) failing: u32,
    /// Syncs say that they have done what they have not.
    pub(super) lying: bool,
    /// A sync has failed.
    pub(super) failed: bool,
    /// Milliseconds that a sync takes, at most.
    pub(super) slow_ms: u64,
}

enum Change {
    Write(u64, Vec<u8>),
    Size(u64),
    Allocate(u64, u64),
}

#[derive(Default)]
struct Contents {
    now: Vec<u8>,
    synced: Vec<u8>,
    /// Since the last sync.
    unsynced: Vec<Change>,
}

fn change(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(at, from) => {
            let end = *at as usize + from.len();
            bytes.resize(bytes.len().max(end), 0);
            bytes[*at as usize..end].copy_from_slice(from);
        }
        Change::Size(size) => bytes.resize(*size as usize, 0),
        Change::Allocate(at, more) => bytes.resize(bytes.len().max((at + more) as usize), 0),
    }
}

enum Naming {
    Made(PathBuf, u64),
    Renamed(PathBuf, PathBuf),
    Removed(PathBuf),
}

fn name(names: &mut BTreeMap<PathBuf, u64>, naming: &Naming) {
    match naming {
        Naming::Made(path, number) => drop(names.insert(path.clone(), *number)),
        Naming::Renamed(from, to) => {
            if let Some(number) = names.remove(from) {
                names.insert(to.clone(), number);
            }
        }
        Naming::Removed(path) => drop(names.remove(path)),
    }
}

#[derive(Default)]
struct State {
    /// Grows when the process ends: what older handles do has no effect.
    life: u64,
    files: BTreeMap<u64, Contents>,
    names: BTreeMap<PathBuf, u64>,
    durable: BTreeMap<PathBuf, u64>,
    unsynced: Vec<Naming>,
    next: u64,
    moods: Moods,
    /// Milliseconds that whoever called was held up.
    stall: u64,
    draw: u64,
}

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct SimDisk {
    state: Arc<Mutex<State>>,
}

impl SimDisk {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: Arc::new(Mutex::new(State { draw: seed, ..State::default() })) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn moods(&self, set: impl FnOnce(&mut Moods)) {
        set(&mut self.lock().moods);
    }

    /// Whether it may have said no.
    pub(super) fn is_ill(&self) -> bool {
        let moods = self.lock().moods;
        moods.full || moods.failing > 0 || moods.failed
    }

    /// Milliseconds that calls took since this was last asked.
    pub(super) fn stalled(&self) -> u64 {
        std::mem::take(&mut self.lock().stall)
    }

    /// The process ends: the system keeps what it was handed.
    pub(super) fn kill(&self) {
        self.lock().life += 1;
    }

    /// The power goes: of what was not synced, any beginning is left, and its last write may be torn.
    pub(super) fn lose_power(&self, draw: &mut Draw) {
        let mut state = self.lock();
        state.life += 1;
        let kept = draw.below(state.unsynced.len() as u64 + 1) as usize;
        let namings = std::mem::take(&mut state.unsynced);
        namings[..kept].iter().for_each(|naming| name(&mut state.durable, naming));
        state.names = state.durable.clone();
        let State { names, files, .. } = &mut *state;
        files.retain(|number, _| names.values().any(|named| named == number));
        for contents in files.values_mut() {
            let changes = std::mem::take(&mut contents.unsynced);
            let kept = draw.below(changes.len() as u64 + 1) as usize;
            changes[..kept].iter().for_each(|done| change(&mut contents.synced, done));
            if let Some(Change::Write(at, bytes)) = changes.get(kept) {
                let part = draw.below(bytes.len() as u64 + 1) as usize;
                change(&mut contents.synced, &Change::Write(*at, bytes[..part].to_vec()));
            }
            contents.now.clone_from(&contents.synced);
        }
    }

    fn is_mirrored(path: &Path) -> bool {
        path.parent().is_some_and(|dir| dir.ends_with("raft"))
    }

    fn named(state: &mut State, naming: Naming, mirrored: bool) {
        name(&mut state.names, &naming);
        if mirrored {
            name(&mut state.durable, &naming);
        } else {
            state.unsynced.push(naming);
        }
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, purpose: For) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        let known = state.names.get(path).copied();
        let number = match (known, purpose) {
            (Some(number), For::Reading | For::Writing | For::Appending) => number,
            (None, For::Reading | For::Writing) => return Err(ErrorKind::NotFound.into()),
            (_, For::Appending | For::Replacing) => {
                if state.moods.full {
                    return Err(ErrorKind::StorageFull.into());
                }
                state.next += 1;
                let number = state.next;
                state.files.insert(number, Contents::default());
                let mirrored = Self::is_mirrored(path);
                if mirrored {
                    std::fs::write(path, b"")?;
                }
                Self::named(&mut state, Naming::Made(path.into(), number), mirrored);
                number
            }
        };
        Ok(Arc::new(SimFile { disk: self.clone(), number, life: state.life }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>> {
        let state = self.lock();
        let within = state.names.iter().filter(|(path, _)| path.parent() == Some(dir));
        let file =
            |(path, number): (&PathBuf, &u64)| Some((path.file_name()?.to_str()?.to_owned(), state.files.get(number)?.now.len() as u64));
        Ok(within.filter_map(file).collect())
    }

    fn is_file(&self, path: &Path) -> bool {
        self.lock().names.contains_key(path)
    }

    fn is_dir(&self, path: &Path) -> io::Result<bool> {
        std::fs::metadata(path).map(|found| found.is_dir())
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir_all(path)
    }

    fn free(&self, _: &Path) -> io::Result<u64> {
        Ok(if self.lock().moods.full { 0 } else { u64::MAX })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        if !state.names.contains_key(from) {
            return Err(ErrorKind::NotFound.into());
        }
        let mirrored = Self::is_mirrored(from);
        if mirrored {
            std::fs::rename(from, to)?;
        }
        Self::named(&mut state, Naming::Renamed(from.into(), to.into()), mirrored);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        if !state.names.contains_key(path) {
            return Err(ErrorKind::NotFound.into());
        }
        let mirrored = Self::is_mirrored(path);
        if mirrored {
            std::fs::remove_file(path)?;
        }
        Self::named(&mut state, Naming::Removed(path.into()), mirrored);
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        if state.moods.lying {
            return Ok(());
        }
        let within = |naming: &Naming| match naming {
            Naming::Made(at, _) | Naming::Renamed(_, at) | Naming::Removed(at) => at.parent() == Some(path),
        };
        let (synced, rest) = std::mem::take(&mut state.unsynced).into_iter().partition(within);
        state.unsynced = rest;
        let synced: Vec<Naming> = synced;
        synced.iter().for_each(|naming| name(&mut state.durable, naming));
        Ok(())
    }

    fn lock(&self, _: &Path) -> Result<Box<dyn Send>, LogError> {
        Ok(Box::new(()))
    }
}

struct SimFile {
    disk: SimDisk,
    number: u64,
    life: u64,
}

impl SimFile {
    /// `None` for a process that has ended, and for files that are gone with it.
    fn with<T>(&self, act: impl FnOnce(&mut State, u64) -> io::Result<T>) -> Option<io::Result<T>> {
        let mut state = self.disk.lock();
        (state.life == self.life && state.files.contains_key(&self.number)).then(|| act(&mut state, self.number))
    }

    fn change(&self, done: Change) -> io::Result<()> {
        let changed = self.with(|state, number| {
            let grows = match &done {
                Change::Write(..) | Change::Allocate(..) => state.moods.full,
                Change::Size(_) => false,
            };
            if grows {
                return Err(ErrorKind::StorageFull.into());
            }
            if let Some(contents) = state.files.get_mut(&number) {
                change(&mut contents.now, &done);
                contents.unsynced.push(done);
            }
            Ok(())
        });
        changed.unwrap_or(Ok(()))
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = self.with(|state, number| {
            let bytes = &state.files[&number].now;
            let from = bytes.get(offset as usize..).unwrap_or_default();
            let n = from.len().min(into.len());
            into[..n].copy_from_slice(&from[..n]);
            Ok(n)
        });
        read.unwrap_or(Ok(0))
    }

    fn write_at(&self, from: &[u8], offset: u64) -> io::Result<usize> {
        self.change(Change::Write(offset, from.to_vec())).map(|()| from.len())
    }

    fn size(&self) -> io::Result<u64> {
        self.with(|state, number| Ok(state.files[&number].now.len() as u64)).unwrap_or(Ok(0))
    }

    fn set_size(&self, bytes: u64) -> io::Result<()> {
        self.change(Change::Size(bytes))
    }

    fn allocate(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.change(Change::Allocate(offset, bytes))
    }

    fn sync(&self) -> io::Result<()> {
        let synced = self.with(|state, number| {
            let mut draw = Draw::new(state.draw);
            state.draw = draw.number();
            // Most syncs are done within the millisecond.
            state.stall += if state.moods.slow_ms > 0 { draw.range(1, state.moods.slow_ms) } else { u64::from(draw.per_mille(200)) };
            if state.moods.failing > 0 {
                state.moods.failing -= 1;
                state.moods.failed = true;
                return Err(io::Error::other("the disk does not answer"));
            }
            if !state.moods.lying
                && let Some(contents) = state.files.get_mut(&number)
            {
                let Contents { synced, unsynced, .. } = contents;
                unsynced.drain(..).for_each(|done| change(synced, &done));
            }
            Ok(())
        });
        synced.unwrap_or(Ok(()))
    }
}
