//! What leaves the process: tables for people, JSON for machines, logs to stderr.

use crate::failure::Failure;
use crate::settings::Global;
use perilune_probe::loglevel;
use serde::Serialize;
use std::io::{ErrorKind, IsTerminal, Write};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, reload};

/// Writes to stdout. A reader that has gone ends the command quietly.
pub(crate) fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|e| match e.kind() {
        ErrorKind::BrokenPipe => Failure::NobodyListens,
        _ => Failure::of("writing to the standard output", e),
    })
}

/// Writes a line to stdout.
pub(crate) fn line(text: impl std::fmt::Display) -> Result<(), Failure> {
    bytes(format!("{text}\n").as_bytes())
}

/// Writes a value as one line of JSON to stdout.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    line(serde_json::to_string(value).map_err(|e| Failure::of("writing JSON", e))?)
}

/// Starts the log of this process, on stderr, at the level of `--log`.
pub(crate) fn log_to_stderr(global: &Global) -> Result<(), Failure> {
    // The log store reports every torn last write as a warning, and our log says the same in our words.
    let filter = |said: &str| EnvFilter::try_new(format!("raft_engine=error,{said}"));
    let begin = loglevel::check(&global.log).and_then(|()| filter(&global.log).map_err(|e| e.to_string())).map_err(|e| {
        Failure::Usage(format!(
            "--log `{}` is not a filter: {e}; write a level (error, warn, info, debug, trace) or `module=level,...`",
            global.log
        ))
    })?;
    let (begin, change) = reload::Layer::new(begin);
    let log = tracing_subscriber::fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
    let log = if global.json { log.json().boxed() } else { log.boxed() };
    tracing_subscriber::registry().with(begin).with(log).init();
    loglevel::changed_by(move |said| change.reload(filter(said).map_err(|e| e.to_string())?).map_err(|e| e.to_string()));
    Ok(())
}
