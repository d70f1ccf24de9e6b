//! Opens raft-engine in a directory, on our own files, and says in our own words what is wrong with it.

use super::LogError;
use super::directory::io_error;
use super::files::{Files, LogFiles, strange_header};
use raft_engine::{Config, ReadableSize, RecoveryMode};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) type Engine = raft_engine::Engine<LogFiles, raft_engine::internals::FilePipeLog<LogFiles>>;

/// A log file is full at this size; whole files are deleted once the log is cut behind them.
const FILE_BYTES: u64 = 32 << 20;

pub(super) fn open_engine(dir: &Path, files: &Arc<Files>) -> Result<Engine, LogError> {
    let config = Config {
        dir: dir.to_string_lossy().into_owned(),
        recovery_mode: RecoveryMode::TolerateTailCorruption,
        recovery_threads: 2,
        // Uncompressed: records can then be found behind a broken write, and object entries hardly shrink.
        batch_compression_threshold: ReadableSize(0),
        target_file_size: ReadableSize(FILE_BYTES),
        purge_threshold: ReadableSize(FILE_BYTES),
        // A recycled file still holds old records, which would be taken for new ones behind a broken write.
        enable_log_recycle: false,
        ..Config::default()
    };
    if let Some(path) = strange_header(&*files.disk, dir).map_err(|e| io_error(dir, "cannot be looked at", e))? {
        return Err(corrupt(&path, "its header asks for aligned writes, which this program never does".into()));
    }
    // Raft-engine's own lock is only in the way (ours is held): a process just being forked may hold it a little longer than we did.
    match std::fs::remove_file(dir.join("LOCK")) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io_error(dir, "an old lock file cannot be removed", e)),
        _ => {}
    }
    let opened = catch_unwind(AssertUnwindSafe(|| Engine::open_with_file_system(config, Arc::new(LogFiles(Arc::clone(files))))));
    if let Some((path, what)) = files.damage() {
        let advice = "Restore the data directory from a backup, or start with an empty one and let the store nodes mount again; keep the \
                      damaged one for inspection. To give up that write and all behind it instead, cut the file off at that byte \
                      (truncate --size).";
        return Err(LogError::Corrupt { path, what, advice });
    }
    match opened {
        Ok(Ok(engine)) => Ok(engine),
        Ok(Err(raft_engine::Error::Io(e))) => Err(io_error(dir, "the log cannot be opened", e)),
        Ok(Err(e)) => Err(corrupt(dir, e.to_string())),
        Err(_) => Err(corrupt(dir, "its files contradict each other".into())),
    }
}

pub(super) fn corrupt(path: &Path, what: String) -> LogError {
    LogError::Corrupt {
        path: PathBuf::from(path),
        what,
        advice: "Restore the data directory from a backup, or start with an empty one and let the store nodes mount again; \
                 keep the damaged one for inspection.",
    }
}
