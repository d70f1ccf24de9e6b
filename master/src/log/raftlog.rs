//! Raft's own log lines, at debug level under the target `perilune_master::raft`.

use slog::{Drain, Logger, Never, OwnedKVList, Record, o};

struct ToTracing;

impl Drain for ToTracing {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), Never> {
        if record.level().is_at_least(slog::Level::Warning) {
            tracing::warn!(target: "perilune_master::raft", "{}", record.msg());
        } else {
            tracing::debug!(target: "perilune_master::raft", "{}", record.msg());
        }
        Ok(())
    }
}

pub(super) fn logger() -> Logger {
    Logger::root(ToTracing, o!())
}
